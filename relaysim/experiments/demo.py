"""RelaySGD and its rivals on handwritten digits that are dealt out unevenly to 16 workers.

`run` compares the methods at the learning rates below, `search` finds these rates again.
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
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from relaysim import io, plot
from relaysim.algorithms import allreduce, d2, dpsgd, push_sum, quasi_global_momentum, relaysgd
from relaysim.mixing import all_reduce, gossip, one_peer_exponential, relay_sum
from relaysim.models import MLP
from relaysim.simulate import Trace, simulate
from relaysim.tasks import Classification, Dataset, classification, datasets
from relaysim.tasks.partition import dirichlet, label_counts
from relaysim.topology import chain, double_binary_trees, ring
from relaysim.types import Algorithm, Array, Key, Stacked

WORKERS = 16
ALPHA = 0.01
STEPS = 100
RATES = [2.0**k for k in range(-7, 3)]
SEARCH_SEEDS = range(1000, 1003)


class Entry(NamedTuple):
    """A method in the comparison."""

    name: str
    build: Callable[[Classification, float | Array], Algorithm]
    learning_rate: float
    """The best of RATES by `search`."""


def _momentum(learning_rate: float | Array) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


ENTRIES = [
    Entry(
        "all-reduce + momentum",
        lambda task, lr: allreduce(task.grad, all_reduce(WORKERS), _momentum(lr)),
        0.25,
    ),
    Entry(
        "RelaySGD + momentum, chain",
        lambda task, lr: relaysgd(task.grad, relay_sum(chain(WORKERS)), _momentum(lr)),
        2.0,
    ),
    Entry(
        "RelaySGD + momentum, double binary trees",
        lambda task, lr: relaysgd(task.grad, relay_sum(double_binary_trees(WORKERS)), _momentum(lr)),
        0.5,
    ),
    Entry(
        "D-PSGD, ring",
        lambda task, lr: dpsgd(task.grad, gossip(ring(WORKERS)), optax.sgd(lr)),
        0.5,
    ),
    Entry(
        "D-PSGD + quasi-global momentum, ring",
        lambda task, lr: quasi_global_momentum(
            task.grad, gossip(ring(WORKERS)), optax.sgd(lr), variant="nesterov"
        ),
        0.25,
    ),
    Entry(
        "D² + momentum, ring",
        lambda task, lr: d2(task.grad, gossip(ring(WORKERS)), _momentum(lr)),
        0.25,
    ),
    Entry(
        "SGP + momentum, one-peer exponential",
        lambda task, lr: push_sum(task.grad, one_peer_exponential(WORKERS), _momentum(lr)),
        0.25,
    ),
]


def run(
    seeds: Sequence[int] = (0, 1, 2), *, num_steps: int = STEPS, progress: bool = True
) -> dict[str, list[Trace]]:
    """Train with each method, the seeds side by side in one program.

    Args:
      seeds: each fixes a partition, an initial model and the order of the data, the same for all methods.
      num_steps: T, a multiple of 2.
      progress: show a bar that fills up method by method.

    Returns:
      The traces of the seeds, by the name of the method.
    """
    problems = _problems(datasets.digits(), seeds)
    traces = {}
    for entry in (bar := tqdm(ENTRIES, disable=not progress, unit="method")):
        bar.set_description(entry.name)
        train = partial(_train, entry, num_steps, every=2)
        traces[entry.name] = io.unstack(jax.vmap(train, (0, 0, 0, None))(*problems, entry.learning_rate))
    return traces


def search(rates: Sequence[float] = RATES, *, num_steps: int = STEPS, progress: bool = True) -> pd.DataFrame:
    """The accuracy of every method at every learning rate, on seeds of their own.

    A quarter of the training images is held back to measure on, the test images are not looked at.

    Returns:
      One row a method and rate: method, learning_rate, accuracy (the mean over workers and seeds).
    """
    data = datasets.digits()
    x, held_x, y, held_y = train_test_split(
        data.train_x, data.train_y, test_size=0.25, stratify=data.train_y, random_state=0
    )
    problems = _problems(data._replace(train_x=x, train_y=y, test_x=held_x, test_y=held_y), SEARCH_SEEDS)
    rows = []
    for entry in (bar := tqdm(ENTRIES, disable=not progress, unit="method")):
        bar.set_description(entry.name)
        over_seeds = jax.vmap(partial(_train, entry, num_steps, every=num_steps), (0, 0, 0, None))
        trace = jax.vmap(over_seeds, (None, None, None, 0))(*problems, jnp.asarray(rates))
        accuracy = np.asarray(trace.metrics["accuracy"]).mean((1, 2, 3))
        rows += [(entry.name, rate, a) for rate, a in zip(rates, accuracy, strict=True)]
    return pd.DataFrame(rows, columns=["method", "learning_rate", "accuracy"])


def table(traces: dict[str, list[Trace]]) -> pd.DataFrame:
    """The end of each run, mean ± standard deviation over the seeds; one row a method."""

    def spread(values: list[float], digits: int) -> str:
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    rows = []
    for name, runs in traces.items():
        last = [jax.tree.map(lambda values: values[-1], run.metrics) for run in runs]
        rows.append(
            {
                "method": name,
                "accuracy %": spread([100 * m["accuracy"].mean() for m in last], 1),
                "worst worker": spread([100 * m["accuracy"].min() for m in last], 1),
                "best worker": spread([100 * m["accuracy"].max() for m in last], 1),
                "mean model": spread([100 * m["mean_model_accuracy"] for m in last], 1),
                "consensus distance": f"{np.mean([m['consensus_distance'] for m in last]):.1e}",
                "MB sent": f"{last[0]['bytes_sent'] / 1e6:.1f}",
                "MB busiest": f"{last[0]['busiest_bytes_sent'] / 1e6:.1f}",
            }
        )
    return pd.DataFrame(rows).set_index("method")


def picture(traces: dict[str, list[Trace]]) -> Figure:
    """Who holds which digits, and a panel for each method: every worker's accuracy, and their mean."""
    figure, axes = plt.subplots(2, 4, figsize=(14, 6.5), layout="constrained")
    data = datasets.digits()
    shares = _shares(data, 0)
    plot.partition(label_counts(shares, data.train_y), ax=axes.flat[0])
    axes.flat[0].set_title(f"digits of each worker (seed 0, α = {ALPHA})", fontsize=9)
    baseline = np.mean([run.metrics["accuracy"] for run in traces[ENTRIES[0].name]], axis=(0, 2))
    for ax, (name, runs) in zip(axes.flat[1:], traces.items(), strict=False):
        plot.curves({name: runs}, "accuracy", ax=ax)
        ax.plot(runs[0].steps, baseline, color="0.4", linestyle="--", linewidth=1)
        ax.set(ylim=(0, 1))
        ax.set_title(name, fontsize=9)
        ax.get_legend().remove()
    figure.suptitle(
        f"Test accuracy of {WORKERS} workers: each worker thin, their mean bold, all-reduce dashed",
        fontsize=12,
    )
    sns.despine(figure)
    return figure


def _train(
    entry: Entry,
    num_steps: int,
    task: Classification,
    params: Stacked,
    key: Key,
    learning_rate: float | Array,
    *,
    every: int,
) -> Trace:
    method = entry.build(task, learning_rate)
    return simulate(key, method, params, num_steps=num_steps, every=every, measure=task.measure)


def _problems(data: Dataset, seeds: Sequence[int]) -> tuple[Classification, Stacked, Key]:
    """The seeds' tasks, initial models and keys, stacked."""
    tasks = [classification(MLP((64,), data.num_classes), data, _shares(data, seed)) for seed in seeds]
    task = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    keys = jax.vmap(jax.random.split)(jnp.stack([*map(jax.random.key, seeds)]))
    return task, jax.jit(jax.vmap(Classification.init))(task, keys[:, 0]), keys[:, 1]


def _shares(data: Dataset, seed: int) -> list[np.ndarray]:
    return dirichlet(jax.random.fold_in(jax.random.key(seed), 1), data.train_y, WORKERS, ALPHA)
