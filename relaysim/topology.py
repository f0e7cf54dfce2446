"""Graphs: who talks to whom, as arrays of edges; spanning trees, distances and averaging weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from scipy.sparse import csgraph, csr_array, diags_array, issparse
from scipy.sparse.linalg import LinearOperator, eigs, eigsh


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of workers 0..n-1 as directed edges; an undirected graph holds every edge in both directions.

    Made by the functions of this module, which see to it that the edges are sorted by (receiver, sender)
    and that there are no self-loops and no duplicates.
    """

    num_workers: int
    senders: np.ndarray
    """(m,) int32"""
    receivers: np.ndarray
    """(m,) int32"""
    name: str

    def __repr__(self) -> str:
        kind = ", directed" if self.directed else ""
        return f"Topology({self.name!r}, {self.num_workers} workers, {self.num_edges} edges{kind})"

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
            raise ValueError(f"{self.name!r} is directed: take its in_degrees or out_degrees")
        return self.in_degrees

    @cached_property
    def directed(self) -> bool:
        """Whether some edge lacks its reverse."""
        if not np.array_equal(self.in_degrees, self.out_degrees):
            return True
        return not np.array_equal(self.adjacency().T.tocsr().indices, self.senders)

    @property
    def edges(self) -> np.ndarray:
        """(num_edges, 2) the edges i < j of an undirected graph, or (sender, receiver) of a directed one."""
        if self.directed:
            return np.stack([self.senders, self.receivers], axis=1)
        once = self.receivers < self.senders
        return np.stack([self.receivers[once], self.senders[once]], axis=1)

    @property
    def num_edges(self) -> int:
        """Edges, each counted once in an undirected graph."""
        return len(self.senders) if self.directed else len(self.senders) // 2

    @cached_property
    def is_connected(self) -> bool:
        """Whether every worker can be reached from every other one, along the edges' directions."""
        return _num_components(self) == 1

    @property
    def is_tree(self) -> bool:
        """Whether the graph is undirected, connected and free of cycles."""
        return not self.directed and self.num_edges == self.num_workers - 1 and self.is_connected

    def adjacency(self) -> csr_array:
        """(n, n) float64, entry [i, j] being 1 where j sends to i. Laid out like weights."""
        offsets = np.concatenate([[0], np.cumsum(self.in_degrees)]).astype(np.int32)
        shape = (self.num_workers, self.num_workers)
        return csr_array((np.ones(len(self.senders)), self.senders, offsets), shape=shape)

    def neighbours(self, worker: int) -> np.ndarray:
        """The workers that `worker` hears from, in ascending order, (in_degree,) int32."""
        _check_int("worker", worker, 0, self.num_workers - 1)
        start, end = np.searchsorted(self.receivers, [worker, worker + 1])
        return self.senders[start:end]


# Graphs from edges and from networkx.


def from_edges(num_workers: int, edges: Any, directed: bool = False, name: str = "custom") -> Topology:
    """A graph from pairs of workers; an edge that comes twice counts once.

    >>> from_edges(3, [(0, 1), (1, 2)])
    Topology('custom', 3 workers, 2 edges)

    Args:
      num_workers: n, the number of workers.
      edges: (m, 2) integers, or a list of pairs; (sender, receiver) where directed.
      directed: whether an edge goes one way only.
      name: what tables and pictures call it.

    Raises:
      ValueError: if an edge leaves 0..n-1 or joins a worker to itself.
    """
    _check_int("num_workers", num_workers)
    pairs = np.asarray(edges)
    if pairs.size == 0:
        pairs = np.zeros((0, 2), np.int32)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"edges must be (m, 2) integers, got {pairs.dtype} of shape {pairs.shape}")
    bad = ((pairs < 0) | (pairs >= num_workers)).any(axis=1)
    if bad.any():
        raise ValueError(f"edges must join workers in 0..{num_workers - 1}, got {_pair(pairs[bad][0])}")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        raise ValueError(f"edges must join different workers, got {_pair(pairs[loops][0])}")
    build = _directed if directed else _undirected
    return build(num_workers, pairs[:, 0], pairs[:, 1], name)


def from_networkx(graph: Any) -> Topology:
    """A networkx graph (a DiGraph becomes directed), its weights and parallel edges dropped.

    Nodes that are the integers 0..n-1 keep their numbers; others are numbered in the graph's order.
    """
    n = len(graph)
    number = {v: i for i, v in enumerate(graph)}
    if number.keys() == set(range(n)):
        number = {v: v for v in graph}
    edges = [(number[a], number[b]) for a, b in graph.edges()]
    return from_edges(n, edges, directed=graph.is_directed(), name=graph.name or "networkx")


def to_networkx(topology: Topology) -> Any:
    """The same graph as a networkx Graph or DiGraph on the nodes 0..n-1."""
    graph: Any = nx.DiGraph(name=topology.name) if topology.directed else nx.Graph(name=topology.name)
    graph.add_nodes_from(range(topology.num_workers))
    graph.add_edges_from(topology.edges.tolist())
    return graph


# Trees.


def chain(num_workers: int) -> Topology:
    """The path 0 - 1 - ... - (n-1)."""
    _check_int("num_workers", num_workers)
    return _tree(np.arange(num_workers - 1), "chain")


def star(num_workers: int) -> Topology:
    """Worker 0 in the centre, joined to all others."""
    _check_int("num_workers", num_workers)
    return _tree(np.zeros(num_workers - 1, np.int64), "star")


def binary_tree(num_workers: int) -> Topology:
    """The heap: worker i >= 1 has the children 2i and 2i + 1, and worker 0 hangs on worker 1.

    >>> binary_tree(6).edges.tolist()
    [[0, 1], [1, 2], [1, 3], [2, 4], [2, 5]]
    """
    _check_int("num_workers", num_workers)
    return _tree(np.arange(1, num_workers) // 2, "binary_tree")


def max_degree_tree(num_workers: int, degree: int) -> Topology:
    """The lowest tree where no worker has more than `degree` >= 2 neighbours, filled breadth-first."""
    _check_int("num_workers", num_workers)
    _check_int("degree", degree, 2)
    parent = np.maximum(np.arange(-1, num_workers - 2) // (degree - 1), 0)
    return _tree(parent, f"max_degree_{degree}_tree")


def double_binary_trees(num_workers: int) -> tuple[Topology, Topology]:
    """Two binary trees, each for half of the parameters: who has much to do in one has little in the other.

    The second is the first with worker i renamed to n-1-i. In the heap the workers below n/2 are the inner
    nodes, so the mirror image makes leaves of them; the busiest worker has 4 neighbours in the two trees
    together for every n >= 6. Renaming to (i + n//2) mod n would serve as well for even n, but reaches 5
    for every odd n >= 7.

    Source: Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and
    scan", Parallel Computing 35 (2009).
    """
    first = binary_tree(num_workers)
    last = num_workers - 1
    mirror = _directed(num_workers, last - first.senders, last - first.receivers, "mirrored_binary_tree")
    return first, mirror


def random_tree(num_workers: int, seed: int) -> Topology:
    """A tree drawn uniformly from all n^(n-2) labelled trees.

    Join i to min(U_i, i - 1) with U_i uniform on 0..n-1, then shuffle the labels: Aldous, "The random walk
    construction of uniform spanning trees", SIAM J. Discrete Math. 3 (1990), algorithm 2.
    """
    _check_int("num_workers", num_workers)
    rng = _rng(seed)
    child = np.arange(1, num_workers)
    parent = np.minimum(rng.integers(num_workers, size=num_workers - 1), child - 1)
    label = rng.permutation(num_workers)
    return _undirected(num_workers, label[parent], label[child], "random_tree")


def random_recursive_tree(num_workers: int, seed: int) -> Topology:
    """Worker i hangs on one of 0..i-1, each as likely as the others: a low tree with busy first workers."""
    _check_int("num_workers", num_workers)
    return _tree(_rng(seed).integers(0, np.arange(1, num_workers)), "random_recursive_tree")


def spanning_tree(topology: Topology, root: int = 0) -> Topology:
    """The breadth-first tree of a connected undirected graph: everybody is as near to `root` as can be.

    >>> spanning_tree(ring(5)).edges.tolist()
    [[0, 1], [0, 4], [1, 2], [3, 4]]
    """
    order, parent = _breadth_first("topology", topology, root)
    return _undirected(
        topology.num_workers, parent[order[1:]], order[1:], f"spanning_tree_of_{topology.name}"
    )


# Other graphs.


def ring(num_workers: int) -> Topology:
    """The cycle 0 - 1 - ... - (n-1) - 0."""
    _check_int("num_workers", num_workers)
    i = np.arange(num_workers)
    return _undirected(num_workers, i, (i + 1) % num_workers, "ring")


def grid(rows: int, cols: int) -> Topology:
    """A lattice; the worker in row r and column c has the number r * cols + c."""
    i = _lattice(rows, cols)
    senders = np.concatenate([i[1:].ravel(), i[:, 1:].ravel()])
    receivers = np.concatenate([i[:-1].ravel(), i[:, :-1].ravel()])
    return _undirected(rows * cols, senders, receivers, "grid")


def torus(rows: int, cols: int) -> Topology:
    """A lattice numbered like `grid`, with its opposite borders joined."""
    i = _lattice(rows, cols)
    receivers = np.concatenate([np.roll(i, 1, axis=0).ravel(), np.roll(i, 1, axis=1).ravel()])
    return _undirected(rows * cols, np.tile(i.ravel(), 2), receivers, "torus")


def hypercube(num_workers: int) -> Topology:
    """Workers are joined whose numbers differ in one bit; n must be a power of two."""
    _check_int("num_workers", num_workers)
    if num_workers & (num_workers - 1):
        raise ValueError(f"num_workers must be a power of two in a hypercube, got {num_workers}")
    i, bits = np.arange(num_workers), 2 ** np.arange((num_workers - 1).bit_length())
    receivers = np.repeat(i, len(bits))
    return _directed(num_workers, (i[:, None] ^ bits).ravel(), receivers, "hypercube")


def fully_connected(num_workers: int) -> Topology:
    """Everybody talks to everybody."""
    _check_int("num_workers", num_workers)
    i = np.arange(num_workers)
    return _directed(num_workers, np.tile(i, num_workers), np.repeat(i, num_workers), "fully_connected")


def exponential(num_workers: int) -> Topology:
    """The static exponential graph, directed: i sends to (i + 2^k) mod n for k = 0..floor(log2(n-1)).

    Source: Assran et al., "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019.
    """
    _check_int("num_workers", num_workers)
    i, hops = np.arange(num_workers), 2 ** np.arange((num_workers - 1).bit_length())
    senders = (i[:, None] - hops) % num_workers
    return _directed(num_workers, senders.ravel(), np.repeat(i, len(hops)), "exponential")


def random_regular(num_workers: int, degree: int, seed: int) -> Topology:
    """A connected random graph where everybody has `degree` neighbours; n * degree must be even.

    Raises:
      ValueError: if there is no such graph, or 100 draws in a row were disconnected.
    """
    _check_int("num_workers", num_workers)
    _check_int("degree", degree, 0, num_workers - 1)
    if num_workers * degree % 2:
        raise ValueError(f"num_workers * degree must be even, got {num_workers} * {degree}")

    def draw(rng: np.random.Generator) -> Topology:
        graph = nx.random_regular_graph(degree, num_workers, seed=int(rng.integers(2**31)))
        return from_edges(num_workers, list(graph.edges()), name="random_regular")

    return _connected(draw, seed, f"degree = {degree}")


def erdos_renyi(num_workers: int, p: float, seed: int) -> Topology:
    """A connected random graph: every pair is an edge with probability p; redrawn until it is connected.

    Raises:
      ValueError: if p is no probability, or so small that 100 draws in a row were disconnected.
    """
    _check_int("num_workers", num_workers)
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability in [0, 1], got {p}")
    num_pairs = num_workers * (num_workers - 1) // 2

    def draw(rng: np.random.Generator) -> Topology:
        k = rng.choice(num_pairs, rng.binomial(num_pairs, p), replace=False, shuffle=False)
        j = ((1 + np.sqrt(1 + 8 * k)) / 2).astype(np.int64)  # pair k = j(j-1)/2 + i, with i < j
        return _undirected(num_workers, k - j * (j - 1) // 2, j, "erdos_renyi")

    return _connected(draw, seed, f"p = {p}")


def social_network() -> Topology:
    """18 women of a Southern town and the 14 events where they met (Davis et al. 1941), 32 workers."""
    graph = nx.convert_node_labels_to_integers(nx.davis_southern_women_graph())
    return from_edges(32, list(graph.edges()), name="social_network")


def social_tree(root: int = 0) -> Topology:
    """The breadth-first spanning tree of the social network."""
    return spanning_tree(social_network(), root)


# Rooted trees and distances.


class RootedTree(NamedTuple):
    """A tree seen from one of its workers."""

    parent: np.ndarray
    """(n,) int32, the root being its own parent."""
    order: np.ndarray
    """(n,) int32, the workers breadth-first: parents before children, siblings side by side."""
    depth: np.ndarray
    """(n,) int32, the hops from the root."""


def rooted(tree: Topology, root: int = 0) -> RootedTree:
    """Hang up a tree by its worker `root`.

    Raises:
      ValueError: if the topology is not a tree, with the reason.
    """
    order, parent = _breadth_first("tree", tree, root)
    n = tree.num_workers
    if tree.num_edges != n - 1:
        raise ValueError(
            f"tree must have no cycle: {tree.name!r} has {tree.num_edges} edges, a tree on {n} workers has "
            f"{n - 1}: use rs.topology.spanning_tree"
        )
    depth, ancestor = (parent != np.arange(n)).astype(np.int32), parent
    while (ancestor != root).any():  # depth[i] = hops from i to ancestor[i]; each round doubles them
        depth, ancestor = depth + depth[ancestor], ancestor[ancestor]
    return RootedTree(parent, order, depth)


def distances(topology: Topology) -> np.ndarray:
    """Hops from i to j at [i, j], (n, n) int32, for graphs of up to some thousand workers.

    Raises:
      ValueError: if some worker cannot be reached from another.
    """
    hops = csgraph.shortest_path(topology.adjacency().T.tocsr(), method="D", unweighted=True)
    if np.isinf(hops).any():
        i, j = np.argwhere(np.isinf(hops))[0]
        raise ValueError(f"topology must be connected: in {topology.name!r} no path leads from {i} to {j}")
    return hops.astype(np.int32)


def diameter(topology: Topology) -> int:
    """The largest distance between two workers; for a tree of any size in two searches."""
    if not topology.is_tree:
        return int(distances(topology).max())
    far = int(rooted(topology).depth.argmax())
    return int(rooted(topology, far).depth.max())


def learning_rate_correction(tree: Topology) -> float:
    """The mean over all ordered pairs (i, j), i = j included, of max(distance(i, j), 1).

    RelaySum's delays grow with it, so this is the factor between its learning rate and all-reduce's.

    >>> learning_rate_correction(chain(5))
    1.8
    """
    parent, order, _ = rooted(tree)
    n = tree.num_workers
    below, up = [1] * n, parent.tolist()
    for i in order[:0:-1].tolist():
        below[up[i]] += below[i]
    size = np.array(below)  # the edge above i lies on the paths of size[i] * (n - size[i]) pairs
    return float(1 / n + 2 * (size * (n - size)).sum() / n**2)


# Weights: W[i, j] is the weight that worker i gives to the model of worker j.


def metropolis_weights(topology: Topology) -> csr_array:
    """Metropolis-Hastings weights, doubly stochastic: 1 / (1 + max(deg_i, deg_j)), the rest to oneself.

    Args:
      topology: an undirected graph, or a directed one where the in-degrees make the weights doubly
        stochastic, as in `exponential`.

    Returns:
      (n, n) float64.

    Raises:
      ValueError: for other directed graphs.
    """
    degree = topology.in_degrees
    w = topology.adjacency()
    w.data = 1 / (1.0 + np.maximum(degree[topology.senders], degree[topology.receivers]))
    w = (w + diags_array(1 - w.sum(axis=1))).tocsr()
    if not np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-6):
        raise ValueError(
            f"topology must be undirected or have doubly stochastic weights, which the directed "
            f"{topology.name!r} has not: average with rs.push instead"
        )
    return w


def check_weights(weights: Any, topology: Topology) -> csr_array:
    """Weights of one's own, checked: doubly stochastic to 1e-6, and zero where there is no edge.

    Args:
      weights: (n, n), a dense array or a scipy sparse one; the diagonal is free, negative entries may be.
      topology: the graph whose edges they may use.

    Returns:
      (n, n) float64, without explicit zeros.
    """
    n = topology.num_workers
    w = _square(weights)
    if w.shape != (n, n):
        raise ValueError(f"weights must have shape ({n}, {n}), got {w.shape}")
    i, j = w.tocoo().coords
    known = np.isin(n * i.astype(np.int64) + j, n * topology.receivers.astype(np.int64) + topology.senders)
    stray = np.flatnonzero(~known & (i != j))
    if len(stray):
        at = f"[{i[stray[0]]}, {j[stray[0]]}]"
        edge = f"from worker {j[stray[0]]} to worker {i[stray[0]]}"
        raise ValueError(
            f"weights{at} = {w.data[stray[0]]:g}, but {topology.name!r} has no edge {edge}: must be 0"
        )
    _check_sums(w, "row")
    _check_sums(w, "column")
    return w


def spectral_gap(weights: Any) -> float:
    """1 - |λ_2|, λ_2 being the eigenvalue of second largest magnitude: how fast gossip reaches consensus.

    Args:
      weights: (n, n) with rows that sum to 1, dense or sparse. Beyond n = 500 an iterative solver is used.
    """
    w = _square(weights)
    _check_sums(w, "row")
    n, symmetric = w.shape[0], abs(w - w.T).max() < 1e-12
    if n <= 500:
        deflated = w.toarray() - 1 / n  # takes the eigenvalue 1 of the constant vector to 0
        values = np.linalg.eigvalsh(deflated) if symmetric else np.linalg.eigvals(deflated)
    else:
        operator = LinearOperator((n, n), matvec=lambda x: w @ x - x.mean(), dtype=np.float64)
        v0 = np.random.default_rng(0).standard_normal(n)
        solve = eigsh if symmetric else eigs
        values = solve(operator, k=1, which="LM", v0=v0, ncv=50, return_eigenvectors=False)
    return float(1 - np.abs(values).max())


# Helpers.


def _directed(n: int, senders: np.ndarray, receivers: np.ndarray, name: str) -> Topology:
    """Sort the edges, drop self-loops and duplicates."""
    keys = receivers * np.int64(n) + senders
    keys = np.sort(keys[senders != receivers])
    keys = keys[np.diff(keys, prepend=-1) > 0]
    receivers = (keys // n).astype(np.int32)
    return Topology(n, (keys - np.int64(n) * receivers).astype(np.int32), receivers, name)


def _undirected(n: int, a: np.ndarray, b: np.ndarray, name: str) -> Topology:
    return _directed(n, np.concatenate([a, b]), np.concatenate([b, a]), name)


def _tree(parent: np.ndarray, name: str) -> Topology:
    """From the parents of the workers 1..n-1."""
    n = len(parent) + 1
    return _undirected(n, parent, np.arange(1, n), name)


def _lattice(rows: int, cols: int) -> np.ndarray:
    _check_int("rows", rows)
    _check_int("cols", cols)
    return np.arange(rows * cols).reshape(rows, cols)


def _connected(draw: Callable[[np.random.Generator], Topology], seed: int, what: str) -> Topology:
    rng = _rng(seed)
    for _ in range(100):
        if (topology := draw(rng)).is_connected:
            return topology
    raise ValueError(f"{what} is too small for {topology.num_workers} workers: 100 draws were disconnected")


def _num_components(topology: Topology) -> int:
    return csgraph.connected_components(topology.adjacency(), topology.directed, "strong", False)


def _breadth_first(argument: str, topology: Topology, root: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the order in which the workers are met, and (n,) their parents, the root being its own."""
    _check_int("root", root, 0, topology.num_workers - 1)
    if topology.directed:
        raise ValueError(f"{argument} must be undirected, got the directed {topology.name!r}")
    order, parent = csgraph.breadth_first_order(topology.adjacency(), root)
    if len(order) < topology.num_workers:
        k = _num_components(topology)
        raise ValueError(f"{argument} must be connected: {topology.name!r} has {k} components")
    parent[root] = root
    return order, parent


def _square(weights: Any) -> csr_array:
    w = csr_array(weights if issparse(weights) else np.asarray(weights), dtype=np.float64, copy=True)
    if w.ndim != 2 or w.shape[0] != w.shape[1]:
        raise ValueError(f"weights must have shape (n, n), got {w.shape}")
    w.sum_duplicates()
    w.eliminate_zeros()
    if not np.isfinite(w.data).all():
        raise ValueError(f"weights must be finite, got {w.data[~np.isfinite(w.data)][0]}")
    return w


def _check_sums(w: csr_array, line: str) -> None:
    sums = w.sum(axis=("column", "row").index(line))
    bad = np.flatnonzero(abs(sums - 1) > 1e-6)
    if len(bad):
        raise ValueError(f"weights must sum to 1 in every {line}, got {sums[bad[0]]:.8g} in {line} {bad[0]}")


def _check_int(name: str, value: Any, low: int = 1, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        expected = f"in {low}..{high}" if high < math.inf else f">= {low}"
        raise ValueError(f"{name} must be an integer {expected}, got {value!r}")


def _rng(seed: int) -> np.random.Generator:
    _check_int("seed", seed, 0)
    return np.random.default_rng(seed)


def _pair(edge: np.ndarray) -> tuple[int, int]:
    return int(edge[0]), int(edge[1])
