"""Theory beside practice: spectra against published ones, closed forms and measured runs."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import theory, topology

REFERENCE = Path(__file__).parent / "reference"
SPECTRAL = json.loads((REFERENCE / "graphs.json").read_text())["spectral"]
EDGES = np.load(REFERENCE / "graphs.npz")
N, D = 8, 3


@pytest.mark.parametrize("row", SPECTRAL, ids=lambda row: row["name"])
def test_graphs_have_the_published_spectra(row):
    graph = topology.from_edges(row["n"], EDGES[f"graph_edges/{row['name']}"])
    found = theory.mixing(graph)
    for name in ("lambda2", "lambda_min", "rho", "gap"):
        assert getattr(found, name) == pytest.approx(row["metropolis"][name], abs=1e-12)
    i, j = graph.edges.T
    called = (1 / graph.degrees[i] + 1 / graph.degrees[j]) / 2
    plain, dadao, calls = (theory.resistance(graph, rates) for rates in (None, 1 / len(i), called))
    for name in ("lambda2", "lambda_max", "condition", "max_edge_resistance"):
        assert getattr(plain, name) == pytest.approx(row["laplacian"][name], rel=1e-10)
    for found, published in ((dadao, row["dadao"]), (calls, row["unit_rate_gossip"])):
        assert found.chi1 == pytest.approx(published["chi1"], rel=1e-10)
        assert found.chi2 == pytest.approx(published["chi2"], rel=1e-10)


def delay_matrix(tree):
    """The models of the last steps, one below the other, and what RelaySum makes of them."""
    late = np.maximum(topology.distances(tree) - 1, 0)
    n, longest = len(late), late.max() + 1
    w = np.zeros((n * longest, n * longest))
    for t in range(longest):
        w[:n, t * n : (t + 1) * n] = (late == t) / n
    w[n:, : n * (longest - 1)] = np.eye(n * (longest - 1))
    return w


@pytest.mark.parametrize("tree", [topology.chain(8), topology.star(6), topology.binary_tree(9)], ids=str)
def test_the_rate_of_relay_sum_is_that_of_its_delay_matrix(tree):
    values = np.sort(abs(np.linalg.eigvals(delay_matrix(tree))))
    assert values[-1] == pytest.approx(1)
    assert theory.rate(rs.relay_sum(tree)) == pytest.approx(values[-2], rel=1e-9)


@pytest.mark.parametrize("n", [3, 7, 14])
def test_the_gap_of_relayed_sums_by_sparse_factors_is_that_of_the_delay_matrix(n):
    for tree in (topology.chain(n), topology.star(n), topology.binary_tree(n), topology.random_tree(n, 0)):
        values = np.sort(abs(np.linalg.eigvals(delay_matrix(tree))))
        assert theory.relaying(tree) == pytest.approx(1 - values[-2], rel=1e-9)


def test_the_rate_of_mixers():
    assert theory.rate(rs.gossip(topology.ring(9))) == pytest.approx(1 / 3 + 2 / 3 * np.cos(2 * np.pi / 9))
    assert theory.rate(rs.time_varying(topology.base(7, 1))) < 0.01  # all is forgotten in one period
    assert theory.rate(rs.push(topology.exponential(8))) == pytest.approx(0.5)


def test_effective_neighbours_are_the_ratio_of_variances():
    """Of noise that comes in all the time, with and without averaging."""
    w, decay = topology.metropolis_weights(topology.ring(16)).toarray(), 0.9
    covariance = alone = np.zeros((16, 16))
    for _ in range(500):  # y ← √γ y + ξ, where what is kept is averaged with W
        covariance = decay * w @ covariance @ w.T + w @ w.T
        alone = decay * alone + np.eye(16)
    assert theory.effective_neighbours(w, decay) == pytest.approx(np.trace(alone) / np.trace(covariance))
    assert theory.effective_neighbours(np.eye(16), decay) == pytest.approx(1)


def test_effective_neighbours_of_many_workers_agree_with_those_of_all():
    exact, estimated = (theory.effective_neighbours(topology.ring(n), 0.99) for n in (1500, 2500))
    assert estimated == pytest.approx(exact, rel=0.02)  # a ring that long is as good as endless


def test_resistances_by_any_way_agree(monkeypatch):
    graph = topology.grid(12, 11)
    whole = theory.resistance(graph)
    pairs = np.array([(0, 1), (0, 131), (60, 61)])
    laplacian = theory.graphs._laplacian(*theory.graphs._weighted(graph, None)).toarray()
    inverse = np.linalg.inv(laplacian + 1 / len(laplacian))  # the ones, its null space, cancel in differences
    expected = [inverse[i, i] + inverse[j, j] - 2 * inverse[i, j] for i, j in pairs]
    np.testing.assert_allclose(theory.effective_resistance(graph, pairs), expected, rtol=1e-9)
    monkeypatch.setattr(theory.graphs, "DENSE", 20)
    np.testing.assert_allclose(theory.resistance(graph), whole, rtol=1e-5)
    np.testing.assert_allclose(theory.mixing(graph), whole_mixing(graph), rtol=1e-5)


def whole_mixing(graph):
    values = np.linalg.eigvalsh(topology.metropolis_weights(graph).toarray())
    rho = max(abs(values[0]), values[-2])
    return values[-2], values[0], rho, 1 - rho


def quadratics(n=N):
    rng = np.random.default_rng(n)
    A = 0.8 * np.eye(D) + 0.2 * rng.normal(size=(n, D, D))
    return rs.tasks.quadratics(A, rng.normal(size=(n, D)))


GRAPHS = {
    "ring": topology.ring(N),
    "chain": topology.chain(N),
    "star": topology.star(N),
    "hypercube": topology.hypercube(N),
}
TREES = {
    "chain": topology.chain(N),
    "star": topology.star(N),
    "binary tree": topology.binary_tree(N),
    "random tree": topology.random_tree(N, 0),
}


def on(mixer, method, graphs, rate):
    return [
        (f"{method.__name__} {name}", functools.partial(build, method, mixer, graph), rate)
        for name, graph in graphs.items()
    ]


def build(method, mixer, graph, learning_rate):
    return method(quadratics().grad, mixer(graph), optax.sgd(learning_rate))


lazy = functools.partial(rs.gossip, lazy=True)
CASES = [
    *on(rs.relay_sum, rs.relaysgd, TREES, 0.5),
    *on(rs.gossip, rs.dpsgd, GRAPHS, 0.5),
    *on(lazy, rs.d2, GRAPHS, 0.2),
    *on(rs.gossip, rs.gradient_tracking, GRAPHS, 0.1),
    *on(rs.gossip, rs.extra, GRAPHS, 0.2),
]
FAST = {"relaysgd chain", "d2 ring"}
cases = pytest.mark.parametrize(
    ("of_rate", "learning_rate"),
    [
        pytest.param(f, rate, id=name, marks=[] if name in FAST else [pytest.mark.slow])
        for name, f, rate in CASES
    ],
)


def start():
    return np.random.default_rng(0).normal(size=(N, D))


@cases
def test_the_predicted_rate_is_the_measured_one(of_rate, learning_rate, x64):
    method = of_rate(learning_rate)
    predicted = theory.rate(method, start())
    assert predicted < 1
    steps = int(np.log(1e-12) / np.log(predicted))
    run = rs.simulate(
        jax.random.key(0), method, start(), num_steps=steps, every=1, measure=lambda x: {"x": x}
    )
    moved = np.linalg.norm(np.diff(run.metrics["x"], axis=0), axis=(1, 2))[steps // 2 :]
    measured = np.polyfit(np.arange(len(moved)), np.log(moved), 1)[0]  # complex eigenvalues swing
    assert measured == pytest.approx(np.log(predicted), rel=0.02)


@cases
def test_the_largest_stable_rate_is_the_one_found_by_bisection(of_rate, learning_rate, x64):
    predicted = theory.largest_stable(of_rate, start())
    steps = 2000

    @jax.jit
    def growth(rate):
        key = jax.random.key(0)
        method = of_rate(rate)

        def step(t, state):
            return method.step(key, t, state)[0]

        return abs(
            method.params(jax.lax.fori_loop(0, steps, step, method.init(key, jnp.asarray(start()))))
        ).max()

    low, high = predicted / 4, predicted * 4
    while high > 1.002 * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if growth(middle) < 1e3 else (low, middle)
    assert predicted == pytest.approx((low * high) ** 0.5, rel=0.02)


def test_of_large_problems_only_products_are_asked_for(monkeypatch):
    method = build(rs.d2, lazy, GRAPHS["ring"], 0.5)
    whole = theory.rate(method, start())
    monkeypatch.setattr(theory.methods, "DENSE", 20)
    assert theory.rate(method, start()) == pytest.approx(whole, rel=1e-6)


def test_a_step_that_leaves_nothing_has_the_rate_0(monkeypatch):
    monkeypatch.setattr(theory.methods, "DENSE", 4)
    task = rs.tasks.quadratics(np.ones((N, 1, 1)), np.ones((N, 1)))
    method = rs.dpsgd(task.grad, rs.gossip(GRAPHS["ring"]), optax.sgd(1.0))
    assert theory.rate(method, np.zeros((N, 1))) == 0


def test_what_a_step_returns_as_it_came_is_no_part_of_the_state():
    """Such as what relayed sums are relative to: it would be an eigenvalue of 1, which hides the others."""
    method = build(rs.relaysgd, rs.relay_sum, GRAPHS["chain"], 0.5)
    assert abs(theory.eigenvalues(method, start(), count=50) - 1).min() > 1e-3


@pytest.mark.slow
def test_the_rate_of_many_workers_is_the_measured_one(x64):
    n = 20_000
    task = rs.tasks.quadratics(np.ones((n, 1, 1)), np.ones((n, 1)))
    method = rs.relaysgd(task.grad, rs.relay_sum(topology.binary_tree(n)), optax.sgd(0.1))
    first = np.random.default_rng(0).normal(size=(n, 1))
    run = rs.simulate(
        jax.random.key(0),
        method,
        first,
        num_steps=4000,
        every=2000,
        measure=lambda x: {"e": abs(x - 1).max()},
    )
    half, whole = run.metrics["e"]
    predicted = theory.rate(method, np.zeros((n, 1)))
    assert np.log(predicted) == pytest.approx(np.log(whole / half) / 2000, rel=0.02)


def test_a_method_of_ones_own_has_a_rate():
    def step(key, t, s):
        return 0.75 * s, rs.Info(jnp.zeros(2))

    method = rs.Algorithm(2, lambda key, x: x, step, lambda s: s, lambda x: [[]])
    assert theory.rate(method, np.ones((2, 1))) == pytest.approx(0.75)


@pytest.mark.slow
def test_a_hundred_thousand_workers():
    n = 100_000
    ring = theory.mixing(topology.ring(n))
    assert ring.gap == pytest.approx(2 / 3 * (1 - np.cos(2 * np.pi / n)), rel=1e-5)
    assert ring.lambda_min == pytest.approx(-1 / 3, abs=1e-6)
    expander = theory.resistance(topology.random_regular(n, 4, 0))
    assert expander.lambda2 == pytest.approx(4 - 2 * np.sqrt(3), rel=0.01)  # Friedman's theorem
    assert theory.relaying(topology.chain(n)) == pytest.approx(6 / n**2, rel=1e-3)
    tree = theory.resistance(topology.binary_tree(n))
    assert tree.max_edge_resistance == pytest.approx(1, rel=1e-9)
    task = rs.tasks.quadratics(np.ones((n, 1, 1), np.float32), np.ones((n, 1), np.float32))
    method = rs.dpsgd(task.grad, rs.gossip(topology.random_regular(n, 4, 0)), optax.sgd(0.1))
    assert theory.rate(method, np.zeros((n, 1))) == pytest.approx(0.9, rel=1e-4)
