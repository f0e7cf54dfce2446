"""Stochastic gradient push (Assran et al. 2019, "Stochastic gradient push for distributed deep learning",
Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked, rows


class PushSumState(NamedTuple):
    numerator: Stacked
    weight: Array
    """(n,) what has become of each worker's unit of mass."""
    local: LocalState
    mix: Any


def push_sum(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Gossip over directed or lossy links; a scalar that is mixed alongside undoes the bias:

        x ← P (x + u),    w ← P w,    z = x / w,    w = 1 at first,

    with gradients taken at z, the models. The columns of P sum to one, its rows need not.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> push_sum(task.grad, rs.push(rs.topology.exponential(4)), optax.sgd(0.1))
    Algorithm('push_sum with push on exponential', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: P, such as `push(topology)` or `one_peer_exponential(n)`.
      optimizer: makes u from g, for each worker apart.
    """
    local = local_update(grad, optimizer)

    def models(s: PushSumState) -> Stacked:
        return jax.tree.map(lambda x: x / rows(s.weight, x).astype(x.dtype), s.numerator)

    def init(key: Key, params: Stacked) -> PushSumState:
        weight = jnp.ones(mixer.num_workers)
        return PushSumState(params, weight, local.init(key, params), mixer.init((params, weight)))

    def step(key: Key, t: Array, s: PushSumState) -> tuple[PushSumState, Info]:
        local_state, u, info = local.update(t, s.local, models(s))
        mix, (x, weight) = mixer.mix(key, t, s.mix, (tree.add(s.numerator, u), s.weight))
        return PushSumState(x, weight, local_state, mix), info

    return method(mixer, init, step, params=models)
