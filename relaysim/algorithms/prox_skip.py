"""Decentralized ProxSkip, or Scaffnew (Mishchenko, Malinovsky, Stich and Richtárik 2022, "ProxSkip: yes!
Local gradient steps provably lead to communication acceleration! Finally!", Algorithm 5)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.d2 import D2State
from relaysim.checks import check_draw, check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked

Coin = Callable[[Key, Array, tuple], Array]


def prox_skip(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    probability: float,
    relaxation: float = 0.5,
    draw: Coin | None = None,
) -> Algorithm:
    """Corrected local steps, and messages now and then, when a coin that all share says so:

        x' = x + u + h,    and with probability p    x ← x' + s (W x' − x'),    h ← h + p (x − x'),

    else x ← x'; h = 0 at first (γ times the paper's). One step is one gradient; what is sent is counted as
    p times a message, on average.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.prox_skip(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), probability=0.25)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g, for each worker apart.
      probability: p, in (0, 1].
      relaxation: s, in (0, 1].
      draw: (key, step, ()) -> the coin () of the step, not 0 where messages are sent, in place of a random
        one. Recorded ones, (T,): `draw=lambda key, step, shape: coins[step]`.

    Raises:
      ValueError: where an argument is none of these, or `probability` is traced by jax.
    """
    check_number("probability", probability, 0, 1, "(]")
    if isinstance(probability, jax.core.Tracer):
        raise ValueError("probability is traced, expected a number: what is sent depends on it")
    check_number("relaxation", relaxation, 0, 1, "(]")
    coin = check_draw(draw, lambda key, step, shape: jax.random.bernoulli(key, probability, shape))
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> D2State:
        return D2State(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: D2State) -> tuple[D2State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        moved = tree.add(tree.add(s.params, u), s.correction)
        mix, mixed = mixer.mix(key, t, s.mix, moved)
        speak = coin(jax.random.fold_in(key, 1), t, ()) != 0
        pull = jax.tree.map(lambda m, x: jnp.where(speak, relaxation * (m - x), 0), mixed, moved)
        correction = tree.add_scale(s.correction, probability, pull)
        return D2State(tree.add(moved, pull), correction, local_state, mix), info

    return method(mixer, init, step, vectors=lambda models: probability)
