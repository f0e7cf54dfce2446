"""Gradient tracking (Di Lorenzo & Scutari 2016; Nedić et al. 2017; stochastic: Pu & Nedić 2021)."""

from typing import Any, NamedTuple

import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class TrackingState(NamedTuple):
    params: Stacked
    correction: Stacked
    local: LocalState
    mix: Any


def gradient_tracking(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Each worker's step is corrected towards the average step, which is itself found by gossip:

        x' = W (x + u + c),    c' = W (c + u) − u,    c = 0 at first.

    For u = −γ g, c is γ times the difference between a worker's gradient and its estimate of the mean
    gradient. Model and correction travel in one message, so each worker sends two vectors to a neighbour.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> gradient_tracking(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    Algorithm('gradient_tracking with gossip on ring', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g, for each worker apart.
    """
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> TrackingState:
        zeros = tree.zeros_like(params)
        return TrackingState(params, zeros, local.init(key, params), mixer.init((params, zeros)))

    def step(key: Key, t: Array, s: TrackingState) -> tuple[TrackingState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        corrected = tree.add(s.correction, u)
        mix, (x, mixed) = mixer.mix(key, t, s.mix, (tree.add(s.params, corrected), corrected))
        return TrackingState(x, tree.sub(mixed, u), local_state, mix), info

    return method(mixer, init, step, vectors=2)
