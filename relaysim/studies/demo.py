"""RelaySGD and its rivals on handwritten digits that are dealt out unevenly to 16 workers.

`run` compares the methods at the learning rates below, `search` finds these rates again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from relaysim import plot
from relaysim.catalogue import METHODS
from relaysim.compare import Comparison, compare
from relaysim.mixing import all_reduce, gossip, one_peer_exponential, relay_sum
from relaysim.models import MLP
from relaysim.simulate import simulate
from relaysim.sweep import sweep
from relaysim.tasks import Dataset, Supervised, classification, datasets
from relaysim.tasks.partition import dirichlet, label_counts
from relaysim.topology import chain, double_binary_trees, ring
from relaysim.tuning import stack
from relaysim.types import Algorithm, Array, Mixer

WORKERS = 16
ALPHA = 0.01
STEPS = 100
RATES = [2.0**k for k in range(-7, 3)]
SEARCH_SEEDS = range(1000, 1003)


def _momentum(learning_rate: float | Array) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


class Entry(NamedTuple):
    """A method in the comparison."""

    method: str
    """Its name in the catalogue."""
    mixer: Callable[[], Mixer]
    learning_rate: float
    """The best of RATES by `search`."""
    optimizer: Callable[[float | Array], optax.GradientTransformation] = _momentum

    def build(self, task: Supervised, rate: float | Array) -> Algorithm:
        return METHODS[self.method].build(task.grad, self.mixer(), self.optimizer(rate))


def _ring() -> Mixer:
    return gossip(ring(WORKERS))


ENTRIES = {
    "all-reduce + momentum": Entry("allreduce", lambda: all_reduce(WORKERS), 0.25),
    "RelaySGD + momentum, chain": Entry("relaysgd", lambda: relay_sum(chain(WORKERS)), 2.0),
    "RelaySGD + momentum, double binary trees": Entry(
        "relaysgd", lambda: relay_sum(double_binary_trees(WORKERS)), 0.5
    ),
    "D-PSGD, ring": Entry("dpsgd", _ring, 0.5, optax.sgd),
    "D-PSGD + quasi-global momentum, ring": Entry("quasi-global-momentum", _ring, 0.25, optax.sgd),
    "D² + momentum, ring": Entry("d2", _ring, 0.25),
    "SGP + momentum, one-peer exponential": Entry(
        "sgp-one-peer", lambda: one_peer_exponential(WORKERS), 0.25
    ),
}


def run(
    seeds: int | Sequence[int] = 3, *, num_steps: int = STEPS, rates: Any = None, progress: bool = True
) -> Comparison:
    """Train with each method.

    Args:
      seeds: each fixes a partition, an initial model and the order of the data, the same for all methods.
      num_steps: T, a multiple of 2.
      rates: the learning rates, by default those of the entries.
      progress: show a bar.
    """
    data = datasets.digits()
    return compare(
        {name: entry.build for name, entry in ENTRIES.items()},
        {"digits": partial(_task, data)},
        num_steps=num_steps,
        every=2,
        seeds=seeds,
        rates={name: entry.learning_rate for name, entry in ENTRIES.items()} if rates is None else rates,
        metric="accuracy",
        progress=progress,
    )


def search(rates: Sequence[float] = RATES, *, num_steps: int = STEPS, progress: bool = True) -> pd.DataFrame:
    """The accuracy of every method at every learning rate, on seeds of their own.

    A quarter of the training images, as many of each digit, is held back before they are dealt out, to
    measure on; the test images are not looked at.

    Returns:
      One row a method and rate: method, learning_rate, accuracy (the mean over workers and seeds).
    """
    data = datasets.digits()
    x, held_x, y, held_y = train_test_split(
        data.train_x, data.train_y, test_size=0.25, stratify=data.train_y, random_state=0
    )
    data = data._replace(train_x=x, train_y=y, test_x=held_x, test_y=held_y)
    tasks = stack([_task(data, seed) for seed in SEARCH_SEEDS])
    keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in SEARCH_SEEDS])

    def accuracy(name: str, problem: dict[str, Any], learning_rate: Array) -> dict[str, Array]:
        task, (init_key, key) = problem["task"], problem["keys"]
        method = ENTRIES[name].build(task, learning_rate)
        trace = simulate(
            key, method, task.init(init_key), num_steps=num_steps, every=num_steps, measure=task.measure
        )
        return {"accuracy": trace.metrics["accuracy"].mean()}

    tables = []
    for name in (bar := tqdm(ENTRIES, disable=not progress, unit="method")):
        bar.set_description(name)
        problems = {"task": tasks, "keys": keys}
        found = sweep(partial(accuracy, name), problem=problems, learning_rate=list(rates))
        tables.append(found.groupby("learning_rate").accuracy.mean().reset_index().assign(method=name))
    return pd.concat(tables, ignore_index=True)[["method", "learning_rate", "accuracy"]]


def table(found: Comparison) -> pd.DataFrame:
    """The end of each run, mean ± standard deviation over the seeds; one row a method."""

    def spread(values: Any, digits: int = 1) -> str:
        return f"{100 * np.mean(values):.{digits}f} ± {100 * np.std(values):.{digits}f}"

    rows = {}
    for name, runs in found.table.groupby("method", sort=False):
        best = [np.max(row["records"]["accuracy"][-1]) for row in found.rows if row["method"] == name]
        rows[name] = {
            "accuracy %": spread(runs.accuracy),
            "worst worker": spread(runs.worst),
            "best worker": spread(best),
            "mean model": spread(runs.mean_model_accuracy),
            "consensus distance": f"{runs.consensus_distance.mean():.1e}",
            "MB sent": f"{runs.bytes_sent.iloc[0] / 1e6:.1f}",
            "MB busiest": f"{runs.busiest_bytes_sent.iloc[0] / 1e6:.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def picture(found: Comparison) -> Figure:
    """Who holds which digits, and a panel for each method: every worker's accuracy, and their mean."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), layout="constrained")
    data = datasets.digits()
    shares = _shares(data, 0)
    plot.partition(label_counts(shares, data.train_y), ax=axes.flat[0])
    axes.flat[0].set_title(f"digits of each worker (seed 0, α = {ALPHA})", fontsize=9)
    lines = {name: _lines(found, name) for name in dict.fromkeys(row["method"] for row in found.rows)}
    steps, baseline = found.rows[0]["at"], lines[next(iter(lines))].mean(1)
    for ax, (name, values) in zip(axes.flat[1:], lines.items(), strict=False):
        colour = METHODS[ENTRIES[name].method].colour
        ax.plot(steps, values, color=colour, linewidth=0.5, alpha=0.2)
        ax.plot(steps, values.mean(1), color=colour, linewidth=2)
        ax.plot(steps, baseline, color="0.4", linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1), xlabel="step", ylabel="accuracy")
        ax.set_title(name, fontsize=9)
    figure.suptitle(
        f"Test accuracy of {WORKERS} workers: each worker thin, their mean bold, all-reduce dashed",
        fontsize=12,
    )
    sns.despine(figure)
    return figure


def _lines(found: Comparison, name: str) -> np.ndarray:
    """(R, workers · seeds) the accuracies."""
    return np.concatenate([row["records"]["accuracy"] for row in found.rows if row["method"] == name], axis=1)


def _task(data: Dataset, seed: int) -> Supervised:
    return classification(MLP((64,), data.num_classes), data, _shares(data, seed))


def _shares(data: Dataset, seed: int) -> list[np.ndarray]:
    return dirichlet(jax.random.fold_in(jax.random.key(seed), 1), data.train_y, WORKERS, ALPHA)
