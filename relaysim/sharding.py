"""Workers spread over devices in blocks: worker i of n lies on device i // (n / S) of a mesh of S.

Only the mixers know of it: one that is given the mesh sends the rows of those workers that have a neighbour
on another device. How few these are depends on the numbering of the workers, see `depth_first`.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relaysim.checks import shown
from relaysim.platforms import described
from relaysim.topology import depth_first, renumber
from relaysim.types import Array, Stacked

__all__ = ["depth_first", "described", "fetch", "mesh", "place", "renumber"]


def mesh(devices: Any = None, axis: str = "workers") -> Mesh:
    """A row of devices to lay the workers over, or the runs of a sweep.

    >>> mesh().axis_names
    ('workers',)

    Args:
      devices: a sequence of jax devices; all of them, those of other processes too, if None.
      axis: the name of the mesh's one axis.

    Raises:
      ValueError: where these are no devices, or `axis` is no name.
    """
    found = jax.devices() if devices is None else devices
    row = isinstance(found, list | tuple | np.ndarray) and len(found)
    if not row or not all(hasattr(device, "platform") for device in found):
        raise ValueError(f"devices is {shown(devices)}, expected a sequence of jax devices")
    if not isinstance(axis, str):
        raise ValueError(f"axis is {shown(axis)}, expected a name")
    return Mesh(np.array(found), (axis,), axis_types=(AxisType.Auto,))


def place(stacked: Stacked, mesh: Mesh) -> Stacked:
    """Lay leaves (n, ...) over the devices of a mesh, along its first axis, in blocks of rows.

    Where the mesh spans processes, each of them must hold the same leaves.

    >>> place(np.ones((8, 3)), mesh(jax.devices()[:1])).shape
    (8, 3)

    Raises:
      ValueError: where the devices do not divide n, or the mesh has axes other than `AxisType.Auto`.
    """
    check_mesh(mesh)
    over = NamedSharding(mesh, P(mesh.axis_names[0]))

    def of_leaf(leaf: Any) -> Array:
        if not np.ndim(leaf):
            raise ValueError(f"stacked holds {shown(leaf)}, expected arrays (n, ...)")
        check_mesh(mesh, np.shape(leaf)[0])
        if over.is_fully_addressable:
            return jax.device_put(leaf, over)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, over, lambda block: leaf[block])

    return jax.tree.map(of_leaf, stacked)


def fetch(pytree: Any) -> Any:
    """The same in NumPy, whole on every process, also where an array's parts lie on several.

    >>> type(fetch(jax.numpy.ones(3))).__name__
    'ndarray'
    """

    def of_leaf(leaf: Any) -> Any:
        apart = isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
        return multihost_utils.process_allgather(leaf, tiled=True) if apart else leaf

    return jax.device_get(jax.tree.map(of_leaf, pytree))


def lies_over(stacked: Stacked) -> NamedSharding | None:
    """How leaves (n, ...) that are no traced ones are laid over devices along n, if they are."""
    for leaf in jax.tree.leaves(stacked):
        over = getattr(leaf, "sharding", None)
        if isinstance(over, NamedSharding) and over.spec and over.spec[0] is not None:
            return NamedSharding(over.mesh, P(over.spec[0]))
    return None


def spread(state: Any, over: NamedSharding, num_workers: int) -> Any:
    """In a jitted function: lay all leaves (n, ...) over the devices, lest each of them get a copy."""

    def of_leaf(leaf: Array) -> Array:
        if leaf.shape[:1] != (num_workers,):
            return leaf
        others = [P.UNCONSTRAINED] * (leaf.ndim - 1)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(over.mesh, P(*over.spec, *others)))

    return jax.tree.map(of_leaf, state)


def check_mesh(mesh: Mesh, num_workers: int = 0) -> None:
    """Raise a ValueError where a mesh cannot be used, or not for so many workers."""
    if not isinstance(mesh, Mesh) or set(mesh.axis_types) != {AxisType.Auto}:
        raise ValueError(f"mesh is {shown(mesh)}, expected one of AxisType.Auto such as rs.sharding.mesh()")
    devices = mesh.devices.shape[0]
    if num_workers % devices:
        raise ValueError(f"mesh has {devices} devices, expected a divisor of the {num_workers} workers")
