"""What graphs are made from: all that makes no sense is refused at once, and says which argument it was."""

import functools
import re

import networkx as nx
import numpy as np
import pytest
import scipy.sparse

from relaysim import topology as T

BIG = 2**31
chain = T.chain(3)
int32 = functools.partial(np.array, dtype=np.int32)
GRAPHS_OF_N = {
    "chain": T.chain,
    "star": T.star,
    "binary_tree": T.binary_tree,
    "max_degree_tree": lambda n: T.max_degree_tree(n, 3),
    "double_binary_trees": lambda n: T.double_binary_trees(n)[1],
    "b_ary_tree": lambda n: T.b_ary_tree(n, 3),
    "caterpillar": lambda n: T.caterpillar(n, 3),
    "random_tree": lambda n: T.random_tree(n, 0),
    "random_recursive_tree": lambda n: T.random_recursive_tree(n, 0),
    "ring": T.ring,
    "grid": lambda n: T.grid(n, n),
    "torus": lambda n: T.torus(n, n),
    "fully_connected": T.fully_connected,
    "exponential": T.exponential,
    "barbell": T.barbell,
    "random_regular": lambda n: T.random_regular(n, 4, 0),
    "erdos_renyi": lambda n: T.erdos_renyi(n, 0.5, 0),
    "geometric": lambda n: T.geometric(n, 0.5, 0),
    "small_world": lambda n: T.small_world(n, 4, 0.5, 0),
    "from_edges": lambda n: T.from_edges(n, [(0, 1)]),
}
RANDOM = {
    "random_tree": lambda seed: T.random_tree(5, seed),
    "random_recursive_tree": lambda seed: T.random_recursive_tree(5, seed),
    "random_regular": lambda seed: T.random_regular(6, 3, seed),
    "erdos_renyi": lambda seed: T.erdos_renyi(5, 0.9, seed),
    "geometric": lambda seed: T.geometric(5, 0.9, seed),
    "small_world": lambda seed: T.small_world(5, 2, 0.1, seed),
}
A_TOPOLOGY = "expected a topology such as rs.topology.chain(16), or a networkx graph"
OF_GRAPHS = {
    "tree": (T.rooted, T.depth_first, T.learning_rate_correction),
    "topology": (
        T.spanning_tree,
        T.distances,
        T.diameter,
        T.metropolis_weights,
        T.to_networkx,
        functools.partial(T.check_weights, np.eye(3)),
        lambda topology: T.renumber(topology, np.arange(3)),
    ),
}


@pytest.mark.parametrize("family", GRAPHS_OF_N)
def test_narrow_integers_count_like_all_others(family):
    make = GRAPHS_OF_N[family]
    wide, narrow = make(100), make(np.uint8(100))
    assert type(narrow.num_workers) is int and narrow.num_workers == wide.num_workers
    np.testing.assert_array_equal(narrow.edges, wide.edges)


def test_narrow_degrees_too():
    degree = np.uint8(4)
    for narrow, wide in (
        (T.random_regular(np.uint8(100), degree, 0), T.random_regular(100, 4, 0)),
        (T.small_world(np.uint8(100), degree, 0.5, 0), T.small_world(100, 4, 0.5, 0)),
        (T.max_degree_tree(np.uint8(100), degree), T.max_degree_tree(100, 4)),
        (T.grid(degree, np.uint8(100)), T.grid(4, 100)),
    ):
        np.testing.assert_array_equal(narrow.edges, wide.edges)


@pytest.mark.parametrize("n", [True, np.True_, 4.0, "4", None, [4], np.array([4])])
@pytest.mark.parametrize("family", GRAPHS_OF_N)
def test_counts_are_integers(family, n):
    with pytest.raises(ValueError, match=r"(num_workers|rows) is .*, expected an integer of at least 1"):
        GRAPHS_OF_N[family](n)


@pytest.mark.parametrize("n", [BIG, 10**12])
@pytest.mark.parametrize("family", GRAPHS_OF_N)
def test_too_many_workers_are_refused_at_once(family, n):
    with pytest.raises(ValueError, match=rf"num_workers is \d+, expected .* at most {BIG - 1}"):
        GRAPHS_OF_N[family](n)


@pytest.mark.parametrize(
    ("make", "args", "num_edges"),
    [
        (T.chain, (2**30,), 2**31),
        (T.star, (BIG - 1,), 2**32 - 2),
        (T.ring, (2**30,), 2**31),
        (T.torus, (2**15, 2**15), 2**32),
        (T.hypercube, (2**27,), 27 * 2**27),
        (T.exponential, (10**8,), 27 * 10**8),
        (T.fully_connected, (10**6,), 10**12 - 10**6),
        (T.barbell, (10**6,), 10**6 * (500_000 - 1) + 2),
        (T.random_regular, (10**6, 10**4, 0), 10**10),
        (T.small_world, (10**6, 10**4, 0.1, 0), 10**10),
    ],
)
def test_too_many_edges_are_refused_at_once(make, args, num_edges):
    expected = f", for {num_edges} directed edges, expected a graph of at most {BIG - 1}"
    with pytest.raises(ValueError, match=expected):
        make(*args)


def test_random_graphs_with_too_many_edges_are_refused_at_once():
    with pytest.raises(ValueError, match=r"directed edges, expected a graph of at most"):
        T.erdos_renyi(10**6, 0.5, 0)
    with pytest.raises(ValueError, match="for 9999900000 directed edges"):
        T.geometric(10**5, 1.5, 0)


@pytest.mark.parametrize("seed", [-1, "0", 0.0, None, True, np.random.default_rng(0), [0]])
@pytest.mark.parametrize("family", RANDOM)
def test_seeds_are_integers(family, seed):
    with pytest.raises(ValueError, match=r"seed is .*, expected an integer of at least 0"):
        RANDOM[family](seed)


@pytest.mark.parametrize("family", RANDOM)
def test_seeds_may_be_of_any_width(family):
    assert RANDOM[family](np.uint8(7)).edges.tolist() == RANDOM[family](7).edges.tolist()


@pytest.mark.parametrize(
    ("senders", "receivers"),
    [
        (int32([0, 1, 2, 1]), int32([1, 0, 1, 2])),  # not sorted by receiver
        (int32([1, 2, 0, 1]), int32([0, 1, 1, 2])),  # not by sender
        (int32([1, 1, 0, 0]), int32([0, 0, 1, 1])),  # each twice
        (int32([1, 1, 2]), int32([0, 1, 1])),  # 1 with itself
        (int32([1, 0, 3]), int32([0, 1, 2])),  # out of range
        (int32([-1, 0]), int32([0, 1])),
        (int32([1, 0]), int32([0, 3])),
        (int32([1, 0]), int32([0, 1, 2])),  # no pairs
        (int32([[1], [0]]), int32([[0], [1]])),
        (np.array([1.0, 0.0]), np.array([0.0, 1.0])),
        (np.array([True, False]), np.array([False, True])),
        ([1, 0], [0, 1]),
        ("10", "01"),
        (None, None),
    ],
)
def test_edges_by_hand_must_be_in_order(senders, receivers):
    with pytest.raises(ValueError, match=r"receivers of 'mine' are unfit.*use rs\.topology\.from_edges"):
        T.Topology(3, senders, receivers, "mine")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_edges_by_hand_may_be_of_any_width(dtype):
    graph = T.Topology(np.uint8(3), chain.senders.astype(dtype), chain.receivers.astype(dtype), "mine")
    assert graph.senders.dtype == graph.receivers.dtype == np.int32 and type(graph.num_workers) is int
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    none = T.Topology(1, np.zeros(0, dtype), np.zeros(0, dtype), "alone")
    assert none.num_edges == 0 and none.is_tree


@pytest.mark.parametrize("n", [0, -1, 3.0, True, "3"])
def test_workers_by_hand(n):
    with pytest.raises(ValueError, match=r"num_workers is .*, expected an integer of at least 1"):
        T.Topology(n, chain.senders, chain.receivers, "mine")


@pytest.mark.parametrize("value", ["ring", None, 5, np.eye(3), [chain]])
@pytest.mark.parametrize(("name", "function"), [(name, f) for name, fs in OF_GRAPHS.items() for f in fs])
def test_a_topology_is_expected(name, function, value):
    with pytest.raises(ValueError, match=f"^{name} is .*{re.escape(A_TOPOLOGY)}"):
        function(value)


@pytest.mark.parametrize("function", [f for fs in OF_GRAPHS.values() for f in fs])
def test_graphs_of_networkx_do_as_well(function):
    def plain(result):
        if isinstance(result, T.Topology):
            return result.edges.tolist()
        if isinstance(result, nx.Graph):
            return sorted(result.edges)
        return np.asarray(result.toarray() if scipy.sparse.issparse(result) else result).tolist()

    assert plain(function(nx.path_graph(3))) == plain(function(chain))


def test_as_topology():
    assert T.as_topology("graph", chain) is chain
    assert T.as_topology("graph", nx.path_graph(3)).edges.tolist() == [[0, 1], [1, 2]]
    assert T.as_topology("graph", nx.DiGraph([(0, 1)])).directed
    for value in ("chain", None, 5, [chain]):
        message = f"graph is {value!r}, {A_TOPOLOGY}"
        with pytest.raises(ValueError, match=re.escape(message)):
            T.as_topology("graph", value)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (T.from_networkx, ("x",), "graph is 'x', expected a networkx graph"),
        (T.from_networkx, (chain,), "expected a networkx graph"),
        (T.from_edges, (3, "ring"), "edges must be (m, 2) integers, got <U4 of shape ()"),
        (T.from_edges, (3, None), "edges must be (m, 2) integers, got object of shape ()"),
        (T.from_edges, (3, {(0, 1)}), "edges must be (m, 2) integers, got object of shape ()"),
        (T.from_edges, (3, [("0", "1")]), "edges must be (m, 2) integers, got <U1 of shape (1, 2)"),
        (T.from_edges, (3, [(0, 1), (1,)]), "edges is [(0, 1), (1,)], expected rows of one length"),
        (T.from_edges, (3, [(0, 1)], "False"), "directed is 'False', expected True or False"),
        (T.from_edges, (3, [(0, 1)], 1), "directed is 1, expected True or False"),
        (T.ring(4).neighbours, (True,), "worker is True, expected an integer of at least 0 and at most 3"),
        (T.rooted, (chain, False), "root is False, expected an integer of at least 0 and at most 2"),
        (T.rooted, (chain, 1.0), "root is 1.0, expected an integer of at least 0 and at most 2"),
        (T.rooted, (chain, None), "root is None, expected an integer of at least 0 and at most 2"),
        (T.spanning_tree, (chain, "0"), "root is '0', expected an integer of at least 0 and at most 2"),
        (T.renumber, (chain, None), "order must be a permutation of the 3 workers"),
        (T.renumber, (chain, "012"), "order must be a permutation of the 3 workers"),
        (T.renumber, (chain, [[0, 1, 2]]), "order must be a permutation of the 3 workers"),
        (T.max_degree_tree, (5, "3"), "degree is '3', expected an integer of at least 2"),
        (T.max_degree_tree, (5, True), "degree is True, expected an integer of at least 2"),
        (T.b_ary_tree, (5, 0), "branching is 0, expected an integer of at least 1"),
        (T.caterpillar, (5, -1), "legs is -1, expected an integer of at least 0"),
        (T.barbell, (7,), "num_workers is 7, expected an even number"),
        (T.erdos_renyi, (5, "0.5", 0), "p is '0.5', expected a finite number"),
        (T.erdos_renyi, (5, True, 0), "p is True, expected a finite number"),
        (T.erdos_renyi, (5, np.array([0.5, 0.6]), 0), "p is float64 of shape (2,), expected a finite number"),
        (T.erdos_renyi, (5, float("nan"), 0), "p is nan, expected a finite number"),
        (T.geometric, (5, -0.1, 0), "radius is -0.1, expected a finite number in [0, inf)"),
        (T.geometric, (50, 0.01, 0), "radius = 0.01 is too small for 50 workers: 100 draws"),
        (T.small_world, (10, 3, 0.1, 0), "degree is 3, expected an even number"),
        (T.small_world, (10, 10, 0.1, 0), "degree is 10, expected an integer of at least 2 and at most 9"),
        (T.small_world, (10, 4, 1.5, 0), "rewire is 1.5, expected a finite number in [0, 1]"),
        *(
            (f, (weights, *rest), message)
            for f, rest in ((T.check_weights, (chain,)), (T.spectral_gap, ()))
            for weights, message in (
                ("metropolis", "weights is <U10 of shape (), expected real numbers"),
                (None, "weights is object of shape (), expected real numbers"),
                (np.eye(3) + 0.1j, "weights is complex128 of shape (3, 3), expected real numbers"),
                (scipy.sparse.eye_array(3, dtype=np.complex64), "weights is complex64 of shape (3, 3)"),
                (np.eye(3).astype(str), "expected real numbers"),
                (np.eye(3).astype(object), "weights is object of shape (3, 3), expected real numbers"),
                ([[1.0], [0.0, 1.0]], "weights is [[1.0], [0.0, 1.0]], expected rows of one length"),
                (1.0, "weights must have shape (n, n), got ()"),
                (np.ones((2, 2, 2)), "weights must have shape (n, n), got (2, 2, 2)"),
            )
        ),
    ],
)
def test_refused(function, args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        function(*args)


@pytest.mark.parametrize("dtype", [bool, int, np.float16, np.longdouble])
def test_weights_may_be_of_any_real_type(dtype):
    assert T.check_weights(np.eye(3, dtype=dtype), chain).dtype == np.float64


def test_a_degree_may_be_larger_than_the_graph():
    assert T.max_degree_tree(5, 10**10).edges.tolist() == T.star(5).edges.tolist()
    assert T.b_ary_tree(5, 10**10).edges.tolist() == T.star(5).edges.tolist()
    assert T.caterpillar(5, 10**10).edges.tolist() == T.star(5).edges.tolist()
