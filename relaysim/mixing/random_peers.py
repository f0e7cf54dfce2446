"""Peers that are drawn anew in each call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_bool, check_count, check_draw, check_num_workers
from relaysim.faults import Drop, loss_of
from relaysim.types import Array, Calls, Key, Messages, Mixer, Stacked, rows

Draw = Callable[[Key, Array, tuple], Array]


def random_matching(num_workers: int, *, drop: Drop = 0.0, draw: Draw | None = None) -> Mixer:
    """Pairs drawn anew in each call average their models: x_i ← ½ (x_i + x_j). Of an odd number one is left
    out.

    >>> mixer = random_matching(8)

    Source: Boyd, Ghosh, Prabhakar and Shah, "Randomized gossip algorithms", IEEE Trans. Inf. Theory 52
    (2006), with all pairs at once.

    Args:
      num_workers: n.
      drop: who does not hear from its peer keeps its own x.
      draw: (key, step, (n,)) -> an order (n,) of the workers, of which the first two make a pair, the next
        two, and so on, in place of a random one.

    Raises:
      ValueError: where `num_workers` is below 1, or `drop` or `draw` does not fit.
    """
    n = check_num_workers(num_workers)
    order = check_draw(draw, lambda key, step, shape: jax.random.permutation(key, n))
    loss, worker, paired = loss_of(drop, n), np.arange(n), n // 2 * 2

    def mix(key: Key, step: Array, s: Any, x: Stacked) -> tuple[Any, Stacked]:
        first = order(jax.random.fold_in(key, 1), step, (n,))[:paired]
        peer = jnp.arange(n).at[first].set(first.reshape(n // 2, 2)[:, ::-1].reshape(-1))
        if loss:
            s, lost = loss.lost(key, step, s, peer, worker)
            peer = jnp.where(lost, worker, peer)
        return s, jax.tree.map(lambda v: (v + v[peer]) / 2, x)

    pairs = Messages(worker[:paired], worker[:paired] ^ 1)  # some pairs, which stand for all
    return Mixer(n, lambda x: loss.init(n) if loss else (), mix, lambda: [[pairs] if n > 1 else []])


def epidemic(
    num_workers: int, *, peers: int = 1, oracle: bool = False, drop: Drop = 0.0, draw: Draw | None = None
) -> Mixer:
    """Epidemic learning: each worker sends its model to s others, drawn anew, and averages what it got with
    its own, all with the same weight:

        x_i ← (x_i + Σ_{j that sent to i} x_j) / (1 + how many these are).

    By themselves (EL-Local) the workers draw the others uniformly, so that some get more models than others.
    With an oracle (EL-Oracle) every worker gets s as well, and the mean of the models is kept.

    >>> mixer = epidemic(16, peers=4, oracle=True)

    Source: de Vos, Farhadkhani, Guerraoui, Kermarrec, Pires and Sharma, "Epidemic learning: boosting
    decentralized learning with randomized communication", NeurIPS 2023, Algorithm 1.

    Args:
      num_workers: n.
      peers: s, at least 1; n − 1 where there are fewer.
      oracle: whether every worker gets s models too: the workers in a random order send to the s before them.
      drop: what was lost does not count.
      draw: (key, step, (n, s)) -> whom each worker sends to, (n, s), in place of random draws.

    Raises:
      ValueError: where an argument is none of these.
    """
    n = check_num_workers(num_workers)
    s, oracle = min(check_count("peers", peers), n - 1), check_bool("oracle", oracle)
    targets = check_draw(draw, _ring_of_random_order if oracle else _others)
    loss, worker = loss_of(drop, n), np.arange(n)

    def mix(key: Key, step: Array, losses: Any, x: Stacked) -> tuple[Any, Stacked]:
        to = targets(jax.random.fold_in(key, 1), step, (n, s))
        if loss:
            senders = np.repeat(worker, s)
            losses, lost = loss.lost(key, step, losses, senders, to.reshape(-1))
            to = jnp.where(lost.reshape(n, s), n, to)  # to nobody

        def received(v: Array) -> Array:
            total = jnp.asarray(v)
            for k in range(s):
                total = total.at[to[:, k]].add(v, mode="drop")
            return total

        count = received(jnp.ones(n))
        return losses, jax.tree.map(lambda v: received(v) / rows(count, v).astype(v.dtype), x)

    def messages() -> Calls:
        return [[Messages(worker, (worker + 1 + k) % n) for k in range(s)]]  # some peers, which stand for all

    return Mixer(n, lambda x: loss.init(n * s) if loss else (), mix, messages)


def _others(key: Key, step: Array, shape: tuple[int, int]) -> Array:
    """(n, s): of each worker s others, uniformly without replacement (Floyd's algorithm)."""
    n, s = shape
    chosen: list[Array] = []
    for k in range(s):
        most = n - 1 - s + k
        r = jax.random.randint(jax.random.fold_in(key, k), (n,), 0, most + 1)
        taken = sum((r == other for other in chosen), jnp.zeros(n, bool))
        chosen.append(jnp.where(taken, most, r))
    offsets = jnp.stack(chosen, axis=1) if s else jnp.zeros((n, 0), int)
    return (jnp.arange(n)[:, None] + 1 + offsets) % n


def _ring_of_random_order(key: Key, step: Array, shape: tuple[int, int]) -> Array:
    """(n, s): of each worker the s before it in a random order of all."""
    n, s = shape
    order = jax.random.permutation(key, n)
    place = jnp.zeros(n, int).at[order].set(jnp.arange(n))
    return order[(place[:, None] - 1 - jnp.arange(s)[None]) % n]
