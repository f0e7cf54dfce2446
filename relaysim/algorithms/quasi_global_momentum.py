"""Quasi-global momentum (Lin et al. 2021, "Quasi-global momentum: accelerating decentralized deep learning on
heterogeneous data", Algorithm 1)."""

from typing import Any, Literal, NamedTuple

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_choice, check_number
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class MomentumState(NamedTuple):
    params: Stacked
    momentum: Stacked
    """M = γ m, the momentum in units of the parameters: how far the models moved."""
    local: LocalState
    mix: Any


Variant = Literal["original", "simulations", "nesterov"]


def quasi_global_momentum(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    beta: float = 0.9,
    variant: Variant = "simulations",
) -> Algorithm:
    """Momentum that follows where the models went after averaging, not where the own gradients point:

        x' = W (x − γ d),    m' = β m + (1 − β) (x − x') / γ,    m = 0 at first,

    with one of three published directions d:

        original       β m + g                   (Lin et al. 2021, Algorithm 1)
        simulations    (β m + g) / (1 + β)       (the simulations of Vogels et al. 2021)
        nesterov       g + β (β m + g)           (their deep-learning runs)

    Written with M = γ m, the momentum in units of the parameters, and u = −γ g, so that any optimizer can
    make u. Where γ changes during a run, M keeps the old scale for some 1 / (1 − β) steps.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> quasi_global_momentum(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    Algorithm('quasi_global_momentum with gossip on ring', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      beta: β, in [0, 1).
      variant: which direction.

    Raises:
      ValueError: where `beta` is not in [0, 1), or there is no such variant.
    """
    check_number("beta", beta, 0, 1, "[)")
    directions = {"original": (1, beta), "simulations": (1 / (1 + beta), beta / (1 + beta))}
    directions["nesterov"] = (1 + beta, beta**2)
    for_u, for_momentum = directions[check_choice("variant", variant, directions)]
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> MomentumState:
        return MomentumState(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: MomentumState) -> tuple[MomentumState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        moved = jax.tree.map(lambda x, u, m: x + for_u * u - for_momentum * m, s.params, u, s.momentum)
        mix, x = mixer.mix(key, t, s.mix, moved)
        momentum = jax.tree.map(lambda m, x, new: beta * m + (1 - beta) * (x - new), s.momentum, s.params, x)
        return MomentumState(x, momentum, local_state, mix), info

    return method(mixer, init, step)
