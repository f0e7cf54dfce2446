"""Memory: what a run needs, and what there is."""

import math
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path("/")  # of the files where Linux tells


class Memory(NamedTuple):
    """What a run needs on each of its devices, in bytes."""

    parts: dict[str, int]
    """"given", the initial models, which stay the caller's; "state…", each field of the method's state, with
    the models; "data" that the method closes over; "records"; "temporaries", gradients among them."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        lines = {**self.parts, "total": self.total}
        width = max(map(len, lines))
        return "\n".join(f"{name:{width}}  {human(size):>10}" for name, size in lines.items())

    def __repr__(self) -> str:
        return f"Memory({human(self.total)} in {len(self.parts)} parts: print it for a table)"

    def _repr_html_(self) -> str:
        lines = {**self.parts, "total": self.total}.items()
        rows = [f"<tr><td>{escape(name)}</td><td>{human(size)}</td></tr>" for name, size in lines]
        return f"<table><tr><th>part</th><th>memory</th></tr>{''.join(rows)}</table>"


def nbytes(pytree: Any) -> int:
    """Bytes of all leaves (arrays or their shapes), on one of the devices that they are laid over."""

    def of_leaf(leaf: Any) -> int:
        over = getattr(leaf, "sharding", None)
        shape = leaf.shape if over is None else over.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(of_leaf, jax.tree.leaves(pytree)))


def human(size: float) -> str:
    """Bytes for people.

    >>> human(1_536_000)
    '1.54 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def room(devices: list[Any]) -> float:
    """Bytes that arrays can take on these devices of this process together; infinite where nothing tells.

    On CPUs that is what the machine has left, or what the process is allowed where that is less.
    """
    limits = [(device.memory_stats() or {}).get("bytes_limit", math.inf) for device in devices]
    on_cpu = devices[0].platform == "cpu"
    return min(_left_on_machine(), _allowed()) if on_cpu else sum(limits)


def check_room(outputs: Any, inputs: Any) -> None:
    """Refuse a program whose outputs, which take the place of its inputs, find no room.

    What a program needs on the way is left out, so nothing is refused that would fit.

    Raises:
      MemoryError: where there is less room.
    """
    everywhere = set().union(*(leaf.devices() for leaf in jax.tree.leaves(inputs)))
    here = [device for device in everywhere if device.process_index == jax.process_index()]
    need = (_whole(outputs) - _whole(inputs)) * len(here) / len(everywhere)
    if need > (there := room(here)):
        raise MemoryError(
            f"the run needs at least {human(need)} more than it holds, and there are {human(there)}: "
            "rs.estimate_memory tells what takes them"
        )


def _whole(pytree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pytree))


def _left_on_machine() -> float:
    meminfo = ROOT / "proc/meminfo"
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    sizes = {name: 1024 * int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    return sizes.get("MemAvailable", math.inf) + sizes.get("SwapFree", 0)


def _allowed() -> float:
    """The lowest limit of the Linux control groups (v1 or v2) that this process is in."""
    membership, limits = ROOT / "proc/self/cgroup", [math.inf]
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, name = ROOT / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = ROOT / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inside = Path(group.lstrip("/"))
        for at in (inside, *inside.parents):
            if (file := base / at / name).exists() and (limit := file.read_text().strip()) != "max":
                limits.append(int(limit))
    return min(limits)
