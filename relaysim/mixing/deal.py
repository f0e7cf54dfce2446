"""Several mixers that share a model."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import shown
from relaysim.types import Array, Calls, Key, Lasting, Messages, Mixer, Stacked, call_of, made_by, scaled


def deal(mixers: Sequence[Mixer]) -> Mixer:
    """Deal the elements of a model out to k mixers, element j to mixer j mod k, as cards to players.

    Elements are counted through the leaves of a worker's model one after the other. Not for `push_sum`, whose
    scalar weight would travel with one of the mixers only.

    >>> import relaysim as rs
    >>> deal([rs.gossip(rs.topology.ring(4)), rs.gossip(rs.topology.star(4))]).sent().tolist()
    [2.5, 1.5, 1.5, 1.5]

    Raises:
      ValueError: where there is no mixer, or they differ in their number of workers.
    """
    if not isinstance(mixers, list | tuple) or not all(isinstance(m, Mixer) for m in mixers):
        expected = "a list of ways to communicate such as rs.gossip(ring)"
        raise ValueError(f"mixers is {shown(mixers)}, expected {expected}")
    counts = [m.num_workers for m in mixers]
    if len(set(counts)) != 1:
        raise ValueError(f"mixers are for {counts} workers, expected one or more with one number of workers")
    n, k = counts[0], len(mixers)

    def starts(x: Stacked) -> list[int]:
        sizes = [leaf[0].size for leaf in jax.tree.leaves(x)]
        return [int(offset) for offset in np.cumsum([0, *sizes[:-1]])]

    def split(x: Stacked) -> list[list[Array]]:
        leaves = [leaf.reshape(n, -1) for leaf in jax.tree.leaves(x)]
        return [
            [leaf[:, (part - start) % k :: k] for leaf, start in zip(leaves, starts(x), strict=True)]
            for part in range(k)
        ]

    def join(parts: list[list[Array]], like: Stacked) -> Stacked:
        leaves, treedef = jax.tree.flatten(like)
        joined = []
        for i, (leaf, start) in enumerate(zip(leaves, starts(like), strict=True)):
            size = leaf[0].size
            longest = -(-size // k)
            hands = [parts[(start + j) % k][i] for j in range(k)]
            hands = [jnp.pad(hand, ((0, 0), (0, longest - hand.shape[1]))) for hand in hands]
            joined.append(jnp.stack(hands, axis=-1).reshape(n, -1)[:, :size].reshape(leaf.shape))
        return jax.tree.unflatten(treedef, joined)

    def mix(key: Key, step: Array, states: list, x: Stacked) -> tuple[list, Stacked]:
        keys, parts = jax.random.split(key, k), split(x)
        mixed = [m.mix(q, step, s, part) for m, q, s, part in zip(mixers, keys, states, parts, strict=True)]
        return [s for s, _ in mixed], join([part for _, part in mixed], x)

    def init(x: Stacked) -> list:
        return [m.init(part) for m, part in zip(mixers, split(x), strict=True)]

    def share(x: Stacked) -> float:
        shapes = jax.eval_shape(split, x)
        return sum(m.share(part) for m, part in zip(mixers, shapes, strict=True)) / k

    def messages() -> Calls:
        return at_once([scaled(m.messages(), 1 / k) for m in mixers])

    name = " and ".join(m.name or made_by(m.mix) for m in mixers)
    return Mixer(n, init, mix, messages, share, name)


def at_once(parts: Sequence[Calls]) -> Calls:
    """The messages of several mixers that are called together: their rounds go side by side."""
    lasting = any(isinstance(calls, Lasting) for calls in parts)
    period = max(map(len, parts)) if lasting else math.lcm(*map(len, parts))

    @cache
    def merged(*ids: int) -> Messages:
        together = [rounds[i] for i in ids]
        sizes = [np.broadcast_to(r.vectors, r.senders.shape) for r in together]
        ends = zip(*((r.senders, r.receivers) for r in together), strict=True)
        senders, receivers = map(np.concatenate, ends)
        return Messages(senders, receivers, np.concatenate(sizes))

    rounds = {id(r): r for calls in parts for call in calls for r in call}
    side_by_side = [zip_longest(*(call_of(calls, t) for calls in parts)) for t in range(period)]
    made = [[merged(*(id(r) for r in row if r is not None)) for row in call] for call in side_by_side]
    return Lasting(made) if lasting else made
