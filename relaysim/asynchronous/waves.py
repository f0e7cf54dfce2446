"""Waves: operations in the order of time become a few rows of many, which do not get in each other's way."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse import coo_array

NOBODY = np.iinfo(np.int32).max
"""Stands for no worker, or no place, where a wave has less than others."""
SAMPLE = 20_000
"""Of so many operations, the first, waves are made without bounds, to see how wide they are."""
STEPS = 8
"""The same, in steps of each worker."""


def in_waves(kinds: np.ndarray, before: np.ndarray, after: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The wave of each operation: as early as those that it waits for allow, and none much wider than others.

    In a wave all operations of kind 0 are done at once, then those of kind 1, and so on. So what waits for an
    operation of an earlier kind may share its wave. Waves are at most as wide as the first are on average
    where nothing bounds them: what is left over waits, the earliest in time going first.

    >>> in_waves(np.zeros(4, int), np.array([0, 1]), np.array([2, 2]), np.array([0, 4]))
    array([0, 0, 1, 1])

    Args:
      kinds: (N,) int, of each operation, in the order of time.
      before, after: (M,) int, operations: before[k] must be done before after[k], which comes later in time.
      bounds: (R + 1,) int ascending, from 0 to N: operations on two sides of a bound share no wave.

    Returns:
      (N,) int, ascending across the bounds.
    """
    num_kinds, first = int(kinds.max(initial=0)) + 1, min(len(kinds), SAMPLE)
    early = after < first
    sample = _Graph(kinds[:first], before[early], after[early])
    free = _levels(sample, np.minimum(bounds, first), np.full(num_kinds, first))
    mean = np.bincount(kinds[:first], minlength=num_kinds) / (free.max(initial=0) + 1)
    return _levels(_Graph(kinds, before, after), bounds, np.maximum(1, np.ceil(mean).astype(int)))


class _Graph:
    """What waits for what: of each operation, those that come after it."""

    def __init__(self, kinds: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        self.kinds = kinds
        self.next = after[grouped(before, len(kinds))]
        self.start = np.append(0, np.cumsum(np.bincount(before, minlength=len(kinds))))
        self.waits_for = np.bincount(after, minlength=len(kinds))

    def followers(self, operations: np.ndarray) -> np.ndarray:
        start = self.start[operations]
        return self.next[ranges(start, self.start[operations + 1] - start)[0]]


def _levels(graph: _Graph, bounds: np.ndarray, widths: np.ndarray) -> np.ndarray:
    left, wave, now = graph.waits_for.copy(), np.zeros(len(graph.kinds), int), 0
    later = np.flatnonzero(left == 0)
    for bound in bounds[1:]:
        soon, later = later[later < bound], later[later >= bound]
        ready = [soon[graph.kinds[soon] == kind] for kind in range(len(widths))]
        while any(map(len, ready)):
            for kind, width in enumerate(widths):
                batch, ready[kind] = ready[kind][:width], ready[kind][width:]
                if not len(batch):
                    continue
                wave[batch] = now
                followers = graph.followers(batch)
                np.subtract.at(left, followers, 1)
                free = followers[left[followers] == 0]
                left[free] = -1  # an operation that waited for two of the batch comes once
                free = _once(free)
                if len(free) and free[-1] >= bound:
                    later = np.append(later, free[free >= bound])
                    free = free[free < bound]
                for k in range(len(widths)):
                    new = free[graph.kinds[free] == k] if len(widths) > 1 else free
                    if len(new):
                        ready[k] = np.sort(np.append(ready[k], new)) if len(ready[k]) else new
            now += 1
    return wave


def _once(values: np.ndarray) -> np.ndarray:
    """Ascending, each once."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def grouped(groups: np.ndarray, number: int) -> np.ndarray:
    """(N,) int, what `np.argsort(groups, kind="stable")` is, by counting: groups (N,) are from 0 on, below
    a number.

    >>> grouped(np.array([1, 0, 1]), 2).tolist()
    [1, 0, 2]
    """
    rows = coo_array((np.arange(len(groups)), (groups, np.zeros(len(groups), int))), shape=(number, 1))
    rows.has_canonical_format = True  # so that nobody adds up what is in a row
    return rows.tocsr().data


def ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers in rows, one row after the other, and the row of each.

    >>> ranges(np.array([4, 7]), np.array([2, 1]))
    (array([4, 5, 7]), array([0, 0, 1]))

    Args:
      first: (k,) int, the first of each row.
      count: (k,) int, how many there are in it.
    """
    row = np.repeat(np.arange(len(count)), count)
    return np.arange(len(row)) + (first - np.cumsum(count) + count)[row], row


def members(groups: np.ndarray, which: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the groups (N,), as `grouped` takes them, are these (k,), one after the other; and of which k.

    >>> members(np.array([1, 0, 1]), np.array([1, 0]), 2)
    (array([0, 2, 1]), array([0, 0, 1]))
    """
    start = np.append(0, np.cumsum(np.bincount(groups, minlength=number)))
    place, of = ranges(start[which], start[which + 1] - start[which])
    return grouped(groups, number)[place], of


def joined(waves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What is in each wave, one wave after the other, and the wave of each.

    >>> joined([np.array([4, 2]), np.array([7])])
    (array([4, 2, 7]), array([0, 0, 1]))
    """
    return np.concatenate([*waves, np.zeros(0, int)]), np.repeat(np.arange(len(waves)), [*map(len, waves)])


def in_rows(waves: np.ndarray, num_waves: int) -> tuple[Callable[[np.ndarray, Any], np.ndarray], np.ndarray]:
    """Tables with a row for each wave.

    >>> as_table, place = in_rows(np.array([0, 0, 1]), 2)
    >>> as_table(np.array([5, 6, 7]), -1)
    array([[ 5,  6],
           [ 7, -1]], dtype=int32)

    Args:
      waves: (N,) int, the wave of each entry, ascending.

    Returns:
      A function (values (N, ...), fill) -> (num_waves, widest, ...), whole numbers as int32; and (N,) int,
      the place of each entry in its row.
    """
    num_waves = max(1, num_waves)  # which an empty run does not come to
    count = np.bincount(waves, minlength=num_waves)
    place = np.arange(len(waves)) - (np.cumsum(count) - count)[waves]
    width = max(1, count.max(initial=0))
    at = waves * width + place

    def as_table(values: np.ndarray, fill: Any) -> np.ndarray:
        dtype = np.int32 if values.dtype.kind == "i" else values.dtype
        table = np.empty((num_waves * width, *values.shape[1:]), dtype)
        table[:] = fill
        table[at] = values
        return table.reshape(num_waves, width, *values.shape[1:])

    return as_table, place
