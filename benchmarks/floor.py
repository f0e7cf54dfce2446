"""Steps of RelaySGD and D-PSGD over the floor: what moving their arrays through memory takes.

The floor of a relay step is an elementwise step on three arrays and a constant one, read and written
as often as models, messages and data must be: it moves 7·n·d numbers. The floor of a gossip step is SGD
without communication, which moves 3·n·d. Both run in the same kind of compiled loop, and work in place.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import relaysim as rs
from benchmarks.timing import interleaved, ratios, row, table
from relaysim import topology

SIZES = ((64, 10), (1024, 100), (16_384, 100), (1024, 10_000), (100_000, 64), (1_000_000, 8))
TREES = {
    "chain": topology.chain,
    "binary tree": topology.binary_tree,
    "star": topology.star,
    "random recursive tree": lambda n: topology.random_recursive_tree(n, 0),
    "tree of degree 3": lambda n: topology.max_degree_tree(n, 3),
}
GRAPHS = {
    "ring": topology.ring,
    "random recursive tree": lambda n: topology.random_recursive_tree(n, 0),
    "random tree": lambda n: topology.random_tree(n, 0),
    "tree of degree 3": lambda n: topology.max_degree_tree(n, 3),
    "random regular graph": lambda n: topology.random_regular(n, 3, 0),
}
RATE = 0.01
LEAST = 40  # steps of a call, since its new arrays cost some as well, when each page is touched first


def run(smoke: bool = False) -> pd.DataFrame:
    """Ratios of a step to its floor, and its microseconds."""
    rows = []
    for n, d in SIZES[:1] if smoke else SIZES:
        steps = max(min(100_000_000 // (n * d), 50_000) // (100 if smoke else 1), 5 if smoke else LEAST)
        b = jax.random.normal(jax.random.key(0), (n, d))
        relay, gossip = relay_floor(b, steps), sgd_floor(b, steps)
        for label, floor, graphs, mixer in (
            ("relay", relay, TREES, rs.relay_sum),
            ("gossip", gossip, GRAPHS, rs.gossip),
        ):
            runs = {name: learn(mixer(graph(n)), b, steps) for name, graph in graphs.items()}
            times = interleaved({"floor": floor, **runs}, rounds=1 if smoke else 7)
            over = ratios(times, "floor")
            for name in times:
                us = [1e6 * seconds / steps for seconds in times[name]]
                rows.append(row(f"{label}, {name}", n, d, "µs a step", us))
                if name != "floor":
                    rows.append(row(f"{label}, {name}", n, d, "over the floor", over[name]))
    return table("floor", rows)


def learn(mixer: rs.Mixer, b: Any, steps: int) -> Callable[[], Any]:
    """Steps x ← mix(x − γ (x − b)) by `simulate`. Nobody asks for the loss, so none is computed."""

    def grad(key: Any, step: Any, x: Any) -> Any:
        return jnp.zeros(len(x)), x - b

    method = rs.dpsgd(grad, mixer, optax.sgd(RATE))
    start = jnp.zeros_like(b)
    return lambda: rs.simulate(jax.random.key(1), method, start, num_steps=steps, every=steps).params


def relay_floor(b: Any, steps: int) -> Callable[[], Any]:
    def step(_: Any, arrays: Any) -> Any:
        x, up, down = arrays
        x = x - RATE * (x - b) + 1e-3 * up
        return x, 0.5 * up + down, 0.5 * down + x

    return _loop(step, lambda: (jnp.zeros_like(b), jnp.ones_like(b), jnp.full_like(b, 2)), steps, unroll=2)


def sgd_floor(b: Any, steps: int) -> Callable[[], Any]:
    return _loop(lambda _, x: x - RATE * (x - b), lambda: jnp.zeros_like(b), steps)


def _loop(step: Callable, start: Callable, steps: int, unroll: int = 1) -> Callable[[], Any]:
    """Calls that each go on from where the one before ended, in the same arrays."""

    @functools.partial(jax.jit, donate_argnums=0)
    def loop(arrays: Any) -> Any:
        return jax.lax.fori_loop(0, steps, step, arrays, unroll=unroll)

    arrays = start()

    def call() -> Any:
        nonlocal arrays
        arrays = loop(arrays)
        return arrays

    return call


def picture(found: pd.DataFrame) -> Figure:
    """How many floors a step takes, by size; bars are the spread over rounds."""
    found = found[found.metric == "over the floor"]
    found = found.assign(size=[f"n = {r.n:,}\nd = {r.d:,}" for r in found.itertuples()])
    figure, axes = plt.subplots(1, 2, figsize=(14, 4.2), layout="constrained")
    for ax, label in zip(axes, ("relay", "gossip"), strict=True):
        here = found[found.case.str.startswith(label + ",")]
        for k, (case, rows) in enumerate(here.groupby("case", sort=False)):
            places = np.arange(len(rows)) + 0.1 * (k - 2)
            spread = np.stack([rows["median"] - rows.low, rows.high - rows["median"]])
            name = str(case).removeprefix(label + ", ")
            ax.errorbar(places, rows["median"], spread, fmt="o", markersize=5, elinewidth=1, label=name)
        ax.set_xticks(range(here["size"].nunique()), here["size"].unique(), fontsize="small")
        ax.axhline(1, color="0.3", linestyle="--", linewidth=1)
        ax.set(title=f"{label} step", yscale="log", ylabel="times its floor")
        ax.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(frameon=False, fontsize="small")
    sns.despine(figure)
    return figure
