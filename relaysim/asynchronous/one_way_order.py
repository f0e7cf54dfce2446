"""The order of events where workers send and go on, and read what is there when they are done."""

from typing import Any, NamedTuple

import numpy as np

from relaysim.asynchronous.events import (
    check,
    come_in,
    compute_times,
    counted,
    done_times,
    in_order,
    latencies,
    record_bounds,
    steps_taken,
    transfer_times,
    up_to,
)
from relaysim.asynchronous.presence import Halts, restarts
from relaysim.asynchronous.types import Coming, Events, Horizon, Links, Order
from relaysim.asynchronous.waves import NOBODY, STEPS, in_rows, joined, members, ranges
from relaysim.timing import Network
from relaysim.topology import Topology
from relaysim.types import Key


class Wave(NamedTuple):
    """Who is done with a gradient, what they read, and what they write."""

    worker: Any
    """(a,) who is done"""
    step: Any
    """(a,) with which of its steps"""
    event: Any
    """(a,) the number of the event"""
    read: Any
    """(b,) where a message lies that is read"""
    reader: Any
    """(b,) by which of the a"""
    edge: Any
    """(b,) on which edge it came"""
    back: Any
    """(b,) which of the c goes to its sender"""
    write: Any
    """(c,) where a message is put"""
    writer: Any
    """(c,) by which of the a"""


class _Turns(NamedTuple):
    """The events in the order of the waves, by worker within each."""

    worker: np.ndarray
    """(E,) int"""
    step: np.ndarray
    """(E,) int"""
    wave: np.ndarray
    """(E,) int, ascending"""
    starts: np.ndarray
    """(B + 1,) int, the first wave after each bound, and how many there are."""
    lag: np.ndarray
    """(m,) int, how many newer messages of an edge there were, at most, when one was read."""


def lay_out(
    topology: Topology,
    latest: bool,
    by_edge: bool,
    key: Key,
    network: Network,
    size: float,
    horizon: Horizon,
    coming: Coming,
) -> Order:
    """The order of a run in which each worker sends to all its neighbours after every step.

    Args:
      latest: whether a worker reads what came last from each neighbour (again, if nothing else came), or all
        that came since its last step.
      by_edge: whether a worker sends each neighbour something else, or all of them the same.
      size: bytes of a message.

    Returns:
      An order whose `layout` is (slots,) int, whose message lies in each slot at the start.
    """
    n, senders, receivers = topology.num_workers, topology.senders, topology.receivers
    check(network, n)
    up, down = transfer_times(network, size, n)

    def times(num_steps: int) -> tuple[np.ndarray]:
        compute = compute_times(network, key, n, num_steps)
        return (done_times(compute, (topology.out_degrees * up)[:, None], coming.presence),)

    (done,) = up_to(horizon, times)
    time, worker, step, event = in_order(done, horizon)
    bounds, seconds = record_bounds(time, np.arange(len(time)), horizon)
    counts = steps_taken(worker, bounds, n)
    anew = restarts(coming.presence, topology, coming.start, seconds[-1])
    halts = Halts.of(bounds, seconds, time, anew)

    sent = done[senders]
    leaves = sent + (_turns(topology) * up[senders])[:, None]
    doors = leaves + latencies(network, key, senders, receivers)[:, None]
    arrives = come_in(doors.ravel(), np.repeat(receivers, done.shape[1]), down).reshape(doors.shape)
    there = np.where(arrives > sent, arrives, np.nextafter(sent, np.inf))  # not at the same instant
    some = slice(max(1, counts[-1].max()))
    heard = counted(there[:, some], done[receivers, some])

    # from which message on a step reads those up to `heard`: the last alone, or all the news
    oldest = heard if latest else np.append(np.ones_like(heard[:, :1]), heard[:, :-1] + 1, 1)

    turns = _in_turns(topology, steps_taken(worker, halts.bounds, n), done, heard, oldest)
    starts, restart_waves, (wave,) = halts.waves(turns.starts, [turns.wave])
    table, slots = _table(topology, by_edge, turns._replace(wave=wave, starts=starts), event, heard, oldest)
    edge, sent_in = members(senders, worker, n)
    links = Links(sent_in, receivers[edge], arrives[edge, step[sent_in]], np.full(len(edge), np.nan))
    sends = counts @ topology.out_degrees
    return Order(
        Events(time, worker, step, links), table, slots, starts, counts, seconds, sends, anew, restart_waves
    )


def _in_turns(
    topology: Topology, counts: np.ndarray, done: np.ndarray, heard: np.ndarray, oldest: np.ndarray
) -> _Turns:
    """The waves: a worker's next step comes as soon as all that it reads has been sent.

    No wave is much wider than they are on average where nothing bounds them, since all have the size of the
    widest: who is late in time comes later.

    Args:
      counts: (B + 1, n) the steps that workers have taken at each bound, before which no later one may come.
      done: (n, K) when, in seconds.
      heard, oldest: (m, K) int, which messages of an edge its receiver reads in a step: up to message
        `heard`, from `oldest` on.
    """
    sample = np.minimum(counts[-1:], STEPS)
    free = _sweep(topology, sample, done, heard, oldest, topology.num_workers)
    width = -(-len(free.worker) // max(1, free.starts[-1]))
    return _sweep(topology, counts, done, heard, oldest, max(1, width))


def _sweep(
    topology: Topology,
    counts: np.ndarray,
    done: np.ndarray,
    heard: np.ndarray,
    oldest: np.ndarray,
    width: int,
) -> _Turns:
    senders, receivers, num_steps = topology.senders, topology.receivers, heard.shape[1]
    row = np.arange(len(senders)) * num_steps
    taken, lag = np.zeros(topology.num_workers, int), np.zeros(len(senders), int)
    workers, steps, starts = [], [], [0]
    for goal in counts:
        while True:
            there, at = taken[senders], row + np.minimum(taken[receivers], num_steps - 1)
            ready = taken < goal
            ready[receivers[heard.ravel()[at] > there]] = False
            who = np.flatnonzero(ready)
            if not len(who):
                break
            if len(who) > width:
                soonest = np.argpartition(done[who, taken[who]], width)
                ready[who[soonest[width:]]] = False
                who = np.flatnonzero(ready)
            np.maximum(lag, there - oldest.ravel()[at], out=lag, where=ready[receivers])
            workers.append(who)
            steps.append(taken[who])
            taken[who] += 1
        starts.append(len(workers))
    worker, wave = joined(workers)
    return _Turns(worker, joined(steps)[0], wave, np.array(starts), lag)


def _table(
    topology: Topology,
    by_edge: bool,
    turns: _Turns,
    event: np.ndarray,
    heard: np.ndarray,
    oldest: np.ndarray,
) -> tuple[Wave, np.ndarray]:
    """The waves, and whose message lies in each slot at the start.

    Messages lie in rings: one for each edge, or for each sender where all its neighbours get the same. A ring
    is as long as it has to be: what is read in a wave is there until then, and that wave may write over it.
    """
    worker, step, wave, starts, lag = turns
    n = topology.num_workers
    sender = topology.senders if by_edge else np.arange(n)
    ring_of = np.arange(len(sender)) if by_edge else topology.senders
    length = np.ones(len(sender), int)
    np.maximum.at(length, ring_of, lag + 1)
    first = np.cumsum(length) - length

    edge, reader = members(topology.receivers, worker, n)
    oldest, newest = oldest[edge, step[reader]], heard[edge, step[reader]]
    version, of_edge = ranges(oldest, newest - oldest + 1)
    edge, reader = edge[of_edge], reader[of_edge]
    ring = ring_of[edge]
    is_read = np.zeros((len(sender), heard.shape[1] + 1), bool)
    is_read[ring, version] = True

    to, writer = members(topology.senders, worker, n) if by_edge else (worker, np.arange(len(worker)))
    kept = is_read[to, step[writer] + 1]
    back = np.full(len(edge), NOBODY)
    to, writer = to[kept], writer[kept]

    num_waves = int(starts[-1])
    of_turns, place = in_rows(wave, num_waves)
    of_reads, _ = in_rows(wave[reader], num_waves)
    of_writes, write_place = in_rows(wave[writer], num_waves)
    if by_edge:  # the neighbours that a worker reads from are those that it writes to, in the same order
        answer = np.full(len(kept), NOBODY)
        answer[kept] = write_place
        back = answer[of_edge]
    table = Wave(
        of_turns(worker, NOBODY),
        of_turns(step, 0),
        of_turns(event[worker, step], -1),
        of_reads(first[ring] + version % length[ring], 0),
        of_reads(place[reader], NOBODY),
        of_reads(edge, 0),
        of_reads(back, NOBODY),
        of_writes(first[to] + (step[writer] + 1) % length[to], NOBODY),
        of_writes(place[writer], 0),
    )
    return table, np.repeat(sender, length)


def _turns(topology: Topology) -> np.ndarray:
    """(m,) int, which of its sender's messages goes over each edge, from 1."""
    order = np.lexsort((topology.receivers, topology.senders))
    out = topology.out_degrees
    turns = np.empty(len(order), int)
    turns[order] = np.arange(1, len(order) + 1) - np.repeat(np.cumsum(out) - out, out)
    return turns
