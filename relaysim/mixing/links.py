"""Sums along the edges of a graph, laid out as its degrees allow."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.columns import by_platform, on_columns
from relaysim.faults import Loss
from relaysim.mixing.gathers import (
    BLOCK,
    OFTEN,
    Weights,
    blocked,
    gathered_sum,
    messages,
    numbered,
    slotted,
    sum_slots,
)
from relaysim.mixing.shifts import columns_of, shifted_sum, transposed_sum
from relaysim.topology import Topology, rooted
from relaysim.types import Array, Key, Stacked, rows

LONG = 32  # numbers in a row, from which on its length is what it costs


class Layout(NamedTuple):
    """The edges to n workers, by their numbers; m, how many there are, stands for none."""

    slots: np.ndarray
    """(K, n) an edge to each worker in turn. Gathers read them, all in one pass."""
    rest: np.ndarray
    """(r,) of workers with more edges than slots. Added one after the other."""
    blocks: np.ndarray
    """(B, BLOCK) of workers with more than BLOCK edges, all of them. Each block is summed by itself."""
    hubs: np.ndarray
    """(B,) the worker of each block."""


def layout(receivers: np.ndarray, num_workers: int, row: int) -> Layout:
    """Lay out the edges to ascending receivers (m,) out of n workers, for rows of so many numbers.

    A gather for each worker is worth it where a tenth of them (two fifths if rows are short) have that edge.
    """
    edges = numbered(receivers, num_workers)
    slots = slotted(edges, receivers, OFTEN if row >= LONG else 0.4)
    rest = np.flatnonzero(~edges.crowded[receivers] & (edges.rank >= len(slots)))
    return Layout(slots, rest, *blocked(receivers, edges.crowded[receivers], BLOCK))


def edge_sum(
    senders: np.ndarray, receivers: np.ndarray, num_workers: int
) -> Callable[[Weights, Array], Array]:
    """A function (weights (m,) or None for ones, x (n, ...)) -> (n, ...): at i Σ weight · x[sender].

    Args:
      senders: (m,) int.
      receivers: (m,) int, ascending.
      num_workers: n.
    """
    n, m = num_workers, len(senders)
    gathered = functools.cache(lambda: gathered_sum(senders, receivers, n))
    moved = functools.cache(
        lambda: shifted_sum(senders, receivers, n) or transposed_sum(senders, receivers, n)
    )

    def senders_of(edges: np.ndarray) -> np.ndarray:
        return np.take(senders, edges, mode="clip").astype(np.int32)

    @functools.cache
    def laid_out(row: int) -> tuple[Layout, np.ndarray, list[np.ndarray | None]]:
        laid = layout(receivers, n, row)
        there = laid.slots < m
        peers = np.where(there, senders_of(laid.slots), np.arange(n, dtype=np.int32))  # itself, where none is
        return laid, peers, [None if have.all() else have for have in there]

    def scattered(weights: Weights, x: Array) -> Array:
        (slots, rest, blocks, hubs), peers, there = laid_out(min(x[0].size, LONG))
        total = sum_slots(weights, x, slots, peers, there)
        if len(rest):
            single = messages(weights, x, rest, senders_of(rest))
            total = total.at[receivers[rest]].add(single, mode="promise_in_bounds", indices_are_sorted=True)
        if len(blocks):
            summed = messages(weights, x, blocks, senders_of(blocks), blocks < m).sum(1, dtype=x.dtype)
            total = total.at[hubs].add(summed, mode="promise_in_bounds", indices_are_sorted=True)
        return total

    def sums(weights: Weights, x: Array) -> Array:
        return by_platform(
            x,
            cpu=lambda x: scattered(weights, x),
            tpu=lambda x: moved()(weights, x),
            default=lambda x: gathered()(weights, x),
        )

    return sums


def weight_sum(senders: np.ndarray, receivers: np.ndarray, num_workers: int) -> Callable[[Array], Array]:
    """A function weights (m,) -> (n,): at i the sum of those of the edges to it, which may have any order."""
    n = num_workers
    shifted = functools.cache(lambda: shifted_sum(senders, receivers, n))

    @functools.cache
    def gathered() -> Callable[[Weights, Array], Array]:
        order = np.argsort(receivers, kind="stable")
        return gathered_sum(senders[order], receivers[order], n, order)

    def scattered(weights: Array) -> Array:
        ascending = bool((np.diff(receivers) >= 0).all())
        return jax.ops.segment_sum(weights, receivers, n, indices_are_sorted=ascending)

    def of_ones(sums: Callable[[Weights, Array], Array], weights: Array) -> Array:
        return sums(weights, jnp.ones(n, weights.dtype))

    def on_tpu(weights: Array) -> Array:
        return of_ones(sums, weights) if (sums := shifted()) else scattered(weights)

    def on_gpu(weights: Array) -> Array:
        return of_ones(gathered(), weights)

    return lambda weights: by_platform(weights, cpu=scattered, tpu=on_tpu, default=on_gpu)


def lose(
    key: Key, step: Array, loss: Loss, state: Any, senders: Any, receivers: Any, messages: Stacked
) -> tuple[Any, Stacked]:
    """Set the messages that get lost, rows in all leaves alike, to zero."""
    state, lost = loss.lost(key, step, state, senders, receivers)
    return state, jax.tree.map(lambda m: jnp.where(rows(lost, m), 0, m), messages)


class Links(NamedTuple):
    """The edges of a tree hung up by worker 0, for arrays with a row for each of n workers."""

    from_parent: Callable[[Array], Array]
    """(n, ...) -> (n, ...): to each worker the row of its parent. What the root gets is of no meaning."""
    from_children: Callable[[Array], Array]
    """(n, ...) -> (n, ...): to each worker the sum of the rows of its children."""


def links(tree: Topology) -> Links:
    """The links of a tree.

    Raises:
      ValueError: where the topology is no tree.
    """
    parent = rooted(tree).parent
    if not parent.any():
        return _star()
    children = 1 + np.argsort(parent[1:], kind="stable").astype(np.int32)
    sums = edge_sum(children, parent[children], len(parent))
    shifted = functools.cache(lambda: shifted_sum(parent[1:], np.arange(1, len(parent)), len(parent)))

    def gather(x: Array) -> Array:
        return x.at[parent].get(mode="promise_in_bounds")

    def on_tpu(x: Array) -> Array:
        return shift(None, x) if (shift := shifted()) else columns_of(x, parent).T.reshape(x.shape)

    def from_parent(x: Array) -> Array:
        return by_platform(x, tpu=on_tpu, default=gather)

    return Links(on_columns(from_parent), on_columns(lambda x: sums(None, x)))


def _star() -> Links:
    def root(x: Array) -> Array:
        return rows(np.arange(len(x)) == 0, x)

    def from_parent(x: Array) -> Array:
        def found(x: Array) -> Array:  # cut out, the row would have TPUs lay out all others with gaps
            return jnp.broadcast_to(jnp.where(root(x), x, 0).sum(0, keepdims=True, dtype=x.dtype), x.shape)

        return by_platform(x, tpu=found, default=lambda x: jnp.broadcast_to(x[:1], x.shape))

    def from_children(x: Array) -> Array:
        def put(x: Array) -> Array:
            return jnp.zeros_like(x).at[0].set(x[1:].sum(0, dtype=x.dtype))

        def chosen(x: Array) -> Array:  # in one pass with what else is made of it
            total = jnp.where(root(x), 0, x).sum(0, keepdims=True, dtype=x.dtype)
            return jnp.where(root(x), total, 0)

        return by_platform(x, cpu=put, default=chosen)

    return Links(from_parent, from_children)
