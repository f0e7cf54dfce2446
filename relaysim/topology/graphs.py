"""A graph as arrays of edges, and what it is made from."""

import reprlib
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array, issparse

from relaysim.checks import MOST, check_bool, check_count, check_num_workers, shown

_EXPECTED = (
    "expected a topology such as rs.topology.chain(16), or a networkx graph or an adjacency matrix (n, n), "
    "0 on its diagonal"
)


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of workers 0..n-1 as directed edges; an undirected graph holds every edge in both directions.

    The edges are sorted by (receiver, sender), without self-loops and duplicates: `from_edges` sees to that.

    Raises: ValueError if they are not, or there are 2^31 workers or directed edges.
    """

    num_workers: int
    senders: np.ndarray
    """(m,) int32"""
    receivers: np.ndarray
    """(m,) int32"""
    name: str

    def __post_init__(self) -> None:
        num_workers, edges = check_num_workers(self.num_workers), (self.senders, self.receivers)
        if not _in_order(num_workers, *edges):
            expected = f"two (m,) arrays of integers in 0..{num_workers - 1}, sorted by (receiver, sender)"
            once = "each pair once and nobody with itself: use rs.topology.from_edges"
            raise ValueError(f"senders and receivers of {self.name!r} are unfit, expected {expected}, {once}")
        check_room(num_workers, len(self.senders))
        object.__setattr__(self, "num_workers", num_workers)
        object.__setattr__(self, "senders", self.senders.astype(np.int32, copy=False))
        object.__setattr__(self, "receivers", self.receivers.astype(np.int32, copy=False))

    def __repr__(self) -> str:
        kind = ", directed" if self.directed else ""
        return f"Topology({self.name!r}, {self.num_workers} workers, {self.num_edges} edges{kind})"

    @cached_property
    def directed(self) -> bool:
        """Whether some edge lacks its reverse."""
        same = np.array_equal(self.in_degrees, self.out_degrees)
        return not (same and np.array_equal(self.adjacency().T.tocsr().indices, self.senders))

    @cached_property
    def in_degrees(self) -> np.ndarray:
        """(n,) how many workers each one hears from."""
        return np.bincount(self.receivers, minlength=self.num_workers)

    @cached_property
    def out_degrees(self) -> np.ndarray:
        """(n,) how many workers each one sends to."""
        return np.bincount(self.senders, minlength=self.num_workers)

    @property
    def degrees(self) -> np.ndarray:
        """(n,) numbers of neighbours in an undirected graph."""
        if self.directed:
            raise ValueError(f"topology {self.name!r} is directed: take its in_degrees or out_degrees")
        return self.in_degrees

    @property
    def num_edges(self) -> int:
        """Edges, each counted once in an undirected graph."""
        return len(self.senders) if self.directed else len(self.senders) // 2

    @property
    def edges(self) -> np.ndarray:
        """(num_edges, 2) the edges i < j of an undirected graph, or (sender, receiver) of a directed one."""
        if self.directed:
            return np.stack([self.senders, self.receivers], axis=1)
        once = self.receivers < self.senders
        return np.stack([self.receivers[once], self.senders[once]], axis=1)

    @cached_property
    def num_components(self) -> int:
        """The parts in which everybody can reach everybody, along the edges' directions."""
        from scipy.sparse import csgraph  # slow to import

        return csgraph.connected_components(self.adjacency(), self.directed, "strong", False)

    @property
    def is_connected(self) -> bool:
        return self.num_components == 1

    @property
    def is_tree(self) -> bool:
        """Whether the graph is undirected, connected and free of cycles."""
        return not self.directed and self.num_edges == self.num_workers - 1 and self.is_connected

    def neighbours(self, worker: int) -> np.ndarray:
        """The workers that `worker` hears from, ascending, (in_degree,) int32."""
        worker = check_count("worker", worker, 0, self.num_workers - 1)
        return self.senders[slice(*np.searchsorted(self.receivers, [worker, worker + 1]))]

    def adjacency(self) -> csr_array:
        """(n, n) float64, 1 at [i, j] where j sends to i: laid out like weights, its data like the edges."""
        offsets = np.append(0, np.cumsum(self.in_degrees)).astype(np.int32)
        return csr_array((np.ones(len(self.senders)), self.senders, offsets), shape=(self.num_workers,) * 2)


def from_edges(num_workers: int, edges: Any, directed: bool = False, name: str = "custom") -> Topology:
    """A graph from pairs of workers; an edge that comes twice counts once.

    >>> from_edges(3, [(0, 1), (1, 2)])
    Topology('custom', 3 workers, 2 edges)

    Args:
      num_workers: n, the number of workers.
      edges: (m, 2) integers, or a list of pairs; (sender, receiver) where directed.
      directed: whether an edge goes one way only.
      name: what tables and pictures call it.

    Raises: ValueError if an edge leaves 0..n-1 or joins a worker to itself.
    """
    num_workers, directed = check_num_workers(num_workers), check_bool("directed", directed)
    pairs = as_array("edges", edges)
    pairs = pairs if pairs.size else np.zeros((0, 2), np.int32)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"edges must be (m, 2) integers, got {pairs.dtype} of shape {pairs.shape}")
    outside = ((pairs < 0) | (pairs >= num_workers)).any(axis=1)
    if outside.any():
        raise ValueError(f"edges must join workers in 0..{num_workers - 1}, got {pairs[outside][0].tolist()}")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        raise ValueError(f"edges must join different workers, got {pairs[loops][0].tolist()}")
    senders, receivers = pairs.astype(np.int32).T
    return (one_way if directed else both_ways)(num_workers, senders, receivers, name)


def is_networkx(value: Any) -> bool:
    """Whether this is a graph of networkx, which who has one has imported.

    >>> import networkx as nx
    >>> is_networkx(nx.path_graph(3)), is_networkx(3)
    (True, False)
    """
    return "networkx" in sys.modules and isinstance(value, sys.modules["networkx"].Graph)


def from_networkx(graph: Any) -> Topology:
    """A networkx graph (a DiGraph becomes directed), its weights and parallel edges dropped.

    Nodes that are the integers 0..n-1 keep their numbers; others are numbered in the graph's order.

    >>> import networkx as nx
    >>> from_networkx(nx.path_graph(3)).edges.tolist()
    [[0, 1], [1, 2]]
    """
    if not is_networkx(graph):
        raise ValueError(f"graph is {shown(graph)}, expected a networkx graph")
    number = {v: i for i, v in enumerate(graph)}
    if number.keys() == set(range(len(graph))):
        number = {v: int(v) for v in graph}
    edges = [(number[a], number[b]) for a, b in graph.edges()]
    return from_edges(len(graph), edges, directed=graph.is_directed(), name=graph.name or "networkx")


def to_networkx(topology: Topology) -> Any:
    """The same graph as a networkx Graph or DiGraph on the nodes 0..n-1.

    >>> to_networkx(from_edges(3, [(0, 1), (1, 2)])).number_of_edges()
    2
    """
    import networkx as nx  # slow to import

    topology = as_topology("topology", topology)
    graph: Any = nx.DiGraph(name=topology.name) if topology.directed else nx.Graph(name=topology.name)
    graph.add_nodes_from(range(topology.num_workers))
    graph.add_edges_from(topology.edges.tolist())
    return graph


def as_topology(name: str, value: Any) -> Topology:
    """A topology as it comes, or that of a networkx graph or of a matrix.

    An adjacency matrix (n, n), dense or scipy-sparse, is not 0 at [i, j] where j sends to i, and 0 on its
    diagonal. Raises a ValueError for all else.

    >>> as_topology("topology", np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))
    Topology('matrix', 3 workers, 2 edges)
    """
    if is_networkx(value):
        return from_networkx(value)
    if issparse(value) or (isinstance(value, np.ndarray) and value.ndim == 2):
        return _from_matrix(name, value)
    if not isinstance(value, Topology):
        raise ValueError(f"{name} is {shown(value)}, {_EXPECTED}")
    return value


def _from_matrix(name: str, matrix: Any) -> Topology:
    found = coo_array(matrix)
    n, there = found.shape[0], found.data != 0
    receivers, senders = found.row[there], found.col[there]
    if found.shape != (n, n) or (receivers == senders).any():
        raise ValueError(f"{name} is {shown(matrix)}, {_EXPECTED}")
    return one_way(check_num_workers(n), senders, receivers, "matrix")


def check_room(num_workers: int, num_edges: int) -> None:
    """Raise a ValueError where a graph would have too many directed edges."""
    if num_edges > MOST:
        many = f"{num_workers}, for {num_edges} directed edges"
        raise ValueError(f"num_workers is {many}, expected a graph of at most {MOST}")


def as_array(name: str, values: Any) -> np.ndarray:
    """The values as an array. Raises a ValueError where rows differ in length."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is {reprlib.repr(values)}, expected rows of one length") from error


def one_way(n: int, senders: np.ndarray, receivers: np.ndarray, name: str) -> Topology:
    """Sort the edges, drop self-loops and duplicates."""
    keys = np.int64(n) * receivers + senders
    keys.sort()
    senders, receivers = (keys % n).astype(np.int32), (keys // n).astype(np.int32)
    keep = np.append(keys[:1] >= 0, keys[1:] != keys[:-1]) & (senders != receivers)
    return Topology(n, senders[keep], receivers[keep], name)


def both_ways(n: int, a: np.ndarray, b: np.ndarray, name: str) -> Topology:
    return one_way(n, np.append(a, b), np.append(b, a), name)


def _in_order(num_workers: int, senders: Any, receivers: Any) -> bool:
    """Whether these are edges of so many workers, laid out as in a `Topology`."""
    for ends in (senders, receivers):
        if not isinstance(ends, np.ndarray) or ends.ndim != 1 or ends.dtype.kind not in "iu":
            return False
        if len(ends) != len(senders) or (len(ends) and not 0 <= ends.min() <= ends.max() < num_workers):
            return False
    in_rows = (receivers[1:] >= receivers[:-1]).all()
    ascending = (receivers[1:] != receivers[:-1]) | (senders[1:] > senders[:-1])
    return bool(in_rows and ascending.all() and (senders != receivers).all())
