"""LED (Alghunaim 2024, "Local exact-diffusion for decentralized optimization and learning", Algorithm 1)."""

import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.d2 import D2State
from relaysim.checks import check_count, check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def led(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    local_steps: int,
    beta: float | None = None,
) -> Algorithm:
    """Local steps with the correction of D², which is carried over the rounds:

        K times x_k ← x_k + u_k − β y from x,    x ← W x_K,    y ← y + x_K − x,    y = 0 at first.

    With K = 1 and β = 1 it is D². W itself mixes; with `gossip(topology, lazy=True)` it is (I + W) / 2.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.led(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.05), local_steps=4)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t it is asked for the steps t K, …,
        t K + K − 1. The loss that is recorded is the mean over these.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g, for each worker apart.
      local_steps: K, at least 1.
      beta: β, above 0; 1 / K by default.

    Raises:
      ValueError: where an argument is none of these.
    """
    steps = check_count("local_steps", local_steps)
    share = 1 / steps if beta is None else beta
    check_number("beta", share, 0, ends="()")
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> D2State:
        return D2State(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: D2State) -> tuple[D2State, Info]:
        drift = tree.scale(share, s.correction)
        local_state, moved, info = local.several(t, s.local, s.params, steps, drift)
        mix, x = mixer.mix(key, t, s.mix, moved)
        correction = tree.add(s.correction, tree.sub(x, moved))  # −y
        return D2State(x, correction, local_state, mix), info

    return method(mixer, init, step)
