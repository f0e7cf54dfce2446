"""Figures 7, 8 and 10: how the cost of a method depends on the heterogeneity ζ².

n = 32 workers hold quadratics of d = 10 variables (μ = 0.5, r0 = 1). Each method's learning rate is tuned,
for every ζ² and problem apart, to reach a suboptimality of 1e-6: by `tuning.fastest`, or by
`tuning.plateau` for the methods that heterogeneity keeps from the optimum, which come nearer only by taking
smaller steps.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim import tuning
from relaysim.papers.relaysum.figure2 import ENTRIES, Entry
from relaysim.simulate import simulate
from relaysim.tasks import Quadratics, random_quadratics
from relaysim.types import Algorithm, Array

TARGET, DIM, MU, R0 = 1e-6, 10, 0.5, 1.0


class Contender(NamedTuple):
    """A method on a topology, by the names of figure 2."""

    name: str
    topology: str

    @property
    def entry(self) -> Entry:
        return ENTRIES[self.name]

    @property
    def label(self) -> str:
        return f"{self.entry.label}, {self.topology}"


def compare(
    contenders: Sequence[Contender],
    zeta2s: Sequence[float],
    *,
    noises: Sequence[float] = (0.0,),
    num_workers: int = 32,
    seeds: int = 5,
    num_steps: int = 2000,
    progress: bool = True,
) -> pd.DataFrame:
    """Tune the contenders without noise, then run them at their best rates, with and without.

    Args:
      contenders: what to compare.
      zeta2s: the heterogeneities ζ².
      noises: σ of the gradient noise in the runs that are recorded.
      num_workers: n.
      seeds: problems for each ζ².
      num_steps: the length of the recorded runs.
      progress: show a bar.

    Returns:
      One row a record of a run, at some 150 steps evenly spaced in the logarithm: method, zeta2, seed, steps
      (to 1e-6, inf where no learning rate gets there), learning_rate, noise, step, suboptimality.
    """
    cells = [(zeta2, seed) for zeta2 in zeta2s for seed in range(seeds)]
    kept = np.unique(np.geomspace(1, num_steps, 150).astype(int))
    tables = []
    with jax.enable_x64(True), tqdm(total=len(contenders), disable=not progress, unit="method") as bar:
        tasks = tuning.stack(
            [random_quadratics(jax.random.key(s), num_workers, DIM, zeta2=z, mu=MU, r0=R0) for z, s in cells]
        )
        for contender in contenders:
            bar.set_description(contender.label)
            entry, mixer = contender.entry, contender.entry.mixer(contender.topology, num_workers)

            def make(task: Quadratics, rate: Array, entry: Entry = entry, mixer=mixer) -> Algorithm:
                return entry.algorithm(task.grad, mixer, optax.sgd(rate))

            tuned = _tune(make, tasks, entry.biased, [zeta2 for zeta2, _ in cells])
            rates = np.nan_to_num(tuned.learning_rate, nan=1e-3)

            def trajectory(task: Quadratics, rate: Array, noise: Array, make=make) -> Array:
                noisy = dataclasses.replace(task, noise=noise)
                start = noisy.init(jax.random.key(0))
                run = simulate(
                    jax.random.key(1), make(noisy, rate), start, num_steps=num_steps, measure=noisy.measure
                )
                return run.metrics["suboptimality"]

            over_cells = jax.vmap(trajectory, (0, 0, None))
            values = jax.vmap(over_cells, (None, None, 0))(tasks, jnp.asarray(rates), jnp.asarray(noises))
            for noise, runs in zip(noises, np.asarray(values), strict=True):
                for (zeta2, seed), steps, rate, run in zip(cells, tuned.steps, rates, runs, strict=True):
                    record = {"method": contender.label, "zeta2": zeta2, "seed": seed, "steps": steps}
                    record |= {"learning_rate": rate, "noise": noise, "step": kept}
                    tables.append(pd.DataFrame(record | {"suboptimality": run[kept - 1]}))
            bar.update()
    return pd.concat(tables, ignore_index=True)


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """The steps to 1e-6, a row for each method and a column for each ζ²: the median over the problems."""
    runs = table.drop_duplicates(["method", "zeta2", "seed"])
    methods = list(dict.fromkeys(table.method))
    return runs.pivot_table(index="method", columns="zeta2", values="steps", aggfunc="median").loc[methods]


def picture(table: pd.DataFrame) -> Figure:
    """Suboptimality against steps, a panel for each noise and ζ², the problem of seed 0 in each."""
    noises, zeta2s = sorted(table.noise.unique()), sorted(table.zeta2.unique())
    contenders = {c.label: c for c in _all_contenders(table)}
    figure, axes = plt.subplots(
        len(noises),
        len(zeta2s),
        figsize=(4 * len(zeta2s), 1 + 3 * len(noises)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, noise in zip(axes, noises, strict=True):
        for ax, zeta2 in zip(row, zeta2s, strict=True):
            panel = table[(table.noise == noise) & (table.zeta2 == zeta2) & (table.seed == 0)]
            for method, run in panel.groupby("method", sort=False):
                contender = contenders[str(method)]
                style = "--" if contender.topology == "tree" else "-"
                ax.plot(run.step, run.suboptimality, style, color=contender.entry.colour, label=method)
            ax.axhline(TARGET, color="0.5", linestyle=":", linewidth=1)
            ax.set(xscale="log", yscale="log", ylim=(1e-8, 3))
            ax.set_title(f"ζ² = {zeta2:g}" + (f", noise σ = {noise:g}" if noise else ""), fontsize=10)
    for ax in axes[-1]:
        ax.set(xlabel="steps")
    for ax in axes[:, 0]:
        ax.set(ylabel="suboptimality")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    sns.despine(figure)
    return figure


@dataclasses.dataclass(frozen=True)
class Study:
    """A figure."""

    contenders: list[Contender]
    zeta2s: list[float]
    noises: tuple[float, ...] = (0.0,)

    def run(self, smoke: bool = False, progress: bool = True) -> pd.DataFrame:
        """The table of `compare`; as a test of two contenders, small."""
        if smoke:
            few, small = (
                [self.contenders[0], self.contenders[-1]],
                {"num_workers": 4, "seeds": 1, "num_steps": 20},
            )
            return compare(few, [0.0, 0.1], noises=self.noises, progress=progress, **small)
        return compare(self.contenders, self.zeta2s, noises=self.noises, progress=progress)

    picture = staticmethod(picture)


_RIVALS = ("Gossip", "Gradient tracking", "D2")
FIGURE_7 = Study(
    [*(Contender(name, "ring") for name in _RIVALS), Contender("RelaySum/Model", "chain")],
    [0.0, 0.1, 10.0],
    noises=(0.0, 0.1),
)
"""Without and with gradient noise: on a ring D-PSGD and its rivals, on a chain RelaySGD. Heterogeneity costs
RelaySGD next to nothing, D² little, gradient tracking more, and D-PSGD ever more without bound: its bias
shrinks only with its steps."""
FIGURE_8 = Study([Contender(name, "star") for name in (*_RIVALS, "RelaySum/Model")], [0.0, 0.01, 0.1])
"""On a star, where one worker is everybody's only neighbour: RelaySGD averages in two steps. Metropolis
weights mix as slowly as 1/n, which D² pays for at any heterogeneity, and D-PSGD and gradient tracking as soon
as there is some."""
FIGURE_10 = Study(
    [Contender(name, graph) for graph in ("chain", "tree") for name in ("RelaySum/Model", "RelaySum/Grad")],
    [0.0, 0.1, 10.0],
)
"""RelaySGD against RelaySGD/Grad, which relays the updates instead of the models. Each update reaches every
worker with the same weight in both. But where updates are relayed, the models stay as far apart as the
updates under way differ, which they do, even at the optimum, where workers have different data. Where models
are relayed they are pulled together."""


def _tune(make: tuning.Make, tasks: Quadratics, biased: bool, zeta2s: list[float]) -> tuning.Tuned:
    searches = [
        tuning.plateau_search(TARGET, 100.0) if biased and zeta2 else tuning.fastest_search(TARGET, 10.0)
        for zeta2 in zeta2s
    ]
    return tuning.tune(make, tasks, searches)


def _all_contenders(table: pd.DataFrame) -> list[Contender]:
    found = [Contender(name, t) for name in ENTRIES for t in ("ring", "chain", "tree", "star", "exponential")]
    return [c for c in found if c.label in set(table.method)]
