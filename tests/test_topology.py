import re
import weakref
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from relaysim import topology as T

PUBLISHED = np.load(Path(__file__).parent / "reference" / "trajectories.npz")

TREES = {
    "chain": T.chain,
    "star": T.star,
    "binary": T.binary_tree,
    "max_degree_2": lambda n: T.max_degree_tree(n, 2),
    "max_degree_3": lambda n: T.max_degree_tree(n, 3),
    "max_degree_7": lambda n: T.max_degree_tree(n, 7),
    "double_first": lambda n: T.double_binary_trees(n)[0],
    "double_second": lambda n: T.double_binary_trees(n)[1],
    "random": lambda n: T.random_tree(n, 3),
    "random_recursive": lambda n: T.random_recursive_tree(n, 3),
    "b_ary": lambda n: T.b_ary_tree(n, 3),
    "caterpillar": lambda n: T.caterpillar(n, 2),
    "spanning_ring": lambda n: T.spanning_tree(T.ring(n), n // 2),
    "spanning_full": lambda n: T.spanning_tree(T.fully_connected(n)),
}
GRAPHS = TREES | {
    "ring": T.ring,
    "grid": lambda n: T.grid(3, n),
    "torus": lambda n: T.torus(n, 4),
    "hypercube": lambda n: T.hypercube(2 ** (n % 6)),
    "fully_connected": T.fully_connected,
    "random_regular": lambda n: T.random_regular(n + 4 + n % 2, 3, seed=n),
    "erdos_renyi": lambda n: T.erdos_renyi(n, 0.6, seed=n),
    "geometric": lambda n: T.geometric(n, 0.7, seed=n),
    "small_world": lambda n: T.small_world(n + 4, 4, 0.2, seed=n),
    "barbell": lambda n: T.barbell(2 * n),
    "social": lambda n: T.social_network(),
}
sizes = st.integers(1, 40)
two_cycles = T.from_edges(6, [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)], name="two")
one_way = T.from_edges(3, [(0, 1), (1, 2)], directed=True, name="one_way")


def trees(n: int, seed: int) -> tuple[T.Topology, T.Topology]:
    return T.random_tree(n, seed), T.random_recursive_tree(n, seed)


@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("chain8", T.chain(8)),
        ("ring8", T.ring(8)),
        ("star9", T.star(9)),
        ("binary_tree12", T.binary_tree(12)),
        ("max_degree_3_tree14", T.max_degree_tree(14, 3)),
        ("social_network", T.social_network()),
        ("social_tree_root0", T.social_tree(0)),
        ("social_tree_root0", T.spanning_tree(T.social_network(), root=0)),
    ],
)
def test_published_edges(name, topology):
    np.testing.assert_array_equal(topology.edges, PUBLISHED[f"{name}/edges"])


@pytest.mark.parametrize(
    ("family", "gaps"),
    [
        (T.ring, (0.195262, 0.050747, 0.01281)),
        (T.binary_tree, (0.066987, 0.024197, 0.010078)),
        (T.hypercube, (0.5, 0.4, 0.3333)),
        (T.star, (1 / 8, 1 / 16, 1 / 32)),
    ],
)
def test_metropolis_gaps(family, gaps):
    got = [T.spectral_gap(T.metropolis_weights(family(n))) for n in (8, 16, 32)]
    np.testing.assert_allclose(got, gaps, atol=5e-5 if family is T.hypercube else 1e-6)


def test_gap_of_large_graphs():
    ring = T.spectral_gap(T.metropolis_weights(T.ring(600)))
    np.testing.assert_allclose(ring, 2 / 3 * (1 - np.cos(2 * np.pi / 600)), rtol=1e-6)
    w = T.metropolis_weights(T.exponential(600))
    dense = np.sort(abs(np.linalg.eigvals(w.toarray())))
    np.testing.assert_allclose(T.spectral_gap(w), 1 - dense[-2], rtol=1e-6)


def test_gap_of_the_extremes():
    np.testing.assert_allclose(T.spectral_gap(np.full((6, 6), 1 / 6)), 1, atol=1e-12)
    np.testing.assert_allclose(T.spectral_gap(np.eye(6)), 0, atol=1e-12)
    np.testing.assert_allclose(T.spectral_gap(np.array([[0, 1], [1, 0]])), 0, atol=1e-12)
    np.testing.assert_allclose(T.spectral_gap(np.eye(1)), 1)


def test_learning_rate_corrections():
    assert [round(T.learning_rate_correction(T.chain(n)), 1) for n in (5, 10, 20)] == [1.8, 3.4, 6.7]
    assert T.learning_rate_correction(T.chain(1)) == 1


@pytest.mark.parametrize("name", GRAPHS)
@given(n=sizes)
@settings(max_examples=8, deadline=None)
def test_graphs_hold_every_edge_once_in_both_directions(name, n):
    g = GRAPHS[name](n)
    assert g.senders.dtype == g.receivers.dtype == np.int32
    pairs = list(zip(g.receivers.tolist(), g.senders.tolist(), strict=True))
    assert pairs == sorted(set(pairs)) and all(i != j for i, j in pairs)
    assert set(pairs) == {(j, i) for i, j in pairs}
    assert not g.directed and g.is_connected
    assert (g.edges[:, 0] < g.edges[:, 1]).all() and len(g.edges) == g.num_edges == len(pairs) // 2
    assert (
        g.degrees.tolist() == g.out_degrees.tolist() == [len(g.neighbours(i)) for i in range(g.num_workers)]
    )
    assert nx.is_isomorphic(T.to_networkx(g), nx.from_edgelist(pairs)) if pairs else g.num_workers == 1


@pytest.mark.parametrize("name", TREES)
@given(n=sizes)
@settings(max_examples=8, deadline=None)
def test_trees_are_trees(name, n):
    tree = TREES[name](n)
    assert tree.num_workers == n and tree.is_tree
    assert nx.is_tree(T.to_networkx(tree))


@given(n=sizes, degree=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_degrees(n, degree):
    assert T.max_degree_tree(n, degree).degrees.max() <= degree
    assert T.binary_tree(n).degrees.max() <= 3
    assert (T.fully_connected(n).degrees == n - 1).all()
    assert (T.ring(n).degrees == min(n - 1, 2)).all()
    assert (T.torus(n + 2, degree + 1).degrees == 4).all()
    assert (T.random_regular(2 * n + 6, degree + 1, seed=0).degrees == degree + 1).all()
    grid = T.grid(n, degree)
    assert grid.num_edges == n * (degree - 1) + degree * (n - 1)
    assert nx.is_isomorphic(T.to_networkx(grid), nx.grid_2d_graph(n, degree))


def test_max_degree_tree_is_full():
    assert T.max_degree_tree(1 + 4 + 12 + 36, 4).degrees.tolist() == [4] * 17 + [1] * 36


@pytest.mark.parametrize("family", [T.chain, T.ring, T.star, T.binary_tree, T.fully_connected, T.hypercube])
def test_one_and_two_workers(family):
    assert family(1).edges.shape == (0, 2)
    assert family(2).edges.tolist() == [[0, 1]]


def test_narrow_lattices():
    assert T.torus(1, 1).num_edges == 0
    assert T.torus(1, 5).edges.tolist() == T.ring(5).edges.tolist()
    assert T.torus(2, 2).edges.tolist() == T.grid(2, 2).edges.tolist()


def test_hypercube_neighbours():
    assert T.hypercube(16).neighbours(5).tolist() == [1, 4, 7, 13]


@pytest.mark.parametrize("n", range(4, 100))
def test_double_binary_trees_share_the_load(n):
    first, second = T.double_binary_trees(n)
    assert (first.degrees + second.degrees).max() == 4
    assert sorted(first.degrees) == sorted(second.degrees)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 33])
def test_exponential(n):
    g = T.exponential(n)
    hops = [2**k for k in range(int(np.log2(n - 1)) + 1)] if n > 1 else []
    expected = {(i, (i + h) % n) for i in range(n) for h in hops}
    assert {(i, j) for i, j in zip(g.senders.tolist(), g.receivers.tolist(), strict=True)} == expected
    assert len(g.senders) == len(expected) and g.directed == (n > 3) and g.is_connected
    keys = g.receivers * n + g.senders
    assert (np.diff(keys) > 0).all()


def test_random_tree_is_uniform():
    draws = Counter(tuple(map(tuple, T.random_tree(4, seed).edges.tolist())) for seed in range(1600))
    assert len(draws) == 16
    assert sum((count - 100) ** 2 / 100 for count in draws.values()) < 37.7  # χ²(15) exceeds it once in 1000


@pytest.mark.parametrize(
    ("graph", "most"), [(T.chain(100), 1), (T.torus(6, 50), 24), (T.random_tree(2000, 0), 100)]
)
def test_cuthill_mckee_brings_neighbours_together(graph, most):
    shuffled = T.renumber(graph, np.random.default_rng(0).permutation(graph.num_workers))
    near = T.renumber(shuffled, T.cuthill_mckee(shuffled))
    assert np.abs(near.senders - near.receivers).max() <= most
    assert sorted(near.degrees) == sorted(graph.degrees)


def test_cuthill_mckee_of_directed_and_of_torn_graphs():
    for graph in (T.exponential(9), T.from_edges(4, [(0, 2)]), T.from_edges(1, [])):
        assert sorted(T.cuthill_mckee(graph).tolist()) == list(range(graph.num_workers))


def test_random_regular_graphs_are_numbered_with_neighbours_near():
    regular = T.random_regular(1000, 3, 0)
    apart = np.abs(np.diff(regular.senders[::3]))  # the nearest neighbours of workers one after the other
    assert np.median(apart) < 20


def test_random_recursive_trees_are_drawn_evenly_and_numbered_breadth_first():
    trees = [T.random_recursive_tree(4, seed) for seed in range(600)]
    draws = Counter(tuple(T.rooted(tree).parent[1:].tolist()) for tree in trees)
    expected = {(0, 0, 0): 100, (0, 0, 1): 200, (0, 0, 2): 100, (0, 1, 1): 100, (0, 1, 2): 100}  # of 6 each
    assert sum((draws[p] - k) ** 2 / k for p, k in expected.items()) < 18.5  # χ²(4) exceeds it once in 1000
    assert sum(draws[p] for p in expected) == 600
    parent, order, depth = T.rooted(T.random_recursive_tree(10_000, 0))
    assert order.tolist() == list(range(10_000)) and (np.diff(parent) >= 0).all()
    assert abs(depth.mean() - (1 / np.arange(1, 10_000)).sum() + 1) < 0.5  # H(n - 1) - 1 + o(1), on average


def test_erdos_renyi_density():
    assert abs(T.erdos_renyi(400, 0.1, seed=0).num_edges - 7980) < 4 * np.sqrt(7980)
    assert T.erdos_renyi(7, 1.0, seed=0).edges.tolist() == T.fully_connected(7).edges.tolist()


@pytest.mark.parametrize(
    "draw",
    [
        lambda s: T.random_tree(30, s),
        lambda s: T.random_recursive_tree(30, s),
        lambda s: T.random_regular(30, 3, s),
        lambda s: T.erdos_renyi(30, 0.2, s),
        lambda s: T.geometric(30, 0.5, s),
        lambda s: T.small_world(30, 4, 0.2, s),
    ],
)
def test_seeds(draw):
    assert draw(1).edges.tolist() == draw(1).edges.tolist() != draw(2).edges.tolist()


def test_from_edges():
    g = T.from_edges(4, [(2, 1), (1, 2), (0, 1), (2, 1)])
    assert g.edges.tolist() == [[0, 1], [1, 2]]
    assert g.degrees.tolist() == [1, 2, 1, 0] and not g.is_connected and not g.is_tree
    assert g.neighbours(1).tolist() == [0, 2] and g.neighbours(3).tolist() == []
    assert T.from_edges(2, []).num_edges == 0
    assert repr(g) == "Topology('custom', 4 workers, 2 edges)"


def test_directed():
    g = T.from_edges(3, [(2, 0), (0, 1), (0, 1)], directed=True)
    assert g.directed and not g.is_connected and not g.is_tree
    assert g.edges.tolist() == [[2, 0], [0, 1]] and g.num_edges == 2
    assert g.in_degrees.tolist() == [1, 1, 0] and g.out_degrees.tolist() == [1, 0, 1]
    assert g.neighbours(0).tolist() == [2]
    assert g.adjacency().toarray().tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert repr(g) == "Topology('custom', 3 workers, 2 edges, directed)"
    assert not T.from_edges(2, [(0, 1), (1, 0)], directed=True).directed
    cycle = T.from_edges(4, [(0, 1), (1, 2), (2, 3), (3, 0)], directed=True)
    assert cycle.directed and cycle.is_connected and T.diameter(cycle) == 3
    assert T.distances(cycle)[0].tolist() == [0, 1, 2, 3]


def test_networkx_round_trip():
    for g in (T.social_network(), T.exponential(9), T.from_edges(3, [])):
        back = T.from_networkx(T.to_networkx(g))
        assert back.name == g.name and back.num_workers == g.num_workers
        assert back.edges.tolist() == g.edges.tolist()


def test_networkx_labels():
    letters = nx.Graph([("c", "a"), ("a", "b")])
    assert T.from_networkx(letters).edges.tolist() == [[0, 1], [1, 2]]
    numbers = nx.Graph([(2, 0), (0, 1)])
    assert T.from_networkx(numbers).edges.tolist() == [[0, 1], [0, 2]]
    assert T.from_networkx(nx.Graph([(3, 1), (1, 2)])).edges.tolist() == [[0, 1], [1, 2]]
    assert T.from_networkx(nx.MultiGraph([(0, 1), (0, 1)])).num_edges == 1
    assert T.from_networkx(nx.DiGraph([(0, 1)])).directed


@given(n=st.integers(2, 30), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=40, deadline=None)
def test_spanning_trees(n, seed, data):
    g = T.erdos_renyi(n, 0.5, seed)
    root = data.draw(st.integers(0, n - 1))
    tree = T.spanning_tree(g, root)
    assert tree.is_tree
    assert set(map(tuple, tree.edges.tolist())) <= set(map(tuple, g.edges.tolist()))
    assert T.rooted(tree, root).depth.tolist() == T.distances(g)[root].tolist()


@given(n=sizes, seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=60, deadline=None)
def test_rooted(n, seed, data):
    root = data.draw(st.integers(0, n - 1))
    for tree in trees(n, seed):
        parent, order, depth = T.rooted(tree, root)
        assert parent.dtype == order.dtype == depth.dtype == np.int32
        assert order[0] == root == parent[root] and sorted(order) == list(range(n))
        assert depth.tolist() == T.distances(tree)[root].tolist()
        place = np.argsort(order)
        rest = order[1:]
        assert (place[parent[rest]] < place[rest]).all()
        assert (np.diff(depth[order]) >= 0).all() and (np.diff(place[parent[rest]]) >= 0).all()
        assert {tuple(sorted(e)) for e in zip(parent[rest].tolist(), rest.tolist(), strict=True)} == set(
            map(tuple, tree.edges.tolist())
        )


@given(n=sizes, seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_distances_diameter_and_correction(n, seed):
    for tree in trees(n, seed):
        hops = T.distances(tree)
        np.testing.assert_array_equal(hops, nx.floyd_warshall_numpy(T.to_networkx(tree)))
        assert T.diameter(tree) == hops.max()
        np.testing.assert_allclose(T.learning_rate_correction(tree), np.maximum(hops, 1).mean())


def test_a_tree_is_hung_up_by_its_first_worker_once():
    tree = T.chain(5)
    hung = T.rooted(tree)
    assert T.rooted(tree) is hung and T.rooted(tree, 0) is hung and T.rooted(tree, 1) is not hung
    with pytest.raises(ValueError, match="read-only"):
        hung.parent[0] = 3
    gone = weakref.ref(hung.parent)
    del tree, hung
    assert gone() is None


def depth_first_one_by_one(tree: T.Topology) -> list[int]:
    parent, order, depth = T.rooted(tree)
    size = np.ones(tree.num_workers, np.int64)
    for i in order[:0:-1].tolist():
        size[parent[i]] += size[i]
    start = np.zeros_like(size)
    free = start + 1  # the first place below each worker that is not taken
    for i in np.lexsort((size, depth))[1:].tolist():
        start[i] = free[parent[i]]
        free[parent[i]] += size[i]
        free[i] = start[i] + 1
    return np.argsort(start).tolist()


@given(n=sizes, seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_depth_first(n, seed):
    for tree in (*trees(n, seed), T.chain(n), T.star(n), T.caterpillar(n, 2)):
        assert T.depth_first(tree).tolist() == depth_first_one_by_one(tree)


def test_diameter_with_cycles():
    assert [T.diameter(g) for g in (T.ring(9), T.hypercube(16), T.grid(3, 4), T.torus(4, 6))] == [4, 4, 5, 5]
    assert T.distances(T.ring(4)).dtype == np.int32


@pytest.mark.parametrize("name", GRAPHS)
def test_metropolis_weights(name):
    g = GRAPHS[name](11)
    w = T.metropolis_weights(g).toarray()
    np.testing.assert_allclose(w, w.T)
    np.testing.assert_allclose(w.sum(axis=1), 1)
    expected = 1 / (1 + np.maximum.outer(g.degrees, g.degrees))
    off = ~np.eye(g.num_workers, dtype=bool)
    np.testing.assert_allclose(w[off], (expected * g.adjacency().toarray())[off])
    assert (np.diag(w) > 0).all()
    np.testing.assert_array_equal(T.check_weights(w, g).toarray(), w)


def test_metropolis_weights_of_a_directed_graph():
    w = T.metropolis_weights(T.exponential(9))
    np.testing.assert_allclose(w.sum(axis=0), 1)
    assert w[1, 0] == 1 / 5 and w[0, 1] == 1 / 5 and w[2, 0] == 1 / 5 and w[0, 2] == 0
    assert T.metropolis_weights(T.chain(1)).toarray().tolist() == [[1.0]]


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_check_weights_takes_dense_and_sparse(kind):
    g = T.ring(5)
    w = T.metropolis_weights(g).toarray()
    got = T.check_weights(kind(w), g)
    assert isinstance(got, scipy.sparse.csr_array) and got.dtype == np.float64
    np.testing.assert_array_equal(got.toarray(), w)


def test_check_weights_leaves_its_input_alone():
    stored = scipy.sparse.csr_array((np.array([1.0, 0.0, 1.0]), [0, 1, 1], [0, 2, 3]), shape=(2, 2))
    assert T.check_weights(stored, T.from_edges(2, [])).nnz == 2
    assert stored.nnz == 3


W = T.metropolis_weights(T.chain(3)).toarray()


def changed(*entries: tuple[int, int, float]) -> np.ndarray:
    w = W.copy()
    for i, j, value in entries:
        w[i, j] += value
    return w


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: T.chain(0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.ring(2.5), "num_workers is 2.5, expected an integer of at least 1"),
        (lambda: T.star("8"), "num_workers is '8', expected an integer of at least 1"),
        (lambda: T.binary_tree(True), "num_workers is True, expected an integer of at least 1"),
        (lambda: T.max_degree_tree(-1, 3), "num_workers is -1, expected an integer of at least 1"),
        (lambda: T.max_degree_tree(5, 1), "degree is 1, expected an integer of at least 2"),
        (lambda: T.double_binary_trees(0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.random_tree(0, 0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.random_recursive_tree(0, 0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.fully_connected(None), "num_workers is None, expected an integer of at least 1"),
        (lambda: T.exponential(0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.hypercube(0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.hypercube(12), "num_workers must be a power of two in a hypercube, got 12"),
        (lambda: T.grid(0, 2), "rows is 0, expected an integer of at least 1"),
        (lambda: T.torus(2, 1.0), "cols is 1.0, expected an integer of at least 1"),
        (lambda: T.random_regular(0, 3, 0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.random_regular(4, 4, 0), "degree is 4, expected an integer of at least 0 and at most 3"),
        (lambda: T.random_regular(5, 3, 0), "num_workers * degree must be even, got 5 * 3"),
        (lambda: T.random_regular(6, 1, 0), "degree = 1 is too small for 6 workers: 100 draws"),
        (lambda: T.erdos_renyi(0, 0.5, 0), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.erdos_renyi(5, 1.5, 0), "p is 1.5, expected a finite number in [0, 1]"),
        (lambda: T.erdos_renyi(50, 0.01, 0), "p = 0.01 is too small for 50 workers: 100 draws"),
        (lambda: T.from_edges(0, []), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.from_edges(3, [(0, 3)]), "edges must join workers in 0..2, got [0, 3]"),
        (lambda: T.from_edges(3, [(0, 1), (-1, 2)]), "edges must join workers in 0..2, got [-1, 2]"),
        (lambda: T.from_edges(3, [(0, 1), (2, 2)]), "edges must join different workers, got [2, 2]"),
        (lambda: T.from_edges(3, [0, 1]), "edges must be (m, 2) integers, got int64 of shape (2,)"),
        (lambda: T.from_edges(3, [(0.0, 1.0)]), "edges must be (m, 2) integers, got float64 of shape (1, 2)"),
        (lambda: T.from_networkx(nx.Graph()), "num_workers is 0, expected an integer of at least 1"),
        (lambda: T.ring(4).neighbours(4), "worker is 4, expected an integer of at least 0 and at most 3"),
        (lambda: one_way.degrees, "topology 'one_way' is directed: take its in_degrees or out_degrees"),
        (lambda: T.spanning_tree(T.ring(4), 4), "root is 4, expected an integer of at least 0 and at most 3"),
        (lambda: T.spanning_tree(two_cycles), "topology 'two' has 2 components, must be connected"),
        (lambda: T.spanning_tree(one_way), "topology 'one_way' is directed, must be undirected"),
        (lambda: T.social_tree(32), "root is 32, expected an integer of at least 0 and at most 31"),
        (lambda: T.rooted(T.chain(3), -1), "root is -1, expected an integer of at least 0 and at most 2"),
        (lambda: T.rooted(one_way), "tree 'one_way' is directed, must be undirected"),
        (lambda: T.rooted(two_cycles), "tree 'two' has 2 components, must be connected"),
        (
            lambda: T.rooted(T.ring(4)),
            "tree 'ring' has 4 edges, a tree on 4 workers has 3: use rs.topology.spanning_tree",
        ),
        (lambda: T.learning_rate_correction(T.ring(4)), "tree 'ring' has 4 edges, a tree on 4 workers has 3"),
        (lambda: T.distances(two_cycles), "topology 'two' must be connected, but no path leads from 0 to 3"),
        (lambda: T.diameter(one_way), "topology 'one_way' must be connected, but no path leads from 1 to 0"),
        (
            lambda: T.metropolis_weights(one_way),
            "'one_way' is directed and its Metropolis weights are not doubly stochastic: use rs.push",
        ),
        (lambda: T.check_weights(np.ones(3), T.chain(3)), "weights must have shape (n, n), got (3,)"),
        (lambda: T.check_weights(np.ones((2, 3)), T.chain(3)), "weights must have shape (n, n), got (2, 3)"),
        (
            lambda: T.check_weights(np.eye(4), T.chain(3)),
            "weights must have shape (3, 3) for 'chain', got (4, 4)",
        ),
        (lambda: T.check_weights(changed((0, 1, np.nan)), T.chain(3)), "weights must be finite, got nan"),
        (lambda: T.check_weights(changed((0, 2, np.inf)), T.chain(3)), "weights must be finite, got inf"),
        (
            lambda: T.check_weights(changed((0, 2, 0.25)), T.chain(3)),
            "weights[0, 2] must be 0 as 'chain' has no edge from 2 to 0, got 0.25",
        ),
        (
            lambda: T.check_weights(changed((1, 1, 0.5)), T.chain(3)),
            "weights must sum to 1 in every row, got 1.5 in row 1",
        ),
        (
            lambda: T.check_weights(changed((1, 1, 0.1), (1, 2, -0.1)), T.chain(3)),
            "weights must sum to 1 in every column, got 1.1 in column 1",
        ),
        (lambda: T.spectral_gap(np.ones((2, 2))), "weights must sum to 1 in every row, got 2 in row 0"),
        (lambda: T.spectral_gap(np.ones((2, 3))), "weights must have shape (n, n), got (2, 3)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
