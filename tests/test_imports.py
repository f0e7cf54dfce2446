"""The house's arrows: which room imports which, read from the files."""

import ast
from pathlib import Path

import relaysim

ROOT = Path(relaysim.__file__).parent
FLOORS = [
    ["types", "checks", "platforms", "palette"],
    ["topology", "columns", "metrics"],
    ["faults", "sharding", "timing"],
    ["mixing", "local", "models", "compress"],
    ["algorithms", "robust", "tasks", "theory"],
    ["attack", "memory", "checkpoint", "engine", "programs", "progress"],
    ["records", "simulate"],
    ["asynchronous", "io", "plot", "threads"],
    ["sweep", "tuning", "kept"],
    ["compare", "recipe"],
    ["catalogue"],
    ["training"],
    ["papers", "studies"],
    ["cli"],
]
"""From the ground up: a room may use those below it, and those on its floor as long as there is no circle."""
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


NAMES = dict(modules())


def imports(path):
    """The modules of relaysim that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "relaysim":
            base = ".".join(node.module.split(".")[1:])
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in NAMES else base
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (name.removeprefix("relaysim.") for name in names if name.startswith("relaysim."))


ARROWS = {name: sorted({to for to in imports(path) if to and to != name}) for name, path in NAMES.items()}


def room(module):
    return module.split(".")[0]


def test_every_room_has_its_floor():
    assert {room(name) for name in NAMES} == set(HEIGHT)


def test_no_arrow_points_upwards():
    upwards = [(a, b) for a, to in ARROWS.items() for b in to if HEIGHT[room(b)] > HEIGHT[room(a)]]
    assert not upwards


def test_there_are_no_circles():
    """Between modules, where a package's own face stands for nothing but itself."""
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for to in ARROWS.get(module, []):
                visit(to)
            done.add(path.pop())

    for name in ARROWS:
        visit(name)


def test_studies_take_less_than_a_fifth_of_the_lines():
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    studies = sum(count for path, count in lines.items() if path.parts[0] in ("papers", "studies"))
    assert studies < sum(lines.values()) / 5
    assert max(lines.values()) <= 500
