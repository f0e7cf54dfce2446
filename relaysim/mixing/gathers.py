"""Sums along edges by gathers alone, for devices that scatter rows slowly, and add them in no fixed order."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.types import Array

Weights = Array | np.ndarray | None
BLOCK = 256  # a long serial sum loses digits, so that of a worker with more edges is made of such blocks
SMALL = 16  # edges, in blocks of what is left for workers with more of them than most
MOST = 32  # gathers in one pass
OFTEN = 0.1  # of the workers have an edge that is worth a gather for all


class Numbered(NamedTuple):
    """The edges to n workers, m of them, by rank: the first edge to each worker, the second, and so on."""

    counts: np.ndarray
    """(n,) edges to each worker"""
    rank: np.ndarray
    """(m,) of an edge among those to its worker"""
    crowded: np.ndarray
    """(n,) bool, whether there are more than BLOCK."""


def numbered(receivers: np.ndarray, num_workers: int) -> Numbered:
    """Of edges to ascending receivers (m,)."""
    counts = np.bincount(receivers, minlength=num_workers)
    return Numbered(
        counts, np.arange(len(receivers)) - (np.cumsum(counts) - counts)[receivers], counts > BLOCK
    )


def slotted(edges: Numbered, receivers: np.ndarray, often: float) -> np.ndarray:
    """(K, n) int: an edge to each worker in turn, m where there is none, for as long as `often` of them have
    one. None of crowded workers."""
    rank, n, m = edges.rank, len(edges.counts), len(receivers)
    inside = ~edges.crowded[receivers]
    K = min(MOST, int((np.bincount(rank[inside]) >= often * n).sum()))
    slots = np.full((K, n), m, np.int32)
    few = np.flatnonzero(inside & (rank < K))
    slots[rank[few], receivers[few]] = few
    return slots


def blocked(receivers: np.ndarray, chosen: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, ≤ size) the chosen (m,) of the edges to ascending receivers (m,), m for none, and (B,) the worker
    of each block."""
    many = np.flatnonzero(chosen)
    workers, first, counts = np.unique(receivers[many], return_index=True, return_counts=True)
    size = min(size, counts.max(initial=1))
    of_worker = -(-counts // size)
    blocks = np.full((of_worker.sum(), size), len(receivers))
    rank = np.arange(len(many)) - np.repeat(first, counts)
    block = np.repeat(np.cumsum(of_worker) - of_worker, counts) + rank // size
    blocks[block, rank % size] = many
    return blocks, np.repeat(workers, of_worker)


def gathered_sum(
    senders: np.ndarray, receivers: np.ndarray, num_workers: int, edges: np.ndarray | None = None
) -> Callable[[Weights, Array], Array]:
    """(weights (m,) or None, x (k, ...)) -> (n, ...): to each worker Σ weight · x[sender], over its edges.

    All workers' first edges are gathered at once, then the second ones, while enough workers have one. What
    is left for those with more is summed in small blocks, and the edges to those with very many in large
    ones. The sums of a worker's blocks are a problem of the same kind, of fewer and shorter arrays. Its
    results are gathered as one more edge.

    Args:
      senders: (m,) int, rows of x.
      receivers: (m,) int, ascending.
      num_workers: n.
      edges: (m,) whose weights they have; 0, 1, … by default.
    """
    m, n = len(senders), num_workers
    edges = np.append(np.arange(m) if edges is None else edges, 0)
    sources, worker = np.append(senders, 0).astype(np.int32), np.arange(n, dtype=np.int32)
    by_rank = numbered(receivers, n)
    slots = slotted(by_rank, receivers, OFTEN)
    rest = ~by_rank.crowded[receivers] & (by_rank.rank >= len(slots))

    def in_blocks(chosen: np.ndarray, size: int) -> tuple[np.ndarray, Callable[[Weights, Array], Array]]:
        """Of the chosen edges, the workers (b,), and (weights, x) -> (b, ...) the sums."""
        blocks, hubs = blocked(receivers, chosen, size)
        there = blocks < m
        busy, which = np.unique(hubs, return_inverse=True)
        added = gathered_sum(np.arange(len(hubs)), which, len(busy)) if len(busy) < len(hubs) else None

        def sums(weights: Weights, x: Array) -> Array:
            if size == BLOCK:  # too many gathers for one pass
                sent = messages(weights, x, edges[blocks], sources[blocks], there)
                of_blocks = sent.sum(1, dtype=x.dtype)
            else:
                of_blocks = sum_slots(weights, x, edges[blocks.T], sources[blocks.T], there.T)
            return added(None, jax.lax.optimization_barrier(of_blocks)) if added else of_blocks

        return busy, sums

    parts = [
        in_blocks(chosen, size)
        for chosen, size in ((rest, SMALL), (by_rank.crowded[receivers], BLOCK))
        if chosen.any()
    ]
    busy = np.concatenate([np.empty(0, int), *(workers for workers, _ in parts)])
    place = np.full(n, len(busy), np.int32)
    place[busy] = np.arange(len(busy))

    def sums(weights: Weights, x: Array) -> Array:
        own = np.minimum(worker, len(x) - 1)  # what is read where there is no edge: likely at hand
        there = [None if (slot < m).all() else slot < m for slot in slots]
        total = sum_slots(weights, x, edges[slots], np.where(slots < m, sources[slots], own), there)
        if parts:
            none = jnp.zeros((1, *x.shape[1:]), x.dtype)
            more = jnp.concatenate([*(of_part(weights, x) for _, of_part in parts), none])
            total += more.at[place].get(mode="promise_in_bounds")
        return total

    return sums


def sum_slots(weights: Weights, x: Array, edges: Any, senders: Any, there: Any) -> Array:
    """(n, ...): the sum of the messages along the edges in the slots (K, n)."""
    terms = [messages(weights, x, edges[k], senders[k], there[k]) for k in range(len(edges))]
    return sum(terms, jnp.zeros((edges.shape[1], *x.shape[1:]), x.dtype))


def messages(weights: Weights, x: Array, edges: Any, senders: Any, there: Any = None) -> Array:
    """(..., *) what comes along edges (...) from their senders: weight · x[sender], 0 where none is there."""

    def per_edge(values: Any) -> Array:
        return jnp.reshape(values, np.shape(values) + (1,) * (x.ndim - 1))

    sent = x.at[senders].get(mode="promise_in_bounds")
    if isinstance(weights, np.ndarray):  # laid out once and for all
        sent = per_edge(np.take(weights, edges, mode="clip").astype(x.dtype)) * sent
    elif weights is not None:
        sent = per_edge(weights.at[edges].get(mode="clip")).astype(x.dtype) * sent
    return sent if there is None else jnp.where(per_edge(there), sent, 0)
