"""Figure 2: steps to a suboptimality of 1e-6 against the number of workers, every method with its best rate.

Each worker holds a quadratic of d = 10 variables. D-PSGD ("Gossip") and RelaySGD/Grad, whose learning rate
decides how near they come to the optimum, start at a distance of r0 = 10 from it and are tuned by
`tuning.plateau` where ζ² > 0; the other methods start at r0 = 100 and are tuned by `tuning.fastest`.

    python -m relaysim.papers.relaysum.figure2 --out DIR [--smoke]   a table and a picture, on problems of our
    own python -m relaysim.papers.relaysum.figure2 --published DIR       the published rows, on the published
    problems
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim import topology, tuning
from relaysim.catalogue import METHODS
from relaysim.mixing import all_reduce, gossip, one_peer_exponential, relay_sum
from relaysim.tasks import random_quadratics
from relaysim.threads import side_by_side
from relaysim.types import Algorithm, Array, Key, Mixer

GRAPHS = {"ring": topology.ring, "chain": topology.chain, "tree": topology.binary_tree, "star": topology.star}


class Entry(NamedTuple):
    """A method in the comparison, by its published name."""

    name: str
    method: str
    """Its name in the catalogue."""
    mixer: Callable[[str, int], Mixer]
    """(topology, n) -> mixer."""
    topologies: list[str]
    biased: bool = False
    """Whether heterogeneity keeps it from the optimum."""

    @property
    def algorithm(self) -> Callable[..., Algorithm]:
        return METHODS[self.method].build

    @property
    def label(self) -> str:
        return METHODS[self.method].label

    @property
    def colour(self) -> str:
        return METHODS[self.method].colour


def _gossip(name: str, n: int) -> Mixer:
    return gossip(GRAPHS[name](n))


def _relay(name: str, n: int) -> Mixer:
    return relay_sum(GRAPHS[name](n))  # what is missing counts as the start


def _two_peers(name: str, n: int) -> Mixer:
    return one_peer_exponential(n, rounds=2)


def _exact(name: str, n: int) -> Mixer:
    return all_reduce(n)


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("Gossip", "dpsgd", _gossip, ["ring", "tree"], biased=True),
        Entry("RelaySum/Grad", "relaysgd-grad", _relay, ["chain", "tree"], biased=True),
        Entry("SGP", "sgp-two-peers", _two_peers, ["exponential"]),
        Entry("Gradient tracking", "gradient-tracking", _gossip, ["ring", "tree"]),
        Entry("D2", "d2", _gossip, ["ring"]),
        Entry("RelaySum/Model", "relaysgd", _relay, ["chain", "tree"]),
        Entry("All-reduce", "allreduce", _exact, ["ring", "tree"]),
    )
}


class _Problem(NamedTuple):
    """f_i(x) − f_i(0) = ½ xᵀ H_i x − c_iᵀ x: a gradient takes one product where A_iᵀ (A_i x − b_i) takes two.

    The conditioning of A_i is squared, which in double precision harms none of the problems here.
    """

    hessians: Any
    """(n, d, d) H_i = A_iᵀ A_i"""
    c: Any
    """(n, d) A_iᵀ b_i"""
    H: Any
    """(d, d) the mean of H_i"""
    x_star: Any
    """(d,) the joint optimum"""

    def init(self, key: Key) -> Array:
        return jnp.zeros_like(self.c)

    def grad(self, key: Key, step: Array, x: Array) -> tuple[Array, Array]:
        Hx = jnp.einsum("nij,nj->ni", self.hessians, x)
        return (x * (Hx / 2 - self.c)).sum(1), Hx - self.c

    def measure(self, x: Array) -> dict[str, Array]:
        away = x.mean(0) - self.x_star
        return {"suboptimality": away @ self.H @ away}


def _problem(A: Any, b: Any) -> _Problem:
    A, b = np.asarray(A), np.asarray(b)
    transposed = A.transpose(0, 2, 1)
    hessians, c = transposed @ A, (transposed @ b[..., None])[..., 0]
    H = hessians.mean(0)
    return _Problem(hessians, c, H, np.linalg.solve(H, c.mean(0)))


DTYPES = {
    "algorithm": "str", "topology": "str", "num_workers": "int64", "zeta2": "float64", "r0": "float64",
    "seed": "int64", "d": "int64", "mu": "float64", "target": "float64", "steps": "float64",
    "learning_rate": "float64", "problem": "str",
}  # fmt: skip


def run(smoke: bool = False, progress: bool = True, *, seeds: int = 10) -> pd.DataFrame:
    """Tune every method on problems of our own draw, for a seed and a number of workers the same for all.

    Returns:
      One row a search, with the columns of the published table: algorithm, topology, num_workers, zeta2, r0,
      seed, d, mu, target, steps (inf where no learning rate reaches the target), learning_rate, problem.
    """
    rows = _grid([4, 6, 8], range(1)) if smoke else _grid([4, 6, 8, 12, 16, 24, 32, 48, 64, 96], range(seeds))
    tuned = _tune(rows, _draw(rows), progress)
    return rows.assign(steps=tuned.steps, learning_rate=tuned.learning_rate)[list(DTYPES)]


def picture(table: pd.DataFrame) -> Figure:
    """Steps against n, a panel for each topology and ζ²: the median of the seeds bold, their range shaded."""
    columns = list(
        table[["r0", "zeta2"]].drop_duplicates().sort_values(["r0", "zeta2"]).itertuples(index=False)
    )
    lines = [("ring or chain", ["ring", "chain", "exponential"]), ("binary tree", ["tree", "exponential"])]
    figure, axes = plt.subplots(
        2,
        len(columns),
        figsize=(3 * len(columns), 6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (row, (graph, names)), (column, (r0, zeta2)) in itertools.product(
        enumerate(lines), enumerate(columns)
    ):
        ax = axes[row, column]
        panel = table[table.topology.isin(names) & (table.r0 == r0) & (table.zeta2 == zeta2)]
        for name, rows in panel[np.isfinite(panel.steps)].groupby("algorithm"):
            entry, seeds = ENTRIES[str(name)], rows.groupby("num_workers").steps
            middle = seeds.median()
            ax.plot(middle.index, middle, "o-", color=entry.colour, markersize=3, label=entry.label)
            ax.fill_between(
                middle.index, seeds.min(), seeds.max(), color=entry.colour, alpha=0.2, linewidth=0
            )
        ax.set(xscale="log", yscale="log")
        ax.set_title(f"{graph}, ζ² = {zeta2:g}, r0 = {r0:g}", fontsize=9)
    sizes = sorted(table.num_workers.unique())[::2]
    axes[0, 0].set_xticks(sizes, sizes)
    axes[0, 0].xaxis.minorticks_off()
    for ax in axes[-1]:
        ax.set(xlabel="number of workers n")
    for ax in axes[:, 0]:
        ax.set(ylabel=f"steps to {table.target.iloc[0]:g}")
    handles = {
        label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=7, frameon=False)
    sns.despine(figure)
    return figure


def check(folder: Path | str, progress: bool = True) -> bool:
    """Run the published rows on their own problems, and print how the numbers of steps compare.

    Args:
      folder: with `figure2_tuned.csv`, the columns of `run`, and `quadratics.npz`, which holds each row's
        problem under NAME/A (n, d, d) and NAME/b (n, d).

    Returns:
      Whether at least 98 in 100 rows have exactly the published steps and no other differs by more than 5 %.

    Raises:
      ValueError: where a file is missing or does not hold what it should.
    """
    rows, arrays = read(folder)
    problems = {name: _problem(A, b) for name, (A, b) in arrays.items()}
    tuned = _tune(rows, problems, progress)
    found = rows.assign(ours=tuned.steps, our_rate=tuned.learning_rate)
    found["difference"] = np.abs(found.ours / found.steps - 1)
    kinds = [*found.groupby("algorithm"), ("all", found)]
    report = pd.DataFrame(
        [(name, len(rows), (rows.difference == 0).sum(), rows.difference.max()) for name, rows in kinds],
        columns=["algorithm", "rows", "exact", "largest difference"],
    )
    click.echo(report.to_string(index=False, formatters={"largest difference": "{:.2%}".format}))
    others = found[found.difference > 0]
    if len(others):
        columns = ["algorithm", "topology", "problem", "steps", "ours", "learning_rate", "our_rate"]
        click.echo("\nRows that differ:\n" + others[columns].to_string(index=False))
    exact = len(found) - len(others)
    return bool(exact >= 0.98 * len(found) and found.difference.max() <= 0.05)


def read(folder: Path | str) -> tuple[pd.DataFrame, dict[str, tuple[Any, Any]]]:
    """The published rows and their problems, name -> (A, b).

    Raises:
      ValueError: where a file is missing or does not hold what it should.
    """
    table, archive = (Path(folder) / name for name in ("figure2_tuned.csv", "quadratics.npz"))
    for path in (table, archive):
        if not path.is_file():
            raise ValueError(f"folder {folder} has no {path.name}")
    rows = pd.read_csv(table)
    if missing := [name for name in DTYPES if name not in rows]:
        raise ValueError(f"{table} lacks the columns {', '.join(missing)}")
    try:
        rows = rows[list(DTYPES)].astype(DTYPES)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{table} holds what is not a number: {error}") from error
    if rows.empty:
        raise ValueError(f"{table} has no rows")
    for row in rows.itertuples():
        where = f"{table}, row {row.Index}"
        if row.algorithm not in ENTRIES:
            raise ValueError(f"{where}: algorithm is {row.algorithm!r}, expected one of {', '.join(ENTRIES)}")
        names = {"ring", "tree"} if row.algorithm == "D2" else set(ENTRIES[row.algorithm].topologies)
        if row.topology not in names:
            raise ValueError(
                f"{where}: topology is {row.topology!r}, expected one of {', '.join(sorted(names))}"
            )
        for name in ("num_workers", "d", "target", "steps"):
            if not 0 < getattr(row, name) < np.inf:
                raise ValueError(f"{where}: {name} is {getattr(row, name)}, expected a number > 0")
        if not row.zeta2 >= 0:
            raise ValueError(f"{where}: zeta2 is {row.zeta2}, expected a number ≥ 0")
    return rows, _read_problems(archive, rows)


def _read_problems(archive: Path, rows: pd.DataFrame) -> dict[str, tuple[Any, Any]]:
    problems = {}
    try:
        with np.load(archive, allow_pickle=False) as arrays:
            for name, n, d in rows[["problem", "num_workers", "d"]].drop_duplicates().itertuples(index=False):
                A, b = (np.asarray(arrays[f"{name}/{part}"], np.float64) for part in ("A", "b"))
                if A.shape != (n, d, d) or b.shape != (n, d):
                    raise ValueError(
                        f"{name} has A {A.shape} and b {b.shape}, the rows need {(n, d, d)} and {(n, d)}"
                    )
                if not (np.isfinite(A).all() and np.isfinite(b).all()):
                    raise ValueError(f"{name} holds numbers that are not finite")
                problems[name] = A, b
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{archive}: {error}") from error
    return problems


def _grid(sizes: list[int], seeds: range) -> pd.DataFrame:
    """The rows of the figure: the biased methods up to n = 64, the others at n = 6, 12, 24, …, SGP at all."""
    cells = [
        (entry.name, graph, n, zeta2, 10.0 if entry.biased else 100.0, seed)
        for entry in ENTRIES.values()
        for graph in entry.topologies
        for n in sizes
        if (n <= 64 if entry.biased else n % 3 == 0 or entry.name == "SGP")
        for zeta2 in ((0.0, 0.01, 0.1) if entry.biased else (0.01, 1.0))
        for seed in seeds
    ]
    rows = pd.DataFrame(cells, columns=["algorithm", "topology", "num_workers", "zeta2", "r0", "seed"])
    names = [f"n{row.num_workers}_zeta{row.zeta2:g}_r{row.r0:g}_seed{row.seed}" for row in rows.itertuples()]
    return rows.assign(d=10, mu=0.5, target=1e-6, problem=names)


def _draw(rows: pd.DataFrame) -> dict[str, _Problem]:
    """The rows' problems by name."""

    def draw(case: tuple[tuple[int, int, float], pd.DataFrame]) -> dict[str, _Problem]:
        (n, d, mu), same = case

        @jax.jit
        def one(key: Key, zeta2: float, r0: float) -> tuple[Array, Array]:
            task = random_quadratics(key, n, d, zeta2=zeta2, mu=mu, r0=r0)
            return task.A, task.b

        return {
            row.problem: _problem(*one(jax.random.key(row.seed), row.zeta2, row.r0))
            for row in same.itertuples()
        }

    cases = rows.drop_duplicates("problem").groupby(["num_workers", "d", "mu"])
    with jax.enable_x64(True):
        return {name: problem for drawn in side_by_side(draw, cases) for name, problem in drawn.items()}


def _tune(rows: pd.DataFrame, problems: dict[str, _Problem], progress: bool) -> tuning.Tuned:
    """The searches of all rows. Those of one method, graph and size share a program."""
    graph = rows.topology.where(rows.algorithm != "All-reduce", "")
    kinds = rows.groupby(["algorithm", graph, "num_workers", "d"])
    groups = [rows.iloc[places] for places in kinds.indices.values()]
    groups.sort(key=lambda group: -group.num_workers.iloc[0])  # the longest first

    def tune(group: pd.DataFrame) -> tuning.Tuned:
        entry, name, n = ENTRIES[group.algorithm.iloc[0]], group.topology.iloc[0], group.num_workers.iloc[0]
        mixer = entry.mixer(name, int(n))

        def make(task: _Problem, rate: Array) -> Algorithm:
            return entry.algorithm(task.grad, mixer, optax.sgd(rate))

        start = 100.0 if entry.biased else 10.0
        searches = [
            (tuning.plateau_search if entry.biased and zeta2 > 0 else tuning.fastest_search)(target, start)
            for zeta2, target in zip(group.zeta2, group.target, strict=True)
        ]
        tasks = jax.tree.map(lambda *leaves: np.stack(leaves), *[problems[name] for name in group.problem])
        tuned = tuning.tune(make, tasks, searches, lanes=8)
        bar.update(len(group))
        return tuned._replace(learning_rate=published_rate(tuned.learning_rate, entry.biased, group.zeta2))

    with tqdm(total=len(rows), disable=not progress, unit="row") as bar, jax.enable_x64(True):
        tuned = side_by_side(tune, groups)
    order = np.argsort(np.concatenate([rows.index.get_indexer(group.index) for group in groups]))
    return tuning.Tuned(*(np.concatenate(columns)[order] for columns in zip(*tuned, strict=True)))


def published_rate(rates: np.ndarray, biased: bool, zeta2: Any) -> np.ndarray:
    """What the published table records for searched rates: of searches for the fastest run half of its
    rate."""
    return np.where(biased & (np.asarray(zeta2) > 0), rates, rates / 2)
