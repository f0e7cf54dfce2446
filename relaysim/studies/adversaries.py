"""How exposed a relayed sum is to one liar, beside gossip and robust averages."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim import attack, palette, robust
from relaysim.algorithms import dpsgd
from relaysim.metrics import of_workers
from relaysim.mixing import gossip, relay_sum
from relaysim.simulate import simulate
from relaysim.tasks import random_quadratics
from relaysim.topology import chain, fully_connected, ring, star
from relaysim.types import Array, Mixer

WORKERS, DIM, STEPS, RATE, ZETA2 = 16, 10, 500, 0.1, 0.01
VALUES = tuple(10.0**k for k in range(6))
MIXERS: dict[str, tuple[Callable[[], Mixer], int]] = {
    "RelaySGD, end of a chain": (lambda: relay_sum(chain(WORKERS)), 0),
    "RelaySGD, middle of a chain": (lambda: relay_sum(chain(WORKERS)), 8),
    "RelaySGD, centre of a star": (lambda: relay_sum(star(WORKERS)), 0),
    "gossip, ring": (lambda: gossip(ring(WORKERS)), 0),
    "clipped gossip, ring": (lambda: robust.clipped_gossip(ring(WORKERS), attackers=1), 0),
    "gossip, all": (lambda: gossip(fully_connected(WORKERS)), 0),
    "clipped gossip, all": (lambda: robust.clipped_gossip(fully_connected(WORKERS), attackers=1), 0),
    "trimmed mean, all": (lambda: robust.trimmed_mean(fully_connected(WORKERS), attackers=1), 0),
}
"""The mixer, and who lies."""


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """A row a mixer, value and seed: the suboptimality of the honest workers' mean model after 500 steps,
    where one of 16 workers always says `value` in each of 10 numbers."""
    rows, seeds = [], 1 if smoke else 3
    mixers = dict(list(MIXERS.items())[: 2 if smoke else None])
    for name, (mixer, liar) in tqdm(mixers.items(), disable=not progress, unit="mixer"):
        found = np.asarray(_errors(mixer(), np.arange(WORKERS) == liar, seeds))
        rows += [
            {"averaging": name, "value": value, "seed": seed, "suboptimality": found[seed, i]}
            for i, value in enumerate(VALUES)
            for seed in range(seeds)
        ]
    return pd.DataFrame(rows)


def _errors(mixer: Mixer, mask: np.ndarray, seeds: int) -> Array:
    def one(seed: Array, value: Array) -> Array:
        task = random_quadratics(jax.random.key(seed), WORKERS, DIM, mu=0.5, zeta2=ZETA2)
        method = attack.constant(dpsgd(task.grad, mixer, optax.sgd(RATE)), mask, value=value)
        measure, start = of_workers(task.measure, ~mask), task.init(jax.random.key(0))
        trace = simulate(jax.random.key(1), method, start, num_steps=STEPS, every=STEPS, measure=measure)
        return trace.metrics["suboptimality"][-1]

    both = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
    return jax.jit(both)(jnp.arange(seeds), jnp.array(VALUES))


def picture(table: pd.DataFrame) -> Figure:
    """Suboptimality over what the liar says."""
    grid = sns.relplot(
        table, x="value", y="suboptimality", hue="averaging", style="averaging", kind="line", markers=True,
        errorbar=("pi", 100), height=4, aspect=1.5, palette=palette.colours(dict.fromkeys(table.averaging)),
    )  # fmt: skip
    grid.set(
        xscale="log", yscale="log", xlabel="what one liar of 16 says", ylabel="suboptimality of the honest"
    )
    return grid.figure
