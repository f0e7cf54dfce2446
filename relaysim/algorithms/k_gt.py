"""K-GT (Liu, Lin, Koloskova and Stich 2024, "Decentralized gradient tracking with local steps", Algorithm
1)."""

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.gradient_tracking import TrackingState
from relaysim.checks import check_count, check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def k_gt(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    local_steps: int,
    server_rate: float = 1.0,
) -> Algorithm:
    """Local steps that are corrected towards the average step, which is tracked over the rounds:

        K times x_k ← x_k + u_k + c from x,    d = x_K − x,    c ← c − (d − W d) / K,    x ← W (x + η d),

    with c = 0 at first. Model and d travel in one message. (c is −γ times the paper's correction.)

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.k_gt(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.05), local_steps=4)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t it is asked for the steps t K, …,
        t K + K − 1. The loss that is recorded is the mean over these.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g, for each worker apart.
      local_steps: K, at least 1.
      server_rate: η, above 0.

    Raises:
      ValueError: where an argument is none of these.
    """
    steps = check_count("local_steps", local_steps)
    check_number("server_rate", server_rate, 0, ends="()")
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> TrackingState:
        zeros = tree.zeros_like(params)
        return TrackingState(params, zeros, local.init(key, params), mixer.init((params, zeros)))

    def step(key: Key, t: Array, s: TrackingState) -> tuple[TrackingState, Info]:
        local_state, x, info = local.several(t, s.local, s.params, steps, drift=s.correction)
        d = tree.sub(x, s.params)
        moved = tree.add_scale(s.params, server_rate, d)
        mix, (x, mixed) = mixer.mix(key, t, s.mix, (moved, d))
        correction = jax.tree.map(lambda c, d, m: c - (d - m) / steps, s.correction, d, mixed)
        return TrackingState(x, correction, local_state, mix), info

    return method(mixer, init, step, vectors=2)
