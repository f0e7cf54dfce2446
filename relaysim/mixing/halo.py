"""Sums along edges between workers that are spread over devices, in blocks: worker i of n on device i // (n /
S).

Each device gets the rows of those workers that have a neighbour on it, each row once, stored behind its own
(a halo), and adds up the rest at home.
"""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from relaysim.mixing.gathers import messages
from relaysim.mixing.links import LONG, Links, layout
from relaysim.mixing.shifts import rolled, shifted_sum
from relaysim.sharding import check_mesh
from relaysim.topology import Topology, rooted
from relaysim.types import Array

LEVELS = 8  # rounds for a turn, each of which is a collective operation
WIDE = 8  # times a device's own rows, above which turns are taken in the order of the rows to send
AT_ONCE = 6  # moved arrays, all of which there are before they are added


def links_over(mesh: Mesh, tree: Topology) -> Links:
    """The `links` of a tree whose workers lie on the devices of a mesh.

    Either way a row goes over for each parent and each other device that has children of it: the parent's
    downwards, the sum of these children's upwards.
    """
    parent = rooted(tree).parent
    check_mesh(mesh, tree.num_workers)
    halo = _halo(parent, np.arange(tree.num_workers), tree.num_workers, mesh)
    split = P(halo.axis)

    def from_parent(x: Array, send: Array, parent: Array) -> Array:
        return halo.fetch(x, send).at[parent].get(mode="promise_in_bounds")

    def from_children(x: Array, send: Array, parent: Array) -> Array:
        sums = jnp.zeros((len(x) + halo.width, *x.shape[1:]), x.dtype)
        return halo.bring_back(sums.at[parent].add(x, mode="promise_in_bounds"), send)

    down = _local(from_parent, mesh, (split, split, split))
    up = _local(from_children, mesh, (split, split, split))
    return Links(lambda x: down(x, halo.send, halo.senders), lambda x: up(x, halo.send, halo.senders))


def edge_sum_over(
    mesh: Mesh, senders: np.ndarray, receivers: np.ndarray, num_workers: int
) -> Callable[[Array, Array], Array]:
    """`edge_sum` for workers that lie on the devices of a mesh."""
    check_mesh(mesh, num_workers)
    far = np.unique((receivers - senders) % num_workers)
    size = num_workers // mesh.devices.shape[0]
    if np.minimum(np.minimum(far, num_workers - far), size).sum() > size:  # most rows are asked for
        move = functools.partial(shift_over, mesh, num_workers=num_workers)
        if moved := shifted_sum(senders, receivers, num_workers, move, AT_ONCE):
            return moved
    halo = _halo(senders, receivers, num_workers, mesh)
    devices, m, split = mesh.devices.shape[0], len(senders), P(halo.axis)
    slots = layout(receivers, num_workers, LONG).slots
    peers = np.where(slots < m, np.append(halo.senders, 0)[slots], np.arange(num_workers) % size)

    others = np.setdiff1d(np.arange(m), slots)
    first = np.searchsorted(receivers[others] // size, np.arange(devices + 1))[:, None]
    rest = first[:-1] + np.arange(np.diff(first, axis=0).max())  # a row for each device
    rest = np.append(others, m)[np.where(rest < first[1:], rest, -1)].ravel()
    sources, targets = np.append(halo.senders, 0)[rest], np.append(receivers % size, size)[rest]

    def sums(x: Array, send: Array, peers: Array, there: Array, weights: Array, *others: Array) -> Array:
        sources, targets, weights_of_rest = others
        reach = halo.fetch(x, send)
        own = jnp.arange(len(x))
        terms = [messages(weights[k], reach, own, peers[k], there[k]) for k in range(len(peers))]
        rest = messages(weights_of_rest, reach, jnp.arange(len(sources)), sources)
        return sum(terms, jnp.zeros_like(x)).at[targets].add(rest, mode="drop")

    columns = P(None, halo.axis)
    on_each = _local(sums, mesh, (split, split, columns, columns, columns, split, split, split))

    def of_edges(weights: Any, x: Array) -> Array:
        def at(edges: np.ndarray) -> Any:  # each device needs those of its own edges
            if isinstance(weights, np.ndarray):
                return np.take(weights, edges, mode="clip").astype(x.dtype)
            return weights.at[edges].get(mode="clip")

        return on_each(x, halo.send, peers, slots < m, at(slots), sources, targets, at(rest))

    return of_edges


def neighbours_over(mesh: Mesh, index: np.ndarray) -> Callable[[Array], Array]:
    """(n, ...) -> (n, K, ...): to each worker the rows of the K workers in its row of the index (n, K)."""
    n, places = index.shape
    check_mesh(mesh, n)
    halo = _halo(index.ravel(), np.repeat(np.arange(n), places), n, mesh)
    split = P(halo.axis)

    def found(x: Array, send: Array, at: Array) -> Array:
        return halo.fetch(x, send).at[at].get(mode="promise_in_bounds")

    on_each = _local(found, mesh, (split, split, split))
    return lambda x: on_each(x, halo.send, halo.senders.reshape(n, places))


def shift_over(mesh: Mesh | None, by: int, num_workers: int) -> Callable[[Array], Array]:
    """(n, ...) -> (n, ...): worker i's row to worker i + by modulo n."""
    if mesh is None:
        return rolled(by)
    devices, axis = mesh.devices.shape[0], mesh.axis_names[0]
    size = num_workers // devices
    far, beyond = divmod(by % num_workers, size)

    def on(x: Array, far: int) -> Array:
        to = [(i, (i + far) % devices) for i in range(devices)]
        return jax.lax.ppermute(x, axis, to) if far % devices else x

    def of_device(x: Array) -> Array:
        return jnp.concatenate([on(x[size - beyond :], far + 1), on(x[: size - beyond], far)])

    return _local(of_device, mesh, (P(axis),))


class _Halo(NamedTuple):
    """The rows that the devices need of each other, stored behind a device's own, and how they get there."""

    axis: str
    rounds: list[tuple[list[tuple[int, int]], slice]]
    """Pairs (from, to) of devices, and the places in the halo that each of these fills."""
    width: int
    send: np.ndarray
    """(S · width,) int32: of each device, which of its rows it sends to each place; 0 where it sends none."""
    senders: np.ndarray
    """(m,) int32: where the receiver's device finds the sender of each edge."""

    def fetch(self, x: Array, send: Array) -> Array:
        """On a device: its own rows, and behind them the halo."""
        get = x.at[send].get(mode="promise_in_bounds")
        return jnp.concatenate([x, *(jax.lax.ppermute(get[at], self.axis, to) for to, at in self.rounds)])

    def bring_back(self, sums: Array, send: Array) -> Array:
        """On a device: its own rows, and added to them what others hold for them in their halos."""
        own, halo = sums[: len(sums) - self.width], sums[len(sums) - self.width :]
        for to, at in self.rounds:
            back = jax.lax.ppermute(halo[at], self.axis, [(there, here) for here, there in to])
            own = own.at[send[at]].add(back, mode="promise_in_bounds")
        return own


def _halo(senders: np.ndarray, receivers: np.ndarray, num_workers: int, mesh: Mesh) -> _Halo:
    """What is needed for edges sender -> receiver.

    Pairs of devices send in turns, in each of which a device sends to one other at most: device i to device
    i + k in turn k, for as long as the halo is not wider for it than WIDE times the own rows. Devices have
    more or less to send, so there is a round for the rows that all in a turn have, one for those that all but
    some have, and so on: no row is sent that nobody needs. Where that would take more rounds than LEVELS, all
    send as many as the busiest.
    """
    devices = mesh.devices.shape[0]
    size = num_workers // devices
    home, away = senders // size, receivers // size
    cut = np.flatnonzero(home != away)
    turn = (np.arange(devices) - np.arange(devices)[:, None]) % devices
    needed, which = _needed(turn, home[cut], away[cut], senders[cut])
    if _counts(turn, needed).max(1).sum() > WIDE * size:
        turn = _turns(needed, devices)
        needed, which = _needed(turn, home[cut], away[cut], senders[cut])
    counts = _counts(turn, needed)
    pair = needed[0] * devices + needed[1]
    rank = np.arange(len(pair)) - np.searchsorted(pair, pair)  # among those from one device to one other
    partner = np.zeros_like(counts)
    partner[needed[0], needed[1]] = needed[2]
    widths = counts.max(1)
    starts = np.cumsum(widths) - widths
    rounds = []
    for k, start in enumerate(starts.tolist()):
        levels = sorted({0, *counts[k].tolist()})
        for low, high in pairwise(levels if len(levels) <= LEVELS else (0, levels[-1])):
            to = [(i, int(partner[k, i])) for i in np.flatnonzero(counts[k] > low).tolist()]
            rounds.append((to, slice(start + low, start + high)))
    places, width = starts[needed[0]] + rank, int(widths.sum())
    send = np.zeros((devices, width), np.int32)
    send[needed[1], places] = needed[3] % size
    found = senders % size
    found[cut] = size + places[which]
    return _Halo(mesh.axis_names[0], rounds, width, send.ravel(), found.astype(np.int32))


def _needed(turn: np.ndarray, home: Any, away: Any, senders: Any) -> tuple[np.ndarray, np.ndarray]:
    """(4, r) the turn, the devices from and to, and the worker of each row that is sent, in this order; and
    (m,) the row of each edge."""
    rows = np.stack([turn[home, away], home, away, senders])
    return np.unique(rows, axis=1, return_inverse=True)


def _counts(turn: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """(turns, devices) how many rows a device sends."""
    turns, devices = turn.max() + 1, len(turn)
    return np.bincount(needed[0] * devices + needed[1], minlength=turns * devices).reshape(turns, devices)


def _turns(needed: np.ndarray, devices: int) -> np.ndarray:
    """(devices, devices) a turn for each pair: the first one in which both are free, for the busiest pairs
    first, so that in each turn all have about as many rows to send."""
    counts = np.zeros((devices, devices), int)
    np.add.at(counts, (needed[1], needed[2]), 1)
    turn = np.zeros_like(counts)
    sends, hears = np.zeros((2, devices, 2 * devices), bool)
    for pair in np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]:
        i, j = divmod(int(pair), devices)
        k = turn[i, j] = int(np.argmin(sends[i] | hears[j]))
        sends[i, k] = hears[j, k] = True
    return turn


def _local(fun: Callable, mesh: Mesh, specs: tuple) -> Callable:
    """What each device does to its own rows; any further axes of the mesh are left to the compiler."""
    axis = mesh.axis_names[0]
    return jax.shard_map(
        fun, mesh=mesh, in_specs=specs, out_specs=P(axis), axis_names={axis}, check_vma=False
    )
