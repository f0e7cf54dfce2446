"""When things happen where nobody waits at a barrier: computed on the host, for all workers at once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from relaysim.asynchronous.presence import Presence
from relaysim.asynchronous.types import Horizon
from relaysim.faults import loss_of
from relaysim.timing import Network, check_network
from relaysim.types import Key

STEPS = 64
"""How many steps of each worker are looked at first."""
MOST = 10**8
"""Steps of all workers together."""
_CHOICES = 0x7111
"""The stream of a key for what workers choose; none of those of a network."""


def check(network: Any, num_workers: int) -> None:
    """Raise a ValueError where this is no network for so many workers, or one that loses messages."""
    check_network(network, num_workers)
    if loss_of(network.drop, num_workers) is not None:
        raise ValueError("network loses messages, expected one without drop: who would wait for a time-out?")


def up_to(horizon: Horizon, times: Callable[[int], tuple]) -> tuple:
    """times(K) for a number of steps K that is enough: no worker has less than it takes within the horizon.

    Args:
      times: K -> (when each step is done (n, K), and whatever else).
    """
    num_steps = STEPS
    while True:
        found = times(num_steps)
        done = found[0]
        last = done[:, -1].min()
        known = (done < last).sum()
        if last > horizon.seconds if horizon.num_events is None else known >= horizon.num_events:
            return found
        if np.isinf(last):
            raise ValueError(
                f"num_events is {horizon.num_events}, expected at most {known}: then all workers have left"
            )
        ahead = 2 if horizon.seconds is None else horizon.seconds / last
        if done.size * ahead > MOST:
            asked = "num_events" if horizon.seconds is None else "seconds"
            raise ValueError(f"{asked} asks for more than {MOST} steps of all workers, expected fewer")
        num_steps *= 2


def compute_times(network: Network, key: Key, num_workers: int, num_steps: int) -> np.ndarray:
    """(n, K) the seconds that each gradient takes."""
    firsts = range(0, num_steps, STEPS)
    drawn = [network.compute_times(key, np.arange(first, first + STEPS), num_workers) for first in firsts]
    times = np.concatenate(drawn)[:num_steps].T
    if not times.any(1).all():
        idle = int(np.argmin(times.any(1)))
        raise ValueError(f"compute is 0 for worker {idle}, expected gradients that take some time")
    return times


def latencies(network: Network, key: Key, senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
    """(...,) the seconds one way on these links."""
    if isinstance(network.latency, float):  # one number for all
        return np.full(senders.shape, network.latency)
    n = int(max(senders.max(initial=0), receivers.max(initial=0))) + 1
    links, which = np.unique(senders * n + receivers, return_inverse=True)
    return np.asarray(network.latencies(key, *np.divmod(links, n)))[which.reshape(senders.shape)]


def done_times(compute: np.ndarray, pause: Any, presence: Presence | None = None) -> np.ndarray:
    """(n, K) when each step is done: `pause` (n, K) at least after the one before.

    The time of who is away stands still: a gradient goes on when its worker is back.
    """
    if presence is not None:
        everybody, done = np.arange(len(compute)), np.empty_like(compute)
        pause, before = np.broadcast_to(pause, compute.shape), np.zeros(len(compute))
        for k in range(compute.shape[1]):
            done[:, k] = presence.after(everybody, before, compute[:, k])
            if k:
                waited = presence.there(everybody, before + pause[:, k])
                done[:, k] = np.maximum(done[:, k], waited)
            before = done[:, k]
        return done
    gaps = np.maximum(compute, pause)
    gaps[:, 0] = compute[:, 0]
    return np.cumsum(gaps, 1)


def transfer_times(network: Network, size: float, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) each: the seconds in which a message of so many bytes leaves a worker, and comes in."""
    up, down = (size / np.asarray(bandwidth, float) for bandwidth in (network.upload, network.download))
    return np.broadcast_to(up, num_workers), np.broadcast_to(down, num_workers)


def choices(key: Key, num_workers: int, num_steps: int) -> np.ndarray:
    """(n, K) uniform on [0, 1), the same for the first steps however many there are."""
    seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, _CHOICES))).tolist()
    return np.random.default_rng(seed).random((num_steps, num_workers)).T


def come_in(doors: np.ndarray, receivers: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """(M,) when messages are in that stand before their receivers' doors from `doors` (M,) on.

    They come in one after the other, each taking `seconds` (n,) of its receiver:
    f_k = max(door_k, f_{k−1}) + s.
    """
    if not seconds.any():
        return doors
    order = np.lexsort((doors, receivers))
    bounds = np.searchsorted(receivers[order], np.arange(len(seconds) + 1))
    there = np.empty(len(doors))
    for j, s in enumerate(seconds):
        own = order[bounds[j] : bounds[j + 1]]
        turn = s * np.arange(len(own))
        there[own] = np.maximum.accumulate(doors[own] - turn) + turn + s
    return there


def in_order(done: np.ndarray, horizon: Horizon) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The events within the horizon by time, and by worker where two have the same.

    Returns:
      time, worker and step, (E,) each; and (n, K) int, the number of the event of each step, E for none.
    """
    n, num_steps = done.shape
    last = 0 if horizon.num_events is None else horizon.num_events - 1
    end = np.partition(done.ravel(), last)[last] if horizon.seconds is None else horizon.seconds
    worker, step = np.nonzero(done <= end)
    time = done[worker, step]
    order = by_time(time)[: horizon.num_events]
    event = np.full((n, num_steps), len(order))
    event[worker[order], step[order]] = np.arange(len(order))
    return time[order], worker[order], step[order], event


def by_time(times: np.ndarray) -> np.ndarray:
    """(N,) int, the order of times (N,), those at the same time as they come."""
    order = np.argsort(times)  # faster than a stable one
    return order if (np.diff(times[order]) > 0).all() else np.argsort(times, kind="stable")


def counted(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How many numbers of each row (m, K), ascending, are at most as large as those of values (m, J): (m, J).

    >>> counted(np.array([[1.0, 2.0], [1.0, 5.0]]), np.array([[2.0], [2.0]])).tolist()
    [[2], [1]]
    """
    m, K = ascending.shape
    steps = 2 ** np.arange(int(K).bit_length())[::-1]
    padded = np.full((m, 2 * steps[0]), np.inf)
    padded[:, :K] = ascending
    before = np.arange(m)[:, None] * padded.shape[1] - 1
    count = np.zeros(values.shape, int)
    for step in steps:  # a search in all rows at once
        count += step * (padded.ravel()[before + count + step] <= values)
    return count


def steps_taken(worker: np.ndarray, bounds: np.ndarray, num_workers: int) -> np.ndarray:
    """(R, n) int, the steps that each worker has taken at each record: events (E,) by time, of which there
    are `bounds` (R + 1,) before."""
    record = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    at = record * num_workers + worker[: bounds[-1]]
    counts = np.bincount(at, minlength=(len(bounds) - 1) * num_workers)
    return counts.reshape(-1, num_workers).cumsum(0)


def record_bounds(times: np.ndarray, events: np.ndarray, horizon: Horizon) -> tuple[np.ndarray, np.ndarray]:
    """Where the records are among operations (N,), sorted by time, and by event where two have the same.

    Args:
      events: (N,) the number of the event that each belongs to, whose first operation is the event itself.

    Returns:
      (R + 1,) int, the operations before each record, from 0; and (R,) the seconds of the records.
    """
    records = np.arange(1, horizon.num_records + 1)
    if horizon.seconds is not None:
        seconds = records * (horizon.seconds / horizon.num_records)
        return np.append(0, np.searchsorted(times, seconds, "right")), seconds
    last = (records * horizon.every).astype(int) - 1
    _, first = np.unique(events, return_index=True)
    seconds = times[first[last]]
    left, right = (np.searchsorted(times, seconds, side) for side in ("left", "right"))
    ends = [a + np.searchsorted(events[a:b], e, "right") for a, b, e in zip(left, right, last, strict=True)]
    return np.append(0, ends), seconds
