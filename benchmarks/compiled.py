"""What XLA makes of a step on GPUs and TPUs, compiled on a machine that need have neither. Nothing is timed.

Arrays are those of the models' size, n · d numbers. On a GPU it is counted what each kernel of the loop reads
and writes, every operand once and whole: what a kernel reads twice comes from a cache at best, and of what it
gathers it may read less. On TPUs it is XLA's own estimate, "bytes accessed". Temporaries are what XLA sets
aside beside arguments and results. The gradient is that of ½ ‖x‖², which reads nothing but the models, and
nobody asks for losses.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pandas as pd
import seaborn as sns
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import relaysim as rs
from benchmarks import hlo
from benchmarks.devices import collectives
from benchmarks.timing import Row, row, table
from relaysim import engine, platforms, topology
from relaysim.programs import program

SIZES = ((16_384, 100), (100_000, 64), (1_000_000, 8))
ONE = {"h100": "h100", "tpu": "v5e:2x2"}
"""What is compiled for where no topology is named: one device of these."""
NAME, STEPS = "compiled", 16
MOVED, KERNELS, TEMPORARIES = "arrays moved a step", "kernels a step", "arrays, temporaries"
PERMUTES, OTHERS = "collective permutes", "other collectives"
HELD = "arrays of its share that a device holds"
POD = (2**20, 64)
"""What is compiled for several devices."""
COPIED, TOOK = "arrays copied a step", "s to compile"

TREES: dict[str, Callable[[int], rs.Topology]] = {
    "chain": topology.chain,
    "binary tree": topology.binary_tree,
    "star": topology.star,
    "tree of degree 3": lambda n: topology.max_degree_tree(n, 3),
    "random recursive tree": lambda n: topology.random_recursive_tree(n, seed=0),
}
GRAPHS: dict[str, Callable[[int], rs.Topology]] = {
    "ring": topology.ring,
    "random regular, degree 3": lambda n: topology.random_regular(n, 3, seed=0),
    "random recursive tree": lambda n: topology.random_recursive_tree(n, seed=0),
}


Case = tuple[str, Callable, rs.Mixer]


def grad(key: Any, step: Any, x: Any) -> Any:
    return jnp.sum(x**2, 1) / 2, x


def everywhere(n: int) -> Iterator[tuple[str, Callable, rs.Mixer]]:
    """Name, method, mixer; at all sizes."""
    for name, tree in TREES.items():
        yield f"RelaySGD, {name}", rs.relaysgd, rs.relay_sum(tree(n))
    for name, graph in GRAPHS.items():
        yield f"D-PSGD, {name}", rs.dpsgd, rs.gossip(graph(n))
    yield "SGP, one-peer exponential", rs.push_sum, rs.one_peer_exponential(n)


def once(n: int) -> Iterator[tuple[str, Callable, rs.Mixer]]:
    """The other methods and mixers, for n = 2^14."""
    side, tree = round(n**0.5), topology.random_recursive_tree(n, seed=0)
    yield "RelaySGD, double binary trees", rs.relaysgd, rs.relay_sum(topology.double_binary_trees(n))
    yield "RelaySGD, lost messages", rs.relaysgd, rs.relay_sum(tree, drop=0.1, fill="local")
    yield "RelaySGD/Grad, random recursive tree", rs.relaysgd_grad, rs.relay_sum(tree)
    yield "D-PSGD, lost messages", rs.dpsgd, rs.gossip(topology.ring(n), drop=0.1)
    yield "D-PSGD, torus", rs.dpsgd, rs.gossip(topology.torus(side, side))
    yield "D-PSGD, hypercube", rs.dpsgd, rs.gossip(topology.hypercube(n))
    yield "D-PSGD, star", rs.dpsgd, rs.gossip(topology.star(n))
    for method in (rs.d2, rs.gradient_tracking, rs.quasi_global_momentum):
        yield f"{method.__name__}, ring", method, rs.gossip(topology.ring(n))
    yield "SGP, exponential", rs.push_sum, rs.push(topology.exponential(n))
    yield "all-reduce", rs.allreduce, rs.all_reduce(n)


def steps(algorithm: rs.Algorithm, count: int, key: Any, run: engine.RunState) -> engine.RunState:
    return engine.advance(engine.silent(algorithm), key, run, count)[0]


def loop(method: rs.Algorithm, models: Any, device: Any, over: Any, count: int = STEPS) -> Any:
    """`count` steps of a method, compiled for a device, or for those of a mesh."""
    key = jax.random.key(0)
    run = jax.eval_shape(partial(engine.begin, method), key, models)
    laid = run if not isinstance(over, NamedSharding) else jax.tree.map(partial(_lay, over, models), run)
    made = program(steps, (method, count), key, laid, device.platform)
    return made.compiled_for(
        device.platform, SingleDeviceSharding(device) if laid is run else None, key, laid
    )


def _lay(over: NamedSharding, models: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    rows = leaf.shape[:1] == models.shape[:1]
    sharding = over if rows else NamedSharding(over.mesh, P())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def facts(compiled: Any, platform: str) -> dict[str, float]:
    """What the compiled steps do, in bytes."""
    text = compiled.as_text()
    parts, temporaries = hlo.computations(text), compiled.memory_analysis().temp_size_in_bytes
    bodies = [(body, STEPS / trips) for body, trips in hlo.loops(text) if trips > 1]
    per_body = min((count for _, count in bodies), default=1)  # steps in the body of the loop over steps
    if platform != "gpu":
        return {MOVED: compiled.cost_analysis()["bytes accessed"] / per_body, TEMPORARIES: temporaries}
    launched = [(kernel, count) for body, count in bodies for kernel in hlo.launched(body, parts)]
    return {
        MOVED: sum(kernel.nbytes / count for kernel, count in launched),
        KERNELS: sum(1 / count for _, count in launched),
        COPIED: sum(kernel.nbytes / count for kernel, count in launched if kernel.operation == "copy"),
        TEMPORARIES: temporaries,
    }


def measured(
    platform: str, device: Any, case: tuple[str, Callable, rs.Mixer], n: int, d: int
) -> Iterator[Row]:
    name, method, mixer = case
    begin = time.perf_counter()
    models = jax.ShapeDtypeStruct((n, d), jnp.float32)
    compiled = loop(method(grad, mixer, optax.sgd(0.1)), models, device, None)
    took = time.perf_counter() - begin
    for metric, value in facts(compiled, device.platform).items():
        yield row(f"{platform}: {name}", n, d, metric, value / (1 if metric == KERNELS else 4 * n * d))
    yield row(f"{platform}: {name}", n, d, TOOK, took)


def of_mesh(mesh: Mesh, n: int) -> Iterator[Case]:
    """What is compiled for several devices, trees numbered depth-first."""

    def tree(graph: rs.Topology) -> rs.Mixer:
        return rs.relay_sum(rs.sharding.renumber(graph, rs.sharding.depth_first(graph)), mesh=mesh)

    for name in ("chain", "binary tree", "random recursive tree"):
        yield f"RelaySGD, {name}", rs.relaysgd, tree(TREES[name](n))
    yield "D-PSGD, ring", rs.dpsgd, rs.gossip(GRAPHS["ring"](n), mesh=mesh)
    regular = "random regular, degree 3"
    yield f"D-PSGD, {regular}", rs.dpsgd, rs.gossip(GRAPHS[regular](n), mesh=mesh)
    yield "SGP, exponential", rs.push_sum, rs.push(topology.exponential(n), mesh=mesh)
    yield "SGP, one-peer exponential", rs.push_sum, rs.one_peer_exponential(n, mesh=mesh)


def exchanged(name: str, devices: list[Any], smoke: bool) -> Iterator[Row]:
    """Over several devices: their collective operations by kind, and what each of them holds at most."""
    mesh = rs.sharding.mesh(devices)
    (n, d), over = (1024, 8) if smoke else POD, NamedSharding(mesh, P(mesh.axis_names[0]))
    models = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=over)
    for case, method, mixer in of_mesh(mesh, n):
        begin = time.perf_counter()
        compiled = loop(method(grad, mixer, optax.sgd(0.1)), models, devices[0], over)
        took, held = time.perf_counter() - begin, compiled.memory_analysis()
        found = Counter(kind for kind, *_ in collectives(compiled.as_text()))
        permutes = found.pop("collective-permute", 0)
        most = held.argument_size_in_bytes + held.temp_size_in_bytes
        most += held.output_size_in_bytes - held.alias_size_in_bytes
        yield row(f"{name}: {case}", n, d, PERMUTES, permutes)
        yield row(f"{name}: {case}", n, d, OTHERS, found.total())
        yield row(f"{name}: {case}", n, d, HELD, most * len(devices) / (4 * n * d))
        yield row(f"{name}: {case}", n, d, TOOK, took)
        if smoke:
            break


def run(smoke: bool = False, platform: str | None = None, topology: str | None = None) -> pd.DataFrame:
    """
    Args:
      platform: "h100" or "tpu", one device; both by default.
      topology: of these devices instead.

    Raises:
      NotInstalled: where a compiler is not installed.
    """
    wanted = {platform: ONE[platform]} if platform else ONE
    rows: list[Row] = []
    for name in [topology] if topology else wanted.values():
        devices, kind = platforms.described(name), name.split(":")[0]
        if topology and len(devices) > 1:
            rows += exchanged(name, devices, smoke)
            continue
        for n, d in ((64, 10),) if smoke else SIZES:
            for case in islice(everywhere(n), 1 if smoke else None):
                rows += measured(kind, devices[0], case, n, d)
        if not smoke:
            n, d = SIZES[0]
            for case in once(n):
                rows += measured(kind, devices[0], case, n, d)
    return table(NAME, rows)


def picture(table: pd.DataFrame) -> Figure:
    metric = MOVED if (table.metric == MOVED).any() else HELD
    rows = table[table.metric == metric]
    kinds = list(dict.fromkeys(rows.case.str.split(": ").str[0]))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(7 * len(kinds), 6), layout="constrained", squeeze=False
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        here = rows[rows.case.str.startswith(f"{kind}: ")]
        names = list(dict.fromkeys(here.case))
        for k, ((n, d), each) in enumerate(here.groupby(["n", "d"])):
            colour = sns.color_palette("colorblind")[k]
            ax.plot(
                each["median"], [names.index(c) for c in each.case], "o", color=colour, label=f"{n:,} × {d}"
            )
        ax.set_yticks(range(len(names)), [name.removeprefix(f"{kind}: ") for name in names])
        ax.set(xscale="log", xlabel=metric, title=kind)
        ax.invert_yaxis()
        ax.legend(frameon=False, fontsize="small")
        sns.despine(ax=ax)
    return figure
