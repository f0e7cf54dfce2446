"""Workers that come and go."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_key, check_num_workers, check_number, shown
from relaysim.faults.losses import Loss
from relaysim.types import Array, Key


@dataclass(frozen=True, eq=False)
class Churn:
    """Workers that leave and return: who is there when.

    As a mixer's `drop` it loses all messages to and from those that are away; under `pause` these take no
    steps either; `relay_sum(tree, churn=...)` mends its tree around them. Times are numbers of steps,
    fractions too: who comes at 2.5 is there from step 3 on. (In asynchronous runs they are seconds.)

    >>> churn = Churn(3, [(0, 0, 10), (1, 0, 4), (1, 6, 10), (2, 5, np.inf)])
    >>> churn.present([0, 4, 5, 10]).astype(int)
    array([[1, 1, 0],
           [1, 0, 0],
           [1, 0, 1],
           [0, 0, 1]])

    Args:
      num_workers: n.
      sessions: rows (worker, from, to), such as a table of measured times: the worker is there from one time
        to before the other, which may be ∞. Who has no session is never there.

    Raises:
      ValueError: where rows are no such sessions, or those of a worker overlap.
    """

    num_workers: int
    sessions: Any

    def __post_init__(self) -> None:
        n = check_num_workers(self.num_workers)
        object.__setattr__(self, "sessions", _check_sessions(self.sessions, n))

    @classmethod
    def random(cls, key: Key, num_workers: int, until: float, *, present: float, absent: float) -> "Churn":
        """Independent departures and returns: each is there, and away, for exponential times.

        >>> churn = Churn.random(jax.random.key(0), 16, 1000, present=90, absent=10)
        >>> bool(0.85 < churn.present(np.arange(1000)).mean() < 0.95)
        True

        Args:
          key: of the times.
          num_workers: n.
          until: the time up to which workers come and go; from then on all stay as they are.
          present: the mean time from coming to leaving. At first each is there with the long-run share
            present / (present + absent).
          absent: the mean time from leaving to coming back.

        Raises:
          ValueError: where an argument is out of its range.
        """
        n, draw = check_num_workers(num_workers), _generator(key)
        until = check_number("until", until, 0, ends="(]")
        mean = [check_number("absent", absent, 0, ends="(]"), check_number("present", present, 0, ends="(]")]
        sessions = []
        for worker in range(n):
            there, time = draw.random() < mean[1] / sum(mean), 0.0
            while time < until:
                leaves = time + draw.exponential(mean[there])
                if there:
                    sessions.append((worker, time, leaves if leaves < until else np.inf))
                there, time = not there, leaves
        return cls(n, sessions)

    @classmethod
    def diurnal(
        cls, key: Key, num_workers: int, until: float, *, period: float, share: float, spread: float = 1.0
    ) -> "Churn":
        """Workers that are there at the same hours of each day.

        Args:
          key: of the hours.
          num_workers: n.
          until: the time up to which they come and go.
          period: the length of a day.
          share: of the day that each is there, in (0, 1).
          spread: workers come at times that are spread evenly over this share of the day, in [0, 1]: 0 for
            all at the same time, 1 for around the clock.

        Raises:
          ValueError: where an argument is out of its range.
        """
        n, draw = check_num_workers(num_workers), _generator(key)
        until, period = (
            check_number("until", until, 0, ends="(]"),
            check_number("period", period, 0, ends="(]"),
        )
        share, spread = check_number("share", share, 0, 1, "()"), check_number("spread", spread, 0, 1)
        comes = period * (spread * draw.random(n)[:, None] + np.arange(-1, np.ceil(until / period)))
        worker = np.broadcast_to(np.arange(n)[:, None], comes.shape)
        rows = np.stack([worker, np.maximum(comes, 0), comes + share * period], -1).reshape(-1, 3)
        return cls(n, rows[(rows[:, 2] > 0) & (rows[:, 1] < until)])

    @functools.cached_property
    def changes(self) -> np.ndarray:
        """(n, S) ascending: when each comes, leaves, comes back, …, and ∞."""
        worker = self.sessions[:, 0].astype(int)
        counts = np.bincount(worker, minlength=self.num_workers)
        rank = np.arange(len(worker)) - (np.cumsum(counts) - counts)[worker]
        times = np.full((self.num_workers, int(counts.max(initial=0)), 2), np.inf)
        times[worker, rank] = self.sessions[:, 1:]
        return times.reshape(self.num_workers, -1)

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """(E,) the steps, ascending from 0, from which on others are there than before."""
        times = self.sessions[:, 1:]
        steps = np.unique(np.append(0, np.ceil(times[np.isfinite(times)]))).astype(int)
        there = self.present(steps)
        return steps[np.append(True, (there[1:] != there[:-1]).any(1))]

    def present(self, times: Any) -> np.ndarray:
        """Who is there at times (T,): (T, n) bool."""
        return np.stack([(self.changes <= time).sum(1) % 2 == 1 for time in np.ravel(times)])

    def is_down(self, worker: Any, time: Any) -> Array:
        """Workers (k,) and a time () -> (k,) bool, who is away."""
        changes = jnp.asarray(self.changes, jnp.result_type(float))
        return (changes[worker] <= time).sum(-1) % 2 == 0

    def check_workers(self, num_workers: int) -> None:
        """Raise a ValueError where it is about another number of workers."""
        if self.num_workers != num_workers:
            raise ValueError(f"churn is of {self.num_workers} workers, but there are {num_workers} workers")

    def loss(self) -> Loss:
        """Losing all messages to and from those that are away. It keeps no state."""

        def lost(key: Key, step: Array, state: tuple, senders: Any, receivers: Any) -> tuple[tuple, Array]:
            return state, self.is_down(senders, step) | self.is_down(receivers, step)

        return Loss(lambda m: (), lost)


def _generator(key: Key) -> np.random.Generator:
    return np.random.default_rng(np.ravel(jax.random.key_data(check_key("key", key))).tolist())


def _check_sessions(sessions: Any, n: int) -> np.ndarray:
    """(k, 3) by worker and time."""
    expected = "rows (worker, from, to) with from < to"
    is_table = isinstance(sessions, Iterable) and not isinstance(sessions, str | dict)
    try:
        table = np.asarray(list(sessions) if is_table else None, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sessions is {shown(sessions)}, expected {expected}") from error
    if table.ndim != 2 or table.shape[1] != 3:
        raise ValueError(f"sessions has shape {table.shape}, expected {expected}")
    worker, first, last = table.T
    for row in table[~((worker % 1 == 0) & (worker >= 0) & (worker < n))]:
        raise ValueError(f"sessions holds worker {row[0]:g}, expected one of 0..{n - 1}")
    for row in table[~((first >= 0) & (first < last))]:
        raise ValueError(f"sessions holds {tuple(map(float, row))}, expected {expected}, from time 0 on")
    table = table[np.lexsort((first, worker))]
    again = (table[1:, 0] == table[:-1, 0]) & (table[1:, 1] < table[:-1, 2])
    for row in table[1:][again]:
        raise ValueError(
            f"sessions holds {tuple(map(float, row))}, which begins before worker {row[0]:g} left"
        )
    return table
