"""The order of events where workers call others, which answer."""

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from relaysim.asynchronous.events import (
    by_time,
    check,
    compute_times,
    done_times,
    in_order,
    latencies,
    record_bounds,
    steps_taken,
    transfer_times,
    up_to,
)
from relaysim.asynchronous.presence import Halts, Presence, restarts
from relaysim.asynchronous.types import Coming, Events, Horizon, Links, Order
from relaysim.asynchronous.waves import NOBODY, STEPS, grouped, in_rows, joined
from relaysim.timing import Network
from relaysim.topology import Topology
from relaysim.types import Key

_DONE, _OFFER_OUTSIDE, _OFFER, _ANSWER_OUTSIDE, _ANSWER = range(5)


class Calls(NamedTuple):
    """Whom workers call after which of their steps: L calls, sorted by caller, step and partner."""

    caller: np.ndarray
    """(L,) int"""
    step: np.ndarray
    """(L,) int"""
    partner: np.ndarray
    """(L,) int"""
    weight: np.ndarray
    """(L,)"""
    slot: np.ndarray
    """(L,) int, where the answer will lie: one of its own for each call of a step."""


class Wave(NamedTuple):
    """First those who are done with a gradient, then offers that arrive, then answers."""

    worker: Any
    """(a,) who is done"""
    step: Any
    """(a,) with which of its steps"""
    event: Any
    """(a,) the number of the event"""
    host: Any
    """(b,) whom an offer comes to"""
    guest: Any
    """(b,) whose it is"""
    slot: Any
    """(b,) where the answer goes"""
    weight: Any
    """(b,)"""
    back: Any
    """(c,) whom an answer comes to"""
    taken: Any
    """(c,) where it lies"""
    at_once: Any
    """(c,) the same worker, if the answer took no time"""


def lay_out(
    topology: Topology,
    calls: Callable[[Key, int], Calls],
    key: Key,
    network: Network,
    size: float,
    horizon: Horizon,
    coming: Coming,
) -> Order:
    """The order of a run on a network, with messages of `size` bytes."""
    n, presence = topology.num_workers, coming.presence
    check(network, n)
    up, down = transfer_times(network, size, n)

    def times(num_steps: int) -> tuple[np.ndarray, Calls, np.ndarray, np.ndarray]:
        """When steps are done (n, K), whom they call, and when offers arrive and answers return (L,)."""
        compute, c = compute_times(network, key, n, num_steps), calls(key, num_steps)
        there = latencies(network, key, c.caller, c.partner)
        back = latencies(network, key, c.partner, c.caller)
        if up.any() or down.any():
            return _queued(compute, c, there, back, up, down, presence)
        steps = c.caller * num_steps + c.step
        first = np.flatnonzero(np.diff(steps, prepend=-1))
        longest = np.zeros(n * num_steps + 1)
        longest[steps[first] + 1] = np.maximum.reduceat(there + back, first)
        done = done_times(compute, longest[:-1].reshape(n, num_steps), presence)
        arrives = done[c.caller, c.step] + there
        return done, c, arrives, done[c.caller, c.step] + (there + back)

    done, c, arrives, returns = up_to(horizon, times)
    time, worker, step, event = in_order(done, horizon)
    num_events, event = len(time), event[c.caller, c.step]
    made = np.flatnonzero(event < num_events)
    made = made[grouped(event[made], num_events)]
    links = Links(event[made], c.partner[made], arrives[made], returns[made])

    what = _Operations.of(time, worker, links, horizon)
    bounds, seconds = record_bounds(what.time, what.event, horizon)
    anew = restarts(presence, topology, coming.start, seconds[-1])
    halts = Halts.of(bounds, seconds, what.time, anew)
    operations, waves, starts = _in_waves(what, n, halts.bounds)
    starts, restart_waves, waves = halts.waves(starts, waves)

    def table(kind: int, *columns: tuple[np.ndarray, Any]) -> list[np.ndarray]:
        """What each wave has of a kind: (W, widest) for each column, filled up with what goes with it."""
        as_table, _ = in_rows(waves[kind], int(starts[-1]))
        return [as_table(column[what.which[operations[kind]]], fill) for column, fill in columns]

    caller = worker[links.event]
    weight = c.weight[made]
    if presence is not None:
        weight = np.where(presence.is_there(links.partner, links.arrives), weight, 0)
    at_once = np.where(links.returns == time[links.event], caller, NOBODY)
    wave = Wave(
        *table(0, (worker, NOBODY), (step, 0), (np.arange(num_events), -1)),
        *table(1, (links.partner, NOBODY), (caller, NOBODY), (c.slot[made], NOBODY), (weight, 0.0)),
        *table(2, (caller, NOBODY), (c.slot[made], 0), (at_once, NOBODY)),
    )
    calls_of = np.bincount(links.event, minlength=num_events)
    sends = np.where(what.kind == 1, 1, np.where(what.kind == 0, calls_of[what.event], 0))
    sent, steps = (np.append(0, np.cumsum(of_each))[bounds] for of_each in (sends, what.kind == 0))
    events, slots = Events(time, worker, step, links), np.arange(c.slot.max(initial=0) + 1)
    return Order(
        events, wave, slots, starts, steps_taken(worker, steps, n), seconds, sent[1:], anew, restart_waves
    )


class _Operations(NamedTuple):
    """All that happens, by time, and by event and kind where that is the same."""

    time: np.ndarray
    event: np.ndarray
    kind: np.ndarray
    """0: done with a gradient, 1: an offer arrives, 2: an answer returns"""
    which: np.ndarray
    """The event, or the link."""
    at: np.ndarray
    """The worker whose model it changes."""
    after: np.ndarray
    """What has to be done before, at another worker: for an offer the step, for an answer the offer. A step
    has nothing, and so the number of all operations."""

    @classmethod
    def of(cls, time: np.ndarray, worker: np.ndarray, links: Links, horizon: Horizon) -> "_Operations":
        num_events, num_calls = len(time), len(links.event)
        size = num_events + 2 * num_calls
        calls = np.bincount(links.event, minlength=num_events)
        step = np.arange(num_events) + 2 * (np.cumsum(calls) - calls)
        offer = 1 + np.arange(num_calls) + (step - np.cumsum(calls) + calls)[links.event]
        answer = offer + calls[links.event]

        def of_all(*values: Any, dtype: Any = int) -> np.ndarray:
            all_ = np.empty(size, dtype)
            for places, value in zip((step, offer, answer), values, strict=True):
                all_[places] = value
            return all_

        ends = of_all(time, links.arrives, links.returns, dtype=float)
        order = by_time(ends)
        until = time[-1:].max(initial=0) if horizon.seconds is None else horizon.seconds
        order = order[: np.searchsorted(ends[order], until, "right")]
        number = np.full(size + 1, len(order))
        number[order] = np.arange(len(order))
        caller, event, link = worker[links.event], np.arange(num_events), np.arange(num_calls)
        return cls(
            ends[order],
            of_all(event, links.event, links.event)[order],
            of_all(0, 1, 2)[order],
            of_all(event, link, link)[order],
            of_all(worker, links.partner, caller)[order],
            number[of_all(size, step[links.event], offer)[order]],
        )


def _in_waves(
    what: _Operations, n: int, bounds: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The operations of each kind in the order of the waves, their waves, and the first after each bound.

    Those of a worker are done one after the other, each when what it comes after is done. A wave has one of
    each kind for a worker at most, and no kind is much wider in one than on average where nothing bounds it,
    since all have the size of the widest: who is late in time comes later.
    """
    turn = grouped(what.at, n)
    first = np.append(0, np.cumsum(np.bincount(what.at, minlength=n)))
    next_ = np.full(len(turn) + 1, len(turn))  # of the same worker
    same = np.flatnonzero(np.diff(what.at[turn]) == 0)
    next_[turn[same]] = turn[same + 1]
    now = np.append(turn, len(turn))[np.where(np.diff(first) > 0, first[:-1], -1)]
    sample = np.minimum(bounds[-1:], 3 * STEPS * n)
    free, _, starts = _sweep(what, now.copy(), next_, np.append(0, sample), [n] * 3)
    widths = [-(-len(operations) // max(1, int(starts[-1]))) for operations in free]
    return _sweep(what, now, next_, bounds, [max(1, width) for width in widths])


def _sweep(
    what: _Operations, now: np.ndarray, next_: np.ndarray, bounds: np.ndarray, widths: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """`_in_waves` from the first operation of each worker, `now` (n,), by those that are next."""
    is_done = np.zeros(len(next_), bool)
    is_done[-1] = True
    kind, after = np.append(what.kind, -1), np.append(what.after, -1)
    made: list[list[np.ndarray]] = [[], [], []]
    starts = [0]
    for bound in bounds[1:]:
        while (now < bound).any():
            for k, width in enumerate(widths):
                who = np.flatnonzero((kind[now] == k) & is_done[after[now]] & (now < bound))
                if len(who) > width:
                    who = who[np.argpartition(now[who], width)[:width]]
                operations = now[who]
                is_done[operations] = True
                now[who] = next_[operations]
                made[k].append(operations)
        starts.append(len(made[0]))
    operations, waves = zip(*map(joined, made), strict=True)
    return list(operations), list(waves), np.array(starts)


def _queued(
    compute: np.ndarray,
    c: Calls,
    there: np.ndarray,
    back: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    presence: Presence | None,
) -> tuple[np.ndarray, Calls, np.ndarray, np.ndarray]:
    """`times` where messages wait for each other: a queue of events by time.

    Those of a worker leave one after the other, each in `up` (n,) seconds, and come in one after the other,
    each in `down` (n,).
    """
    n, num_steps = compute.shape
    first = np.searchsorted(c.caller * num_steps + c.step, np.arange(n * num_steps + 1)).tolist()
    caller, partner = c.caller.tolist(), c.partner.tolist()
    compute_, there_, back_, up_, down_ = (v.tolist() for v in (compute, there, back, up, down))
    leaves, comes, waits_for, events = [0.0] * n, [0.0] * n, [0] * n, 0
    done = np.full((n, num_steps), np.inf)
    arrives, returns = np.full(len(there), np.inf), np.full(len(there), np.inf)

    def after(i: int, now: float, work: float) -> float:
        if presence is None:
            return now + work
        return float(presence.after(np.array([i]), np.array([now]), np.array([work]))[0])

    ready = [after(i, 0.0, times[0]) for i, times in enumerate(compute_)]
    # by time; by event where that is the same, new ones last; by what happens, and to whom
    queue = [(ready[i], np.inf, _DONE, i, 0) for i in range(n) if ready[i] < np.inf]
    heapq.heapify(queue)

    def send(now: float, event: float, sender: int, latency: float, what: int, to: int, call: int) -> None:
        leaves[sender] = max(now, leaves[sender]) + up_[sender]
        heapq.heappush(queue, (leaves[sender] + latency, event, what, to, call))

    def come_in(now: float, event: float, what: int, receiver: int, call: int) -> None:
        comes[receiver] = max(now, comes[receiver]) + down_[receiver]
        heapq.heappush(queue, (comes[receiver], event, what, receiver, call))

    def next_step(now: float, i: int, k: int) -> None:
        if k < num_steps:
            if presence is not None:
                now = float(presence.there(np.array([i]), np.array([now]))[0])
            if (time := max(now, ready[i])) < np.inf:
                heapq.heappush(queue, (time, np.inf, _DONE, i, k))

    while queue:
        now, event, what, i, k = heapq.heappop(queue)  # k: the step, or the call
        if what == _DONE:
            done[i, k] = now
            ready[i] = after(i, now, compute_[i][k + 1]) if k + 1 < num_steps else np.inf
            calls = range(first[i * num_steps + k], first[i * num_steps + k + 1])
            waits_for[i] = len(calls)
            for call in calls:
                send(now, events, i, there_[call], _OFFER_OUTSIDE, partner[call], call)
            events += 1
            if not calls:
                next_step(now, i, k + 1)
        elif what == _OFFER_OUTSIDE:
            come_in(now, event, _OFFER, i, k)
        elif what == _OFFER:
            arrives[k] = now
            send(now, event, i, back_[k], _ANSWER_OUTSIDE, caller[k], k)
        elif what == _ANSWER_OUTSIDE:
            come_in(now, event, _ANSWER, i, k)
        else:
            returns[k] = now
            waits_for[i] -= 1
            if not waits_for[i]:
                next_step(now, i, int(c.step[k]) + 1)
    return done, c, arrives, returns
