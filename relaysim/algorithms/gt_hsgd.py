"""GT-HSGD (Xin, Khan and Kar 2021, "A hybrid variance-reduced method for decentralized stochastic non-convex
optimization", Algorithm 1)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.gradient_tracking import gradient_tracking
from relaysim.checks import check_number
from relaysim.local import LocalSteps, check_grad
from relaysim.types import Algorithm, Array, Grad, Key, Mixer, Stacked


def gt_hsgd(
    grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation, *, beta: float = 0.1
) -> Algorithm:
    """Gradient tracking of gradients with less noise, each sample taken at this model and at the last:

        v ← g(x; ξ) + (1 − β) (v − g(x_last; ξ)),    v = g at first.

    With β = 1, or without noise, it is gradient tracking. A step has two gradients.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0, noise=1.0)
    >>> method = rs.gt_hsgd(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), beta=0.05)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`. It is asked for two models
        at the same step, and has to draw the same sample for both.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from v, for each worker apart.
      beta: β, in [0, 1]: how much a new sample counts by itself. (The paper starts with a larger batch.)

    Raises:
      ValueError: where `beta` is not in [0, 1].
    """
    check_number("beta", beta, 0, 1)
    check_grad(grad)

    def init(params: Stacked) -> Any:
        return params, tree.zeros_like(params)

    def step(key: Key, t: Array, s: Any, params: Stacked) -> tuple[Any, Array, Stacked]:
        last, v = s
        loss, g = grad(key, t, params)
        _, g_last = grad(key, t, last)
        reduced = jax.tree.map(lambda g, v, old: g + (1 - beta) * (v - old), g, v, g_last)
        v = tree.where(jnp.equal(t, 0), g, reduced)
        return (params, v), loss, v

    hybrid: Any = LocalSteps(init, step)
    return gradient_tracking(hybrid, mixer, optimizer)
