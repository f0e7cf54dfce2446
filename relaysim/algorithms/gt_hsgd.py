"""GT-HSGD (Xin, Khan and Kar 2021, "A hybrid variance-reduced method for decentralized stochastic non-convex
optimization", Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_number
from relaysim.local import LocalState, LocalSteps, check_grad, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class HsgdState(NamedTuple):
    params: Stacked
    tracker: Stacked
    """y, an estimate of the mean u."""
    last: Stacked
    """The last u."""
    local: LocalState
    mix: tuple[Any, Any]
    """Of the mixer for models, and of that for trackers."""


def gt_hsgd(
    grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation, *, beta: float = 0.1
) -> Algorithm:
    """Gradient tracking of gradients with less noise, each sample taken at this model and at the last:

        v ← g(x; ξ) + (1 − β) (v − g(x_last; ξ)),    v = g at first,
        y ← W (y + u − u_last),    x ← W (x + y),    u made from v,    y = u_last = 0 at first.

    With β = 1, or without noise, v is g. A step has two gradients; trackers and models are sent one after the
    other.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0, noise=1.0)
    >>> method = rs.gt_hsgd(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), beta=0.05)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`. It is asked for two models
        at the same step, and has to draw the same sample for both.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from v, for each worker apart.
      beta: β, in [0, 1]: how much a new sample counts by itself. (The paper starts with a larger batch.)

    Raises:
      ValueError: where `beta` is not in [0, 1].
    """
    check_number("beta", beta, 0, 1)
    check_grad(grad)

    def start(params: Stacked) -> Any:
        return params, tree.zeros_like(params)

    def reduced(key: Key, t: Array, s: Any, params: Stacked) -> tuple[Any, Array, Stacked]:
        last, v = s
        loss, g = grad(key, t, params)
        _, g_last = grad(key, t, last)
        v = jax.tree.map(lambda g, v, old: g + (1 - beta) * (v - old), g, v, g_last)
        v = tree.where(jnp.equal(t, 0), g, v)
        return (params, v), loss, v

    local = local_update(LocalSteps(start, reduced), optimizer)

    def init(key: Key, params: Stacked) -> HsgdState:
        zeros = tree.zeros_like(params)
        states = mixer.init(params), mixer.init(zeros)
        return HsgdState(params, zeros, zeros, local.init(key, params), states)

    def step(key: Key, t: Array, s: HsgdState) -> tuple[HsgdState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        first, second = jax.random.split(key)
        of_y, y = mixer.mix(first, t, s.mix[1], tree.add(s.tracker, tree.sub(u, s.last)))
        of_x, x = mixer.mix(second, t, s.mix[0], tree.add(s.params, y))
        return HsgdState(x, y, u, local_state, (of_x, of_y)), info

    return method(mixer, init, step, calls=2)
