"""Trees among those that are there, which change as little as they can when workers leave and return."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array

from relaysim.topology.graphs import Topology
from relaysim.topology.trees import breadth_first, rooted


def adopted(tree: Topology, present: np.ndarray) -> np.ndarray:
    """The tree hung up by worker 0, where the children of those that are away are adopted by the nearest of
    their ancestors that is there; without one they hang on the first among them.

    >>> from relaysim.topology import chain
    >>> adopted(chain(5), np.array([True, False, False, True, True])).tolist()
    [0, 1, 2, 0, 3]

    Args:
      tree: of n workers.
      present: (n,) bool, who is there.

    Returns:
      (n,) int32, the parents; of the root, and of those that are away, themselves.
    """
    parent, worker = rooted(tree).parent, np.arange(tree.num_workers)
    above = parent.copy()
    while (seek := ~present[above] & (above != 0)).any():
        above[seek] = parent[above[seek]]
    on_top = np.flatnonzero(present & ~present[above])  # nobody is left above them
    above[on_top] = on_top[:1]
    return np.where(present, above, worker).astype(np.int32)


def spanning_forest(graph: Topology, present: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """A tree in each component of the graph of those that are there, hung up by its first worker.

    It keeps what is left of the trees before; without any it goes breadth-first.

    >>> import relaysim as rs
    >>> spanning_forest(rs.topology.ring(4), np.array([True, True, False, True])).tolist()
    [0, 0, 2, 0]

    Args:
      graph: undirected, of n workers.
      present: (n,) bool, who is there.
      before: (n,) the parents in the trees before.

    Returns:
      (n,) int32, the parents; of roots, and of those that are away, themselves.
    """
    from scipy.sparse import csgraph  # slow to import

    n, there = graph.num_workers, present[graph.edges].all(1)
    a, b = graph.edges[there].T
    if before is not None:
        kept = (before[a] == b) | (before[b] == a)
        cost = np.where(kept, 1, 2 + np.arange(len(a)) / max(len(a), 1))
        spanning = csgraph.minimum_spanning_tree(coo_array((cost, (a, b)), shape=(n, n)).tocsr()).tocoo()
        a, b = spanning.coords
    edges = coo_array((np.ones(len(a)), (a, b)), shape=(n, n)).tocsr()
    _, label = csgraph.connected_components(edges, directed=False)
    parent = np.arange(n, dtype=np.int32)
    for root in np.unique(label, return_index=True)[1][np.bincount(label) > 1]:
        order, above = csgraph.breadth_first_order(edges, root, directed=False)
        parent[order[1:]] = above[order[1:]]
    return parent


def forests(graphs: Sequence[Topology], present: np.ndarray) -> np.ndarray:
    """The trees of several times one after the other: (E, n) parents.

    Where somebody is away from a tree, children are adopted by their grandparents, as in `adopted`; in other
    graphs there is a `spanning_forest`, which is kept as far as it can be.

    >>> import relaysim as rs
    >>> forests([rs.topology.chain(3)] * 2, np.array([[True, True, True], [True, False, True]])).tolist()
    [[0, 0, 1], [0, 1, 0]]

    Args:
      graphs: E of them, undirected and connected.
      present: (E, n) bool, who is there.

    Raises:
      ValueError: where a graph is directed or not connected.
    """
    parents: list[np.ndarray] = []
    for graph in {id(graph): graph for graph in graphs}.values():
        breadth_first("trees", graph, 0)  # which checks it
    for graph, there in zip(graphs, present, strict=True):
        if graph.is_tree and not there.all():
            parents.append(adopted(graph, there))
        else:
            parents.append(spanning_forest(graph, there, parents[-1] if parents else None))
    return np.stack(parents)
