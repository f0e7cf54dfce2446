"""Seconds to accuracy: with and without barriers, in a data centre and over a cloud's regions.

Workers learn handwritten digits of which most hold few kinds (α = 0.1), by plain SGD. Each method has the
learning rate of `RATES` at which it gets to the accuracy `TARGET` first with a seed of its own: with barriers
the same on all networks; without them on each its own, since there the network changes what is learned.
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
from tqdm.auto import tqdm

from relaysim import asynchronous, palette, timing
from relaysim.algorithms import allreduce, dpsgd, push_sum, relaysgd
from relaysim.mixing import all_reduce, gossip, one_peer_exponential, relay_sum
from relaysim.models import MLP
from relaysim.simulate import simulate
from relaysim.tasks import Supervised, classification, datasets
from relaysim.tasks.partition import dirichlet
from relaysim.timing import Network
from relaysim.topology import binary_tree, chain, double_binary_trees, ring

ALPHA, TARGET, STEPS, EVERY = 0.1, 0.9, 200, 10
RATES = [2.0**k for k in range(-3, 3)]
SEARCH_SEED = 1000
COMPUTE = timing.lognormal(0.05, 0.1)
NETWORKS: dict[str, Callable[[int], Network]] = {
    "data centre": lambda n: timing.datacenter(COMPUTE),
    "data centre, stragglers": lambda n: timing.datacenter(COMPUTE * timing.stragglers(0.1, 4.0)),
    "20 regions": lambda n: timing.regions("gcp", n, COMPUTE),
}
"""For n workers. A gradient takes 50 ms; with stragglers a tenth of the workers needs 200 ms."""


class Entry(NamedTuple):
    """A method in the comparison."""

    build: Callable[[Supervised, Any], Any]
    """(task, learning rate) -> method"""
    waits: bool
    """Whether it has barriers."""


def _entry(make: Callable, mixer: Callable[[int], Any]) -> Entry:
    return Entry(lambda task, rate: make(task.grad, mixer(task.num_workers), optax.sgd(rate)), waits=True)


def _without(make: Callable, graph: Callable[[int], Any]) -> Entry:
    return Entry(lambda task, rate: make(task.grad_at, graph(task.num_workers), optax.sgd(rate)), waits=False)


ENTRIES = {
    "all-reduce, ring": _entry(allreduce, partial(all_reduce, schedule="ring")),
    "all-reduce, tree": _entry(allreduce, partial(all_reduce, schedule="tree")),
    "RelaySGD, chain": _entry(relaysgd, lambda n: relay_sum(chain(n))),
    "RelaySGD, double binary trees": _entry(relaysgd, lambda n: relay_sum(double_binary_trees(n))),
    "D-PSGD, ring": _entry(dpsgd, lambda n: gossip(ring(n))),
    "SGP, one-peer exponential": _entry(push_sum, one_peer_exponential),
    "AD-PSGD, ring": _without(asynchronous.ad_psgd, ring),
    "asynchronous RelaySGD, chain": _without(asynchronous.relaysgd, chain),
    "asynchronous RelaySGD, binary tree": _without(asynchronous.relaysgd, binary_tree),
}


def run(smoke: bool = False, progress: bool = True, *, workers: Sequence[int] = (16, 64)) -> pd.DataFrame:
    """Train with each method, with six seeds, each of which fixes who has which data.

    Args:
      smoke: 4 workers, 20 steps and two methods only.
      progress: show a bar.
      workers: how many there are.

    Returns:
      One row for each record: workers, network, method, learning_rate, seed, seconds (until the last worker
      is done with the step) and accuracy (the mean over workers).
    """
    workers, num_steps, methods = (
        ((4,), 20, list(ENTRIES)[-4::3]) if smoke else (workers, STEPS, list(ENTRIES))
    )
    bar = tqdm(total=len(workers) * len(methods), disable=not progress, unit="method")
    tables = []
    for n in workers:
        held, tested = _tasks(n, [SEARCH_SEED] * len(RATES)), _tasks(n, range(len(RATES)))
        for name in methods:
            bar.set_description(f"{n} workers, {name}")
            entry, rate, curves = ENTRIES[name], 0.0, np.zeros(0)
            for network_name, make in NETWORKS.items():
                seconds, order = _times(entry, make(n), tested, num_steps)
                if not curves.size or not entry.waits:
                    accuracies = jax.jit(jax.vmap(partial(_accuracies, entry, order, num_steps)))
                    rate = _best(np.asarray(accuracies(held, jnp.array(RATES))), seconds)
                    curves = np.asarray(accuracies(tested, jnp.full(len(RATES), rate)))
                where = {"workers": n, "network": network_name, "method": name, "learning_rate": rate}
                tables += [
                    pd.DataFrame(where | {"seed": seed, "seconds": seconds, "accuracy": curve})
                    for seed, curve in enumerate(curves)
                ]
            bar.update()
    return pd.concat(tables, ignore_index=True)


def _tasks(n: int, seeds: Sequence[int] | range) -> Supervised:
    """A lane for each seed."""
    data, made = datasets.digits(), []
    for seed in seeds:
        shares = dirichlet(jax.random.fold_in(jax.random.key(seed), 1), data.train_y, n, ALPHA)
        made.append(classification(MLP((32,), data.num_classes), data, shares, batch_size=16))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)


def _times(entry: Entry, network: Network, tasks: Supervised, num_steps: int) -> tuple[np.ndarray, Any]:
    """(R,) seconds of the records, and the order of the events where there are no barriers."""
    task, key = jax.tree.map(lambda leaf: leaf[0], tasks), jax.random.key(0)
    method, models = entry.build(task, 1.0), jax.eval_shape(task.init, key)
    if entry.waits:
        done = timing.seconds(key, network, method, models, num_steps=num_steps, every=EVERY)
        return np.asarray(done).max(1), None
    n = method.num_workers
    order = asynchronous.lay_out(key, method, network, models, num_events=n * num_steps, every=n * EVERY)
    return order.seconds, order


def _accuracies(entry: Entry, order: Any, num_steps: int, task: Supervised, rate: jax.Array) -> jax.Array:
    """(R,) the workers' mean accuracy."""
    method, key = entry.build(task, rate), jax.random.key(0)
    start = task.init(jax.random.fold_in(key, 2))
    if entry.waits:
        run = simulate(key, method, start, num_steps=num_steps, every=EVERY, measure=task.measure).metrics
    else:
        run = asynchronous.replay(key, method, order, start, measure=task.measure).metrics
    return run["accuracy"].mean(1)


def _best(curves: np.ndarray, seconds: np.ndarray) -> float:
    """The rate that gets there first, or where none does, furthest."""
    reached = [until(seconds, curve) for curve in curves]
    if np.isfinite(reached).any():
        return RATES[int(np.argmin(reached))]
    return RATES[int(np.nanargmax(curves.max(1)))]


def until(seconds: np.ndarray, accuracy: np.ndarray, target: float = TARGET) -> float:
    """The seconds of the first record with this accuracy, infinite where there is none."""
    reached = np.asarray(accuracy) >= target
    return float(np.asarray(seconds)[np.argmax(reached)]) if reached.any() else np.inf


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Seconds to the accuracy `TARGET`, the median over seeds: a row for each method, a column for each
    network."""
    keys = ["workers", "method", "network", "seed"]
    reached = {
        key: until(runs.seconds.to_numpy(), runs.accuracy.to_numpy())
        for key, runs in found.groupby(keys, sort=False)
    }
    series = pd.Series(reached).rename_axis(keys).groupby(keys[:3], sort=False).median()
    return series.unstack("network", sort=False)


def picture(found: pd.DataFrame) -> Figure:
    """Accuracy over seconds, a row of panels for each number of workers, a column for each network."""
    workers, networks = found.workers.unique(), found.network.unique()
    size = (3.6 * len(networks), 3.2 * len(workers) + 0.6)
    figure, axes = plt.subplots(
        len(workers), len(networks), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    styles = palette.styles(found.method.unique())
    for row, n in zip(axes, workers, strict=True):
        for ax, network in zip(row, networks, strict=True):
            here = found[(found.workers == n) & (found.network == network)]
            for name, runs in here.groupby("method", sort=False):
                curves = runs.pivot(index="seed", columns="seconds", values="accuracy")
                style = styles[str(name)] | {"linestyle": "-" if ENTRIES[str(name)].waits else "--"}
                ax.plot(curves.columns, curves.mean(), label=name, markersize=4, markevery=3, **style)
            ax.axhline(TARGET, color="0.7", linewidth=0.8, zorder=0)
            ax.set(xscale="log", xlabel="seconds", ylim=(0, 1), title=f"{n} workers, {network}")
            ax.title.set_size("small")
        row[0].set_ylabel("accuracy")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, fontsize="small", frameon=False)
    sns.despine(figure)
    return figure
