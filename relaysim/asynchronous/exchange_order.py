"""The order of events where workers call others, which answer."""

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from relaysim.asynchronous.events import (
    as_order,
    check,
    compute_times,
    done_times,
    in_order,
    latencies,
    record_bounds,
    transfer_times,
    up_to,
)
from relaysim.asynchronous.types import Events, Horizon, Links, Order
from relaysim.asynchronous.waves import NOBODY, grouped, in_rows, in_waves
from relaysim.timing import Network
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
    n: int, calls: Callable[[Key, int], Calls], key: Key, network: Network, size: float, horizon: Horizon
) -> Order:
    """The order of a run of n workers on a network, with messages of `size` bytes."""
    check(network, n)
    up, down = transfer_times(network, size, n)

    def times(num_steps: int) -> tuple[np.ndarray, Calls, np.ndarray, np.ndarray]:
        """When steps are done (n, K), whom they call, and when offers arrive and answers return (L,)."""
        compute, c = compute_times(network, key, n, num_steps), calls(key, num_steps)
        there = latencies(network, key, c.caller, c.partner)
        back = latencies(network, key, c.partner, c.caller)
        if up.any() or down.any():
            return _queued(compute, c, there, back, up, down)
        longest = np.zeros((n, num_steps + 1))
        np.maximum.at(longest, (c.caller, c.step + 1), there + back)
        done = done_times(compute, longest[:, :-1])
        arrives = done[c.caller, c.step] + there
        return done, c, arrives, done[c.caller, c.step] + (there + back)

    done, c, arrives, returns = up_to(horizon, times)
    time, worker, step, event = in_order(done, horizon)
    num_events = len(time)
    made = np.flatnonzero(event[c.caller, c.step] < num_events)
    made = made[np.argsort(event[c.caller, c.step][made], kind="stable")]
    links = Links(event[c.caller, c.step][made], c.partner[made], arrives[made], returns[made])

    what = _Operations.of(time, links, horizon)
    bounds, seconds = record_bounds(what.time, what.event, horizon)
    waves = in_waves(what.kind, *_waits(what, worker, links), bounds)
    num_waves = int(waves.max(initial=-1)) + 1

    def table(kind: int, *columns: tuple[np.ndarray, Any]) -> list[np.ndarray]:
        """What each wave has of a kind: (W, widest) for each column, filled up with what goes with it."""
        here = np.flatnonzero(what.kind == kind)
        here = here[grouped(waves[here], num_waves)]
        as_table, _ = in_rows(waves[here], num_waves)
        return [as_table(column[what.which[here]], fill) for column, fill in columns]

    caller = worker[links.event]
    at_once = np.where(links.returns == time[links.event], caller, NOBODY)
    wave = Wave(
        *table(0, (worker, NOBODY), (step, 0), (np.arange(num_events), -1)),
        *table(1, (links.partner, NOBODY), (caller, NOBODY), (c.slot[made], NOBODY), (c.weight[made], 0.0)),
        *table(2, (caller, NOBODY), (c.slot[made], 0), (at_once, NOBODY)),
    )
    calls_of = np.bincount(links.event, minlength=num_events)
    sends = np.where(what.kind == 1, 1, np.where(what.kind == 0, calls_of[what.event], 0))
    events, slots = Events(time, worker, step, links), np.arange(c.slot.max(initial=0) + 1)
    return as_order(events, wave, slots, waves, bounds, seconds, what.kind == 0, sends, n)


class _Operations(NamedTuple):
    """All that happens, by time, and by event and kind where that is the same."""

    time: np.ndarray
    event: np.ndarray
    kind: np.ndarray
    """0: done with a gradient, 1: an offer arrives, 2: an answer returns"""
    which: np.ndarray
    """The event, or the link."""

    @classmethod
    def of(cls, time: np.ndarray, links: Links, horizon: Horizon) -> "_Operations":
        events, calls = np.arange(len(time)), np.arange(len(links.event))
        ends = np.concatenate([time, links.arrives, links.returns])
        event = np.concatenate([events, links.event, links.event])
        kind = np.repeat([0, 1, 2], [len(events), len(calls), len(calls)])
        which = np.concatenate([events, calls, calls])
        order = np.lexsort((kind, event, ends))
        until = time[-1:].max(initial=0) if horizon.seconds is None else horizon.seconds
        order = order[: np.searchsorted(ends[order], until, "right")]
        return cls(ends[order], event[order], kind[order], which[order])


def _waits(what: _Operations, worker: np.ndarray, links: Links) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of operations of which the first must be done before the second.

    What changes a worker's model by what it is then (steps, and offers that arrive) is done one after the
    other. Answers are only added to it: after what came before, and before what comes next.
    """
    number = np.arange(len(what.kind))
    at = np.where(what.kind == 1, links.partner[what.which % max(1, len(links.partner))], worker[what.event])
    turn = np.flatnonzero(what.kind < 2)
    turn = turn[np.argsort(at[turn], kind="stable")]  # one worker after the other, each by time
    same = at[turn[1:]] == at[turn[:-1]]
    chain = turn[:-1][same], turn[1:][same]

    step_of, offer_of = np.empty(len(worker), int), np.empty(len(links.event), int)
    step_of[what.event[what.kind == 0]] = number[what.kind == 0]
    offer_of[what.which[what.kind == 1]] = number[what.kind == 1]
    offers, answers = number[what.kind == 1], number[what.kind == 2]
    sent = step_of[what.event[offers]], offers
    answered = offer_of[what.which[answers]], answers

    key = at * (len(number) + 1) + number
    next_ = np.searchsorted(key[turn], key[answers])
    follows = next_ < len(turn)
    follows[follows] = at[turn[next_[follows]]] == at[answers[follows]]
    then = answers[follows], turn[next_[follows]]
    since = turn[next_ - 1], answers  # at the latest the step that called
    before, after = zip(chain, sent, answered, since, then, strict=True)
    return np.concatenate(before), np.concatenate(after)


def _queued(
    compute: np.ndarray, c: Calls, there: np.ndarray, back: np.ndarray, up: np.ndarray, down: np.ndarray
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
    ready = [times[0] for times in compute_]
    # by time; by event where that is the same, new ones last; by what happens, and to whom
    queue = [(ready[i], np.inf, _DONE, i, 0) for i in range(n)]
    heapq.heapify(queue)

    def send(now: float, event: float, sender: int, latency: float, what: int, to: int, call: int) -> None:
        leaves[sender] = max(now, leaves[sender]) + up_[sender]
        heapq.heappush(queue, (leaves[sender] + latency, event, what, to, call))

    def come_in(now: float, event: float, what: int, receiver: int, call: int) -> None:
        comes[receiver] = max(now, comes[receiver]) + down_[receiver]
        heapq.heappush(queue, (comes[receiver], event, what, receiver, call))

    def next_step(now: float, i: int, k: int) -> None:
        if k < num_steps:
            heapq.heappush(queue, (max(now, ready[i]), np.inf, _DONE, i, k))

    while queue:
        now, event, what, i, k = heapq.heappop(queue)  # k: the step, or the call
        if what == _DONE:
            done[i, k] = now
            ready[i] = now + compute_[i][k + 1] if k + 1 < num_steps else np.inf
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
