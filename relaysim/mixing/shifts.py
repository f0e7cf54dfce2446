"""Sums along the edges of graphs that are shifts: chains, rings, grids, tori, hypercubes, exponential graphs.

There are few distances between neighbours, so that what comes along all edges of a length is the array of the
workers, moved on by so many rows. TPUs move whole arrays quickly, and gather rows slowly.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from relaysim.mixing.gathers import Weights, numbered, slotted
from relaysim.types import Array, rows

MOST = 64  # distances
AT_ONCE = 16  # of them: what XLA cannot add in one pass, it lays out as arrays of their own
FEW = 8  # slices, of which numbers are picked; XLA takes minutes over many
LONG = 32  # numbers in a row, from which on a sorted scatter costs less than a gather for each neighbour


def rolled(by: int) -> Callable[[Array], Array]:
    """(n, ...) -> (n, ...): worker i's row to worker i + by modulo n, 0 < by < n.

    As one slice, which XLA reads where it lies. Two, as `jnp.roll` has it, it would write out first.
    """
    return lambda x: jnp.concatenate([x, x])[len(x) - by : 2 * len(x) - by]


def shifted_sum(
    senders: np.ndarray,
    receivers: np.ndarray,
    num_workers: int,
    move: Callable[[int], Callable[[Array], Array]] = rolled,
    at_once: int = AT_ONCE,
) -> Callable[[Weights, Array], Array] | None:
    """`gathered_sum` for edges whose distances, receiver − sender modulo n, are at most MOST; None otherwise.

    Args:
      senders: (m,) int.
      receivers: (m,) int.
      num_workers: n.
      move: by how many rows -> what moves an array by so many.
      at_once: how many moved arrays are added before the next ones are made.
    """
    n, m = num_workers, len(senders)
    distances, which = np.unique((receivers - senders) % n, return_inverse=True)
    if len(distances) > MOST:
        return None
    edges = np.full((len(distances), n), m)
    edges[which, receivers] = np.arange(m)

    moves = [move(int(distance)) for distance in distances]

    def along(k: int, weights: Weights, x: Array) -> Array:
        moved, there = moves[k](x), edges[k] < m
        if isinstance(weights, np.ndarray):
            moved = rows(np.append(weights, 0)[edges[k]].astype(x.dtype), x) * moved
        elif weights is not None:
            moved = rows(picked(weights, edges[k], there), x).astype(x.dtype) * moved
        return moved if there.all() else jnp.where(rows(there, x), moved, 0)

    def sums(weights: Weights, x: Array) -> Array:
        total = jnp.zeros_like(x)
        for k in range(len(distances)):
            if k and k % at_once == 0:
                total, x = jax.lax.optimization_barrier((total, x))
            total += along(k, weights, x)
        return total

    return sums


def picked(values: Array, index: np.ndarray, there: np.ndarray) -> Array:
    """values[index] (n,), anything where none is there.

    Where the index goes on by the same stride, but for some jumps, by slices: TPUs gather single numbers as
    slowly as rows.
    """
    n, stride = len(index), -(-len(values) // len(index))
    offset = index - stride * np.arange(n)
    starts = np.unique(offset[there])
    if len(starts) > FEW:
        return values.at[index].get(mode="clip")
    before = max(0, -starts[0])
    values = jnp.pad(values, (before, max(0, starts[-1]) + stride * n - len(values)))
    out = jnp.zeros(n, values.dtype)
    for start in starts:
        out = jnp.where(offset == start, values[before + start :][: stride * n : stride], out)
    return out


def transposed_sum(
    senders: np.ndarray, receivers: np.ndarray, num_workers: int
) -> Callable[[Weights, Array], Array]:
    """`gathered_sum` with the workers last, for TPUs, which would pad short rows to 128 numbers.

    Args:
      senders: (m,) int.
      receivers: (m,) int, ascending.
      num_workers: n.
    """
    by_rank, n = numbered(receivers, num_workers), num_workers
    full = slotted(by_rank, receivers, 1.0)
    rest = np.flatnonzero(by_rank.rank >= len(full))

    def along(weights: Weights, x: Array, edges: np.ndarray) -> Array:
        sent = columns_of(x, senders[edges])
        return sent if weights is None else jnp.asarray(weights[edges], x.dtype)[None] * sent

    def sums(weights: Weights, x: Array) -> Array:
        gathers = full if x[0].size < LONG else full[:0]  # of long rows the sorted edges are cheaper
        total = sum((along(weights, x, edges) for edges in gathers), jnp.zeros((x[0].size, n), x.dtype))
        if len(others := rest if len(gathers) else np.arange(len(receivers))):
            at = total.at[:, receivers[others].astype(np.int32)]
            total = at.add(along(weights, x, others), mode="promise_in_bounds", indices_are_sorted=True)
        return total.T.reshape(n, *x.shape[1:])

    return sums


def columns_of(x: Array, workers: np.ndarray) -> Array:
    """(d, m): the numbers of each of these workers (m,) in a column."""
    columns = _workers_last(x.reshape(len(x), -1)).T
    first = int(workers[0])
    if (workers == np.arange(first, first + len(workers))).all():
        return columns[:, first : first + len(workers)]
    return columns.at[:, workers.astype(np.int32)].get(mode="promise_in_bounds")


def _workers_last(x: Array) -> Array:
    """x (n, d), the numbers of all workers next to each other; XLA would lay out those of each, with gaps.

    Not for what a program returns: CPUs take no notice of it there.
    """
    return with_layout_constraint(x, Layout(major_to_minor=(1, 0)))
