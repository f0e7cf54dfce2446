"""What the text of a compiled program says: kernels, what they read and write, loops and their copies."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

WIDTHS = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8}
WIDTHS |= {f"{sign}{bits}": max(bits // 8, 1) for sign in "su" for bits in (4, 8, 16, 32, 64)}
KERNELS = ("fusion", "custom-call", "copy", "gather", "scatter", "reduce", "sort", "dot", "transpose")
"""Instructions that a GPU runs as kernels of their own, where they are outside of a fusion."""
SHAPE = r"\((?:[^()]|\([^()]*\))*\)|\S+"  # a tuple, in which layouts may have parentheses of their own


SCATTERED = r" (gather|scatter|reduce|reduce-window|dot|concatenate|pad|sort|custom-call|dynamic-\S+)\("
"""Instructions by which a number that is written may come of more than one of an operand's."""


class Kernel(NamedTuple):
    operation: str
    nbytes: int
    """What it reads and writes, each operand counted once, and whole but where a slice of it is all."""


def nbytes(shapes: str) -> int:
    """
    >>> nbytes("(f32[16,100]{1,0}, s32[])")
    6404
    """
    return sum(
        WIDTHS.get(kind, 0) * math.prod(map(int, filter(None, dims.split(","))))
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )


def computations(text: str) -> dict[str, str]:
    """The computations of a module by name, the one that is entered as "ENTRY"."""
    found = {}
    for part in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \([^\n]*\{\n)", text):
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", part):
            found["ENTRY" if head[1] else head[2]] = part
    return found


def kernels(computation: str, parts: dict[str, str]) -> Iterator[Kernel]:
    """Those that a computation of a program for GPUs launches by itself."""
    shapes = dict(re.findall(rf"%([\w.\-]+) = ({SHAPE}) \w", computation))
    pattern = rf"%[\w.\-]+ = ({SHAPE}) ({'|'.join(KERNELS)})\(([^)]*)\)(?:.*calls=%?([\w.\-]+))?"
    for out, operation, args, called in re.findall(pattern, computation):
        read = [nbytes(shapes.get(name, "")) for name in set(re.findall(r"%([\w.\-]+)", args))]
        if operation == "fusion" and not re.search(SCATTERED, parts.get(called, " gather(")):
            read = [min(size, nbytes(out)) for size in read]
        yield Kernel(operation, nbytes(out) + sum(read))


def loops(text: str) -> Iterator[tuple[str, int]]:
    """(the body, how often it runs) of each while loop; 1 where that is not known."""
    parts = computations(text)
    for condition, body, rest in re.findall(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)(.*)", text):
        told = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
        bound = re.search(r"s32\[\]\S* constant\((\d+)\)", parts.get(condition, ""))
        trips = told or bound
        yield body, int(trips[1]) if trips else 1


def launched(name: str, parts: dict[str, str]) -> Iterator[Kernel]:
    """The kernels of a computation, and of those that it calls (as XLA's recorded command buffers are)."""
    yield from kernels(parts[name], parts)
    for called in re.findall(r"(?: call\(.*to_apply=|async_computation=)%?([\w.\-]+)", parts[name]):
        if called in parts:
            yield from launched(called, parts)


def moved(text: str) -> int:
    """Bytes that the kernels of a program read and write, those in loops as often as these run."""
    parts, trips = computations(text), dict(loops(text))

    def of(name: str) -> int:
        inside = re.findall(r" while\(.*body=%?([\w.\-]+)", parts[name])
        own = sum(kernel.nbytes for kernel in launched(name, parts))
        return own + sum(trips[body] * of(body) for body in inside)

    return of("ENTRY")
