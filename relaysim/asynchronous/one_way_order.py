"""The order of events where workers send and go on, and read what is there when they are done."""

from typing import Any, NamedTuple

import numpy as np

from relaysim.asynchronous.events import (
    as_order,
    check,
    come_in,
    compute_times,
    done_times,
    in_order,
    latencies,
    record_bounds,
    transfer_times,
    up_to,
)
from relaysim.asynchronous.types import Events, Horizon, Links, Order
from relaysim.asynchronous.waves import NOBODY, in_waves, packed
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


class Reads(NamedTuple):
    """Which messages are read when, sorted by edge."""

    event: np.ndarray
    """(b,) int, by which event"""
    step: np.ndarray
    """(b,) int, which is this step of the reader's"""
    edge: np.ndarray
    """(b,) int"""
    version: np.ndarray
    """(b,) int, 0 for what was there at the start, k + 1 for what was sent after step k."""


def lay_out(
    topology: Topology, latest: bool, by_edge: bool, key: Key, network: Network, size: float, horizon: Horizon
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
        return (done_times(compute, (topology.out_degrees * up)[:, None]),)

    (done,) = up_to(horizon, times)
    time, worker, step, event = in_order(done, horizon)
    num_events, num_steps = len(time), done.shape[1]
    made = event[senders] < num_events  # (m, K) messages

    sent = done[senders]
    leaves = sent + (_turns(topology) * up[senders])[:, None]
    doors = leaves + latencies(network, key, senders, receivers)[:, None]
    arrives = come_in(doors.ravel(), np.repeat(receivers, num_steps), down).reshape(doors.shape)
    counts = np.where(arrives > sent, arrives, np.nextafter(sent, np.inf))  # not at the same instant
    first = np.stack([np.searchsorted(done[j], at) for j, at in zip(receivers, counts, strict=True)])
    # (m, K) the step of the receiver's that comes next

    after = np.append(event, np.full((n, 1), num_events), 1)[receivers[:, None], first]
    read, follows = made & (after < num_events), event[:, 1:] < num_events
    waits = (
        np.append(event[:, :-1][follows], event[senders][read]),
        np.append(event[:, 1:][follows], after[read]),
    )
    bounds, seconds = record_bounds(time, np.arange(num_events), horizon)
    waves = in_waves(np.zeros(num_events, int), *waits, bounds)

    if latest:
        news = np.zeros((len(senders), num_steps + 1), int)
        np.add.at(news, (np.arange(len(senders))[:, None], first), made)
        edge, at = np.nonzero(event[receivers] < num_events)
        reads = Reads(event[receivers[edge], at], at, edge, np.cumsum(news, 1)[edge, at])
    else:
        edge, version = np.nonzero(read)
        at = first[edge, version]
        reads = Reads(event[receivers[edge], at], at, edge, version + 1)
    table, slots = _table(topology, by_edge, reads, (worker, step, event), waves)

    edge, k = np.nonzero(made)
    order = np.argsort(event[senders[edge], k], kind="stable")
    edge, k = edge[order], k[order]
    links = Links(event[senders[edge], k], receivers[edge], arrives[edge, k], np.full(len(edge), np.nan))
    events, sends = Events(time, worker, step, links), topology.out_degrees[worker]
    return as_order(events, table, slots, waves, bounds, seconds, np.ones(num_events, bool), sends, n)


def _table(
    topology: Topology, by_edge: bool, reads: Reads, events: tuple, waves: np.ndarray
) -> tuple[Wave, np.ndarray]:
    """The waves, and whose message lies in each slot at the start.

    Messages lie in rings: one for each edge, or for each sender where all its neighbours get the same. A ring
    is as long as it has to be: what is read in a wave is there until then, and that wave may write over it.
    """
    (worker, step, event), num_waves = events, int(waves.max(initial=-1)) + 1
    num_events, most = len(worker), event.shape[1] + 1
    sender = topology.senders if by_edge else np.arange(topology.num_workers)
    ring = reads.edge if by_edge else topology.senders[reads.edge]

    message, of_read = np.unique(ring * most + reads.version, return_inverse=True)
    ring, version = np.divmod(message, most)
    writer = event[sender[ring], version - 1]
    put = np.where(version > 0, waves[writer % num_events], -1)
    last = np.zeros(len(message), int)
    np.maximum.at(last, of_read, waves[reads.event])
    start = np.searchsorted(ring, np.arange(len(sender) + 1))
    later = np.searchsorted(ring * (num_waves + 1) + put, ring * (num_waves + 1) + last)
    length = np.zeros(len(sender), int)
    np.maximum.at(length, ring, later - np.arange(len(message)))
    slot = (np.cumsum(length) - length)[ring] + (np.arange(len(message)) - start[ring]) % np.maximum(
        length, 1
    )[ring]

    written = np.flatnonzero(version > 0)
    which, place = packed(waves, num_waves)
    writes, write_place = packed(waves[writer[written]], num_waves)
    reads_, _ = packed(waves[reads.event], num_waves)
    back = np.full(len(reads.edge), NOBODY)
    if by_edge and len(written):
        answer = _reverse(topology)[reads.edge] * most + reads.step + 1
        at = np.minimum(np.searchsorted(message[written], answer), len(written) - 1)
        there = message[written][at] == answer
        back[there] = write_place[at[there]]

    def column(values: np.ndarray, rows: np.ndarray, fill: int) -> np.ndarray:
        return np.append(values, fill)[rows]

    table = Wave(
        column(worker, which, NOBODY),
        column(step, which, 0),
        column(np.arange(num_events), which, -1),
        column(slot[of_read], reads_, 0),
        column(place[reads.event], reads_, NOBODY),
        column(reads.edge, reads_, 0),
        column(back, reads_, NOBODY),
        column(slot[written], writes, NOBODY),
        column(place[writer[written]], writes, 0),
    )
    slots = np.repeat(sender, length)
    return table, slots if len(slots) else np.zeros(1, int)  # one at least, where nobody reads anything


def _turns(topology: Topology) -> np.ndarray:
    """(m,) int, which of its sender's messages goes over each edge, from 1."""
    order = np.lexsort((topology.receivers, topology.senders))
    out = topology.out_degrees
    turns = np.empty(len(order), int)
    turns[order] = np.arange(1, len(order) + 1) - np.repeat(np.cumsum(out) - out, out)
    return turns


def _reverse(topology: Topology) -> np.ndarray:
    """(m,) int, the edge that goes the other way, in an undirected graph.

    Where it is among all edges, this one is when they are sorted by sender instead.
    """
    return np.lexsort((topology.receivers, topology.senders))
