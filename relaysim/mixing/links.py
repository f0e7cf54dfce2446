"""Sums along the edges of a graph, laid out as its degrees allow."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.columns import on_columns
from relaysim.faults import Loss
from relaysim.topology import Topology, rooted
from relaysim.types import Array, Key, Stacked, rows

BLOCK = 256  # a long serial sum loses digits, so that of a worker with more edges is made of such blocks
LONG = 32  # numbers in a row, from which on its length is what it costs
MOST = 32  # gathers in one pass


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
    m, n = len(receivers), num_workers
    counts = np.bincount(receivers, minlength=n)
    rank = np.arange(m) - (np.cumsum(counts) - counts)[receivers]
    crowded = (counts > BLOCK)[receivers]
    often = 0.1 if row >= LONG else 0.4
    K = min(MOST, int((np.bincount(rank[~crowded]) >= often * n).sum()))

    slots = np.full((K, n), m)
    few = np.flatnonzero(~crowded & (rank < K))
    slots[rank[few], receivers[few]] = few

    of_worker = np.where(counts > BLOCK, -(-counts // BLOCK), 0)
    blocks = np.full((of_worker.sum(), BLOCK), m)
    many = np.flatnonzero(crowded)
    first = (np.cumsum(of_worker) - of_worker)[receivers[many]]
    blocks[first + rank[many] // BLOCK, rank[many] % BLOCK] = many
    return Layout(slots, np.flatnonzero(~crowded & (rank >= K)), blocks, np.repeat(np.arange(n), of_worker))


def edge_sum(
    senders: np.ndarray, receivers: np.ndarray, num_workers: int
) -> Callable[[Array | None, Array], Array]:
    """A function (weights (m,) or None for ones, x (n, ...)) -> (n, ...): at i Σ weight · x[sender].

    Args:
      senders: (m,) int.
      receivers: (m,) int, ascending.
      num_workers: n.
    """
    n, m = num_workers, len(senders)
    sources, worker = np.append(senders, 0).astype(np.int32), np.arange(num_workers, dtype=np.int32)
    laid_out = functools.cache(functools.partial(layout, receivers, n))

    def sums(weights: Array | np.ndarray | None, x: Array) -> Array:
        slots, rest, blocks, hubs = laid_out(min(x[0].size, LONG))
        there = [None if (slot < m).all() else slot < m for slot in slots]
        total = sum_slots(weights, x, slots, np.where(slots < m, sources[slots], worker), there)
        if len(rest):
            single = messages(weights, x, rest, sources[rest])
            total = total.at[receivers[rest]].add(single, mode="promise_in_bounds", indices_are_sorted=True)
        if len(blocks):
            summed = messages(weights, x, blocks, sources[blocks], blocks < m).sum(1, dtype=x.dtype)
            total = total.at[hubs].add(summed, mode="promise_in_bounds", indices_are_sorted=True)
        return total

    return sums


def sum_slots(weights: Array | np.ndarray | None, x: Array, edges: Any, senders: Any, there: Any) -> Array:
    """(n, ...): the sum of the messages along the edges in the slots (K, n)."""
    terms = [messages(weights, x, edges[k], senders[k], there[k]) for k in range(len(edges))]
    return sum(terms, jnp.zeros((edges.shape[1], *x.shape[1:]), x.dtype))


def messages(
    weights: Array | np.ndarray | None, x: Array, edges: Any, senders: Any, there: Any = None
) -> Array:
    """(..., *) what comes along edges (...) from their senders: weight · x[sender], 0 where none is there."""

    def per_edge(values: Any) -> Array:
        return jnp.reshape(values, np.shape(values) + (1,) * (x.ndim - 1))

    sent = x.at[senders].get(mode="promise_in_bounds")
    if isinstance(weights, np.ndarray):  # laid out once and for all
        sent = per_edge(np.take(weights, edges, mode="clip").astype(x.dtype)) * sent
    elif weights is not None:
        sent = per_edge(weights.at[edges].get(mode="clip")).astype(x.dtype) * sent
    return sent if there is None else jnp.where(per_edge(there), sent, 0)


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
    parent = rooted(tree).parent.astype(np.int32)
    if not parent.any():
        return _star()
    children = 1 + np.argsort(parent[1:], kind="stable")
    sums = edge_sum(children, parent[children], len(parent))
    return Links(
        on_columns(lambda x: x.at[parent].get(mode="promise_in_bounds")),
        on_columns(lambda x: sums(None, x)),
    )


def _star() -> Links:
    def from_parent(x: Array) -> Array:
        return jnp.broadcast_to(x[:1], x.shape)

    def from_children(x: Array) -> Array:
        return jnp.zeros_like(x).at[0].set(x[1:].sum(0, dtype=x.dtype))

    return Links(from_parent, from_children)
