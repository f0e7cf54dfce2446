"""Workers that come and go, in seconds: when they are there, and what they start from when they are back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relaysim.asynchronous.waves import in_rows, members
from relaysim.topology import Topology


class Presence(NamedTuple):
    """Who is there when."""

    changes: np.ndarray
    """(n, 2 S) seconds, ascending: when each comes, leaves, comes back, …, and ∞ (`Churn.changes`)."""

    def is_there(self, worker: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Workers (k,) and times (k,) -> (k,) bool."""
        return (self.changes[worker] <= time[:, None]).sum(1) % 2 == 1

    def there(self, worker: np.ndarray, time: np.ndarray) -> np.ndarray:
        """(k,) when each is there next, from a time (k,) on; ∞ for never."""
        changes = self.changes[worker]
        passed = (changes <= time[:, None]).sum(1)
        comes = np.append(changes, np.full((len(changes), 1), np.inf), 1)[np.arange(len(passed)), passed]
        return np.where(passed % 2 == 1, time, comes)

    def after(self, worker: np.ndarray, time: np.ndarray, work: np.ndarray) -> np.ndarray:
        """(k,) when each has been there for `work` (k,) more seconds since a time (k,); ∞ for never."""
        comes, leaves = self.changes[worker, ::2], self.changes[worker, 1::2]
        begins = np.where(np.isfinite(comes), comes, 0)
        lasts = np.where(np.isfinite(comes), leaves - begins, 0)
        so_far = np.clip(time[:, None] - begins, 0, lasts).sum(1)
        total = np.append(np.zeros((len(lasts), 1)), np.cumsum(lasts, 1), 1)
        session, row = (total[:, 1:] <= (so_far + work)[:, None]).sum(1), np.arange(len(lasts))
        comes = np.append(comes, np.full((len(comes), 1), np.inf), 1)[row, session]
        with np.errstate(invalid="ignore"):  # ∞ − ∞, where it is never
            done = comes + (so_far + work - total[row, session])
        return np.where(np.isfinite(comes), done, np.inf)


class Restarts(NamedTuple):
    """Workers that come back, and the models that they start from: C of them, by time and worker."""

    time: np.ndarray
    """(C,) seconds"""
    worker: np.ndarray
    """(C,) int"""
    sources: np.ndarray
    """(C, D) int, workers that were there all along"""
    shares: np.ndarray
    """(C, D) how much of the models of these it starts from; they sum to 1"""


NONE = Restarts(np.zeros(0), np.zeros(0, int), np.zeros((0, 1), int), np.zeros((0, 1)))


def restarts(presence: Presence | None, topology: Topology, start: str, until: float) -> Restarts:
    """All up to a time, where workers start from models of neighbours (`start` "neighbour" or "mean")."""
    if presence is None or start == "own":
        return NONE
    changes = presence.changes
    left = np.append(np.full((len(changes), 1), -1.0), changes[:, 1:-1:2], 1)
    worker, session = np.nonzero((changes[:, ::2] > np.maximum(left, 0)) & (changes[:, ::2] <= until))
    time = changes[:, ::2][worker, session]
    order = np.lexsort((worker, time))
    time, worker = time[order], worker[order]

    edge, back = members(topology.receivers, worker, topology.num_workers)
    source = topology.senders[edge]
    just_before = np.nextafter(time, 0)
    usable = presence.is_there(source, time[back]) & presence.is_there(source, just_before[back])
    source, back = source[usable], back[usable]
    if start == "neighbour":
        back, of_first = np.unique(back, return_index=True)
        source = source[of_first]
    some, row = np.unique(back, return_inverse=True)
    as_table, _ = in_rows(row, len(some))
    sources, shares = as_table(source, 0), as_table(1 / np.bincount(row)[row], 0)
    return Restarts(time[some], worker[some], sources[: len(some)], shares[: len(some)])


class Halts(NamedTuple):
    """Where waves end, for a record or since a worker starts anew: that is a wave by itself."""

    bounds: np.ndarray
    """(B + 1,) int, the operations before each, ascending from 0"""
    records: np.ndarray
    """(R + 1,) int, which of the bounds are those of the records"""
    restarts: np.ndarray
    """(C,) int, which are those of the restarts"""
    ahead: np.ndarray
    """(R + 1,) int, the restarts before each record"""

    @classmethod
    def of(cls, records: np.ndarray, seconds: np.ndarray, times: np.ndarray, anew: Restarts) -> "Halts":
        """For records after so many (R + 1,) operations, at `seconds` (R,), of operations at times (N,)."""
        before = np.searchsorted(times, anew.time)
        bounds = np.union1d(records, before)
        ahead = np.append(0, np.searchsorted(anew.time, seconds, "right"))
        return cls(bounds, np.searchsorted(bounds, records), np.searchsorted(bounds, before), ahead)

    def waves(
        self, starts: np.ndarray, waves: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """The first waves of the records (R + 1,), the waves of the restarts (C,), and waves (N,) as they are
        numbered with these; given the first wave at each bound, and waves without them."""
        of_restarts = starts[self.restarts]
        numbered = [wave + np.searchsorted(of_restarts, wave, "right") for wave in waves]
        return starts[self.records] + self.ahead, of_restarts + np.arange(len(of_restarts)), numbered
