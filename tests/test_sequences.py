"""Sequences of graphs: exact averages, published lengths, matrices and eigenvalues; large ones are quick."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from relaysim import topology

REFERENCE = Path(__file__).parent / "reference"
NUMBERS = json.loads((REFERENCE / "graphs.json").read_text())
MATRICES = np.load(REFERENCE / "graphs.npz")


def product(phases):
    return functools.reduce(lambda done, w: w @ done, phases, np.eye(phases[0].shape[0]))


def neighbours(w):
    w = w.toarray()
    return ((w - np.diag(np.diag(w))) != 0).sum(1).max(initial=0)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["base", "simple_base"])
def test_lengths_edges_and_products_are_the_published_ones(name, k):
    for row in NUMBERS[name][str(k)]:
        phases = getattr(topology, name)(row["n"], k)
        told = [(w.nnz - row["n"]) // 2 for w in phases]
        assert (len(phases), told) == (row["length"], row["edges"])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("build", [topology.base, topology.simple_base], ids=lambda f: f.__name__)
def test_the_product_is_the_exact_average(build, k):
    for n in range(1, 65):
        phases = build(n, k)
        assert abs(product(phases) - 1 / n).max() < 1e-12
        for w in phases:
            assert abs(w - w.T).max() == 0 and abs(w.sum(1) - 1).max() < 1e-14 and neighbours(w) <= k


@settings(deadline=None, max_examples=15)
@given(st.integers(65, 600), st.integers(1, 9))
def test_the_product_is_the_exact_average_of_any_number(n, k):
    phases = topology.base(n, k)
    assert abs(product(phases) - 1 / n).max() < 1e-12
    assert len(phases) <= 2 * np.emath.logn(k + 1, n) + 2


@pytest.mark.parametrize(
    "key", [k for k in MATRICES if k.split("/")[0] in ("base", "simple_base", "hyper_hypercube")]
)
def test_matrices_are_the_published_ones(key):
    name, sizes = key.split("/")
    n, k = (int(part[1:]) for part in sizes.split("_"))
    phases = getattr(topology, name)(n, k)
    assert len(phases) == len(MATRICES[key])
    for w, published in zip(phases, MATRICES[key], strict=True):
        np.testing.assert_allclose(w.toarray(), published, atol=1e-12)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if row["n"] > 100 else ()) for row in NUMBERS["equistatic"]],
    ids=lambda r: f"{r['kind']} {r['n']} {r['M']} {r['seed']}",
)
def test_equistatic_has_the_published_eigenvalues(row):
    w = topology.equistatic(row["n"], row["M"], row["seed"], directed=row["kind"] == "D")
    values = np.linalg.eigvals(w.toarray() - 1 / row["n"])
    assert abs(values).max() == pytest.approx(row["second_largest_modulus"], abs=1e-12)
    assert np.linalg.norm(w.toarray() - 1 / row["n"], 2) == pytest.approx(row["norm_W_minus_mean"], abs=1e-12)
    if "lambda2" in row:
        assert values.real.max() == pytest.approx(row["lambda2"], abs=1e-12)
        assert values.real.min() == pytest.approx(row["lambda_min"], abs=1e-12)
    key = "equistatic/{kind}_n{n}_M{M}_seed{seed}".format(**row)
    if key in MATRICES:
        np.testing.assert_allclose(w.toarray(), MATRICES[key], atol=1e-15)


@pytest.mark.parametrize("row", NUMBERS["equidyn"], ids=lambda r: f"{r['kind']} {r['n']} {r['eta']}")
def test_equidynamic_has_the_published_matrices(row):
    n, draws = row["n"], np.array(row["draws"])
    directed = row["kind"].startswith("OD")
    shifts, starts = (draws, None) if directed else (draws[::2], draws[1::2] - 1)
    phases = topology.equidynamic_phases(n, shifts, starts, eta=row["eta"])
    found = [np.linalg.norm(w.toarray() - 1 / n, 2) for w in phases]
    np.testing.assert_allclose(found, row["norm_W_minus_mean"], atol=1e-12)
    key = "equidyn/{kind}_n{n}_eta{eta}".format(**row)
    if key in MATRICES:
        np.testing.assert_allclose(np.stack([w.toarray() for w in phases]), MATRICES[key], atol=1e-15)
    if row["M"] is None:  # the authors' draws, of their seed 5
        drawn = topology.equidynamic(n, seed=5, num_phases=6, eta=row["eta"], directed=directed)
        for w, same in zip(drawn, phases, strict=True):
            assert abs(w - same).max() == 0


@pytest.mark.parametrize("directed", [True, False])
def test_equidynamic_is_doubly_stochastic_with_one_peer(directed):
    for w in topology.equidynamic(13, 4, seed=1, num_phases=20, directed=directed):
        assert abs(w.sum(0) - 1).max() < 1e-15 and abs(w.sum(1) - 1).max() < 1e-15 and neighbours(w) <= 1


@pytest.mark.parametrize("key", [k for k in MATRICES if k.startswith("ceca") and k.endswith("/W")])
def test_ceca_has_the_published_matrices(key):
    n, peers = int(key.split("/")[1][1:]), int(key[4])
    found, expected = topology.ceca(n, peers), (MATRICES[key], MATRICES[key + "g"])
    for half, published in zip(zip(*found, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.stack([w.toarray() for w in half]), published, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13, 30])
def test_ceca_averages_exactly_in_the_fewest_phases(n):
    for peers in (1, 2) if n % 2 == 0 else (2,):
        phases = [w for w, _ in topology.ceca(n, peers)]
        assert len(phases) == np.ceil(np.log2(n))
        both = product(phases) @ np.vstack([np.eye(n)] * 2)
        assert abs(both[:n] - 1 / n).max() < 1e-12


def test_a_hundred_thousand_workers_are_no_trouble():
    n = 100_000
    for phases in (topology.base(n, 1), topology.simple_base(n - 1, 3)):
        x = y = np.random.default_rng(0).normal(size=len(range(phases[0].shape[0])))
        for w in phases:
            y = w @ y
        np.testing.assert_allclose(y, x.mean(), atol=1e-12)
    assert topology.equistatic(n, 8, 0).nnz <= 9 * n


@pytest.mark.parametrize("name", NUMBERS["bary_tree"])
def test_b_ary_trees_are_the_published_ones(name):
    n, branching = (int(part[1:]) for part in name.split("_"))
    tree, told = topology.b_ary_tree(n, branching), NUMBERS["bary_tree"][name]
    assert topology.rooted(tree).parent.tolist() == told["parent"]
    assert topology.distances(tree)[0].max() == told["depth"]


@pytest.mark.parametrize("n", NUMBERS["relay_binary_tree_neighbours"])
def test_binary_trees_of_the_public_comparison_are_the_published_ones(n):
    tree = topology.b_ary_tree(int(n), 2)
    told = NUMBERS["relay_binary_tree_neighbours"][n]
    assert [sorted(tree.neighbours(i).tolist()) for i in range(int(n))] == told


@pytest.mark.parametrize("n", [6, 8])
def test_one_peer_exponential_graphs_are_the_published_ones(n):
    """In which workers hear from the other side."""
    mixer, eye = rs.one_peer_exponential(n), np.eye(n, dtype=np.float32)
    for t, w in enumerate(MATRICES[f"one_peer_exponential/n{n}"]):
        np.testing.assert_array_equal(mixer.mix(jax.random.key(0), t, mixer.init(eye), eye)[1], w.T)
