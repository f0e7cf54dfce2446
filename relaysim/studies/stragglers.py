"""Stragglers travel: how one slow step spreads over a ring, a tree and an all-reduce."""

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
from tqdm.auto import tqdm

from relaysim import topology
from relaysim.algorithms import dpsgd
from relaysim.mixing import all_reduce, gossip, relay_sum
from relaysim.timing import Network, lognormal, seconds
from relaysim.types import Mixer


def _depth_first(tree: topology.Topology) -> topology.Topology:
    """With branches side by side, as they are seen."""
    return topology.renumber(tree, topology.depth_first(tree))


MIXERS: dict[str, Callable[[int], Mixer]] = {
    "ring": lambda n: gossip(topology.ring(n)),
    "binary tree": lambda n: relay_sum(_depth_first(topology.binary_tree(n))),
    "all-reduce": all_reduce,
}
MAP: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma", "interpolation": "nearest"}
SLOW, LONGER = 5, 5.0
"""The slow step, and how many seconds it takes longer."""
TIMES = {"every step takes 1 s": (0.0, 1), "lognormal, 1 s on average, σ = 0.5": (0.5, 100)}
"""σ, and how many draws the mean is taken over."""


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """A row a worker and step, columns times, graph, worker, step, and in seconds waited, how long it waited
    in this step, and delay, how much later it was done than without the slow step."""
    n, T = (16, 20) if smoke else (64, 45)
    step, worker = np.repeat(np.arange(T), n), np.tile(np.arange(n), T)
    tables = []
    for times, (sigma, draws) in tqdm(TIMES.items(), disable=not progress):
        network, draws = Network(lognormal(1.0, sigma)), min(draws, 2) if smoke else draws
        keys = jax.random.split(jax.random.key(0), draws)
        computes = [network.compute_times(key, np.arange(T), n) for key in keys]
        slow = [
            compute + LONGER * ((step == SLOW) & (worker == n // 2)).reshape(T, n) for compute in computes
        ]
        for graph, mixer in MIXERS.items():
            made = mixer(n)
            done, undisturbed = (np.stack([_done(made, one) for one in all]) for all in (slow, computes))
            waited = (np.diff(done, axis=1, prepend=0) - slow).mean(0).ravel()
            delay = (done - undisturbed).mean(0).ravel()
            rows = {"step": step, "worker": worker, "waited": waited, "delay": delay}
            tables.append(pd.DataFrame({"times": times, "graph": graph, **rows}))
    return pd.concat(tables, ignore_index=True)


def _done(mixer: Mixer, compute: np.ndarray) -> np.ndarray:
    """(T, n) when each worker is done with each step; messages take no time."""
    none = jax.ShapeDtypeStruct((mixer.num_workers, 0), jnp.float32)
    method = dpsgd(lambda key, step, x: (x.sum(1), x), mixer, optax.sgd(1.0))  # any that mixes once a step
    return np.asarray(seconds(jax.random.key(0), Network(compute), method, none, num_steps=len(compute)))


def picture(table: pd.DataFrame) -> Figure:
    """Heat maps, worker × step: how long each waits where all steps take equally long, and how late it is on
    average where they do not."""
    shown = dict(zip(TIMES, ("waited", "delay"), strict=True))
    labels = {"waited": "seconds of waiting", "delay": "seconds later than without, mean"}
    figure, axes = plt.subplots(
        len(TIMES), len(MIXERS), figsize=(11, 6.5), sharex=True, sharey=True, layout="constrained"
    )
    for ax, graph in zip(axes[0], MIXERS, strict=True):
        ax.set_title(graph)
    for row, (times, column) in zip(axes, shown.items(), strict=True):
        top = LONGER if column == "waited" else 3.0
        for ax, graph in zip(row, MIXERS, strict=True):
            part = table[(table.times == times) & (table.graph == graph)]
            values = part.pivot(index="worker", columns="step", values=column).to_numpy()
            image = ax.imshow(values, vmin=0, vmax=top, **MAP)
            sns.despine(ax=ax, left=True, bottom=True)
        row[0].set_ylabel(f"{times}\n\nworker", fontsize=8)
        figure.colorbar(
            image, ax=list(row), label=labels[column], extend="neither" if top == LONGER else "max"
        )
    for ax in axes[-1]:
        ax.set_xlabel("step")
    return figure
