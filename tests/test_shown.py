"""What people see: bars that tell the truth, and short names for what ends up in a cell."""

import jax
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import progress

N, D = 8, 3
key = jax.random.key(0)
task = rs.tasks.random_quadratics(key, N, D, zeta2=1.0, noise=0.1)
method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(N)), optax.sgd(0.1))
start = task.init(key)


def run(**options):
    return rs.simulate(key, method, start, measure=task.measure, **{"num_steps": 40, "every": 20, **options})


@pytest.fixture(scope="module")
def trace():
    return run()


@pytest.fixture
def moves(monkeypatch):
    """How far the bar moves each time, and what stands beside it."""
    seen, postfixes = [], []

    class Bar(progress.tqdm):
        def update(self, n=1):
            seen.append(n)
            super().update(n)

        def set_postfix_str(self, s="", refresh=True):
            postfixes.append(s)
            super().set_postfix_str(s, refresh)

    monkeypatch.setattr(progress, "tqdm", Bar)
    return seen, postfixes


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_bar_moves_within_a_record_and_changes_nothing(trace, moves, capsys):
    shown = run(progress=True)
    assert sum(moves[0]) == 40 and len(moves[0]) > 4 and max(moves[0]) < 20
    assert "100%" in capsys.readouterr().err
    assert same(shown.metrics, trace.metrics) and same(shown.params, trace.params)


def test_a_bar_shows_a_metric(trace, moves):
    run(progress="suboptimality")
    assert moves[1][-1] == f"suboptimality {trace.metrics['suboptimality'][-1]:.4g}"
    with pytest.raises(
        ValueError, match="progress is 'accuracy', expected True, or the name of a metric: 'cons"
    ):
        run(progress="accuracy")


def test_a_bar_stops_where_the_run_does(moves):
    def until(record):
        return record["suboptimality"] < 1e9

    stopped, watched = run(until=until), run(until=until, progress=True)
    assert sum(moves[0]) == 20 == watched.num_steps and same(stopped.metrics, watched.metrics)


def test_a_bar_goes_on_from_where_a_run_stopped(trace, moves):
    first = run(num_steps=20, progress=True)
    rest = run(num_steps=20, state=first.state, progress=True)
    assert same(rest.params, trace.params) and rest.steps.tolist() == [40]


def test_pieces_grow_until_a_bar_would_stand_still(monkeypatch):
    """With a clock of its own: a step takes a hundredth of a second, and the first one a second more."""
    clock = iter(np.arange(10**6.0))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    now = [next(clock)]
    with progress.Bar(1000, 0, None) as bar:
        pieces = []
        for piece in bar.pieces(1000):
            now[0] += 0.01 * piece + (not pieces)
            pieces.append(piece)
    assert sum(pieces) == 1000 and pieces[:5] == [1, 1, 2, 4, 8] and max(pieces) == 8
    assert bar.bar.n == 1000


def test_many_records_under_a_bar_are_joined_on_the_host():
    many = run(num_steps=300, every=1, progress=True)
    assert isinstance(many.metrics["suboptimality"], np.ndarray) and many.steps[-1] == 300


def test_short_names(trace):
    ring = rs.topology.ring(N)
    told = {
        "Quadratics(8 workers, 3 variables)": task,
        "Mixer('gossip on ring', 8 workers)": rs.gossip(ring),
        "Mixer('gossip on ring (lazy)', 8 workers)": rs.gossip(ring, lazy=True),
        "Mixer('push on exponential', 8 workers)": rs.push(rs.topology.exponential(N)),
        "Mixer('all_reduce by ring', 8 workers)": rs.all_reduce(N),
        "Mixer('one_peer_exponential', 8 workers)": rs.one_peer_exponential(N),
        "Algorithm('relaysgd with relay_sum on chain', 8 workers)": method,
        "Algorithm('d2 with gossip on ring', 8 workers)": rs.d2(task.grad, rs.gossip(ring), optax.sgd(0.1)),
        "RunState(step 40, State, 8 workers)": trace.state,
        "Dataset('digits': 1437 to train on and 360 to test, of shape (8, 8, 1), 10 classes)": (
            rs.tasks.datasets.digits()
        ),
        "Mixer('median on ring', 8 workers)": rs.robust.median(ring),
        "Mixer('compressed relay_sum on chain', 8 workers)": rs.compress.relay_sum(
            rs.topology.chain(N), rs.compress.sign()
        ),
        "Traffic(8 workers, models of 12 bytes, a period of 1 steps)": trace.traffic,
        "Method('ad_psgd', 8 workers)": rs.asynchronous.ad_psgd(task.grad_at, ring, optax.sgd(0.1)),
        "Method('swift on ring', 8 workers)": rs.asynchronous.swift(task.grad_at, ring, optax.sgd(0.1)),
    }
    assert {name: repr(thing) for name, thing in told.items()} == {name: name for name in told}
    assert repr(trace).startswith("Trace(2 records to step 40, models float32[8,3]; metrics ")
    assert len(repr(trace)) < 300


def test_a_trace_of_several_runs_has_a_short_name():
    """Of models that are the same for all, while the keys are not."""
    traces = jax.vmap(lambda key: rs.simulate(key, method, start, num_steps=2))(jax.random.split(key, 3))
    assert len(repr(traces)) < 300 and traces.metrics["loss"].shape == (3, 2, N)


def test_short_names_without_barriers():
    waitless = rs.asynchronous.ad_psgd(task.grad_at, rs.topology.ring(N), optax.sgd(0.1))
    network, lay_out = rs.timing.Network(compute=0.5), rs.asynchronous.lay_out
    order = lay_out(key, waitless, network, start, seconds=2, every=1)
    assert repr(order) == "Order(Events(32 to 2 s), 8 workers, 2 records)"
    trace = rs.asynchronous.replay(key, waitless, order, start)
    assert repr(trace).startswith("Trace(2 records, models float32[8,3]; metrics loss (2, 8)")


def test_a_corpus_has_a_short_name():
    corpus = rs.tasks.texts.language_model(["ab" * 99, "abc" * 99], ["Ann", "Bob"], length=8)
    assert repr(corpus).endswith("7 to test, of shape (8,), 4 classes), 2 owners, 4 tokens)")


def test_memory_is_a_table():
    needs = rs.estimate_memory(method, start)
    assert "\n" not in repr(needs) and len(repr(needs)) < 80
    html = needs._repr_html_()
    assert html.count("<tr>") == len(needs.parts) + 2 and "temporaries" in html
