"""Sums along edges between workers that are spread over devices, in blocks: worker i of n on device i // (n /
S).

Each device gets the rows of those workers that have a neighbour on it, each row once, stored behind its own
(a halo), and adds up the rest at home.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from relaysim.mixing.gathers import messages, sum_slots
from relaysim.mixing.links import LONG, Links, layout
from relaysim.sharding import check_mesh
from relaysim.topology import Topology, rooted
from relaysim.types import Array


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
    """`edge_sum` for workers that lie on the devices of a mesh. The weights lie on all of them."""
    check_mesh(mesh, num_workers)
    halo = _halo(senders, receivers, num_workers, mesh)
    devices, m, split = mesh.devices.shape[0], len(senders), P(halo.axis)
    size = num_workers // devices
    slots = layout(receivers, num_workers, LONG).slots
    peers = np.where(slots < m, np.append(halo.senders, 0)[slots], np.arange(num_workers) % size)

    others = np.setdiff1d(np.arange(m), slots)
    first = np.searchsorted(receivers[others] // size, np.arange(devices + 1))[:, None]
    rest = first[:-1] + np.arange(np.diff(first, axis=0).max())  # a row for each device
    rest = np.append(others, m)[np.where(rest < first[1:], rest, -1)].ravel()
    sources, targets = np.append(halo.senders, 0)[rest], np.append(receivers % size, size)[rest]

    def sums(weights: Array, x: Array, send: Array, slots: Array, peers: Array, *rest: Array) -> Array:
        reach = halo.fetch(x, send)
        total = sum_slots(weights, reach, slots, peers, slots < m)
        edges, sources, targets = rest
        return total.at[targets].add(messages(weights, reach, edges, sources), mode="drop")

    columns = P(None, halo.axis)
    on_each = _local(sums, mesh, (P(), split, split, columns, columns, split, split, split))
    return lambda weights, x: on_each(weights, x, halo.send, slots, peers, rest, sources, targets)


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

    In the rounds for offset k, device i sends to device i + k. Devices have more or less to send, so there is
    a round for the rows that all of these have, one for those that all but some have, and so on: no row is
    sent that nobody needs.
    """
    devices = mesh.devices.shape[0]
    size = num_workers // devices
    home, away = senders // size, receivers // size
    cut = np.flatnonzero(home != away)
    offset = (away[cut] - home[cut]) % devices
    needed, which = np.unique(np.stack([offset, home[cut], senders[cut]]), axis=1, return_inverse=True)
    pair = needed[0] * devices + needed[1]
    rank = np.arange(len(pair)) - np.searchsorted(pair, pair)  # among those from one device to one other
    counts = np.bincount(pair, minlength=devices**2).reshape(devices, devices)
    widths = counts.max(1)
    starts = np.cumsum(widths) - widths
    rounds = []
    for k, start in enumerate(starts.tolist()):
        for low, high in pairwise(sorted({0, *counts[k].tolist()})):
            to = [(i, (i + k) % devices) for i in np.flatnonzero(counts[k] >= high).tolist()]
            rounds.append((to, slice(start + low, start + high)))
    places, width = starts[needed[0]] + rank, int(widths.sum())
    send = np.zeros((devices, width), np.int32)
    send[needed[1], places] = needed[2] % size
    found = senders % size
    found[cut] = size + places[which]
    return _Halo(mesh.axis_names[0], rounds, width, send.ravel(), found.astype(np.int32))


def _local(fun: Callable, mesh: Mesh, specs: tuple) -> Callable:
    """What each device does to its own rows; any further axes of the mesh are left to the compiler."""
    axis = mesh.axis_names[0]
    return jax.shard_map(
        fun, mesh=mesh, in_specs=specs, out_specs=P(axis), axis_names={axis}, check_vma=False
    )
