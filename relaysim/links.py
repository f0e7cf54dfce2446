"""Sums along the edges of a graph, laid out as it allows: shifts, reshapes and column sums where workers are
numbered regularly, gathers where they have few neighbours, a sum over sorted segments elsewhere."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.topology import Topology, rooted
from relaysim.types import Array

HUB = (
    256  # from so many children on, they are summed by themselves: faster, and a long serial sum loses digits
)


FEW = 4  # neighbours, up to which a gather for each, fused with what follows, is faster than a segment sum


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
    edges = slots(receivers, n)
    if edges is None:
        return lambda weights, x: sum_segments(weights, x, senders, receivers, n)
    peers = np.where(edges < m, np.append(senders, 0)[edges], np.arange(n))
    return lambda weights, x: sum_slots(jnp.ones(m) if weights is None else weights, x, edges, peers)


def slots(receivers: np.ndarray, num_workers: int) -> np.ndarray | None:
    """(most, n) the k-th edge to each worker, m where there is none; None where most > FEW."""
    counts, m = np.bincount(receivers, minlength=num_workers), len(receivers)
    if counts.max(initial=0) > FEW:
        return None
    slot = np.arange(m) - (np.cumsum(counts) - counts)[receivers]
    edges = np.full((counts.max(initial=0), num_workers), m)
    edges[slot, receivers] = np.arange(m)
    return edges


def sum_slots(weights: Array, x: Array, edges: Any, peers: Any) -> Array:
    """Of the rows `peers` (most, n) of x times the weights (m,) of `edges`, made by `slots`."""
    filled = jnp.append(weights, 0).astype(x.dtype)[edges]
    terms = [rows(filled[k], x) * x.at[peers[k]].get(mode="promise_in_bounds") for k in range(len(edges))]
    return sum(terms, jnp.zeros((edges.shape[1], *x.shape[1:]), x.dtype))


def sum_segments(weights: Array | None, x: Array, senders: Any, receivers: Any, num_workers: int) -> Array:
    """Of the rows `senders` (m,) of x, to ascending receivers; those that are out of range are dropped."""
    messages = x.at[senders].get(mode="promise_in_bounds")
    if weights is not None:
        messages = rows(weights, x).astype(x.dtype) * messages
    return jax.ops.segment_sum(messages, receivers, num_workers, indices_are_sorted=True, mode="drop")


def rows(values: Any, like: Array) -> Array:
    """(n,) -> (n, 1, ..., 1), to go with an array whose rows are the workers."""
    return jnp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


class Links(NamedTuple):
    """The edges of a rooted tree, for arrays with a row for each of n workers."""

    root: int
    from_parent: Callable[[Array], Array]
    """(n, ...) -> (n, ...): to each worker the row of its parent. What the root gets is of no meaning."""
    from_children: Callable[[Array], Array]
    """(n, ...) -> (n, ...): to each worker the sum of the rows of its children. The root's row must be 0."""


def links(tree: Topology) -> Links:
    """The links of a tree hung up by worker 0.

    Raises:
      ValueError: where the topology is no tree.
    """
    parent = rooted(tree).parent
    worker = np.arange(tree.num_workers)
    if np.array_equal(parent[1:], worker[:-1]):
        return Links(0, *_chain())
    if not parent.any():
        return Links(0, *_star())
    if np.array_equal(parent, worker // 2):
        return Links(0, *_heap())
    return Links(0, *_any(parent))


Pair = tuple[Callable[[Array], Array], Callable[[Array], Array]]


def _chain() -> Pair:
    def from_parent(x: Array) -> Array:
        return jnp.concatenate([x[:1], x[:-1]])

    def from_children(x: Array) -> Array:
        return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])

    return from_parent, from_children


def _star() -> Pair:
    def from_parent(x: Array) -> Array:
        return jnp.broadcast_to(x[:1], x.shape)

    def from_children(x: Array) -> Array:
        return jnp.zeros_like(x).at[0].set(x.sum(0, dtype=x.dtype))

    return from_parent, from_children


def _heap() -> Pair:
    """The parent of i is i // 2."""

    def from_parent(x: Array) -> Array:
        return jnp.repeat(x[: (len(x) + 1) // 2], 2, axis=0)[: len(x)]

    def from_children(x: Array) -> Array:
        n, half = len(x), (len(x) + 1) // 2
        pairs = jnp.pad(x, [(0, 2 * half - n)] + [(0, 0)] * (x.ndim - 1)).reshape(half, 2, *x.shape[1:])
        return jnp.pad(pairs.sum(1, dtype=x.dtype), [(0, n - half)] + [(0, 0)] * (x.ndim - 1))

    return from_parent, from_children


def _any(parent: np.ndarray) -> Pair:
    n = len(parent)
    children = np.bincount(parent, minlength=n)
    hubs = np.flatnonzero(children > HUB)
    to = np.where(np.isin(parent, hubs), n, parent)
    to[0] = n  # out of range: dropped
    crowds = [np.flatnonzero((parent == hub) & (np.arange(n) > 0)) for hub in hubs]

    def from_parent(x: Array) -> Array:
        return x.at[parent].get(mode="promise_in_bounds")

    if children[1:].max() <= FEW and children[0] - 1 <= FEW:
        grown = 1 + np.argsort(parent[1:], kind="stable")
        sums_of = edge_sum(grown, parent[grown], n)
        return from_parent, lambda x: sums_of(None, x)

    def from_children(x: Array) -> Array:
        sums = jnp.zeros_like(x).at[to].add(x, mode="drop")
        for hub, crowd in zip(hubs, crowds, strict=True):
            sums = sums.at[hub].set(x.at[crowd].get(mode="promise_in_bounds").sum(0, dtype=x.dtype))
        return sums

    return from_parent, from_children
