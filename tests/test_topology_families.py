"""Families of graphs against slow or foreign twins."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaysim import topology as T

sizes = st.integers(1, 40)


def edges_of(graph: nx.Graph) -> list[list[int]]:
    return sorted(sorted(edge) for edge in graph.edges())


@given(n=sizes, branching=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_b_ary_trees_and_barbells_are_those_of_networkx(n, branching):
    assert T.b_ary_tree(n, branching).edges.tolist() == edges_of(nx.full_rary_tree(branching, n))
    assert T.b_ary_tree(n, 1).edges.tolist() == T.chain(n).edges.tolist()
    if n > 1:
        assert T.barbell(2 * n).edges.tolist() == edges_of(nx.barbell_graph(n, 0))


@given(n=sizes, legs=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_caterpillars(n, legs):
    spine = -(-n // (legs + 1))
    edges = [(i - 1, i) for i in range(1, spine)] + [((i - spine) // legs, i) for i in range(spine, n)]
    caterpillar = T.caterpillar(n, legs)
    assert caterpillar.edges.tolist() == sorted(map(list, edges))
    hung = np.bincount(T.rooted(caterpillar).parent[spine:], minlength=spine)
    assert (hung[:-1] == legs).all() and (spine == 0 or 0 <= hung[-1] <= legs)
    assert T.caterpillar(n, 0).edges.tolist() == T.chain(n).edges.tolist()
    assert T.caterpillar(n, n).edges.tolist() == T.star(n).edges.tolist()


def test_geometric_graphs_join_all_within_the_radius():
    places = np.random.default_rng(3).random((50, 2))
    near = np.linalg.norm(places[:, None] - places, axis=2) <= 0.4
    np.testing.assert_array_equal(
        T.geometric(50, 0.4, seed=3).adjacency().toarray(), near & ~np.eye(50, dtype=bool)
    )
    assert T.geometric(7, 1.5, seed=0).num_edges == 21


@pytest.mark.parametrize("seed", range(3))
def test_small_worlds_are_those_of_networkx(seed):
    graph = nx.connected_watts_strogatz_graph(20, 4, 0.5, 100, seed=np.random.default_rng(seed))
    assert T.small_world(20, 4, 0.5, seed).edges.tolist() == edges_of(graph)
    assert T.small_world(20, 2, 0, seed).edges.tolist() == T.ring(20).edges.tolist()
