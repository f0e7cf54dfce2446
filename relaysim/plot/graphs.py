"""Graphs, and what happens on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from relaysim import palette
from relaysim import topology as topologies
from relaysim.checks import check_bool, check_numbers, shown
from relaysim.plot.axes import axes_for
from relaysim.topology import Topology, as_topology


def topology(
    graph: Topology | Sequence[Topology],
    values: Any = None,
    *,
    name: str = "",
    norm: Normalize | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A graph as a picture: lattices as lattices, trees from their centre down, others on a circle or by
    springs.

    >>> import relaysim as rs
    >>> ax = topology(rs.topology.torus(3, 4), values=range(12), name="accuracy")
    >>> ax.get_title(), ax.get_aspect()
    ('torus', 1.0)

    Args:
      graph: one topology, or several on the same workers, which are drawn over each other.
      values: (n,) numbers that colour the workers, such as their accuracies or the class that they hold.
      name: what the values are, beside the bar of colours.
      norm: how values become colours; by default from the lowest to the highest.
      ax: where to draw; new axes by default.

    Raises:
      ValueError: where the values are not (n,) numbers.
    """
    graphs = [as_topology("graph", g) for g in (graph if isinstance(graph, list | tuple) else [graph])]
    if len({g.num_workers for g in graphs}) != 1:
        raise ValueError(f"graph is {shown(graph)}, expected one or more on the same workers")
    n, places = graphs[0].num_workers, layout(graphs[0])
    if values is not None:
        values = check_numbers("values", values, n)
    if norm is not None and not isinstance(norm, Normalize):
        raise ValueError(f"norm is {shown(norm)}, expected one of matplotlib such as LogNorm()")
    ax = axes_for(ax, width=5)
    size = float(np.clip(3000 / n, 10, 300))
    for i, (g, colour) in enumerate(zip(graphs, ("0.4", *palette.OTHERS), strict=False)):
        near, far = _near_and_far(g, places)
        for edges, bend in ((near, 0.15 * i), (far, 0.15 * i + 0.2)):
            nx.draw_networkx_edges(
                topologies.to_networkx(g), places, edgelist=edges, ax=ax, edge_color=[colour], node_size=size,
                arrows=True, arrowstyle="-|>" if g.directed else "-", connectionstyle=f"arc3,rad={bend}",
            )  # fmt: skip
    at = np.array([places[i] for i in range(n)])
    colours: dict[str, Any] = {"c": "white"} if values is None else {"c": values, "norm": norm}
    dots = ax.scatter(at[:, 0], at[:, 1], s=size, edgecolors="0.2", linewidths=0.8, zorder=2, **colours)
    if values is not None and ax.figure is not None:
        ax.figure.colorbar(dots, ax=ax, label=name)
    elif n <= 64:
        nx.draw_networkx_labels(topologies.to_networkx(graphs[0]), places, ax=ax, font_size=7)
    ax.set_title(", ".join(g.name.replace("_", " ") for g in graphs))
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.1)
    ax.set_axis_off()
    return ax


def animation(
    graphs: Mapping[str, Topology],
    values: Mapping[str, Any],
    *,
    steps: Any = None,
    name: str = "",
    log: bool = False,
) -> FuncAnimation:
    """What spreads on graphs, side by side and record by record: each worker's number as a colour.

    >>> import relaysim as rs
    >>> ring = rs.topology.ring(4)
    >>> moving = animation({"here": ring}, {"here": np.eye(4)[:2]}, name="accuracy")
    >>> rs.plot.save(moving, "out/moving.gif")
    PosixPath('out/moving.gif')

    Args:
      graphs: a topology for each panel, by its title.
      values: (R, n) numbers for each of them, such as `trace.metrics["accuracy"]`.
      steps: (R,) numbers for the title; 0, 1, … by default.
      name: what the values are, beside the bar of colours.
      log: colours by the logarithm.

    Returns:
      An animation of matplotlib. `rs.plot.save` writes it as .gif or .html; in a notebook
      `IPython.display.HTML(moving.to_jshtml())` shows it.

    Raises:
      ValueError: where titles or sizes do not fit together.
    """
    if not isinstance(graphs, Mapping) or not graphs:
        raise ValueError(f"graphs is {shown(graphs)}, expected topologies by title")
    if not isinstance(values, Mapping) or graphs.keys() != values.keys():
        raise ValueError(f"values is {shown(values)}, expected some of each of {list(graphs)}")
    graphs = {title: as_topology(f"graphs[{title!r}]", graph) for title, graph in graphs.items()}
    first = check_numbers("values", next(iter(values.values())), "R", "n")
    steps = np.arange(len(first)) if steps is None else check_numbers("steps", steps, len(first))
    arrays = {
        title: check_numbers(f"values[{title!r}]", v, len(steps), graphs[title].num_workers).astype(float)
        for title, v in values.items()
    }
    every = np.concatenate([v[np.isfinite(v)] for v in arrays.values()])
    if not (every > (0 if check_bool("log", log) else -np.inf)).any():
        raise ValueError("values are all NaN, or none is above 0, expected some to draw")
    lowest = every[every > 0].min() if log else every.min()
    norm = (LogNorm if log else Normalize)(lowest, max(every.max(), lowest * 1.01))
    size = (4.2 * len(graphs) + 0.8, 4)
    figure, axes = plt.subplots(1, len(graphs), figsize=size, squeeze=False, layout="constrained")
    dots = []
    for ax, (title, graph) in zip(axes[0], graphs.items(), strict=True):
        topology(graph, ax=ax)
        for text in list(ax.texts):
            text.remove()
        ax.set_title(title)
        dots.append(ax.collections[-1])
    colours = plt.cm.ScalarMappable(norm, "viridis")
    figure.colorbar(colours, ax=axes, label=name)

    def draw(record: int) -> list[Any]:
        for dot, v in zip(dots, arrays.values(), strict=True):
            dot.set_facecolor(colours.to_rgba(np.maximum(v[record], lowest)))
        figure.suptitle(f"step {steps[record]}")
        return dots

    moving = FuncAnimation(figure, draw, frames=len(steps), interval=200)
    plt.close(figure)  # or a notebook shows the first frame as well
    return moving


def layout(graph: Topology) -> dict[int, Any]:
    """Where to draw each worker.

    >>> import relaysim as rs
    >>> layout(rs.topology.grid(2, 3))[4]
    (1, -1)
    """
    n, g = graph.num_workers, topologies.to_networkx(graph)
    for make in (topologies.grid, topologies.torus):
        columns = _columns(graph, make)
        if columns:
            return {i: (i % columns, -(i // columns)) for i in range(n)}
    if graph.is_tree and n > 2 and graph.degrees.max() > 2:
        return {i: (x, -y) for i, (x, y) in nx.bfs_layout(g, nx.center(g)[0], align="horizontal").items()}
    if graph.is_tree:
        return {i: (i, 0.0) for i in range(n)}
    if (not graph.directed and (graph.degrees == graph.degrees[0]).all()) or graph.directed:
        return nx.circular_layout(g)
    return nx.spring_layout(g, seed=0)


def _columns(graph: Topology, make: Any) -> int:
    """How many columns a lattice has, 0 for what is none."""
    if graph.name != make.__name__:
        return 0
    n = graph.num_workers
    for columns in (c for c in range(n, 0, -1) if n % c == 0):
        lattice = make(n // columns, columns)
        if np.array_equal(lattice.senders, graph.senders) and np.array_equal(
            lattice.receivers, graph.receivers
        ):
            return columns
    return 0


def _near_and_far(graph: Topology, places: dict[int, Any]) -> tuple[list, list]:
    """Edges that are drawn straight, and those around a torus, which are bent."""
    edges = [tuple(map(int, edge)) for edge in graph.edges]
    if graph.name != "torus":
        return edges, []
    apart = [np.abs(np.subtract(places[a], places[b])).sum() for a, b in edges]
    return (
        [e for e, d in zip(edges, apart, strict=True) if d <= 1],
        [e for e, d in zip(edges, apart, strict=True) if d > 1],
    )
