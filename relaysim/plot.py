"""Pictures: curves of runs, graphs, who holds and who learnt what. Each draws on axes and returns them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from relaysim import io
from relaysim import topology as topologies
from relaysim.simulate import Trace
from relaysim.topology import Topology


def curves(
    traces: Mapping[str, Trace | Sequence[Trace]],
    metric: str,
    *,
    x: str = "step",
    ax: Axes | None = None,
    log: bool | None = None,
) -> Axes:
    """A metric over the course of one or more runs: the mean bold, each worker and seed thin.

    Args:
      traces: a trace, or the traces of several seeds, by label.
      metric: the name of a metric (R,) or (R, n).
      x: "step", or a metric (R,) or (R, n) to go along the axis, such as "vectors_sent" or "seconds". Of a
        metric (R, n) each thin line has its worker's own, and the bold one the mean.
      ax: where to draw; new axes by default.
      log: a logarithmic axis; by default where the values are positive and span more than two decades.

    Raises:
      ValueError: where a trace lacks the metric.
    """
    ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
    lowest, highest = np.inf, 0.0
    for colour, (label, runs) in zip(colours(len(traces)), traces.items(), strict=True):
        runs = [runs] if isinstance(runs, Trace) else list(runs)
        for run in runs:
            for name in {metric, x} - {"step"}:
                if name not in run.metrics:
                    raise ValueError(
                        f"metric {name!r} is not in the trace, expected one of {sorted(run.metrics)}"
                    )
        along, lines = _of_runs(runs, x), _of_runs(runs, metric)
        if lines.shape[1] > 1:
            faint = np.clip(2 / lines.shape[1] ** 0.8, 0.15, 0.6)
            each = along if along.shape == lines.shape else along.mean(1)
            ax.plot(each, lines, color=colour, linewidth=0.5, alpha=faint)
        ax.plot(along.mean(1), lines.mean(1), color=colour, linewidth=2, label=label)
        finite = lines[np.isfinite(lines)]
        if finite.size:
            lowest, highest = min(lowest, finite.min()), max(highest, finite.max())
    if log if log is not None else 0 < 100 * lowest < highest:
        ax.set_yscale("log")
    ax.set(xlabel=x.replace("_", " "), ylabel=metric.replace("_", " "))
    ax.legend(frameon=False)
    sns.despine(ax=ax)
    return ax


def comparison(curves: pd.DataFrame, metric: str, *, x: str = "step") -> Figure:
    """A metric over the steps, a panel for each task: each method's mean over the seeds, and their range.

    Args:
      curves: those of a `Comparison`, with the columns task, method, seed, step, metric and value.
      metric: which metric.
      x: "step", or another metric, such as "seconds", whose mean goes along the axis.

    Raises:
      ValueError: where the curves lack the metric.
    """
    for name, value in (("metric", metric), ("x", x)):
        if value not in {*curves.metric, *(["step"] if name == "x" else [])}:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(sorted(set(curves.metric)))}")
    every, curves = curves, curves[curves.metric == metric]
    tasks, methods = list(dict.fromkeys(curves.task)), list(dict.fromkeys(curves.method))
    size = (1 + 3.6 * len(tasks), 3.8)
    figure, axes = plt.subplots(1, len(tasks), figsize=size, sharey=True, squeeze=False, layout="constrained")
    of_method = dict(zip(methods, colours(len(methods)), strict=True))
    for ax, task in zip(axes[0], tasks, strict=True):
        for method, runs in curves[curves.task == task].groupby("method", sort=False):
            seeds = runs.groupby("step").value
            mean, colour = seeds.mean(), of_method[method]
            along = mean.index
            if x != "step":
                own = (every.task == task) & (every.method == method) & (every.metric == x)
                along = every[own].groupby("step").value.mean().loc[mean.index]
            ax.plot(along, mean, color=colour, label=method)
            ax.fill_between(along, seeds.min(), seeds.max(), color=colour, alpha=0.2, linewidth=0)
        ax.set(title=task, xlabel=x.replace("_", " "))
    finite = curves.value[np.isfinite(curves.value)]
    if len(finite) and 0 < 100 * finite.min() < finite.max():
        axes[0, 0].set_yscale("log")
    axes[0, 0].set(ylabel=metric.replace("_", " "))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    sns.despine(figure)
    return figure


def topology(graph: Topology | Sequence[Topology], *, ax: Axes | None = None) -> Axes:
    """A graph as a picture: trees hang from their centre, others are laid out on a circle or by springs.

    Args:
      graph: one topology, or several on the same workers, which are drawn over each other.
      ax: where to draw; new axes by default.
    """
    ax = ax if ax is not None else plt.subplots(figsize=(5, 4), layout="constrained")[1]
    graphs = [graph] if isinstance(graph, Topology) else list(graph)
    places = _places(graphs[0])
    size = np.clip(3000 / graphs[0].num_workers, 10, 300)
    for i, (g, colour) in enumerate(zip(graphs, colours(len(graphs)), strict=True)):
        bend = f"arc3,rad={0.15 * i}"
        nx.draw_networkx_edges(
            topologies.to_networkx(g), places, ax=ax, edge_color=[colour], node_size=size, arrows=True,
            arrowstyle="-|>" if g.directed else "-", connectionstyle=bend,
        )  # fmt: skip
    drawn = topologies.to_networkx(graphs[0])
    nx.draw_networkx_nodes(drawn, places, ax=ax, node_size=size, node_color="white", edgecolors="0.2")
    if graphs[0].num_workers <= 64:
        nx.draw_networkx_labels(drawn, places, ax=ax, font_size=7)
    ax.set_title(", ".join(g.name.replace("_", " ") for g in graphs))
    ax.set_axis_off()
    return ax


def partition(counts: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Who holds which labels: a disc for each worker and class, its area the number of samples.

    Args:
      counts: (n, classes), from `rs.tasks.partition.label_counts(shares, labels)`.
      ax: where to draw; new axes by default.
    """
    ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
    worker, label = np.nonzero(counts)
    area = 120 * counts[worker, label] / counts.max()
    ax.scatter(
        worker, label, s=area, c=label, cmap="tab10" if counts.shape[1] <= 10 else "turbo", linewidths=0
    )
    ax.set(xlabel="worker", ylabel="class", xlim=(-1, counts.shape[0]), ylim=(-1, counts.shape[1]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax)
    return ax


def class_accuracy(values: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Who forgot which class: each worker's accuracy on each class as a colour, blank where it is NaN.

    Args:
      values: (n, classes), from 0 to 1, from `task.class_accuracy(params)`.
      ax: where to draw; new axes by default.

    Raises:
      ValueError: where `values` has another shape or range.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values has shape {values.shape}, expected (n, classes)")
    if (values < 0).any() or (values > 1).any():
        raise ValueError(f"values spans {np.nanmin(values)} to {np.nanmax(values)}, expected 0 to 1")
    ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
    image = ax.imshow(values.T, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="accuracy")
    ax.set(xlabel="worker", ylabel="class")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure, whole or not at all; the ending says how (.png, .pdf, .svg)."""
    with io.whole(path) as beside:
        figure.savefig(beside, dpi=150)
    return Path(path)


def colours(count: int) -> Any:
    """So many colours that can be told apart, by the colour-blind too where they are at most ten."""
    return sns.color_palette("colorblind" if count <= 10 else "husl", count)


def _of_runs(runs: list[Trace], name: str) -> np.ndarray:
    """(R, runs), or (R, n · runs): steps or a metric of some runs side by side."""
    each = [run.steps if name == "step" else run.metrics[name] for run in runs]
    return np.stack([np.asarray(v).reshape(len(v), -1) for v in each], -1).reshape(len(each[0]), -1)


def _places(graph: Topology) -> dict[int, Any]:
    n, g = graph.num_workers, topologies.to_networkx(graph)
    if graph.is_tree and n > 2 and graph.degrees.max() > 2:
        return {i: (x, -y) for i, (x, y) in nx.bfs_layout(g, nx.center(g)[0], align="horizontal").items()}
    if graph.is_tree:
        return {i: (i, 0.0) for i in range(n)}
    if (not graph.directed and (graph.degrees == graph.degrees[0]).all()) or graph.directed:
        return nx.circular_layout(g)
    return nx.spring_layout(g, seed=0)
