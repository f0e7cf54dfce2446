"""Methods without barriers: against a plain queue of events, invariants, limits, and how runs are made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mktestdocs import check_md_file

import relaysim as rs
from relaysim import asynchronous, timing, topology
from relaysim.asynchronous.waves import NOBODY, in_waves
from tests import asynchronous_twins as twins

RATE, DIM = 0.1, 4
REFERENCE = Path(__file__).parent / "reference"


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
    "narrow": timing.Network(
        compute=timing.lognormal(0.1, 0.5) * timing.stragglers(0.2, 4.0),
        latency=0.05,
        upload=400.0,
        download=900.0,
    ),
    "equal": timing.Network(compute=0.1),
    "equal steps": timing.Network(compute=0.1, latency=0.1),
}
ONE_WAY = {
    "push_sum": (asynchronous.push_sum, twins.PushSum, topology.exponential),
    "swift": (asynchronous.swift, twins.Swift, topology.ring),
    "relaysgd": (asynchronous.relaysgd, twins.RelaySGD, topology.binary_tree),
    "relaysgd_grad": (asynchronous.relaysgd_grad, twins.RelaySGDGrad, topology.chain),
}
SIZES = [
    (16, "stragglers"),
    *(
        pytest.param(n, name, marks=pytest.mark.slow)
        for n, name in [
            (64, "narrow"),
            (16, "no latency"),
            (16, "narrow"),
            (16, "equal"),
            (16, "equal steps"),
            (64, "stragglers"),
        ]
    ),
]


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
    calls = (
        gossip_calls(graph) if name == "gossip" else twins.random_partners(key, neighbours_of(graph), 2000)
    )
    start = np.zeros((n, DIM))
    events = twins.exchange(start, gradient(task), RATE, calls, key, network, 2000, 2000, DIM * 8)
    trace = run(method, task, network)
    compare(trace, list(events), 500)


@pytest.mark.parametrize(
    ("name", "network", "start"),
    [
        ("push_sum", "narrow", "mean"),
        ("ad_psgd", "narrow", "neighbour"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("ad_psgd", "stragglers", "mean"),
                ("relaysgd", "stragglers", "own"),
                ("relaysgd_grad", "narrow", "own"),
                ("relaysgd", "no latency", "mean"),
                ("swift", "stragglers", "neighbour"),
                ("gossip", "no latency", "mean"),
                ("gossip", "narrow", "own"),
            ]
        ),
    ],
)
def test_workers_that_come_and_go_equal_a_queue_of_events(name, network, start):
    n, key, network = 12, jax.random.key(1), NETWORKS[network]
    churn = rs.faults.Churn.random(jax.random.key(2), n, 50, present=4, absent=2)
    make, twin, graph = ONE_WAY.get(name, (getattr(asynchronous, name), None, topology.ring))
    task, graph, coming = problem(n), graph(n), {"churn": churn, "start": start}
    trace = run(make(task.grad_at, graph, optax.sgd(RATE)), task, network, 600, 100, **coming)
    neighbours, x = neighbours_of(graph), np.zeros((n, DIM))
    if twin:
        worker = twin(x, gradient(task), RATE, neighbours)
        events = twins.one_way(worker, key, network, neighbours, 600, 600, DIM * 8, **coming)
        compare(trace, [(time, i, worker.models()) for time, i in events], 100)
    else:
        calls = gossip_calls(graph) if name == "gossip" else twins.random_partners(key, neighbours, 600)
        events = twins.exchange(
            x, gradient(task), RATE, calls, key, network, 600, 600, DIM * 8, neighbours=neighbours, **coming
        )
        compare(trace, list(events), 100)
    there = churn.present(trace.events.time)[np.arange(600), trace.events.worker]
    assert there.all()


def test_events_are_enough_to_replay_averages_of_two():
    n, start = 8, jax.random.normal(jax.random.key(5), (8, DIM))
    task, ring = problem(n), topology.ring(n)
    method = asynchronous.ad_psgd(task.grad_at, ring, optax.sgd(RATE))
    network = timing.Network(compute=timing.shifted_exponential(0.05, 0.1))
    trace = asynchronous.simulate(jax.random.key(1), method, network, start, seconds=5)
    grad, x, begin = gradient(task), np.array(start), np.array(start)
    for i, j in zip(trace.events.worker, trace.events.partner, strict=True):
        x[i] = x[j] = (x[i] + x[j]) / 2
        x[i] -= RATE * grad(i, begin[i])
        begin[i] = x[i]
    assert np.abs(trace.params - x).max() < 1e-12
    assert set(zip(trace.events.worker, trace.events.partner, strict=True)) <= set(
        zip(ring.senders, ring.receivers, strict=True)
    )


@pytest.mark.parametrize("case", ["ring8_0", pytest.param("smallworld12_1", marks=pytest.mark.slow)])
def test_dadao_equals_its_authors_code(case):
    stored = np.load(REFERENCE / "dadao.npz")
    A, b, events, steps = (stored[f"{case}/{name}"] for name in ("A", "b", "events", "steps"))
    mu, L, chi1 = (float(stored[f"{case}/{name}"]) for name in ("mu", "L", "chi1"))

    def grad_at(key, workers, steps, x):
        residual = jnp.einsum("nij,nj->ni", A[workers], x) - b[workers]
        return (residual**2).sum(1) / 2, jnp.einsum("nij,ni->nj", A[workers], residual)

    A, b = jnp.asarray(A), jnp.asarray(b)
    method = asynchronous.dadao(grad_at, len(A), mu=mu, L=L, chi1=chi1)
    trace = asynchronous.simulate(
        jax.random.key(0), method, events, jnp.zeros((len(A), A.shape[2])), num_events=len(events), every=1,
        measure=lambda x: {"x": x},
    )  # fmt: skip
    found = trace.metrics["x"][steps - 1]
    assert np.abs(found - stored[f"{case}/X"]).max() < 1e-10 * np.abs(stored[f"{case}/X"]).max()


# Every contribution exactly once: models are made of unit vectors, one for each step of each worker.

WORKERS, STEPS, SECONDS = 6, 40, 20


def unit(workers, steps):
    return jax.nn.one_hot(workers * STEPS + steps, WORKERS * STEPS)


relayed_models = asynchronous.relaysgd(  # u = e − x, so that what is relayed is e
    lambda key, i, k, x: (jnp.zeros(len(i)), x - unit(i, k)), topology.chain(WORKERS), optax.sgd(1.0)
)
relayed_updates = asynchronous.relaysgd_grad(  # u = e
    lambda key, i, k, x: (jnp.zeros(len(i)), -unit(i, k)), topology.chain(WORKERS), optax.sgd(1.0)
)


def widened(order):
    """The same order with tables of one size for all, so that one program runs them."""
    nothing = {"worker": NOBODY, "event": -1, "reader": NOBODY, "back": NOBODY, "write": NOBODY}
    width = {"worker": 6, "step": 6, "event": 6, "read": 12, "reader": 12, "edge": 12, "back": 12}

    def wide(name, table):
        out = np.full((300, width.get(name, 12)), nothing.get(name, 0))
        out[: table.shape[0], : table.shape[1]] = table
        return out

    waves = order.waves._replace(**{k: wide(k, v) for k, v in order.waves._asdict().items()})
    return order._replace(waves=waves, layout=np.append(order.layout, np.zeros(100 - len(order.layout), int)))


trees = st.lists(st.integers(0, 10**6), min_size=WORKERS - 1, max_size=WORKERS - 1).map(
    lambda parents: topology.from_edges(WORKERS, [(i + 1, p % (i + 1)) for i, p in enumerate(parents)])
)
networks = st.builds(
    lambda compute, latency: timing.Network(
        compute=np.array(compute), latency=np.array(latency).reshape(6, 6)
    ),
    st.lists(st.floats(0.5, 1.0), min_size=WORKERS, max_size=WORKERS),
    st.lists(st.floats(0.0, 0.5), min_size=WORKERS**2, max_size=WORKERS**2),
)


def contributions(method, make, tree, network):
    """(R, n, n, K) how often the contribution of each step (worker, number) is in each worker's model."""
    models = jnp.zeros((WORKERS, WORKERS * STEPS))
    on_tree = make(lambda *_: None, tree, optax.sgd(1.0))
    order = asynchronous.lay_out(jax.random.key(0), on_tree, network, models, seconds=SECONDS, every=1)
    trace = asynchronous.replay(jax.random.key(0), method, widened(order), models, measure=lambda x: {"x": x})
    counts = WORKERS * trace.metrics["x"].reshape(-1, WORKERS, WORKERS, STEPS)
    assert np.abs(counts - counts.round()).max() < 1e-9
    return counts.round().astype(int), order


@settings(max_examples=15, deadline=None)
@given(trees, networks)
def test_relayed_models_count_each_worker_exactly_once(tree, network):
    counts, order = contributions(relayed_models, asynchronous.relaysgd, tree, network)
    each = counts.sum(3)
    assert counts.min() == 0 and each.max() == 1
    assert each[10:].min() == 1  # a hop takes 1.5 s at most: one of latency and one until the relay is done
    version = np.where(each > 0, counts.argmax(3), -1)
    assert (np.diff(version, axis=0) >= 0).all()
    own = version[:, np.arange(WORKERS), np.arange(WORKERS)]
    assert np.array_equal(own, order.counts - 1)  # one's own is the newest


@settings(max_examples=15, deadline=None)
@given(trees, networks)
def test_relayed_updates_come_everywhere_exactly_once(tree, network):
    counts, order = contributions(relayed_updates, asynchronous.relaysgd_grad, tree, network)
    assert counts.min() == 0 and counts.max() == 1 and (np.diff(counts, axis=0) >= 0).all()
    made = np.arange(STEPS) < order.counts[..., None]  # (R, n, K)
    assert not counts[~np.broadcast_to(made[:, None], counts.shape)].any()
    assert counts[9:].min(1)[made[:-9]].all()  # a diameter's time later


def test_averages_keep_the_sum_whatever_is_under_way():
    n = 12
    start = np.asarray(jax.random.normal(jax.random.key(3), (n, DIM)))
    network = timing.Network(compute=timing.lognormal(0.1, 0.5), latency=timing.lognormal(0.2, 1.0))
    method = asynchronous.ad_psgd(lambda key, i, k, x: (x[:, 0], 0 * x), topology.ring(n), optax.sgd(1.0))
    trace = asynchronous.simulate(jax.random.key(1), method, network, start, seconds=7)
    _, _, arrives, returns = trace.events.links
    owed = trace.events.worker[trace.events.links.event][(arrives <= 7) & (returns > 7)]
    assert len(owed)
    models = np.asarray(trace.params)
    total = models.sum(0) - np.asarray(trace.state.answer)[owed].sum(0)
    assert np.abs(total - start.sum(0)).max() < 1e-12
    assert np.abs(models - models.mean(0)).max() < 0.3 * np.abs(start - start.mean(0)).max()


def test_push_sum_keeps_a_consensus():
    start = jnp.asarray(np.ones((8, DIM)) * np.arange(1.0, DIM + 1))
    method = asynchronous.push_sum(
        lambda key, i, k, x: (x[:, 0], 0 * x), topology.exponential(8), optax.sgd(1.0)
    )
    trace = asynchronous.simulate(jax.random.key(1), method, NETWORKS["stragglers"], start, seconds=10)
    assert np.abs(trace.params - start).max() < 1e-12


# Limits


SPEEDS = np.array([1.0, 1.0, 1.0, 4.0, 1.0, 2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "options", "influence"),
    [
        ("ad_psgd", {}, SPEEDS),
        ("push_sum", {}, np.ones(8)),
        ("swift", {}, np.ones(8)),
        pytest.param("relaysgd", {}, np.ones(8), marks=pytest.mark.slow),
        pytest.param("gossip", {}, SPEEDS, marks=pytest.mark.slow),
        pytest.param("relaysgd_grad", {}, SPEEDS, marks=pytest.mark.slow),
        pytest.param("swift", {"influence": SPEEDS}, SPEEDS, marks=pytest.mark.slow),
    ],
)
def test_where_fast_workers_count_more_and_where_all_count_the_same(name, options, influence):
    """With constant, small steps: at the minimum of Σ p_i f_i, p_i as the docstrings say, not at others."""
    task = problem(8)
    graph = topology.chain(8) if name.startswith("relaysgd") else topology.ring(8)
    method = getattr(asynchronous, name)(task.grad_at, graph, optax.sgd(0.02), **options)
    network = timing.Network(compute=0.1 / SPEEDS, latency=0.01)
    seconds = 1500 if name == "relaysgd" else 300
    trace = asynchronous.simulate(
        jax.random.key(1), method, network, task.init(jax.random.key(0)), seconds=seconds, every=seconds / 50,
        measure=lambda x: {"mean": x.mean(0)},
    )  # fmt: skip
    A, b = np.asarray(task.A), np.asarray(task.b)

    def minimum(p):
        return np.linalg.solve(np.einsum("n,nij,nik->jk", p, A, A), np.einsum("n,nij,ni->j", p, A, b))

    found = trace.metrics["mean"][25:].mean(0)
    away = [np.linalg.norm(found - minimum(p)) for p in (influence, np.ones(8), SPEEDS)]
    apart = np.linalg.norm(minimum(np.ones(8)) - minimum(SPEEDS))
    assert away[0] < 0.12 * apart
    assert max(away[1:]) > 0.8 * apart
    if name == "relaysgd":
        assert away[0] < 1e-9
        assert np.abs(np.asarray(trace.params) - minimum(influence)).max() < 1e-9  # every worker's model


@pytest.mark.parametrize("name", ["push_sum", "swift"])
def test_with_equal_times_and_no_latency_it_is_gossip_before_the_step(name):
    """What is sent in a round is read in the next: x ← W x + u, with all workers in step."""
    task, ring = problem(8), topology.ring(8)
    method = getattr(asynchronous, name)(task.grad_at, ring, optax.sgd(RATE))
    trace = run(method, task, NETWORKS["equal"], num_events=8 * 50, every=8 * 50)
    W, grad, x = rs.topology.metropolis_weights(ring).toarray(), gradient(task), np.zeros((8, DIM))
    for _ in range(50):
        x = W @ x - RATE * np.stack([grad(i, x[i]) for i in range(8)])
    assert np.abs(trace.params - x).max() < 1e-12


@pytest.mark.parametrize("name", ["ad_psgd", pytest.param("gossip", marks=pytest.mark.slow)])
def test_with_equal_times_averages_of_two_miss_the_optimum_by_the_rate(name):
    """A constant γ leaves a distance of O(γ) from the minimum of Σ f_i."""
    task = problem(8)
    order, away = None, []
    for rate in (0.1, 0.05, 0.025):
        method = getattr(asynchronous, name)(task.grad_at, topology.ring(8), optax.sgd(rate))
        start = task.init(jax.random.key(0))
        if order is None:
            order = asynchronous.lay_out(
                jax.random.key(1), method, NETWORKS["equal"], start, seconds=200, every=2
            )
        trace = asynchronous.replay(
            jax.random.key(1), method, order, start, measure=lambda x: {"mean": x.mean(0)}
        )
        away.append(np.linalg.norm(trace.metrics["mean"][50:].mean(0) - task.x_star))
    assert 1.5 < away[0] / away[1] < 2.7 and 1.5 < away[1] / away[2] < 2.7


# The run


def test_records_change_nothing_and_seconds_are_events():
    task = problem(8)
    method = asynchronous.relaysgd(task.grad_at, topology.chain(8), optax.sgd(RATE, momentum=0.5))
    few = run(method, task, NETWORKS["stragglers"], num_events=600, every=600)
    many = run(method, task, NETWORKS["stragglers"], num_events=600, every=50)
    assert np.abs(few.params - many.params).max() < 1e-12
    assert np.array_equal(many.steps, np.arange(50, 601, 50))
    until = float(few.events.time[-1])
    timed = run(method, task, NETWORKS["stragglers"], None, until / 4, seconds=until)
    assert np.abs(few.params - timed.params).max() < 1e-12
    assert np.array_equal(timed.metrics["steps"][-1], np.bincount(few.events.worker, minlength=8))
    assert np.allclose(timed.seconds, until * np.arange(1, 5) / 4)
    out = np.array([1, 2, 2, 2, 2, 2, 2, 1])
    assert timed.metrics["messages_sent"][-1] == out[few.events.worker].sum() / 8
    assert timed.metrics["bytes_sent"][-1] == timed.metrics["messages_sent"][-1] * DIM * 8


def test_losses_are_means_since_the_last_record():
    n = 4
    method = asynchronous.ad_psgd(
        lambda key, i, k, x: (10.0 * i + k, 0 * x), topology.ring(n), optax.sgd(1.0)
    )
    network = timing.Network(compute=np.array([1.0, 1.0, 1.0, 3.0]))
    trace = asynchronous.simulate(
        jax.random.key(0), method, network, jnp.zeros((n, 1)), seconds=4.0, every=2.0
    )
    assert np.array_equal(trace.metrics["loss"][0][:3], [0.5, 10.5, 20.5]) and np.isnan(
        trace.metrics["loss"][0][3]
    )
    assert np.array_equal(trace.metrics["loss"][1], [2.5, 12.5, 22.5, 30.0])


@pytest.mark.slow
def test_many_runs_of_one_order_under_vmap():
    task = problem(8, noise=0.5)
    start = task.init(jax.random.key(0))

    def method(rate):
        return asynchronous.push_sum(task.grad_at, topology.ring(8), optax.sgd(rate))

    order = asynchronous.lay_out(
        jax.random.key(1), method(0.1), NETWORKS["stragglers"], start, num_events=200, every=100
    )

    def one(key, rate):
        return asynchronous.replay(key, method(rate), order, start, measure=task.measure)._replace(
            events=None, seconds=None, steps=None, num_steps=None
        )

    keys, rates = jax.random.split(jax.random.key(2), 3), jnp.array([0.05, 0.1, 0.2])
    many = jax.vmap(one)(keys, rates)
    for k in range(3):
        alone = one(keys[k], rates[k])
        assert np.abs(many.params[k] - alone.params).max() < 1e-12
        assert np.allclose(many.metrics["loss"][k], alone.metrics["loss"], rtol=1e-12)


def test_workers_over_devices():
    task, n = problem(8), 8
    method = asynchronous.relaysgd(task.grad_at, topology.chain(n), optax.sgd(RATE))
    start = np.asarray(jax.random.normal(jax.random.key(0), (n, DIM)))
    churn = rs.faults.Churn.random(jax.random.key(2), n, 5, present=2, absent=1)
    order = asynchronous.lay_out(
        jax.random.key(1), method, NETWORKS["stragglers"], start, seconds=5, churn=churn, start="mean"
    )
    one = asynchronous.replay(jax.random.key(1), method, order, start)
    four = asynchronous.replay(jax.random.key(1), method, order, rs.sharding.place(start, rs.sharding.mesh()))
    assert np.abs(np.asarray(one.params) - np.asarray(four.params)).max() < 1e-12
    assert len(four.params.sharding.device_set) == 4


def test_divergence_names_the_event_and_the_worker():
    task = problem(8)
    method = asynchronous.ad_psgd(task.grad_at, topology.ring(8), optax.sgd(1e30))
    with pytest.warns(UserWarning, match="diverged: worker . is not finite after event"):
        trace = run(method, task, NETWORKS["no latency"], num_events=200, every=100)
    assert trace.divergence
    assert trace.events.worker[trace.divergence.step] == trace.divergence.worker


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("relaysgd", "ad_psgd", "push_sum")]
)
def test_digits(name):
    data = rs.tasks.datasets.digits()
    shares = rs.tasks.partition.dirichlet(jax.random.key(0), data.train_y, 8, 1.0)
    task = rs.tasks.classification(rs.models.MLP((16,), 10), data, shares, batch_size=16)
    graph = topology.chain(8)
    method = getattr(asynchronous, name)(task.grad_at, graph, optax.sgd(0.2, momentum=0.5))
    network = timing.Network(
        compute=0.1 * timing.stragglers(0.25, 4.0), latency=0.02, upload=1e6, download=1e6
    )
    trace = asynchronous.simulate(
        jax.random.key(1), method, network, task.init(jax.random.key(2)), seconds=15, measure=task.measure,
        progress="digits",
    )  # fmt: skip
    assert trace.metrics["accuracy"][-1].mean() > 0.8


@pytest.mark.parametrize("name", ["ad_psgd", "relaysgd", "push_sum"])
def test_before_anybody_is_done_nothing_happens(name):
    """A record without events, one without any before, and a run that ends before the first."""
    network = timing.Network(compute=1.0, latency=0.1)
    method = getattr(asynchronous, name)(problem(4).grad_at, topology.chain(4), optax.sgd(RATE))
    start = np.ones((4, DIM))
    trace = asynchronous.simulate(jax.random.key(0), method, network, start, seconds=1.6, every=0.4)
    assert trace.steps.tolist() == [0, 0, 4, 4]
    trace = asynchronous.simulate(jax.random.key(0), method, network, start, seconds=0.5)
    assert len(trace.events.time) == 0 and np.array_equal(trace.params, start)


@pytest.mark.slow
def test_the_page_on_it_runs_as_written():
    with jax.enable_x64(False):
        check_md_file(Path(__file__).parent.parent / "docs" / "asynchrony.md", memory=True)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_waves_keep_what_waits_behind_what_it_waits_for(data):
    number = data.draw(st.integers(1, 30))
    kinds = np.array(data.draw(st.lists(st.integers(0, 2), min_size=number, max_size=number)))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, number - 1), st.integers(0, number - 1)), max_size=60)
    )
    pairs = [(min(p), max(p)) for p in pairs if p[0] != p[1]]
    before, after = (np.array([p[k] for p in pairs], int) for k in (0, 1))
    bound = data.draw(st.integers(0, number))
    waves = in_waves(kinds, before, after, np.array([0, bound, number]))
    assert (waves[before] <= waves[after]).all()
    assert (waves[before] < waves[after])[kinds[before] >= kinds[after]].all()
    if 0 < bound < number:
        assert waves[:bound].max() < waves[bound:].min()
    assert set(waves) == set(range(waves.max() + 1))


@pytest.mark.parametrize(
    ("match", "graph", "options"),
    [
        ("not connected", topology.from_edges(4, [(0, 1), (2, 3)]), {}),
        ("expected an undirected graph", topology.from_edges(4, [(0, 1), (1, 2), (2, 3), (3, 0)], True), {}),
        ("negative|at least 0", topology.ring(4), {"compute": -1.0}),
        ("upload", topology.ring(4), {"compute": 1.0, "upload": 0.0}),
        ("compute is 0", topology.ring(4), {"compute": 0.0}),
        ("loses messages", topology.ring(4), {"compute": 1.0, "drop": 0.1, "timeout": 1.0}),
        ("compute", topology.ring(4), {"compute": np.ones(5)}),
        ("latency", topology.ring(4), {"compute": 1.0, "latency": np.ones((3, 3))}),
    ],
)
def test_what_does_not_fit_is_told(match, graph, options):
    with pytest.raises(ValueError, match=match):
        method = asynchronous.ad_psgd(lambda *_: None, graph, optax.sgd(0.1))
        network = timing.Network(**options)
        asynchronous.simulate(jax.random.key(0), method, network, jnp.zeros((4, 2)), seconds=1.0)
