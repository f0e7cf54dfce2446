"""Methods without barriers: against a plain queue of events, invariants, limits, and what the order promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from relaysim import asynchronous, timing, topology
from relaysim.asynchronous.waves import NOBODY, in_waves
from tests import asynchronous_twins as twins

RATE, DIM = 0.1, 4


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def problem(n, **options):
    return rs.tasks.random_quadratics(jax.random.key(0), n, DIM, zeta2=1.0, **options)


def gradient(task):
    A, b = np.asarray(task.A), np.asarray(task.b)
    return lambda i, x: A[i].T @ (A[i] @ x - b[i])


def neighbours_of(graph):
    """Those that each worker sends to."""
    return [sorted(graph.receivers[graph.senders == i].tolist()) for i in range(graph.num_workers)]


NETWORKS = {
    "no latency": timing.Network(compute=timing.lognormal(0.1, 0.5)),
    "stragglers": timing.Network(
        compute=timing.lognormal(0.1, 0.5) * timing.stragglers(0.2, 4.0), latency=timing.lognormal(0.2, 0.5)
    ),
    "narrow": timing.Network(compute=timing.lognormal(0.1, 0.5), latency=0.05, upload=400.0, download=900.0),
    "equal": timing.Network(compute=0.1),
    "equal steps": timing.Network(compute=0.1, latency=0.1),
}
ONE_WAY = {
    "push_sum": (asynchronous.push_sum, twins.PushSum, topology.exponential),
    "swift": (asynchronous.swift, twins.Swift, topology.ring),
    "relaysgd": (asynchronous.relaysgd, twins.RelaySGD, topology.binary_tree),
    "relaysgd_grad": (asynchronous.relaysgd_grad, twins.RelaySGDGrad, topology.chain),
}
SIZES = [(16, name) for name in NETWORKS] + [(64, "stragglers")]


def gossip_calls(graph):
    degrees, neighbours = graph.degrees, neighbours_of(graph)
    return lambda i, k: {j: 0.5 / (1 + max(degrees[i], degrees[j])) for j in neighbours[i]}


def compare(trace, expected, every):
    """A trace that recorded models "x" against a list of (time, worker, models) of all events."""
    assert np.allclose(trace.events.time, [time for time, *_ in expected], rtol=1e-12, atol=0)
    assert np.array_equal(trace.events.worker, [worker for _, worker, *_ in expected])
    models = np.stack([x for *_, x in expected])[every - 1 :: every]
    assert np.abs(trace.metrics["x"] - models).max() < 1e-10 * np.abs(models).max()


def run(method, task, network, num_events=2000, every=500, key=1, **options):
    models = task.init(jax.random.key(0))
    return asynchronous.simulate(
        jax.random.key(key), method, network, models, num_events=num_events, every=every,
        measure=lambda x: {"x": x} | task.measure(x), **options,
    )  # fmt: skip


@pytest.mark.parametrize(("n", "network"), SIZES)
@pytest.mark.parametrize("name", ONE_WAY)
def test_one_way_methods_equal_a_queue_of_events(name, n, network):
    make, twin, graph = ONE_WAY[name]
    task, graph, network = problem(n), graph(n), NETWORKS[network]
    trace = run(make(task.grad_at, graph, optax.sgd(RATE)), task, network)
    neighbours = neighbours_of(graph)
    worker = twin(np.zeros((n, DIM)), gradient(task), RATE, neighbours)
    events = twins.one_way(worker, jax.random.key(1), network, neighbours, 2000, 2000, DIM * 8)
    compare(trace, [(time, i, worker.models()) for time, i in events], 500)


@pytest.mark.parametrize(("n", "network"), SIZES)
@pytest.mark.parametrize("name", ["ad_psgd", "gossip"])
def test_averages_of_two_equal_a_queue_of_events(name, n, network):
    task, graph, network, key = problem(n), topology.ring(n), NETWORKS[network], jax.random.key(1)
    method = getattr(asynchronous, name)(task.grad_at, graph, optax.sgd(RATE))
    calls = gossip_calls(graph) if name == "gossip" else twins.random_partners(key, neighbours_of(graph), 2000)
    start = np.zeros((n, DIM))
    events = twins.exchange(start, gradient(task), RATE, calls, key, network, 2000, 2000, DIM * 8)
    trace = run(method, task, network)
    compare(trace, list(events), 500)
