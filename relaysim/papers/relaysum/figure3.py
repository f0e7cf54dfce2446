"""Figure 3: a social network, where RelaySGD makes do with the edges of a spanning tree.

The 32 workers are the women and events of a Southern town (Davis et al. 1941), joined by 89 edges. RelaySGD
talks along one of the network's breadth-first trees, 31 edges, from any of the 32 roots; D-PSGD and D² use
all edges, with Metropolis weights (D² with lazy gossip, which is exact diffusion). The problems are
quadratics, d = 10, with heterogeneity ζ² = 0.1 and gradient noise σ² = 0.01.

Drawn is the suboptimality F(x̄) − F(x*), the mean over 20 problems, against the steps and against the vectors
that all workers together have sent. Each method has the learning rate out of `RATES` with which it is soonest
below `TARGET` for good on these problems, RelaySGD on the tree of root 0: 0.125 for RelaySGD, 0.031 for
D-PSGD, 0.044 for D². RelaySGD's exceeds D²'s by about its learning-rate correction (figure 6), which goes
from 2.9 for the best tree to 3.8 for the worst.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim.catalogue import METHODS
from relaysim.mixing import gossip, relay_sum
from relaysim.simulate import simulate
from relaysim.tasks import Quadratics, random_quadratics
from relaysim.topology import social_network, social_tree
from relaysim.types import Array, Key, Mixer

TARGET = 1e-5
RATES = 2.0 ** np.arange(-6, 0.5, 0.5)
EVERY = 5


class Entry(NamedTuple):
    """A method in the comparison."""

    method: str
    """Its name in the catalogue."""
    communicate: Callable[[Sequence[int]], Mixer]
    """roots -> mixer: RelaySGD deals the copies of a model (n, d, copies) out to the trees of the roots."""
    roots: Sequence[int]


def _entries(num_roots: int) -> list[Entry]:
    network = social_network()
    return [
        Entry("relaysgd", lambda roots: relay_sum(list(map(social_tree, roots))), range(num_roots)),
        Entry("dpsgd", lambda _: gossip(network), [0]),
        Entry("d2", lambda _: gossip(network, lazy=True), [0]),
    ]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """Tune each method, then run it with its learning rate, RelaySGD from all roots in one program.

    Returns:
      One row a record: method, root (of the tree), learning_rate, step, vectors (sent by all workers so far),
      suboptimality (the mean over the problems).
    """
    num_roots, problems, num_steps, rates = (2, 2, 20, RATES[:2]) if smoke else (32, 20, 1000, RATES)
    keys = jax.random.split(jax.random.key(0), problems)
    draw = partial(random_quadratics, num_workers=32, dim=10, zeta2=0.1, mu=0.1, r0=1.0, noise=0.1)
    tasks = jax.jit(jax.vmap(draw))(keys)
    tables = []
    for entry in (bar := tqdm(_entries(num_roots), disable=not progress, unit="method")):
        label = METHODS[entry.method].label
        bar.set_description(label)
        curves_at = partial(_curves, entry, tasks, keys, num_steps)
        tried = np.asarray(jax.vmap(partial(curves_at, [0]))(jnp.array(rates)))
        best = np.argmin([_records_to_target(curves[:, 0]) for curves in tried])
        is_done = len(entry.roots) == 1
        curves = tried[best] if is_done else np.asarray(curves_at(entry.roots, rates[best]))
        table = pd.DataFrame(curves, columns=list(entry.roots), index=EVERY * np.arange(1, len(curves) + 1))
        table = table.rename_axis("step").reset_index()
        table = table.melt(id_vars="step", var_name="root", value_name="suboptimality")
        vectors = table.step * entry.communicate(entry.roots).sent().sum()
        tables.append(table.assign(method=label, learning_rate=rates[best], vectors=vectors))
    columns = ["method", "root", "learning_rate", "step", "vectors", "suboptimality"]
    return pd.concat(tables, ignore_index=True)[columns]


def picture(table: pd.DataFrame) -> Figure:
    """Suboptimality by steps and by vectors sent: RelaySGD from every root thin, its best and worst bold."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    colours = {METHODS[name].label: METHODS[name].colour for name in ("relaysgd", "dpsgd", "d2")}
    labels = {"step": "steps", "vectors": "vectors sent by all workers"}
    for ax, (along, label) in zip(axes, labels.items(), strict=True):
        for method, runs in table.groupby("method", sort=False):
            _draw(ax, str(method), runs, along, colours[method])
        ax.axhline(TARGET, color="0.5", linestyle=":", linewidth=1)
        ax.set(yscale="log", xlabel=label, xlim=(0, None))
    slowest = table[table.suboptimality > TARGET].vectors.max()
    axes[1].set(xlim=(0, slowest))
    axes[0].set(ylabel="suboptimality F(x̄) − F(x*)")
    axes[0].annotate("target", (0.02, TARGET), xycoords=("axes fraction", "data"), va="bottom")
    axes[0].legend(frameon=False)
    sns.despine(figure)
    return figure


def _curves(
    entry: Entry, tasks: Quadratics, keys: Key, num_steps: int, roots: Sequence[int], rate: float | Array
) -> Array:
    """(records, roots), the suboptimality with one learning rate, the mean over the problems."""
    mixer = entry.communicate(roots)

    def train(task: Quadratics, key: Key) -> Array:
        def grad(key: Key, step: Array, params: Array) -> tuple[Array, Array]:
            loss, g = jax.vmap(task.grad, in_axes=(None, None, -1), out_axes=-1)(key, step, params)
            return loss.mean(-1), g

        method = METHODS[entry.method].build(grad, mixer, optax.sgd(rate))
        start = jnp.zeros((*task.b.shape, len(roots)))
        measure = jax.vmap(task.measure, in_axes=-1)
        trace = simulate(key, method, start, num_steps=num_steps, every=EVERY, measure=measure)
        return trace.metrics["suboptimality"]

    return jax.vmap(train)(tasks, keys).mean(0)


def _records_to_target(curve: np.ndarray) -> float:
    """The number of records before the curve is below the target for good."""
    above = np.flatnonzero(~(curve < TARGET))
    return above[-1] + 1 if len(above) and above[-1] + 1 < len(curve) else np.inf


def _draw(ax: Axes, method: str, runs: pd.DataFrame, along: str, colour: str) -> None:
    curves = runs.pivot(index=along, columns="root", values="suboptimality")
    if curves.shape[1] == 1:
        ax.plot(curves.index, curves, color=colour, label=f"{method}, whole network")
        return
    order = sorted(curves, key=lambda root: _records_to_target(curves[root].to_numpy()))
    ax.plot(curves.index, curves, color=colour, linewidth=0.4, alpha=0.5)
    for root, style, which in ((order[0], "-", "best"), (order[-1], "--", "worst")):
        label = f"{method}, {which} spanning tree (root {root})"
        ax.plot(curves.index, curves[root], color=colour, linestyle=style, label=label)
