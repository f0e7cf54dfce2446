"""Families of graphs, by their number of workers."""

from collections.abc import Callable

import numpy as np

from relaysim.checks import check_count, check_num_workers, check_number
from relaysim.topology.graphs import Topology, both_ways, check_room, from_edges, one_way
from relaysim.topology.trees import breadth_first, cuthill_mckee, renumber, spanning_tree


def chain(num_workers: int) -> Topology:
    """The path 0 - 1 - ... - (n-1).

    >>> chain(4).edges.tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    return _tree(_workers(num_workers)[1:] - 1, "chain")


def star(num_workers: int) -> Topology:
    """Worker 0 in the centre, joined to all others.

    >>> star(4).edges.tolist()
    [[0, 1], [0, 2], [0, 3]]
    """
    return _tree(_workers(num_workers)[1:] * 0, "star")


def binary_tree(num_workers: int) -> Topology:
    """The heap: worker i >= 1 has the children 2i and 2i + 1, and worker 0 hangs on worker 1.

    >>> binary_tree(6).edges.tolist()
    [[0, 1], [1, 2], [1, 3], [2, 4], [2, 5]]
    """
    return _tree(_workers(num_workers)[1:] // 2, "binary_tree")


def max_degree_tree(num_workers: int, degree: int) -> Topology:
    """The lowest tree where nobody has more than `degree` >= 2 neighbours, filled breadth-first from 0.

    >>> max_degree_tree(6, 3).degrees.tolist()
    [3, 3, 1, 1, 1, 1]
    """
    i, degree = _workers(num_workers), check_count("degree", degree, 2)
    parent = np.maximum((i[1:] - 2) // min(degree - 1, len(i)), 0)
    return _tree(parent, f"max_degree_{degree}_tree")


def double_binary_trees(num_workers: int) -> tuple[Topology, Topology]:
    """Two binary trees, each for half of the parameters: who has much to do in one has little in the other.

    The second is the first with worker i renamed to n-1-i: the inner nodes of a heap lie below n/2, so they
    become leaves. Nobody has more than 4 neighbours in the two trees together; no pair does better for n > 4.
    >>> one, other = double_binary_trees(6)
    >>> (one.degrees + other.degrees).tolist()
    [2, 4, 4, 4, 4, 2]

    Source: Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan",
    Parallel Computing 35 (2009).
    """
    tree = binary_tree(num_workers)
    senders, receivers = (tree.num_workers - 1 - ends for ends in (tree.senders, tree.receivers))
    return tree, one_way(tree.num_workers, senders, receivers, "mirrored_binary_tree")


def b_ary_tree(num_workers: int, branching: int) -> Topology:
    """The complete tree: worker i > 0 hangs on worker (i - 1) div `branching`.

    Source: Knuth, The Art of Computer Programming 1, section 2.3.4.5.

    >>> b_ary_tree(6, 3).edges.tolist()
    [[0, 1], [0, 2], [0, 3], [1, 4], [1, 5]]
    """
    i, branching = _workers(num_workers), check_count("branching", branching)
    return _tree((i[1:] - 1) // min(branching, len(i)), f"{branching}_ary_tree")


def caterpillar(num_workers: int, legs: int) -> Topology:
    """A chain of ⌈n / (legs + 1)⌉ workers, the spine, and on each of them, from 0 on, `legs` of the others.

    Source: Harary and Schwenk, "The number of caterpillars", Discrete Mathematics 6 (1973).

    >>> caterpillar(6, 2).edges.tolist()
    [[0, 1], [0, 2], [0, 3], [1, 4], [1, 5]]
    """
    i, legs = _workers(num_workers), check_count("legs", legs, 0)
    spine = -(-len(i) // (legs + 1))
    parent = np.append(i[: spine - 1], i[: len(i) - spine] // max(min(legs, len(i)), 1))
    return _tree(parent, "caterpillar")


def random_tree(num_workers: int, seed: int) -> Topology:
    """A tree drawn uniformly from all n^(n-2) labelled trees.

    Neighbours lie far apart in memory: of very many workers, `renumber` it by `depth_first`.

    Worker i joins min(U_i, i - 1), U_i uniform on 0..n-1; then the labels are shuffled. Source: Aldous,
    "The random walk construction of uniform spanning trees", SIAM J. Discrete Math. 3 (1990), algorithm 2.

    >>> random_tree(9, seed=0).is_tree
    True
    """
    i, rng = _workers(num_workers), _generator(seed)
    n, child = len(i), i[1:]
    parent = np.minimum(rng.integers(n, size=n - 1), child - 1)
    label = rng.permutation(n)
    return both_ways(n, label[parent], label[child], "random_tree")


def random_recursive_tree(num_workers: int, seed: int) -> Topology:
    """Each newcomer hangs on one of those before it, all as likely: a low tree with busy first workers. They
    are then numbered breadth-first, so that neighbours lie near each other in memory.

    >>> random_recursive_tree(9, seed=0).is_tree
    True
    """
    i, rng = _workers(num_workers), _generator(seed)
    grown = _tree(rng.integers(0, i[1:]), "random_recursive_tree")
    order, parent = breadth_first("tree", grown, 0)
    return _tree(np.argsort(order)[parent[order[1:]]], grown.name)


def ring(num_workers: int) -> Topology:
    """The cycle 0 - 1 - ... - (n-1) - 0.

    >>> ring(4).edges.tolist()
    [[0, 1], [0, 3], [1, 2], [2, 3]]
    """
    i = _workers(num_workers)
    return both_ways(len(i), i, np.roll(i, 1), "ring")


def grid(rows: int, cols: int) -> Topology:
    """A lattice; the worker in row r and column c has the number r * cols + c.

    >>> grid(2, 3).edges.tolist()
    [[0, 1], [0, 3], [1, 2], [1, 4], [2, 5], [3, 4], [4, 5]]
    """
    i = _lattice(rows, cols)
    a, b = np.append(i[1:], i[:, 1:]), np.append(i[:-1], i[:, :-1])
    return both_ways(i.size, a, b, "grid")


def torus(rows: int, cols: int) -> Topology:
    """A lattice numbered like `grid`, with its opposite borders joined.

    >>> torus(3, 4).degrees.tolist()
    [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    """
    i = _lattice(rows, cols)
    a, b = np.append(i, i), np.append(np.roll(i, 1, axis=0), np.roll(i, 1, axis=1))
    return both_ways(i.size, a, b, "torus")


def hypercube(num_workers: int) -> Topology:
    """Workers are joined whose numbers differ in one bit; n must be a power of two.

    >>> hypercube(4).edges.tolist()
    [[0, 1], [0, 2], [1, 3], [2, 3]]
    """
    n = check_num_workers(num_workers)
    if n & (n - 1):
        raise ValueError(f"num_workers must be a power of two in a hypercube, got {n}")
    bits = _powers_of_two_below(n)
    return _regular(_workers(n, len(bits))[:, None] ^ bits, "hypercube")


def fully_connected(num_workers: int) -> Topology:
    """Everybody talks to everybody.

    >>> fully_connected(5).num_edges
    10
    """
    n = check_num_workers(num_workers)
    i = _workers(n, n - 1)
    return one_way(n, np.tile(i, n), np.repeat(i, n), "fully_connected")


def barbell(num_workers: int) -> Topology:
    """Two cliques of n/2 workers, 0..n/2-1 and the others, joined by one edge; n must be even.

    Source: Aldous and Fill, Reversible Markov Chains and Random Walks on Graphs, chapter 5.

    >>> barbell(6).edges.tolist()
    [[0, 1], [0, 2], [1, 2], [2, 3], [3, 4], [3, 5], [4, 5]]
    """
    n = check_num_workers(num_workers)
    if n % 2:
        raise ValueError(f"num_workers is {n}, expected an even number in a barbell")
    half = n // 2
    check_room(n, n * (half - 1) + 2)
    a, b = np.triu_indices(half, 1)
    return both_ways(n, np.r_[a, a + half, half - 1], np.r_[b, b + half, half], "barbell")


def exponential(num_workers: int) -> Topology:
    """The static exponential graph, directed: i sends to (i + 2^k) mod n for k = 0..floor(log2(n-1)).

    >>> exponential(5).edges[:3].tolist()  # worker 0 hears from 1, 3 and 4
    [[1, 0], [3, 0], [4, 0]]

    Source: Assran et al., "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019.
    """
    n = check_num_workers(num_workers)
    hops = _powers_of_two_below(n)
    return _regular((_workers(n, len(hops))[:, None] - hops) % n, "exponential")


def random_regular(num_workers: int, degree: int, seed: int) -> Topology:
    """A connected random graph where everybody has `degree` neighbours; n * degree must be even.

    The ends of edges are paired at random, loops and double edges anew, with other edges where that fails
    (after Steger and Wormald 1999). They are numbered so that neighbours lie near each other, by
    `cuthill_mckee`. Raises: ValueError if there is none, or 100 draws were disconnected.

    >>> random_regular(6, degree=3, seed=0).degrees.tolist()
    [3, 3, 3, 3, 3, 3]
    """
    n = check_num_workers(num_workers)
    degree = check_count("degree", degree, 0, n - 1)
    if n * degree % 2:
        raise ValueError(f"num_workers * degree must be even, got {n} * {degree}")
    check_room(n, n * degree)

    def draw(rng: np.random.Generator) -> Topology:
        left, edges = np.repeat(np.arange(n), degree), np.empty((0, 2), np.int64)
        while len(left):
            pairs = np.sort(rng.permutation(left).reshape(-1, 2))
            keys, first = np.unique(pairs @ [n, 1], return_index=True)
            new = first[(pairs[first, 0] < pairs[first, 1]) & ~np.isin(keys, edges @ [n, 1], True)]
            kept = np.arange(len(edges)) if len(new) else rng.permutation(len(edges))[10:]
            left = np.concatenate([np.delete(pairs, new, 0), np.delete(edges, kept, 0)]).ravel()
            edges = np.concatenate([edges[kept], pairs[new]])
        return both_ways(n, edges[:, 0], edges[:, 1], "random_regular")

    drawn = _first_connected(draw, seed, f"degree = {degree}")
    return renumber(drawn, cuthill_mckee(drawn))


def erdos_renyi(num_workers: int, p: float, seed: int) -> Topology:
    """A random graph where every pair is an edge with probability p, given that it is connected.

    >>> erdos_renyi(9, p=0.5, seed=0).is_connected
    True

    Raises: ValueError if p is no probability, or so small that 100 draws in a row were disconnected.
    """
    n, p = check_num_workers(num_workers), check_number("p", p, 0, 1)
    num_pairs = n * (n - 1) // 2

    def draw(rng: np.random.Generator) -> Topology:
        num_edges = int(rng.binomial(num_pairs, p))
        check_room(n, 2 * num_edges)
        k = rng.choice(num_pairs, num_edges, replace=False, shuffle=False)
        j = ((1 + np.sqrt(1 + 8 * k)) / 2).astype(np.int64)  # pair k = j(j-1)/2 + i, with i < j
        return both_ways(n, k - j * (j - 1) // 2, j, "erdos_renyi")

    return _first_connected(draw, seed, f"p = {p}")


def geometric(num_workers: int, radius: float, seed: int) -> Topology:
    """Workers at random in the unit square, neighbours if at most `radius` apart, given that it is connected.

    >>> geometric(9, radius=0.6, seed=0).is_connected
    True

    Source: Gilbert, "Random plane networks", Journal of SIAM 9 (1961).
    Raises: ValueError if the radius is so small that 100 draws in a row were disconnected.
    """
    from scipy.spatial import KDTree  # slow to import, and needed here alone

    n, radius = check_num_workers(num_workers), check_number("radius", radius, 0)

    def draw(rng: np.random.Generator) -> Topology:
        places = KDTree(rng.random((n, 2)))
        check_room(n, places.count_neighbors(places, radius) - n)
        a, b = places.query_pairs(radius, output_type="ndarray").T
        return both_ways(n, a, b, "geometric")

    return _first_connected(draw, seed, f"radius = {radius}")


def small_world(num_workers: int, degree: int, rewire: float, seed: int) -> Topology:
    """A ring where everybody knows the `degree` nearest, one end of each edge moved anywhere with probability
    `rewire`, given that it is connected. The degree, of at least 2, must be even.

    >>> small_world(9, degree=4, rewire=0.1, seed=0).num_edges
    18

    Source: Watts and Strogatz, "Collective dynamics of 'small-world' networks", Nature 393 (1998).
    Raises: ValueError if 100 draws in a row were disconnected.
    """
    n, rewire = check_num_workers(num_workers), check_number("rewire", rewire, 0, 1)
    degree = check_count("degree", degree, 2, n - 1)
    if degree % 2:
        raise ValueError(f"degree is {degree}, expected an even number in a small world")
    check_room(n, n * degree)

    import networkx as nx  # slow to import

    def draw(rng: np.random.Generator) -> Topology:
        graph = nx.watts_strogatz_graph(n, degree, rewire, seed=rng)
        return from_edges(n, list(graph.edges()), name="small_world")

    return _first_connected(draw, seed, f"degree = {degree}")


def social_network() -> Topology:
    """18 women of a Southern town and the 14 events where they met (Davis et al. 1941), 32 workers.

    >>> social_network()
    Topology('social_network', 32 workers, 89 edges)
    """
    import networkx as nx  # slow to import

    graph = nx.convert_node_labels_to_integers(nx.davis_southern_women_graph())
    return from_edges(32, list(graph.edges()), name="social_network")


def social_tree(root: int = 0) -> Topology:
    """The breadth-first spanning tree of the social network.

    >>> social_tree().is_tree
    True
    """
    return spanning_tree(social_network(), root)


def _workers(num_workers: int, degree: int = 2) -> np.ndarray:
    """0..n-1, if there is room for graphs where they have so many neighbours, on average."""
    n = check_num_workers(num_workers)
    check_room(n, n * degree)
    return np.arange(n, dtype=np.int32)


def _lattice(rows: int, cols: int) -> np.ndarray:
    rows, cols = check_count("rows", rows), check_count("cols", cols)
    return _workers(rows * cols, 4).reshape(rows, cols)


def _powers_of_two_below(n: int) -> np.ndarray:
    return 2 ** np.arange((n - 1).bit_length(), dtype=np.int32)


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(check_count("seed", seed, 0))


def _tree(parent: np.ndarray, name: str) -> Topology:
    """From the parents of the workers 1..n-1."""
    n = len(parent) + 1
    return both_ways(n, parent, np.arange(1, n), name)


def _regular(senders: np.ndarray, name: str) -> Topology:
    """From the distinct senders (n, degree) to everybody."""
    n, degree = senders.shape
    receivers = np.repeat(np.arange(n, dtype=np.int32), degree)
    return Topology(n, np.sort(senders, axis=1).astype(np.int32).ravel(), receivers, name)


def _first_connected(draw: Callable[[np.random.Generator], Topology], seed: int, what: str) -> Topology:
    rng = _generator(seed)
    for _ in range(100):
        if (topology := draw(rng)).is_connected:
            return topology
    raise ValueError(f"{what} is too small for {topology.num_workers} workers: 100 draws were disconnected")
