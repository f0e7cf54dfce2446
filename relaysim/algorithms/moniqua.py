"""Moniqua (Lu and De Sa 2020, "Moniqua: modulo quantized communication in decentralized SGD", Algorithm
1)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import tree

from relaysim.algorithms.base import State, method
from relaysim.checks import check_draw, check_number
from relaysim.compress.compressors import Draw
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked

BITS, DELTA = 2, 1 / 3
LEVELS = (-1 / 2, -1 / 6, 1 / 6)
"""In units of B; the fourth, 1/2, is −1/2 but for a multiple of B."""


def moniqua(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    theta: float,
    gamma: float = 1.0,
    draw: Draw | None = None,
) -> Algorithm:
    """D-PSGD with two bits an entry and no copies: what neighbours share is left out of the messages,
    modulo B.

        y = x + u,    q = δ ⌊((y / B mod 1) + 1/2) / δ + r⌋ − 1/2,    B = 2 θ / (1 − 2 δ) = 6 θ,    δ = 1/3,
        x_i ← y_i + γ Σ_j W_ij ((q_j B − y_i mod B) − (q_i B − (y_i mod B))),    r uniform on [0, 1),

    where mod reduces to [−1/2, 1/2) and [−B/2, B/2). As long as neighbours differ by less than θ in every
    entry nothing wraps around, and the mean of the models is kept; else both are lost.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.moniqua(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.05), theta=2.0, gamma=0.1)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`, with rows that sum to 1. It is applied to who sends which level,
        from which the sum above follows, whatever the receiver's own y. With messages that it loses the mean
        of the models is not kept, as in D-PSGD.
      optimizer: makes u from g, for each worker apart.
      theta: θ, above 0.
      gamma: γ, the consensus step, in (0, 1].
      draw: (key, step, (n, d)) -> r (n, d) for the entries of the models one leaf after the other, in place
        of uniform ones. Recorded ones, (T, n, d): `draw=lambda key, step, shape: draws[step]`.

    Raises:
      ValueError: where an argument is none of these.
    """
    check_number("theta", theta, 0, ends="()")
    check_number("gamma", gamma, 0, 1, "(]")
    uniform = check_draw(draw, lambda key, step, shape: jax.random.uniform(key, shape))
    local, B = local_update(grad, optimizer), 2 * theta / (1 - 2 * DELTA)

    def reduced(y: Array, period: float) -> Array:
        return y - period * jnp.floor(y / period + 0.5)

    def rounded(y: Array, r: Array) -> Array:
        return DELTA * jnp.floor((reduced(y / B, 1.0) + 0.5) / DELTA + r.astype(y.dtype)) - 0.5

    def init(key: Key, params: Stacked) -> State:
        return State(params, local.init(key, params), mixer.init([params] * len(LEVELS)))

    def step(key: Key, t: Array, s: State) -> tuple[State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        y = tree.add(s.params, u)
        q = jax.tree.map(rounded, y, randoms(jax.random.fold_in(key, 1), t, y))
        level = jax.tree.map(lambda q: jnp.round((q + 0.5) / DELTA) % len(LEVELS), q)
        senders = [jax.tree.map(lambda v, k=k: (v == k).astype(v.dtype), level) for k in range(len(LEVELS))]
        mix, shares = mixer.mix(key, t, s.mix, senders)

        def moved(y: Array, q: Array, *shares: Array) -> Array:
            heard = sum(share * reduced(at * B - y, B) for at, share in zip(LEVELS, shares, strict=True))
            return y + gamma * (heard - (q * B - reduced(y, B)))

        return State(jax.tree.map(moved, y, q, *shares), local_state, mix), info

    def randoms(key: Key, t: Array, like: Stacked) -> Stacked:
        leaves, treedef = jax.tree.flatten(like)
        n, sizes = leaves[0].shape[0], [leaf[0].size for leaf in leaves]
        r, start, parts = uniform(key, t, (n, sum(sizes))), 0, []
        for leaf, size in zip(leaves, sizes, strict=True):
            parts.append(r[:, start : start + size].reshape(leaf.shape))
            start += size
        return jax.tree.unflatten(treedef, parts)

    def share(models: Stacked) -> float:
        """Of bits a value, on average over the entries."""
        leaves = jax.tree.leaves(models)
        entries = [np.prod(leaf.shape[1:]) for leaf in leaves]
        widths = [8 * leaf.dtype.itemsize for leaf in leaves]
        return float(BITS * sum(entries) / np.dot(widths, entries))

    return method(mixer, init, step, vectors=share)
