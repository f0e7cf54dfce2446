"""Momentum tracking (Takezawa, Bao, Niwa, Sato and Yamada 2023, "Momentum tracking: momentum acceleration for
decentralized deep learning on heterogeneous data", Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_bool, check_number
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class MomentumTrackingState(NamedTuple):
    params: Stacked
    momentum: Stacked
    correction: Stacked
    local: LocalState
    mix: Any


def momentum_tracking(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    beta: float = 0.9,
    exact_start: bool = True,
) -> Algorithm:
    """Each worker's momentum is corrected towards the mean momentum, which is found by gossip:

        m ← β m + u,    x ← W x + (m − c),    c ← m − W (m − c),

    where m and c start at (u − ū) / (1 − β), so that the first step goes along the mean ū of the first u: one
    exact average, which is not counted in what is sent. Averaging acts on x alone, before the step. Model and
    m − c travel in one message.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.momentum_tracking(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.05), beta=0.9)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      beta: β, in [0, 1); with 0 this is gradient tracking.
      exact_start: whether m and c start so; else at 0, and the first step goes along each worker's own u.

    Raises:
      ValueError: where `beta` is not in [0, 1), or `exact_start` is no bool.
    """
    check_number("beta", beta, 0, 1, "[)")
    check_bool("exact_start", exact_start)
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> MomentumTrackingState:
        zeros = tree.zeros_like(params)
        return MomentumTrackingState(
            params, zeros, zeros, local.init(key, params), mixer.init((params, zeros))
        )

    def at_start(u: Array) -> Array:
        return (u - u.mean(0, keepdims=True)) / (1 - beta)

    def step(key: Key, t: Array, s: MomentumTrackingState) -> tuple[MomentumTrackingState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        m, c = s.momentum, s.correction
        if exact_start:
            m, c = tree.where(jnp.equal(t, 0), (jax.tree.map(at_start, u),) * 2, (m, c))
        m = tree.add_scale(u, beta, m)
        direction = tree.sub(m, c)
        mix, (x, mixed) = mixer.mix(key, t, s.mix, (s.params, direction))
        x = tree.add(x, direction)
        return MomentumTrackingState(x, m, tree.sub(m, mixed), local_state, mix), info

    return method(mixer, init, step, vectors=2)
