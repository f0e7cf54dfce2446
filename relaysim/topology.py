"""Graphs: who talks to whom, as arrays of edges; spanning trees, distances and averaging weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from scipy.sparse import csgraph, csr_array, diags_array, eye_array, issparse
from scipy.sparse.linalg import LinearOperator, eigs, eigsh

from relaysim.checks import check_int


@dataclass(frozen=True, eq=False, repr=False)
class Topology:
    """A graph of workers 0..n-1 as directed edges; an undirected graph holds every edge in both directions.

    The functions of this module sort the edges by (receiver, sender), without self-loops and duplicates.
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
        check_int("worker", worker, 0, self.num_workers - 1)
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
    check_int("num_workers", num_workers)
    pairs = np.asarray(edges) if np.size(edges) else np.zeros((0, 2), np.int32)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"edges must be (m, 2) integers, got {pairs.dtype} of shape {pairs.shape}")
    outside = ((pairs < 0) | (pairs >= num_workers)).any(axis=1)
    if outside.any():
        raise ValueError(f"edges must join workers in 0..{num_workers - 1}, got {pairs[outside][0].tolist()}")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        raise ValueError(f"edges must join different workers, got {pairs[loops][0].tolist()}")
    senders, receivers = pairs.astype(np.int32).T
    return (_directed if directed else _undirected)(num_workers, senders, receivers, name)


def from_networkx(graph: Any) -> Topology:
    """A networkx graph (a DiGraph becomes directed), its weights and parallel edges dropped.

    Nodes that are the integers 0..n-1 keep their numbers; others are numbered in the graph's order.
    """
    number = {v: i for i, v in enumerate(graph)}
    if number.keys() == set(range(len(graph))):
        number = {v: int(v) for v in graph}
    edges = [(number[a], number[b]) for a, b in graph.edges()]
    return from_edges(len(graph), edges, directed=graph.is_directed(), name=graph.name or "networkx")


def to_networkx(topology: Topology) -> Any:
    """The same graph as a networkx Graph or DiGraph on the nodes 0..n-1."""
    graph: Any = nx.DiGraph(name=topology.name) if topology.directed else nx.Graph(name=topology.name)
    graph.add_nodes_from(range(topology.num_workers))
    graph.add_edges_from(topology.edges.tolist())
    return graph


def chain(num_workers: int) -> Topology:
    """The path 0 - 1 - ... - (n-1)."""
    return _tree(_workers(num_workers)[1:] - 1, "chain")


def star(num_workers: int) -> Topology:
    """Worker 0 in the centre, joined to all others."""
    return _tree(_workers(num_workers)[1:] * 0, "star")


def binary_tree(num_workers: int) -> Topology:
    """The heap: worker i >= 1 has the children 2i and 2i + 1, and worker 0 hangs on worker 1.

    >>> binary_tree(6).edges.tolist()
    [[0, 1], [1, 2], [1, 3], [2, 4], [2, 5]]
    """
    return _tree(_workers(num_workers)[1:] // 2, "binary_tree")


def max_degree_tree(num_workers: int, degree: int) -> Topology:
    """The lowest tree where nobody has more than `degree` >= 2 neighbours, filled breadth-first from 0."""
    check_int("degree", degree, 2)
    parent = np.maximum((_workers(num_workers)[1:] - 2) // (degree - 1), 0)
    return _tree(parent, f"max_degree_{degree}_tree")


def double_binary_trees(num_workers: int) -> tuple[Topology, Topology]:
    """Two binary trees, each for half of the parameters: who has much to do in one has little in the other.

    The second is the first with worker i renamed to n-1-i: the inner nodes of a heap lie below n/2, so they
    become leaves. Nobody has more than 4 neighbours in the two trees together; no pair does better for n > 4.
    Source: Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
    Parallel Computing 35 (2009).
    """
    tree, last = binary_tree(num_workers), num_workers - 1
    return tree, _directed(num_workers, last - tree.senders, last - tree.receivers, "mirrored_binary_tree")


def random_tree(num_workers: int, seed: int) -> Topology:
    """A tree drawn uniformly from all n^(n-2) labelled trees.

    Worker i joins min(U_i, i - 1), U_i uniform on 0..n-1; then the labels are shuffled. Source: Aldous,
    "The random walk construction of uniform spanning trees", SIAM J. Discrete Math. 3 (1990), algorithm 2."""
    child, rng = _workers(num_workers)[1:], np.random.default_rng(seed)
    parent = np.minimum(rng.integers(num_workers, size=num_workers - 1), child - 1)
    label = rng.permutation(num_workers)
    return _undirected(num_workers, label[parent], label[child], "random_tree")


def random_recursive_tree(num_workers: int, seed: int) -> Topology:
    """Each newcomer hangs on one of those before it, all as likely: a low tree with busy first workers. They
    are then numbered breadth-first, so that neighbours lie near each other in memory."""
    grown = _tree(np.random.default_rng(seed).integers(0, _workers(num_workers)[1:]), "random_recursive_tree")
    order, parent = _breadth_first("tree", grown, 0)
    return _tree(np.argsort(order)[parent[order[1:]]], grown.name)


def spanning_tree(topology: Topology, root: int = 0) -> Topology:
    """The breadth-first tree of a connected undirected graph: everybody is as near to `root` as can be.

    >>> spanning_tree(ring(5)).edges.tolist()
    [[0, 1], [0, 4], [1, 2], [3, 4]]
    """
    order, parent = _breadth_first("topology", topology, root)
    return _undirected(topology.num_workers, parent[order], order, f"{topology.name}_spanning_tree")


def ring(num_workers: int) -> Topology:
    """The cycle 0 - 1 - ... - (n-1) - 0."""
    i = _workers(num_workers)
    return _undirected(num_workers, i, np.roll(i, 1), "ring")


def grid(rows: int, cols: int) -> Topology:
    """A lattice; the worker in row r and column c has the number r * cols + c."""
    i = _lattice(rows, cols)
    a, b = np.append(i[1:], i[:, 1:]), np.append(i[:-1], i[:, :-1])
    return _undirected(rows * cols, a, b, "grid")


def torus(rows: int, cols: int) -> Topology:
    """A lattice numbered like `grid`, with its opposite borders joined."""
    i = _lattice(rows, cols)
    a, b = np.append(i, i), np.append(np.roll(i, 1, axis=0), np.roll(i, 1, axis=1))
    return _undirected(rows * cols, a, b, "torus")


def hypercube(num_workers: int) -> Topology:
    """Workers are joined whose numbers differ in one bit; n must be a power of two."""
    i, bits = _workers(num_workers), _powers_of_two_below(num_workers)
    if num_workers & (num_workers - 1):
        raise ValueError(f"num_workers must be a power of two in a hypercube, got {num_workers}")
    return _regular(i[:, None] ^ bits, "hypercube")


def fully_connected(num_workers: int) -> Topology:
    """Everybody talks to everybody."""
    i = _workers(num_workers)
    return _directed(num_workers, np.tile(i, num_workers), np.repeat(i, num_workers), "fully_connected")


def exponential(num_workers: int) -> Topology:
    """The static exponential graph, directed: i sends to (i + 2^k) mod n for k = 0..floor(log2(n-1)).

    Source: Assran et al., "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019.
    """
    i, hops = _workers(num_workers), _powers_of_two_below(num_workers)
    return _regular((i[:, None] - hops) % num_workers, "exponential")


def random_regular(num_workers: int, degree: int, seed: int) -> Topology:
    """A connected random graph where everybody has `degree` neighbours; n * degree must be even.

    The ends of edges are paired at random, loops and double edges anew, with other edges where that fails
    (after Steger and Wormald 1999). Raises: ValueError if there is none, or 100 draws were disconnected."""
    check_int("num_workers", num_workers)
    check_int("degree", degree, 0, num_workers - 1)
    if num_workers * degree % 2:
        raise ValueError(f"num_workers * degree must be even, got {num_workers} * {degree}")

    def draw(rng: np.random.Generator) -> Topology:
        left, edges = np.repeat(np.arange(num_workers), degree), np.empty((0, 2), np.int64)
        while len(left):
            pairs = np.sort(rng.permutation(left).reshape(-1, 2))
            keys, first = np.unique(pairs @ [num_workers, 1], return_index=True)
            new = first[(pairs[first, 0] < pairs[first, 1]) & ~np.isin(keys, edges @ [num_workers, 1], True)]
            kept = np.arange(len(edges)) if len(new) else rng.permutation(len(edges))[10:]
            left = np.concatenate([np.delete(pairs, new, 0), np.delete(edges, kept, 0)]).ravel()
            edges = np.concatenate([edges[kept], pairs[new]])
        return _undirected(num_workers, edges[:, 0], edges[:, 1], "random_regular")

    return _first_connected(draw, seed, f"degree = {degree}")


def erdos_renyi(num_workers: int, p: float, seed: int) -> Topology:
    """A random graph where every pair is an edge with probability p, given that it is connected.

    Raises: ValueError if p is none, or so small that 100 draws in a row were disconnected."""
    check_int("num_workers", num_workers)
    num_pairs = num_workers * (num_workers - 1) // 2
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability in [0, 1], got {p}")

    def draw(rng: np.random.Generator) -> Topology:
        k = rng.choice(num_pairs, rng.binomial(num_pairs, p), replace=False, shuffle=False)
        j = ((1 + np.sqrt(1 + 8 * k)) / 2).astype(np.int64)  # pair k = j(j-1)/2 + i, with i < j
        return _undirected(num_workers, k - j * (j - 1) // 2, j, "erdos_renyi")

    return _first_connected(draw, seed, f"p = {p}")


def social_network() -> Topology:
    """18 women of a Southern town and the 14 events where they met (Davis et al. 1941), 32 workers."""
    graph = nx.convert_node_labels_to_integers(nx.davis_southern_women_graph())
    return from_edges(32, list(graph.edges()), name="social_network")


def social_tree(root: int = 0) -> Topology:
    """The breadth-first spanning tree of the social network."""
    return spanning_tree(social_network(), root)


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

    Raises: ValueError if the topology is directed, disconnected or has a cycle.
    """
    order, parent = _breadth_first("tree", tree, root)
    if not tree.is_tree:
        edges = f"{tree.num_edges} edges, a tree on {len(order)} workers has {len(order) - 1}"
        raise ValueError(f"tree {tree.name!r} has {edges}: use rs.topology.spanning_tree")
    depth, ancestor = (parent != np.arange(len(parent))).astype(np.int32), parent
    while (ancestor != root).any():  # depth[i] = hops from i to ancestor[i]; each round doubles them
        depth, ancestor = depth + depth[ancestor], ancestor[ancestor]
    return RootedTree(parent, order, depth)


def distances(topology: Topology) -> np.ndarray:
    """Hops from i to j at [i, j], (n, n) int32, for graphs of up to some thousand workers.

    Raises: ValueError if some worker cannot be reached from another."""
    hops = csgraph.shortest_path(topology.adjacency().T.tocsr(), method="D", unweighted=True)
    if np.isinf(hops).any():
        i, j = np.argwhere(np.isinf(hops))[0]
        raise ValueError(f"topology {topology.name!r} must be connected, but no path leads from {i} to {j}")
    return hops.astype(np.int32)


def diameter(topology: Topology) -> int:
    """The largest distance between two workers; for a tree of any size, by two searches."""
    if not topology.is_tree:
        return int(distances(topology).max())
    far = int(np.argmax(rooted(topology).depth))
    return int(rooted(topology, far).depth.max())


def learning_rate_correction(tree: Topology) -> float:
    """The mean over all ordered pairs (i, j), i = j included, of max(distance(i, j), 1).

    >>> learning_rate_correction(chain(5))
    1.8
    """
    parent, order, _ = rooted(tree)
    n, up, below = tree.num_workers, parent.tolist(), [1] * tree.num_workers
    for i in order[:0:-1].tolist():
        below[up[i]] += below[i]
    size = np.array(below)  # the edge above i lies between these workers and the n - size[i] others
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
    parent, order, depth = rooted(tree)
    size = np.ones(tree.num_workers, np.int64)
    for i in order[:0:-1].tolist():
        size[parent[i]] += size[i]
    start = np.zeros_like(size)
    free = start + 1  # the first place below each worker that is not taken
    for i in np.lexsort((size, depth))[1:].tolist():
        start[i] = free[parent[i]]
        free[parent[i]] += size[i]
        free[i] = start[i] + 1
    return np.argsort(start)


def renumber(topology: Topology, order: np.ndarray) -> Topology:
    """The same graph where worker i is the one that was `order[i]`; stacked arrays go along by `x[order]`.

    Raises:
      ValueError: where `order` is no permutation of the workers.
    """
    if not np.array_equal(np.sort(order), np.arange(topology.num_workers)):
        raise ValueError(f"order must be a permutation of the {topology.num_workers} workers, got {order}")
    number = np.argsort(order)
    return from_edges(topology.num_workers, number[topology.edges], topology.directed, topology.name)


def metropolis_weights(topology: Topology) -> csr_array:
    """Metropolis-Hastings weights: 1 / (1 + max(deg_i, deg_j)) for neighbours, the rest for oneself.

    Args:
      topology: undirected, or directed with in-degrees that make the weights doubly stochastic
        (`exponential`).

    Returns: W, (n, n) float64, where W[i, j] is the weight that i gives to the model of j.

    Raises: ValueError for other directed graphs.
    """
    degrees, w = topology.in_degrees, topology.adjacency()
    w.data = 1 / (1.0 + np.maximum(degrees[topology.senders], degrees[topology.receivers]))
    w = (w + diags_array(1 - w.sum(axis=1))).tocsr()
    if abs(w.sum(axis=0) - 1).max() > 1e-6:
        what = f"topology {topology.name!r} is directed and its Metropolis weights"
        raise ValueError(f"{what} are not doubly stochastic: use rs.push")
    return w


def check_weights(weights: Any, topology: Topology) -> csr_array:
    """Check weights of one's own: finite, doubly stochastic to 1e-6, and zero where there is no edge.

    Args:
      weights: (n, n), a dense array or a scipy sparse one. Entries may be negative.
      topology: the graph whose edges, besides the diagonal, they may use.

    Returns: the same weights, (n, n) float64, without explicit zeros.
    """
    n, w = topology.num_workers, _square(weights)
    if w.shape != (n, n):
        raise ValueError(f"weights must have shape ({n}, {n}) for {topology.name!r}, got {w.shape}")
    stray = (w - w.multiply(topology.adjacency() + eye_array(n))).tocoo()
    if stray.nnz:
        i, j = stray.coords[0][0], stray.coords[1][0]
        edge = f"{topology.name!r} has no edge from {j} to {i}"
        raise ValueError(f"weights[{i}, {j}] must be 0 as {edge}, got {stray.data[0]:g}")
    _check_sums(w, "row")
    _check_sums(w, "column")
    return w


def spectral_gap(weights: Any) -> float:
    """1 - |λ_2|, λ_2 being the eigenvalue of second largest magnitude: how fast gossip reaches consensus.

    The weights are (n, n), dense or sparse, with rows that sum to 1; iterative beyond n = 500."""
    w = _square(weights)
    _check_sums(w, "row")
    n, symmetric = w.shape[0], abs(w - w.T).max() < 1e-12
    if n <= 500:  # W - 11ᵀ/n has the eigenvalues of W, but 0 for the constant vector
        deviation = w.toarray() - 1 / n
        values = np.linalg.eigvalsh(deviation) if symmetric else np.linalg.eigvals(deviation)
    else:
        deflated = LinearOperator((n, n), matvec=lambda x: w @ x - x.mean(), dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(n)
        values = (eigsh if symmetric else eigs)(deflated, k=1, v0=start, ncv=50, return_eigenvectors=False)
    return float(1 - np.abs(values).max())


def _workers(num_workers: int) -> np.ndarray:
    check_int("num_workers", num_workers)
    return np.arange(num_workers, dtype=np.int32)


def _lattice(rows: int, cols: int) -> np.ndarray:
    check_int("rows", rows)
    check_int("cols", cols)
    return _workers(rows * cols).reshape(rows, cols)


def _powers_of_two_below(n: int) -> np.ndarray:
    return 2 ** np.arange(int(n - 1).bit_length(), dtype=np.int32)


def _directed(n: int, senders: np.ndarray, receivers: np.ndarray, name: str) -> Topology:
    """Sort the edges, drop self-loops and duplicates."""
    keys = np.int64(n) * receivers + senders
    keys.sort()
    senders, receivers = (keys % n).astype(np.int32), (keys // n).astype(np.int32)
    keep = np.append(keys[:1] >= 0, keys[1:] != keys[:-1]) & (senders != receivers)
    return Topology(int(n), senders[keep], receivers[keep], name)


def _undirected(n: int, a: np.ndarray, b: np.ndarray, name: str) -> Topology:
    return _directed(n, np.append(a, b), np.append(b, a), name)


def _tree(parent: np.ndarray, name: str) -> Topology:
    """From the parents of the workers 1..n-1."""
    n = len(parent) + 1
    return _undirected(n, parent, np.arange(1, n), name)


def _regular(senders: np.ndarray, name: str) -> Topology:
    """From the distinct senders (n, degree) to everybody."""
    n, degree = senders.shape
    receivers = np.repeat(np.arange(n, dtype=np.int32), degree)
    return Topology(n, np.sort(senders, axis=1).astype(np.int32).ravel(), receivers, name)


def _first_connected(draw: Callable[[np.random.Generator], Topology], seed: int, what: str) -> Topology:
    rng = np.random.default_rng(seed)
    for _ in range(100):
        if (topology := draw(rng)).is_connected:
            return topology
    raise ValueError(f"{what} is too small for {topology.num_workers} workers: 100 draws were disconnected")


def _breadth_first(argument: str, topology: Topology, root: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the order in which the workers are met, and (n,) their parents, the root being its own."""
    check_int("root", root, 0, topology.num_workers - 1)
    if topology.directed:
        raise ValueError(f"{argument} {topology.name!r} is directed, must be undirected")
    if not topology.is_connected:
        parts = f"{topology.num_components} components, must be connected"
        raise ValueError(f"{argument} {topology.name!r} has {parts}")
    order, parent = csgraph.breadth_first_order(topology.adjacency(), root)
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
    sums = w.sum(axis=1 if line == "row" else 0)
    bad = np.flatnonzero(abs(sums - 1) > 1e-6)
    if len(bad):
        raise ValueError(f"weights must sum to 1 in every {line}, got {sums[bad[0]]:.8g} in {line} {bad[0]}")
