"""Trees: hung up by a worker, their numberings, and the distances in them and in other graphs."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from relaysim.checks import check_count
from relaysim.topology.graphs import Topology, as_array, as_topology, both_ways, from_edges


class RootedTree(NamedTuple):
    """A tree seen from one of its workers, in read-only arrays."""

    parent: np.ndarray
    """(n,) int32, the root being its own parent."""
    order: np.ndarray
    """(n,) int32, the workers breadth-first: parents before children, siblings side by side."""
    depth: np.ndarray
    """(n,) int32, the hops from the root."""


_FROM_0: WeakKeyDictionary[Topology, RootedTree] = WeakKeyDictionary()


def rooted(tree: Topology, root: int = 0) -> RootedTree:
    """Hang up a tree by its worker `root`. Hung up by worker 0 it is kept as long as the tree is.

    >>> rooted(from_edges(4, [(0, 1), (1, 2), (1, 3)])).parent.tolist()
    [0, 0, 1, 1]

    Raises: ValueError if the topology is directed, disconnected or has a cycle.
    """
    tree = as_topology("tree", tree)
    root = check_count("root", root, 0, tree.num_workers - 1)
    if root:
        return _hang_up(tree, root)
    if tree not in _FROM_0:
        _FROM_0[tree] = _hang_up(tree, 0)
    return _FROM_0[tree]


def spanning_tree(topology: Topology, root: int = 0) -> Topology:
    """The breadth-first tree of a connected undirected graph: everybody is as near to `root` as can be.

    >>> spanning_tree(from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)])).edges.tolist()
    [[0, 1], [0, 4], [1, 2], [3, 4]]
    """
    topology = as_topology("topology", topology)
    order, parent = breadth_first("topology", topology, root)
    return both_ways(topology.num_workers, parent[order], order, f"{topology.name}_spanning_tree")


def distances(topology: Topology) -> np.ndarray:
    """Hops from i to j at [i, j], (n, n) int32, for graphs of up to some thousand workers.

    >>> distances(from_edges(3, [(0, 1), (1, 2)])).tolist()
    [[0, 1, 2], [1, 0, 1], [2, 1, 0]]

    Raises: ValueError if some worker cannot be reached from another.
    """
    topology = as_topology("topology", topology)
    from scipy.sparse import csgraph  # slow to import

    hops = csgraph.shortest_path(topology.adjacency().T.tocsr(), method="D", unweighted=True)
    if np.isinf(hops).any():
        i, j = np.argwhere(np.isinf(hops))[0]
        raise ValueError(f"topology {topology.name!r} must be connected, but no path leads from {i} to {j}")
    return hops.astype(np.int32)


def diameter(topology: Topology) -> int:
    """The largest distance between two workers; for a tree of any size, by two searches.

    >>> diameter(from_edges(4, [(0, 1), (1, 2), (2, 3)]))
    3
    """
    topology = as_topology("topology", topology)
    if not topology.is_tree:
        return int(distances(topology).max())
    far = int(np.argmax(rooted(topology).depth))
    return int(rooted(topology, far).depth.max())


def learning_rate_correction(tree: Topology) -> float:
    """The mean over all ordered pairs (i, j), i = j included, of max(distance(i, j), 1).

    >>> learning_rate_correction(from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 4)]))
    1.8
    """
    size = _branch_sizes(rooted(tree))
    n = len(size)  # the edge above i lies between size[i] workers and the n - size[i] others
    return float(1 / n + 2 * (size * (n - size)).sum() / n**2)


def depth_first(tree: Topology) -> np.ndarray:
    """(n,) the workers of a tree in an order where blocks of neighbours in the order have few edges out.

    Starts at worker 0. A worker is followed by all that hang on it, the smallest branch first, so that all
    edges out of the first k workers start at log₂ n of them at most.

    >>> depth_first(from_edges(5, [(0, 1), (0, 2), (1, 3), (3, 4)])).tolist()
    [0, 2, 1, 3, 4]

    Raises:
      ValueError: where the topology is no tree.
    """
    hung = rooted(tree)
    size = _branch_sizes(hung)
    child = np.lexsort((size, hung.parent))  # those of a parent side by side, the smallest branch first
    child = child[child != 0]
    before, parent = np.cumsum(size[child]) - size[child], hung.parent[child]
    step = np.zeros(len(size), np.int64)  # from the place of its parent to its own
    step[child] = 1 + before - before[np.searchsorted(parent, parent)]
    return np.argsort(_down_from_root(step, hung.parent, 0))


def cuthill_mckee(topology: Topology) -> np.ndarray:
    """(n,) the workers of any graph in an order where neighbours lie near each other, as far as they can.

    Steps with short models are faster where rows that are added up lie near each other in memory.

    >>> cuthill_mckee(from_edges(5, [(0, 3), (3, 1), (1, 4), (4, 2)])).tolist()
    [2, 4, 1, 3, 0]

    Source: the reverse of Cuthill and McKee, "Reducing the bandwidth of sparse symmetric matrices", 24th
    ACM National Conference (1969), as scipy has it.
    """
    topology = as_topology("topology", topology)
    from scipy.sparse import csgraph  # slow to import

    return csgraph.reverse_cuthill_mckee(topology.adjacency(), symmetric_mode=not topology.directed)


def renumber(topology: Topology, order: np.ndarray) -> Topology:
    """The same graph where worker i is the one that was `order[i]`; stacked arrays go along by `x[order]`.

    >>> renumber(from_edges(3, [(0, 1), (1, 2)]), [1, 0, 2]).edges.tolist()
    [[0, 1], [0, 2]]

    Raises:
      ValueError: where `order` is no permutation of the workers.
    """
    topology, order = as_topology("topology", topology), as_array("order", order)
    n = topology.num_workers
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise ValueError(f"order must be a permutation of the {n} workers, got {order}")
    return from_edges(n, np.argsort(order)[topology.edges], topology.directed, topology.name)


def breadth_first(argument: str, topology: Topology, root: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the order in which the workers are met, and (n,) their parents, the root being its own."""
    root = check_count("root", root, 0, topology.num_workers - 1)
    if topology.directed:
        raise ValueError(f"{argument} {topology.name!r} is directed, must be undirected")
    if not topology.is_connected:
        parts = f"{topology.num_components} components, must be connected"
        raise ValueError(f"{argument} {topology.name!r} has {parts}")
    from scipy.sparse import csgraph  # slow to import

    order, parent = csgraph.breadth_first_order(topology.adjacency(), root)
    parent[root] = root
    return order, parent


def _hang_up(tree: Topology, root: int) -> RootedTree:
    order, parent = breadth_first("tree", tree, root)
    if not tree.is_tree:
        edges = f"{tree.num_edges} edges, a tree on {len(order)} workers has {len(order) - 1}"
        raise ValueError(f"tree {tree.name!r} has {edges}: use rs.topology.spanning_tree")
    hop = (np.arange(len(parent)) != root).astype(np.int32)
    hung = RootedTree(parent, order, _down_from_root(hop, parent, root))
    for array in hung:
        array.setflags(write=False)
    return hung


def _down_from_root(steps: np.ndarray, parent: np.ndarray, root: int) -> np.ndarray:
    """(n,) for each worker the sum of the steps (n,) on the path from the root, whose own is 0, to it."""
    ancestor = parent
    while (ancestor != root).any():  # steps[i] = the sum from ancestor[i] to i; each round doubles the path
        steps, ancestor = steps + steps[ancestor], ancestor[ancestor]
    return steps


def _branch_sizes(hung: RootedTree) -> np.ndarray:
    """(n,) float64, each worker and all that hang on it, counted."""
    ancestor, hops = hung.parent, 1
    size = np.ones(len(ancestor))
    while hops <= hung.depth[hung.order[-1]]:  # size[i] = those less than `hops` below i
        low = hung.depth >= hops
        size = size + np.bincount(ancestor[low], size[low], len(size))
        ancestor, hops = ancestor[ancestor], 2 * hops
    return size
