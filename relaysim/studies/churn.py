"""How do methods bear workers that come and go? Accuracy on digits against the share of workers that are
there, of RelaySGD whose tree mends itself, of one whose tree does not, of D-PSGD and of SGP."""

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

from relaysim import palette, topology, training
from relaysim.algorithms import dpsgd, push_sum, relaysgd
from relaysim.faults import Churn, pause
from relaysim.mixing import gossip, one_peer_exponential, relay_sum
from relaysim.simulate import simulate
from relaysim.types import Algorithm

AWAY = 20
"""Steps that a worker is away, on average."""

METHODS: dict[str, Callable[[Any, Any, Churn], Algorithm]] = {
    "RelaySGD, mended": lambda grad, opt, churn: relaysgd(
        grad, relay_sum(topology.binary_tree(churn.num_workers), churn=churn, fill="last"), opt
    ),
    "RelaySGD": lambda grad, opt, churn: relaysgd(
        grad, relay_sum(topology.binary_tree(churn.num_workers), drop=churn, fill="last"), opt
    ),
    "D-PSGD": lambda grad, opt, churn: dpsgd(grad, gossip(topology.ring(churn.num_workers), drop=churn), opt),
    "SGP": lambda grad, opt, churn: push_sum(grad, one_peer_exponential(churn.num_workers, drop=churn), opt),
}


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """A row a method, share and seed: method, present, seed, learning_rate and accuracy, the mean over those
    that are there in the last records. The rate is the best with another seed, for each method and share."""
    n, steps, every = (4, 20, 10) if smoke else (16, 300, 20)
    shares = (1.0, 0.7) if smoke else (1.0, 0.9, 0.8, 0.6)
    rates = (0.25,) if smoke else (0.125, 0.25, 0.5, 1.0)
    seeds = (0, 1000) if smoke else (0, 1, 2, 1000)
    draw = training.task_of(training.Settings(workers=n, alpha=0.1))
    keys = jnp.stack([jax.random.split(jax.random.key(seed)) for seed in seeds])
    tasks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(draw, seeds))
    params = jax.jit(jax.vmap(lambda task, key: task.init(key)))(tasks, keys[:, 0])
    rows = []
    for share in tqdm(shares, disable=not progress, unit="share"):
        churn = _churn(n, steps, share)
        there = churn.present(np.arange(every, steps + 1, every) - 1)[-5:]
        for name, build in METHODS.items():
            found = _accuracies(build, churn, steps, every, tasks, params, keys[:, 1], jnp.array(rates))
            there_at_last = np.where(there, found[..., -5:, :], np.nan)
            mean = np.nan_to_num(np.nanmean(there_at_last, (2, 3)))  # (seeds, rates)
            test = np.array(seeds) < 1000
            best = int(mean[~test].mean(0).argmax())
            rows += [
                {
                    "method": name,
                    "present": share,
                    "seed": seed,
                    "learning_rate": rates[best],
                    "accuracy": value,
                }
                for seed, value in zip(np.array(seeds)[test].tolist(), mean[test, best].tolist(), strict=True)
            ]
    return pd.DataFrame(rows)


def _churn(n: int, steps: int, share: float) -> Churn:
    if share == 1:
        return Churn(n, [(worker, 0, np.inf) for worker in range(n)])
    return Churn.random(jax.random.key(7), n, steps, present=AWAY * share / (1 - share), absent=AWAY)


def _accuracies(build: Callable, churn: Churn, steps: int, every: int, *of_runs: Any) -> np.ndarray:
    """(seeds, rates, R, n)"""

    def one(task: Any, params: Any, key: Any, rate: Any) -> Any:
        method = pause(build(task.grad, optax.sgd(rate), churn), churn)
        run = simulate(key, method, params, num_steps=steps, every=every, measure=task.measure)
        return run.metrics["accuracy"]

    over_rates = jax.vmap(one, (None, None, None, 0))
    return np.asarray(jax.jit(jax.vmap(over_rates, (0, 0, 0, None)))(*of_runs))


def picture(table: pd.DataFrame) -> Figure:
    """Accuracy against the share that is there: the mean over seeds, and their range."""
    figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, style in palette.styles(METHODS).items():
        seeds = table[table.method == name].groupby("present").accuracy
        mean = seeds.mean()
        ax.plot(mean.index, mean, label=name, **style)
        ax.fill_between(mean.index, seeds.min(), seeds.max(), color=style["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel="share of the workers that are there", ylabel="accuracy of those that are there")
    ax.legend(frameon=False)
    sns.despine(figure)
    return figure
