"""The tables of the RelaySum paper on deep learning: accuracies of workers with different data.

Table 2 (every method, three degrees of heterogeneity), a ring against double binary trees, Table 4 (texts,
Adam), Table 5 (messages lost) and more workers than 16. `run` trains, `summary` puts the paper's numbers
beside ours, `picture` draws both. Each cell is a run of `relaysim train`, with the settings of `cell`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from relaysim import catalogue, training
from relaysim.compare import Comparison, Search, compare, search
from relaysim.tasks import Dataset
from relaysim.training import Settings

Cell = tuple[str, float, float]
"""(method, α, probability that a message is lost)"""
Rates = Mapping[tuple[str, float], float]
"""(method, α) -> learning rate"""


_MOMENTUM = {"momentum": 0.9}
_CHAIN = {"topology": "chain"}
_TREES = {"topology": "double-binary-trees"}
_ADAM = {"optimizer": "adam", "weight_decay": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "all-reduce, fully connected": {"method": "allreduce"},
    "all-reduce + momentum": {"method": "allreduce", **_MOMENTUM},
    "RelaySGD, double binary trees": {"method": "relaysgd"},
    "RelaySGD + local momentum, double binary trees": {"method": "relaysgd", **_MOMENTUM},
    "RelaySGD, chain": {"method": "relaysgd", **_CHAIN},
    "RelaySGD + local momentum, chain": {"method": "relaysgd", **_CHAIN, **_MOMENTUM},
    "RelaySGD/Grad, chain": {"method": "relaysgd-grad", **_CHAIN},
    "RelaySGD/Grad + local momentum, chain": {"method": "relaysgd-grad", **_CHAIN, **_MOMENTUM},
    "D-PSGD, ring": {"method": "dpsgd"},
    "D-PSGD + quasi-global momentum, ring": {"method": "quasi-global-momentum"},
    "D2, ring": {"method": "d2"},
    "D2 + local momentum, ring": {"method": "d2", **_MOMENTUM},
    "SGP, time-varying exponential": {"method": "sgp-two-peers"},
    "SGP + local momentum, time-varying exponential": {"method": "sgp-two-peers", **_MOMENTUM},
    "D-PSGD, double binary trees": {"method": "dpsgd", **_TREES},
    "D-PSGD + quasi-global momentum, double binary trees": {"method": "quasi-global-momentum", **_TREES},
    "D2, double binary trees": {"method": "d2", **_TREES},
    "D2 + local momentum, double binary trees": {"method": "d2", **_TREES, **_MOMENTUM},
    "all-reduce Adam, fully connected": {"method": "allreduce", **_ADAM},
    "Relay-Adam, chain": {"method": "relaysgd", **_CHAIN, **_ADAM},
    "D-PSGD Adam, ring": {"method": "dpsgd", **_ADAM},
    "D-PSGD Adam + quasi-global momentum, ring": {
        "method": "quasi-global-momentum", "optimizer": "rms", "weight_decay": 0.0,
    },
}  # fmt: skip
"""The methods of the paper's Tables 2 and 4 by its names, on other topologies too: what makes them differ."""


class Table(NamedTuple):
    title: str
    methods: Sequence[str]
    alphas: Sequence[float] = (0.01,)
    drops: Sequence[float] = (0.0,)
    workers: Sequence[int] = ()
    """Empty for those of the setting."""
    paper: Mapping[Cell, float | str] = {}
    """The paper's accuracies in %: of VGG-11 on CIFAR-10 after 200 epochs, of DistilBERT on AG News."""
    data: str = "fashion-mnist"
    """By default, and for so many epochs:"""
    epochs: int = 3


_HERE = Path(__file__).parent
_PUBLISHED = pd.read_csv(_HERE / "accuracies.csv")
_ALPHAS, _DROPS = (1.0, 0.1, 0.01), (0.0, 0.01, 0.1)


def _table(name: str, title: str, **options: Any) -> Table:
    """With the methods and numbers of the paper."""
    rows = _PUBLISHED[_PUBLISHED.table == name]
    told = [float(text) if text[0].isdigit() else text for text in rows.accuracy]
    paper = dict(zip(zip(rows.method, rows.alpha, rows["drop"], strict=True), told, strict=True))
    return Table(title, list(dict.fromkeys(rows.method)), paper=paper, **options)


def _rates(source: str) -> Rates:
    rows = pd.read_csv(_HERE / "rates.csv").query("source == @source")
    return dict(zip(zip(rows.method, rows.alpha, strict=True), rows.learning_rate, strict=True))


RATES, PAPER_RATES = _rates("ours"), _rates("paper")
"""(method, α) -> learning rate: ours as searched, for the small CNN on Fashion-MNIST (16 workers, 3 epochs)
and the small transformer on texts (12 epochs), but for RelaySGD on double binary trees at α = 0.1, where the
rate that was found diverges with one seed in six; and the paper's for VGG-11 on CIFAR-10 (200 epochs),
RelaySGD/Grad with those of all-reduce, as it gives none."""

TABLES = {
    "2": _table("2", "Table 2: test accuracy by method and heterogeneity", alphas=_ALPHAS),
    "topologies": _table("topologies", "A ring or chain against double binary trees"),
    "4": _table("4", "Table 4 in small: texts", alphas=(0.1,), data="topics", epochs=12),
    "5": _table("5", "Table 5: messages lost with probability p", drops=_DROPS),
    "scaling": Table(
        "More workers on the same data",
        [
            "all-reduce + momentum",
            "RelaySGD + local momentum, double binary trees",
            "RelaySGD + local momentum, chain",
            "D-PSGD + quasi-global momentum, ring",
        ],
        workers=(16, 32, 64),
    ),
}


def small(
    dataset: str, folder: str | None = None, epochs: int = 3, workers: int = 16, model: str | None = None
) -> Settings:
    """For two cores: a small CNN, for texts a small transformer, and the learning rates of `RATES`.

    The warm-up is the paper's 5 epochs, but a twelfth of the run at most.
    """
    model = model or ("transformer" if dataset in catalogue.TEXTS else "small-cnn")
    return Settings(
        dataset, folder, model=model, workers=workers, epochs=epochs, weight_decay=1e-4,
        warmup=min(5, epochs / 12), milestones=(0.75, 0.9),
    )  # fmt: skip


def full(folder: str | None = None) -> Settings:
    """The paper's setting, for `PAPER_RATES`: VGG-11 on CIFAR-10 for 200 epochs.

    The paper gives no rates for RelaySGD/Grad, which takes those of all-reduce here.
    """
    return replace(small("cifar10", folder, 200, model="vgg11"), augment=True)


def cell(setting: Settings, method: str, **changes: Any) -> Settings:
    """The settings of a cell: those that all have in common, with what makes the method, and alpha and
    drop."""
    return replace(setting, **{"topology": None, **METHODS[method], **changes})


def run(
    table: Table,
    setting: Settings,
    *,
    seeds: int = 3,
    rates: Rates | Search = RATES,
    out: Path | None = None,
    progress: bool = True,
    data: Dataset | None = None,
) -> pd.DataFrame:
    """Train all rows of a table, each method at its own learning rate.

    Args:
      table: one of `TABLES`, or your own.
      setting: data, model, epochs and the like, such as `small("fashion-mnist")`.
      seeds: the seeds 0, 1, …; each fixes who holds which data, the initial model and the batches.
      rates: (method, α) -> learning rate, or a search for them.
      out: a folder to write each run to when it is done. Those that it holds are not trained again.
      data: instead of the data set that the setting names.

    Returns:
      One row a run: method, alpha, drop, workers, seed, learning_rate, data, model, epochs, accuracy (the
      mean over workers), worst (worker), mean_model, all three in %, NaN where the run diverged, and diverged
      (the step, or −1).

    Raises:
      ValueError: where `rates` lacks a method, or the folder holds other runs.
    """
    parts = [
        _runs(
            table, replace(setting, workers=workers), drop, seeds, rates, out, progress, data
        )
        for workers in table.workers or (setting.workers,)
        for drop in table.drops
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _runs(
    table: Table,
    setting: Settings,
    drop: float,
    seeds: int,
    rates: Any,
    out: Path | None,
    progress: bool,
    data: Any,
) -> pd.DataFrame:
    """Of one number of workers and probability of a loss."""
    tasks = {f"α = {alpha:g}": alpha for alpha in table.alphas}
    if isinstance(rates, Mapping):
        missing = sorted(set(itertools.product(table.methods, table.alphas)) - set(rates))
        if missing:
            raise ValueError(
                f"rates lacks the learning rate of {missing[0]}, expected all; a search (--search) finds them"
            )
        rates = {(task, m): float(rates[m, alpha]) for task, alpha in tasks.items() for m in table.methods}
    name = setting.dataset if data is None else data.name
    found: Comparison = compare(
        {name: training.method_of(cell(setting, name, drop=drop)) for name in table.methods},
        {task: training.task_of(replace(setting, alpha=alpha), data) for task, alpha in tasks.items()},
        num_steps=lambda task: training.steps_of(setting, task),
        every=lambda task: training.steps_of(setting, task),
        seeds=seeds,
        rates=rates,
        metric="accuracy",
        out=None if out is None else Path(out) / f"{setting.workers}workers-drop{drop:g}",
        about={"data": name, "model": setting.model, "epochs": setting.epochs},
        progress=progress,
    )
    runs = found.table
    return pd.DataFrame(
        {
            "method": runs.method,
            "alpha": runs.task.map(tasks),
            "drop": drop,
            "workers": setting.workers,
            "seed": runs.seed,
            "learning_rate": runs.learning_rate,
            "data": name,
            "model": setting.model,
            "epochs": setting.epochs,
            "accuracy": 100 * runs.accuracy,
            "worst": 100 * runs.worst,
            "mean_model": 100 * runs.mean_model_accuracy,
            "diverged": runs.diverged,
        }
    )


def searched(table: Table, seeds: Sequence[int] = (1000, 1001)) -> Search:
    """The search for the learning rates of a table: from 1/8, with momentum from 1/32, with Adam from
    1/512."""
    starts = {}
    for name in table.methods:
        adam = METHODS[name].get("optimizer", "sgd") != "sgd"
        starts[name] = 2.0**-9 if adam else 2.0**-5 if "momentum" in METHODS[name] else 2.0**-3
    return search(starts, seeds=seeds)


def summary(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over the seeds, with the paper's numbers beside them; a row a method.

    Runs that diverged count as such: where one did, their number stands in place of the mean.
    """

    def told(same: pd.DataFrame) -> str:
        diverged = (same.diverged >= 0).sum()
        if diverged:
            return f"{diverged} of {len(same)} diverge"
        return f"{same.accuracy.mean():.1f} ± {same.accuracy.std(ddof=0):.1f}"

    columns: dict[str, dict[str, str]] = {}
    for label, panel in _panels(runs):
        for method, same in panel.groupby("method", sort=False):
            columns.setdefault(label, {})[method] = told(same)
            paper = table.paper.get((method, same.alpha.iloc[0], same["drop"].iloc[0]))
            if paper is not None:
                columns.setdefault(f"paper, {label}", {})[method] = str(paper)
    return pd.DataFrame(columns).reindex(list(table.methods)).rename_axis("method")


def picture(table: Table, runs: pd.DataFrame) -> Figure:
    """A dot for each run and the paper's numbers as diamonds, a panel for each α, p and number of workers."""
    panels = _panels(runs)
    height = 1.6 + 0.32 * len(table.methods)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 + 3 * len(panels), height), sharey=True, sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    places = {method: -i for i, method in enumerate(table.methods)}
    for ax, (label, same) in zip(axes[0], panels, strict=True):
        ys = same.method.map(places)
        ax.scatter(same.accuracy, ys, s=22, color="tab:blue", alpha=0.6, linewidth=0, label="ours, each seed")
        known = [
            (paper, places[method])
            for (method, alpha, drop), paper in table.paper.items()
            if alpha in set(same.alpha) and drop in set(same["drop"]) and not isinstance(paper, str)
        ]
        if known:
            ax.scatter(*np.transpose(known), s=26, marker="D", facecolor="none", color="0.4", label="paper")
        ax.set(title=label, xlabel="test accuracy %")
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(list(places.values()), list(places))
    axes[0, 0].set_ylim(0.5 - len(places), 0.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    alphas = runs.alpha.unique()
    figure.suptitle(table.title + (f", α = {alphas[0]:g}" if len(alphas) == 1 else ""))
    sns.despine(figure, left=True)
    return figure


def _panels(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each α, p and number of workers, as far as these vary, and what they are called."""
    labels = {"alpha": "α", "drop": "p", "workers": "n"}
    varied = [name for name in labels if runs[name].nunique() > 1] or ["alpha"]
    return [
        (", ".join(f"{labels[name]} = {value:g}" for name, value in zip(varied, values, strict=True)), same)
        for values, same in runs.groupby(varied, sort=False)
    ]
