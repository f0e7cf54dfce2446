"""Deep learning as in the paper's tables: many workers train one network on data that differ from worker to
worker, by several methods at learning rates of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from relaysim import topology
from relaysim.algorithms import allreduce, d2, dpsgd, push_sum, quasi_global_momentum, relaysgd, relaysgd_grad
from relaysim.experiments import recipe
from relaysim.experiments.kept import Kept
from relaysim.experiments.threads import side_by_side
from relaysim.mixing import all_reduce, gossip, one_peer_exponential, relay_sum
from relaysim.simulate import simulate
from relaysim.tasks import Classification, Dataset, classification
from relaysim.tasks.augment import Augment
from relaysim.tasks.partition import dirichlet
from relaysim.types import Algorithm, Array, Grad, Key, Stacked

SEARCH_SEEDS = (1000, 1001)


class Entry(NamedTuple):
    """A method in a comparison."""

    name: str
    method: Callable[..., Algorithm]
    """(grad, mixer, optimizer)"""
    mixer: Callable[..., Any]
    """(n, drop=...) -> mixer"""
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = recipe.sgd
    start: int = -3
    """The search for a learning rate starts at 2 to this power."""


def _trees(n: int, drop: float = 0.0) -> Any:
    return relay_sum(topology.double_binary_trees(n), drop=drop, fill="last")


def _chain(n: int, drop: float = 0.0) -> Any:
    return relay_sum(topology.chain(n), drop=drop, fill="last")


def _chain_of_updates(n: int, drop: float = 0.0) -> Any:
    return relay_sum(topology.chain(n), drop=drop)  # what is missing counts 0


def _ring(n: int, drop: float = 0.0) -> Any:
    return gossip(topology.ring(n), drop=drop)


def _gossip_trees(n: int, drop: float = 0.0) -> Any:
    return gossip(topology.double_binary_trees(n), drop=drop)


def _two_peers(n: int, drop: float = 0.0) -> Any:
    return one_peer_exponential(n, rounds=2, drop=drop)  # as published: as many messages as on a ring


def _everybody(n: int, drop: float = 0.0) -> Any:
    if drop:
        raise ValueError(f"drop is {drop}, expected 0: all-reduce loses no messages")
    return all_reduce(n)


def _quasi_global(grad: Grad, mixer: Any, optimizer: Any) -> Algorithm:
    return quasi_global_momentum(grad, mixer, optimizer, variant="nesterov")


def _rms(rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adam(rate, b1=0)  # whose momentum is the quasi-global one


_ADAM = (optax.adam, -9)
_MOMENTUM = (partial(recipe.sgd, momentum=0.9), -5)
ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("all-reduce, fully connected", allreduce, _everybody),
        Entry("all-reduce + momentum", allreduce, _everybody, *_MOMENTUM),
        Entry("RelaySGD, double binary trees", relaysgd, _trees),
        Entry("RelaySGD + local momentum, double binary trees", relaysgd, _trees, *_MOMENTUM),
        Entry("RelaySGD, chain", relaysgd, _chain),
        Entry("RelaySGD + local momentum, chain", relaysgd, _chain, *_MOMENTUM),
        Entry("RelaySGD/Grad, chain", relaysgd_grad, _chain_of_updates),
        Entry("RelaySGD/Grad + local momentum, chain", relaysgd_grad, _chain_of_updates, *_MOMENTUM),
        Entry("D-PSGD, ring", dpsgd, _ring),
        Entry("D-PSGD + quasi-global momentum, ring", _quasi_global, _ring),
        Entry("D2, ring", d2, _ring),
        Entry("D2 + local momentum, ring", d2, _ring, *_MOMENTUM),
        Entry("SGP, time-varying exponential", push_sum, _two_peers),
        Entry("SGP + local momentum, time-varying exponential", push_sum, _two_peers, *_MOMENTUM),
        Entry("D-PSGD, double binary trees", dpsgd, _gossip_trees),
        Entry("D-PSGD + quasi-global momentum, double binary trees", _quasi_global, _gossip_trees),
        Entry("D2, double binary trees", d2, _gossip_trees),
        Entry("D2 + local momentum, double binary trees", d2, _gossip_trees, *_MOMENTUM),
        Entry("all-reduce Adam, fully connected", allreduce, _everybody, *_ADAM),
        Entry("Relay-Adam, chain", relaysgd, _chain, *_ADAM),
        Entry("D-PSGD Adam, ring", dpsgd, _ring, *_ADAM),
        Entry("D-PSGD Adam + quasi-global momentum, ring", _quasi_global, _ring, _rms, -9),
    )
}
"""The methods of the paper's Table 2, by its names, on other topologies too, and those of Table 4."""


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison have in common."""

    data: Dataset
    model: nn.Module
    workers: int = 16
    epochs: int = 3
    batch_size: int = 32
    augment: Augment | None = None

    @property
    def steps_per_epoch(self) -> int:
        return recipe.steps_per_epoch(len(self.data.train_y), self.workers, self.batch_size)

    @property
    def told(self) -> dict[str, Any]:
        """What a table of runs says of it, besides the workers."""
        return {"data": self.data.name, "model": type(self.model).__name__, "epochs": self.epochs}

    @property
    def warmup(self) -> float:
        """The epochs in which the learning rate goes up: the paper's 5, but a twelfth of the run at most."""
        return min(5, self.epochs / 12)

    def task(self, alpha: float, seed: int) -> Classification:
        """The data dealt out by Dirichlet proportions; the seed fixes who gets what."""
        key = jax.random.fold_in(jax.random.key(seed), 1)
        shares = dirichlet(key, self.data.train_y, self.workers, alpha)
        return classification(self.model, self.data, shares, batch_size=self.batch_size, augment=self.augment)

    def held_back(self, images: int = 2000) -> "Setting":
        """The same with some of the training images to test on, for the choice of learning rates."""
        d = self.data
        images = min(images, len(d.train_y) // 4)
        x, held_x, y, held_y = train_test_split(
            d.train_x, d.train_y, test_size=images, stratify=d.train_y, random_state=0
        )
        return replace(self, data=d._replace(train_x=x, train_y=y, test_x=held_x, test_y=held_y))


class Result(NamedTuple):
    """How a run ended."""

    accuracy: Any
    """(n,) of every worker's model on the test set"""
    mean_model: Any
    """() of the average of all models"""
    diverged: Any
    """() int, the step, −1 where it did not"""

    @property
    def mean(self) -> float:
        """Over workers; 0 where the run diverged."""
        return float(np.mean(self.accuracy)) if self.diverged < 0 else 0.0


Train = Callable[[Classification, Stacked, Key, float | Array], Result]


def trainer(setting: Setting, entry: Entry, drop: float = 0.0) -> Train:
    """(task, initial models, key, learning rate) -> result, compiled once for all tasks and rates."""
    num_steps = setting.steps_per_epoch * setting.epochs
    mixer = entry.mixer(setting.workers, drop=drop)

    @jax.jit
    def train(task: Classification, params: Stacked, key: Key, rate: Array) -> Result:
        schedule = recipe.schedule(rate, setting.steps_per_epoch, setting.epochs, warmup=setting.warmup)
        method = entry.method(task.grad, mixer, entry.optimizer(schedule))
        trace = simulate(key, method, params, num_steps=num_steps, every=num_steps, measure=task.measure)
        last = {name: values[-1] for name, values in trace.metrics.items()}
        return Result(last["accuracy"], last["mean_model_accuracy"], trace.divergence.step)

    return train


def run(
    setting: Setting, cells: pd.DataFrame, *, path: Path | None = None, progress: bool = True
) -> pd.DataFrame:
    """Train every cell.

    Args:
      setting: what they have in common; the workers are those of the cells.
      cells: the columns method (a name of `ENTRIES`), alpha, drop, workers, seed and learning_rate.
      path: a .csv file to write each run to when it is done. Those that it holds are not trained again.

    Returns:
      The cells with the columns data, model, epochs, accuracy (the mean over workers), worst (worker),
      mean_model, all three in %, NaN where the run diverged, and diverged (the step, or −1).

    Raises:
      ValueError: where the file holds runs that are not among the cells.
    """
    cells = cells.assign(**setting.told)
    kept = Kept(path, cells)
    done = {tuple(row[column] for column in cells) for row in kept.rows}
    missing = cells[[cell not in done for cell in cells.itertuples(index=False, name=None)]]
    starts = {workers: _starts(replace(setting, workers=workers)) for workers in missing.workers.unique()}

    def train(group: tuple[tuple[str, float, int], pd.DataFrame]) -> None:
        (name, drop, workers), same = group
        of_method = trainer(replace(setting, workers=workers), ENTRIES[name], drop)
        for cell in same.to_dict("records"):
            start = starts[workers](cell["alpha"], cell["seed"])
            end = jax.device_get(of_method(*start, cell["learning_rate"]))
            measured = 100 * np.array([end.accuracy.mean(), end.accuracy.min(), end.mean_model], float)
            accuracy, worst, mean_model = measured if end.diverged < 0 else measured * np.nan
            measures = {"accuracy": accuracy, "worst": worst, "mean_model": mean_model}
            kept.add({**cell, **measures, "diverged": int(end.diverged)})
            bar.update()

    with tqdm(total=len(cells), initial=len(cells) - len(missing), disable=not progress, unit="run") as bar:
        side_by_side(train, missing.groupby(["method", "drop", "workers"], sort=False))
    return cells.merge(pd.DataFrame(kept.rows))


def search(
    setting: Setting,
    names: Sequence[str],
    alphas: Sequence[float],
    *,
    path: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Search each method's learning rate for each α, among the powers of two.

    All methods get the same: from 1/8, with momentum from 1/32, with Adam from 1/512, the rate is doubled or
    halved for as long as that makes the mean accuracy better, until both neighbours of the best have been
    tried. A part of the training images is held back to measure on, the test images are not looked at, and
    the two seeds are of their own.

    Args:
      path: a .csv file to write each rate to when it was tried. Those that it holds are not tried again.

    Returns:
      A row for each rate tried: method, alpha, workers, data, model, epochs, learning_rate and accuracy, the
      mean over the seeds, 0 where one diverged.

    Raises:
      ValueError: where the file holds other methods, α or settings.
    """
    setting = setting.held_back()
    starts = _starts(setting)
    cells = pd.DataFrame(product(names, alphas, [setting.workers]), columns=["method", "alpha", "workers"])
    cells = cells.assign(**setting.told)
    kept = Kept(path, cells)

    def climb(name: str) -> None:
        train = trainer(setting, ENTRIES[name])
        for alpha in alphas:
            before = [row for row in kept.rows if (row["method"], row["alpha"]) == (name, alpha)]
            tried: dict[float, float] = {row["learning_rate"]: row["accuracy"] for row in before}

            def at(power: int, alpha: float = alpha, tried: dict = tried) -> float:
                rate = 2.0**power
                if rate not in tried:
                    accuracies = [
                        jax.device_get(train(*starts(alpha, seed), rate)).mean for seed in SEARCH_SEEDS
                    ]
                    tried[rate] = float(np.mean(accuracies)) if all(accuracies) else 0.0
                    cell = {"method": name, "alpha": alpha, "workers": setting.workers, **setting.told}
                    kept.add({**cell, "learning_rate": rate, "accuracy": tried[rate]})
                return tried[rate]

            best = ENTRIES[name].start
            while any(at(best + step) > at(best) for step in (1, -1)):
                best += 1 if at(best + 1) > at(best) else -1
            bar.update()

    with tqdm(total=len(cells), disable=not progress, unit="search") as bar:
        side_by_side(climb, names)
    return cells.merge(pd.DataFrame(kept.rows).sort_values("learning_rate"))


def best_rates(tried: pd.DataFrame, margin: float = 0.005) -> dict[tuple[str, float], float]:
    """(method, α) -> the smallest learning rate with an accuracy within the margin of the best.

    The best of few seeds may lie at the edge of what converges, and diverge with another.
    """
    best = tried.groupby(["method", "alpha"]).accuracy.transform("max")
    good = tried[tried.accuracy >= best - margin]
    return good.groupby(["method", "alpha"]).learning_rate.min().to_dict()


def _starts(setting: Setting) -> Callable[[float, int], tuple[Classification, Stacked, Key]]:
    """(α, seed) -> (task, initial models, key), the same whatever the method."""
    init = jax.jit(lambda task, key: task.init(key))
    x, test_x = jnp.asarray(setting.data.train_x), jnp.asarray(setting.data.test_x)  # for all tasks

    @cache
    def start(alpha: float, seed: int) -> tuple[Classification, Stacked, Key]:
        task = replace(setting.task(alpha, seed), x=x, test_x=test_x)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        return task, init(task, init_key), run_key

    return start
