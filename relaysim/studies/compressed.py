"""Do relayed sums bear compression? RelaySGD with compressed messages and a memory at each hop, beside
CHOCO-SGD and BEER over gossip: suboptimality against the bytes that a worker has sent."""

from collections.abc import Callable
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

from relaysim import compress, topology
from relaysim.algorithms import beer, choco_sgd, relaysgd, relaysgd_grad
from relaysim.compress import Compressor
from relaysim.mixing import gossip
from relaysim.simulate import simulate
from relaysim.tasks import Quadratics, random_quadratics
from relaysim.types import Algorithm

COLUMNS = ["method", "compressor", "learning_rate", "gamma", "step", "kilobytes", "suboptimality"]
FLOOR = 1e-12

COMPRESSORS = {
    "everything": compress.top_k(1.0),
    "8 bits an entry": compress.quantize(8),
    "4 bits an entry": compress.quantize(4),
    "largest 10 %": compress.top_k(0.1),
    "signs": compress.sign(),
}
COLOURS = dict(zip(COMPRESSORS, ("0.4", "tab:purple", "tab:green", "tab:orange", "tab:blue"), strict=True))


class Entry(NamedTuple):
    build: Callable[[Any, optax.GradientTransformation, int, Compressor, Any], Algorithm]
    """(grad, optimizer, n, compressor, γ) -> method"""
    gammas: tuple[float, ...] = (1.0,)
    """Consensus steps that are searched besides the learning rates."""


def _relay(tree: Callable[[int], topology.Topology]) -> Entry:
    return Entry(lambda grad, opt, n, c, gamma: relaysgd(grad, compress.relay_sum(tree(n), c), opt))


ENTRIES = {
    "RelaySGD, binary tree": _relay(topology.binary_tree),
    "RelaySGD, chain": _relay(topology.chain),
    "RelaySGD/Grad, chain": Entry(
        lambda grad, opt, n, c, gamma: relaysgd_grad(
            grad, compress.relay_sum(topology.chain(n), c, of="updates"), opt
        )
    ),
    "CHOCO-SGD, ring": Entry(
        lambda grad, opt, n, c, gamma: choco_sgd(
            grad, gossip(topology.ring(n)), opt, compressor=c, gamma=gamma
        ),
        (1.0, 0.3, 0.1),
    ),
    "BEER, ring": Entry(
        lambda grad, opt, n, c, gamma: beer(grad, gossip(topology.ring(n)), opt, compressor=c, gamma=gamma),
        (1.0, 0.3, 0.1),
    ),
}


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """Each method with each compressor at its best learning rate (and γ) of a grid of powers of two.

    Quadratics of 32 workers in 50 dimensions with ζ² = 1 and exact gradients, 1000 steps from 0; best is what
    has the least mean log error, down to FLOOR. The columns are COLUMNS.
    """
    n, dim, steps = (4, 10, 20) if smoke else (32, 50, 1000)
    rates = 2.0 ** np.arange(-3 if smoke else -8, 2)
    task = random_quadratics(jax.random.key(0), n, dim, zeta2=1.0)
    pairs = [(entry, c) for entry in ENTRIES for c in COMPRESSORS]
    return pd.concat(
        [_best(task, entry, c, rates, steps) for entry, c in tqdm(pairs, disable=not progress)],
        ignore_index=True,
    )


def _best(task: Quadratics, name: str, compressor: str, rates: np.ndarray, steps: int) -> pd.DataFrame:
    entry, every = ENTRIES[name], steps // 20
    rate, gamma = (grid.ravel() for grid in np.meshgrid(rates, entry.gammas))

    def one(rate: Any, gamma: Any) -> Any:
        method = entry.build(task.grad, optax.sgd(rate), task.num_workers, COMPRESSORS[compressor], gamma)
        start = task.init(jax.random.key(1))
        return simulate(jax.random.key(2), method, start, num_steps=steps, every=every, measure=task.measure)

    trace = jax.vmap(one)(jnp.asarray(rate), jnp.asarray(gamma))
    error = np.asarray(trace.metrics["suboptimality"], np.float64)
    log = np.log(np.clip(np.where(np.isfinite(error), error, np.inf), FLOOR, 1e30))
    best = log.mean(1).argmin()
    sent = np.asarray(trace.metrics["bytes_sent"], np.float64).reshape(-1, error.shape[1])[0]
    rows = {
        "learning_rate": rate[best],
        "gamma": gamma[best],
        "step": np.arange(1, error.shape[1] + 1) * every,
        "kilobytes": sent / 1000,
        "suboptimality": error[best],
    }
    return pd.DataFrame({"method": name, "compressor": compressor} | rows)[COLUMNS]


def picture(table: pd.DataFrame) -> Figure:
    """A panel for each method, a line for each compressor."""
    names = list(dict.fromkeys(table.method))
    figure, axes = plt.subplots(1, len(names), figsize=(17, 4), sharey=True, layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        for compressor, rows in table[table.method == name].groupby("compressor", sort=False):
            gamma, error = rows.gamma.iloc[0], rows.suboptimality.clip(lower=FLOOR)
            label = compressor + (f", γ = {gamma:g}" if gamma != 1 else "")
            label += " (diverges)" if error.iloc[-1] > 10 else ""
            ax.plot(rows.kilobytes, error, color=COLOURS[compressor], label=label)
        ax.set(xscale="log", yscale="log", title=name, xlabel="kB sent by a worker")
        ax.legend(frameon=False, fontsize="small")
    axes[0].set(ylabel="suboptimality of all workers", ylim=(FLOOR / 2, 10))
    sns.despine(figure)
    return figure
