"""Trees hung up for relaying: the same at all steps, or changing with those that come and go."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relaysim import topology as topologies
from relaysim.checks import shown
from relaysim.faults import Churn
from relaysim.mixing.halo import links_over
from relaysim.mixing.links import Links, links
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Calls, Lasting, Messages


class Hung(NamedTuple):
    """A tree, or several apart, hung up."""

    parent: Any
    """(n,) int"""
    is_root: Any
    """(n,) bool"""
    links: Links


class Trees(NamedTuple):
    """The trees of a run."""

    num_workers: int
    at: Callable[[Any], Hung]
    """step -> the tree at this step"""
    messages: Callable[[], Calls]
    name: str
    change: bool = True


def fixed(tree: Topology, mesh: Mesh | None) -> Trees:
    """One tree for all steps."""
    parent = topologies.rooted(tree).parent
    is_root = np.arange(tree.num_workers) == 0
    hung = Hung(parent, is_root, links(tree) if mesh is None else links_over(mesh, tree))
    messages = [[Messages(tree.senders, tree.receivers)]]
    return Trees(tree.num_workers, lambda step: hung, lambda: messages, tree.name, change=False)


def changing(trees: Any, churn: Churn | None, starts: Any, mesh: Mesh | None) -> Trees:
    """Trees that change from step to step, laid out before."""
    if mesh is not None:
        raise ValueError("mesh is given with churn or starts, expected a tree that does not change")
    graphs, starts = _in_turn(trees, starts)
    n = graphs[0].num_workers
    steps, present = np.array(starts), np.ones((len(starts), n), bool)
    if churn is not None:
        if not isinstance(churn, Churn):
            raise ValueError(f"churn is {shown(churn)}, expected rs.faults.Churn")
        churn.check_workers(n)
        steps = np.union1d(starts, churn.steps)
        present = churn.present(steps)
    at = np.searchsorted(starts, steps, side="right") - 1
    parents, worker = topologies.forests([graphs[k] for k in at], present), np.arange(n)
    parts = (present & (parents == worker)).sum(1)
    if (torn := np.flatnonzero(parts > 1)).size:
        first = torn[0]
        warnings.warn(
            f"churn: from step {steps[first]} on those that are there are {parts[first]} parts, which go on "
            f"by themselves, and so they are after {len(torn)} of {len(steps)} changes",
            stacklevel=4,
        )

    def messages() -> Calls:
        rounds = []
        for parent in parents:
            child = np.flatnonzero(parent != worker)
            senders, receivers = np.append(child, parent[child]), np.append(parent[child], child)
            rounds.append([Messages(senders, receivers)])
        return Lasting(rounds[k] for k in np.searchsorted(steps, np.arange(steps[-1] + 1), side="right") - 1)

    name = ", then ".join(graph.name for graph in graphs)
    return Trees(n, hung_in(parents, steps), messages, name)


def hung_in(parents: Any, steps: Any) -> Callable[[Any], Hung]:
    """step -> that of the trees (E, n), by their parents, which is used from one of the steps (E,) on."""

    def hung_at(step: Any) -> Hung:
        n = np.shape(parents)[1]
        parent = jnp.asarray(parents)[jnp.searchsorted(jnp.asarray(steps), step, side="right") - 1]

        def from_children(x: Array) -> Array:
            return jax.ops.segment_sum(x, parent, n)  # what a root would send to itself is 0

        return Hung(parent, parent == np.arange(n), Links(lambda x: x[parent], from_children))

    return hung_at


def _in_turn(trees: Any, starts: Any) -> tuple[list[Topology], list[int]]:
    given = list(trees) if starts is not None and isinstance(trees, list | tuple) else [trees]
    graphs = [as_topology("trees", graph) for graph in given]
    counts = {graph.num_workers for graph in graphs}
    if len(counts) != 1:
        raise ValueError(
            f"trees are for {sorted(counts)} workers, expected one or more with one number of workers"
        )
    steps = [0] if starts is None else list(starts) if np.iterable(starts) else [starts]
    ascending = all(isinstance(step, int | np.integer) for step in steps) and (np.diff(steps) > 0).all()
    if len(steps) != len(graphs) or not ascending or steps[0] != 0:
        raise ValueError(
            f"starts is {shown(starts)}, expected a step for each of {len(graphs)} trees, ascending from 0"
        )
    return graphs, [int(step) for step in steps]
