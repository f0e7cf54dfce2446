"""A number over the course of runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relaysim import palette
from relaysim.checks import check_bool, check_choice, check_count, shown
from relaysim.plot.axes import axes_for
from relaysim.simulate import Trace

Runs = Mapping[str, Trace | Sequence[Trace]]
Band = Literal["range", "deviation", "lines", "none"]


def curves(
    traces: Runs,
    metric: str,
    *,
    x: str = "step",
    steps_per_epoch: int | None = None,
    band: Band = "range",
    log: bool | None = None,
    log_x: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A metric over the course of one or more runs: the mean over workers and seeds, and a band around it.

    A label that names a method has that method's colour in all figures. Labels of one method, and those that
    come after, differ in dashes and markers as well.

    >>> import jax, optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(4)), optax.sgd(0.1))
    >>> trace = rs.simulate(jax.random.key(1), method, task.init(None), num_steps=9, measure=task.measure)
    >>> curves({"RelaySGD": trace}, "worker_suboptimality", x="bytes_sent").get_ylabel()
    'worker suboptimality'

    Args:
      traces: a trace, or the traces of several seeds, by label.
      metric: the name of a metric (R,) or (R, n).
      x: "step", "epoch", or a metric (R,) or (R, n) to go along the axis, such as "bytes_sent" or "seconds"
        where there are any: the mean over workers and seeds, while thin lines have their own.
      steps_per_epoch: of x = "epoch".
      band: from the lowest worker and seed to the highest; the standard deviation to both sides; a thin line
        for each; or nothing.
      log: a logarithmic axis; by default where the values are positive and span more than two decades.
      log_x: likewise along x.
      ax: where to draw; new axes by default.

    Raises:
      ValueError: where a trace lacks the metric, or an argument does not fit.
    """
    runs = _runs(traces)
    check_choice("band", band, get_args(Band))
    if (isinstance(x, str) and x == "epoch") != (steps_per_epoch is not None):
        raise ValueError(
            f"steps_per_epoch is {shown(steps_per_epoch)}, expected a number with x = 'epoch' alone"
        )
    per_epoch = 1 if steps_per_epoch is None else check_count("steps_per_epoch", steps_per_epoch)
    lines = {label: _side_by_side("metric", each, metric) for label, each in runs.items()}
    along = {label: _side_by_side("x", each, x) / per_epoch for label, each in runs.items()}
    log = _spans_decades(lines.values()) if log is None else check_bool("log", log)
    check_bool("log_x", log_x)
    ax = axes_for(ax)
    for label, style in palette.styles(runs).items():
        _draw(ax, along[label], lines[label], band, label, style)
    if log:
        ax.set_yscale("log")
    if log_x:
        ax.set_xscale("log")
    ax.set(xlabel=x.replace("_", " "), ylabel=metric.replace("_", " "))
    ax.legend(frameon=False, handlelength=3)
    sns.despine(ax=ax)
    return ax


def panels(groups: Mapping[str, Runs], metric: str, *, columns: int = 4, **options: Any) -> Figure:
    """A panel with `curves` for each group of runs, on the same scale and with one legend.

    >>> import jax, optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(4)), optax.sgd(0.1))
    >>> trace = rs.simulate(jax.random.key(1), method, task.init(None), num_steps=9, measure=task.measure)
    >>> figure = panels({"this": {"RelaySGD": trace}, "that": {"RelaySGD": trace}}, "suboptimality")
    >>> [ax.get_title() for ax in figure.axes]
    ['this', 'that']

    Args:
      groups: the traces of `curves`, by the title of their panel.
      metric: as in `curves`.
      columns: panels beside each other.
      options: those of `curves`.

    Raises:
      ValueError: where there is no group, and as `curves`.
    """
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(f"groups is {shown(groups)}, expected traces by label, by the title of a panel")
    for title, runs in groups.items():
        _runs(runs, f"groups[{title!r}]")
    wide = min(check_count("columns", columns), len(groups))
    high = -(-len(groups) // wide)
    size = (1 + 3.2 * wide, 0.8 + 2.9 * high)
    figure, axes = plt.subplots(high, wide, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, (title, runs) in zip(axes.flat, groups.items(), strict=False):
        curves(runs, metric, ax=ax, **options).set_title(title)
        ax.label_outer()
    for ax in axes.flat[len(groups) :]:
        ax.remove()
    _one_legend(figure)
    return figure


def comparison(curves: pd.DataFrame, metric: str, *, x: str = "step", band: Band = "range") -> Figure:
    """A metric over the course of runs, a panel for each task: each method's mean over the seeds, and a band.

    >>> table = pd.DataFrame({"task": "t", "method": "D²", "seed": [0, 0, 1, 1], "step": [1, 2, 1, 2]})
    >>> comparison(table.assign(metric="loss", value=[4.0, 2, 3, 1]), "loss").axes[0].get_ylabel()
    'loss'

    Args:
      curves: those of a `Comparison`, with the columns task, method, seed, step, metric and value.
      metric: which metric.
      x: "step", or another metric, such as "seconds", whose mean goes along the axis.
      band: as in `curves`.

    Raises:
      ValueError: where the curves lack the metric.
    """
    columns = {"task", "method", "seed", "step", "metric", "value"}
    if not isinstance(curves, pd.DataFrame) or not columns <= set(curves.columns):
        raise ValueError(f"curves is {shown(curves)}, expected those of a comparison")
    known = sorted(set(curves.metric))
    check_choice("metric", metric, known)
    check_choice("x", x, ["step", *known])
    check_choice("band", band, get_args(Band))
    every, curves = curves, curves[curves.metric == metric]
    tasks, styles = list(dict.fromkeys(curves.task)), palette.styles(dict.fromkeys(curves.method))
    size = (1 + 3.6 * len(tasks), 3.8)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for ax, task in zip(axes[0], tasks, strict=True):
        for method, runs in curves[curves.task == task].groupby("method", sort=False):
            seeds = runs.pivot(index="step", columns="seed", values="value")
            along = seeds.index.to_numpy()
            if x != "step":
                own = every[(every.task == task) & (every.method == method) & (every.metric == x)]
                along = own.groupby("step").value.mean()[seeds.index].to_numpy()
            _draw(ax, along[:, None], seeds.to_numpy(), band, str(method), styles[str(method)])
        ax.set(title=task, xlabel=x.replace("_", " "))
    if _spans_decades([curves.value.to_numpy()]):
        axes[0, 0].set_yscale("log")
    axes[0, 0].set(ylabel=metric.replace("_", " "))
    _one_legend(figure)
    sns.despine(figure)
    return figure


def _runs(traces: Any, name: str = "traces") -> dict[str, list[Trace]]:
    """The traces of each label."""
    if not isinstance(traces, Mapping) or not traces:
        raise ValueError(
            f"{name} is {shown(traces)}, expected a trace, or the traces of some seeds, by label"
        )
    runs = {label: [runs] if isinstance(runs, Trace) else runs for label, runs in traces.items()}
    for label, each in runs.items():
        if not isinstance(each, list | tuple) or not each or not all(isinstance(run, Trace) for run in each):
            raise ValueError(f"{name}[{label!r}] is {shown(each)}, expected a trace, or those of some seeds")
    return runs


def _side_by_side(argument: str, runs: Sequence[Trace], name: str) -> np.ndarray:
    """(R, any number) the steps or a metric of each run, and of each worker."""
    columns = [_columns(argument, run, name) for run in runs]
    if len({len(values) for values in columns}) > 1:
        raise ValueError(
            f"traces have {[len(values) for values in columns]} records, expected as many in each"
        )
    return np.concatenate(columns, 1)


def _columns(argument: str, run: Trace, name: str) -> np.ndarray:
    """(R, 1) or (R, n) steps or a metric of a trace."""
    if isinstance(name, str) and name in ("step", "epoch"):
        return np.asarray(run.steps, float)[:, None]
    values = np.asarray(run.metrics[check_choice(argument, name, sorted(run.metrics))], float)
    if values.ndim not in (1, 2) or len(values) != len(run.steps):
        raise ValueError(
            f"{argument} {name!r} is of shape {values.shape}, expected (R,) or (R, n) of one run"
        )
    return values.reshape(len(values), -1)


def _draw(ax: Axes, x: np.ndarray, lines: np.ndarray, band: Band, label: str, style: dict[str, Any]) -> None:
    """The mean of lines (R, k), with about eight markers, and what is around it; x is (R, any number)."""
    colour, mean, each, x = style["color"], lines.mean(1), x, x.mean(1)
    if band == "lines" and lines.shape[1] > 1:
        thin = float(np.clip(2 / lines.shape[1] ** 0.8, 0.15, 0.6))
        ax.plot(each if each.shape == lines.shape else x, lines, color=colour, linewidth=0.5, alpha=thin)
    elif band in ("range", "deviation") and lines.shape[1] > 1:
        low, high = lines.min(1), lines.max(1)
        if band == "deviation":
            low, high = mean - lines.std(1), mean + lines.std(1)
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    every = max(len(x) // 8, 1)
    ax.plot(x, mean, linewidth=1.8, markersize=4.5, markevery=every, label=label, **style)


def _spans_decades(values: Iterable[np.ndarray]) -> bool:
    """Whether all finite values are positive and span more than two decades."""
    finite = np.concatenate([v[np.isfinite(v)].ravel() for v in values])
    return bool(finite.size and 0 < 100 * finite.min() < finite.max())


def _one_legend(figure: Figure) -> None:
    """Of all axes, below them."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
        if ax.legend_ is not None:
            ax.legend_.remove()
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        handlelength=3,
    )
