"""Quasi-global momentum (Lin et al. 2021, "Quasi-global momentum: accelerating decentralized deep learning on
heterogeneous data", Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Grad, Info, Key, Mixer, Stacked


class MomentumState(NamedTuple):
    params: Stacked
    momentum: Stacked
    """M = γ m, the momentum in units of the parameters: how far the models moved."""
    local: LocalState
    mix: Any


def quasi_global_momentum(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    beta: float = 0.9,
    nesterov: bool = False,
) -> Algorithm:
    """Momentum that follows where the models went after averaging, not where the own gradients point:

        x' = W (x + (u − β M) / (1 + β)),    M' = β M + (1 − β) (x − x'),    M = 0 at first.

    In terms of m = M / γ and u = −γ g this is the step −γ (β m + g) / (1 + β) of the published simulations;
    with `nesterov`, that of the published deep-learning runs: b = β m + g, u = −γ (g + β b), so that

        x' = W (x + (1 + β) u − β² M).

    The momentum in units of the parameters lets any optimizer make u. Where γ changes during a run, M keeps
    the old scale for some 1 / (1 − β) steps.

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      beta: β, in [0, 1).

    Raises:
      ValueError: where `beta` is not in [0, 1).
    """
    if not isinstance(beta, jax.core.Tracer) and not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}, expected a momentum in [0, 1)")
    local = local_update(grad, optimizer)
    for_u, for_momentum = (1 + beta, beta**2) if nesterov else (1 / (1 + beta), beta / (1 + beta))

    def init(key: Key, params: Stacked) -> MomentumState:
        return MomentumState(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, s: MomentumState) -> tuple[MomentumState, Info]:
        local_state, u, info = local.update(s.local, s.params)
        moved = jax.tree.map(lambda x, u, m: x + for_u * u - for_momentum * m, s.params, u, s.momentum)
        mix, x = mixer.mix(key, s.mix, moved)
        momentum = jax.tree.map(lambda m, x, new: beta * m + (1 - beta) * (x - new), s.momentum, s.params, x)
        return MomentumState(x, momentum, local_state, mix), info

    return method(mixer, init, step)
