"""Comparisons: what is run, at which rates, and what becomes of interruptions and of bad input."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import relaysim as rs
from relaysim import topology

N, D = 4, 3
METHODS = {
    "D-PSGD": lambda task, rate: rs.dpsgd(task.grad, rs.gossip(topology.ring(N)), optax.sgd(rate)),
    "RelaySGD": lambda task, rate: rs.relaysgd(task.grad, rs.relay_sum(topology.chain(N)), optax.sgd(rate)),
}


def quadratics(zeta2):
    return lambda seed: rs.tasks.random_quadratics(jax.random.key(seed), N, D, zeta2=zeta2)


TASKS = {"alike": quadratics(0.0), "different": quadratics(1.0)}


def compare(methods=METHODS, tasks=TASKS, **options):
    defaults = {
        "num_steps": 20,
        "every": 5,
        "seeds": 2,
        "rates": 0.25,
        "metric": "suboptimality",
        "mode": "min",
    }
    return rs.compare(methods, tasks, **(defaults | {"progress": False} | options))


@pytest.fixture(scope="module")
def found():
    return compare()


def test_every_run_equals_that_run_alone(found):
    assert list(zip(found.table.task, found.table.method, found.table.seed, strict=True)) == [
        (task, method, seed) for task in TASKS for method in METHODS for seed in (0, 1)
    ]
    for row in found.table.itertuples():
        task, (init, key) = TASKS[row.task](row.seed), jax.random.split(jax.random.key(row.seed))
        method = METHODS[row.method](task, 0.25)
        alone = rs.simulate(key, method, task.init(init), num_steps=20, every=5, measure=task.measure)
        assert row.suboptimality == pytest.approx(float(alone.metrics["suboptimality"][-1]), rel=1e-3)
        assert (row.steps, row.diverged, row.worker, row.learning_rate) == (20, -1, -1, 0.25)
        assert row.vectors_sent == alone.metrics["vectors_sent"][-1]


def test_summary_and_curves_and_pictures(found):
    cells = found.table.groupby(["task", "method"], sort=False).suboptimality
    np.testing.assert_allclose(found.summary["mean"], cells.mean())
    np.testing.assert_allclose(found.summary.deviation, cells.std(ddof=0))
    np.testing.assert_allclose(found.summary.worst, cells.max())
    curves = found.curves[found.curves.metric == "suboptimality"]
    assert sorted(set(curves.step)) == [5, 10, 15, 20] and len(curves) == 2 * 2 * 2 * 4
    last = curves[curves.step == 20].value.to_numpy()
    np.testing.assert_allclose(last, found.table.suboptimality)
    figure = found.plot()
    assert [ax.get_title() for ax in figure.axes] == list(TASKS)
    plt.close(figure)
    assert found.to_latex().count(r"\pm") == 4 and "RelaySGD &" in found.to_latex()


def scored(scores):
    """Tasks on which a run at a rate comes to scores[rate], NaN for one that diverges; and who asks."""
    asked = []

    class Task:
        def __init__(self, seed):
            self.seed = seed

        def init(self, key):
            return jnp.zeros((N, 1))

        def measure(self, params):
            return {"score": params[0, 0]}

    def method(task, rate):
        asked.append((task.seed, rate))
        value = scores(rate, task.seed)
        grad = lambda key, step, x: (jnp.full(N, value), jnp.full((N, 1), -value))  # noqa: E731
        return rs.allreduce(grad, rs.all_reduce(N), optax.sgd(1.0))

    return {"m": method}, {"t": Task}, asked


def searched(scores, **options):
    methods, tasks, asked = scored(scores)
    how = rs.search(**({"start": 1.0, "seeds": (7, 8)} | options))
    result = rs.compare(
        methods, tasks, num_steps=1, seeds=1, rates=how, metric="score", mode="max", progress=False
    )
    return result, asked


def test_a_search_tries_both_neighbours_of_the_best_with_seeds_of_its_own():
    result, asked = searched(lambda rate, seed: -abs(np.log2(rate) - 2))
    assert result.rates == {("t", "m"): 4.0}
    assert list(result.tried.learning_rate) == [0.5, 1, 2, 4, 8] or list(result.tried.learning_rate) == [
        1,
        2,
        4,
        8,
    ]
    assert {seed for seed, _ in asked[:-1]} == {7, 8} and asked[-1] == (0, 4.0)


def test_the_smallest_rate_that_is_nearly_as_good_is_taken():
    result, _ = searched(lambda rate, seed: 1 - 0.001 * abs(np.log2(rate) - 3), margin=0.0015)
    assert result.rates == {("t", "m"): 4.0}


@pytest.mark.filterwarnings("ignore:diverged")
def test_a_rate_that_diverges_with_one_seed_is_not_taken():
    result, _ = searched(lambda rate, seed: np.nan if rate >= 4 and seed == 8 else rate)
    assert result.rates == {("t", "m"): 2.0}
    assert np.isnan(result.tried.score.iloc[-1])


@pytest.mark.filterwarnings("ignore:diverged")
def test_a_search_that_starts_too_high_comes_down():
    result, _ = searched(lambda rate, seed: np.nan if rate > 0.01 else rate)
    assert result.rates == {("t", "m"): 2.0**-7}


def test_rates_to_choose_from_and_rates_known_before():
    tried = compare(rates=[0.01, 0.25, 0.5], tasks={"alike": TASKS["alike"]})
    assert len(tried.tried) == 6 and set(tried.rates.values()) <= {0.01, 0.25, 0.5}
    best = tried.tried.loc[tried.tried.groupby("method").suboptimality.idxmin()]
    assert {("alike", m): r for m, r in zip(best.method, best.learning_rate, strict=True)} == tried.rates
    known = {"D-PSGD": 0.1, ("alike", "RelaySGD"): 0.2, ("different", "RelaySGD"): 0.3}
    assert compare(rates=known).rates["different", "RelaySGD"] == 0.3


def test_divergence_is_told():
    with pytest.warns(
        UserWarning, match="2 of 8 runs diverged, the first RelaySGD on alike with seed 0: worker"
    ):
        broken = compare(rates={"D-PSGD": 0.1, ("alike", "RelaySGD"): 1e30, ("different", "RelaySGD"): 0.1})
    rows = broken.table[broken.table.diverged >= 0]
    assert len(rows) == 2 and rows.suboptimality.isna().all() and (rows.worker >= 0).all()
    assert list(broken.summary.diverged) == [0, 2, 0, 0] and "diverges" in broken.to_latex()


def test_until_stops_each_run_by_itself():
    stopped = compare(num_steps=500, every=1, until=lambda record: record["suboptimality"] < 1e-2)
    assert stopped.table.steps.nunique() > 1 and (stopped.table.suboptimality < 1e-2).all()


def test_data_are_held_back_for_the_search(monkeypatch):
    data = rs.tasks.datasets.digits()
    shares = rs.tasks.partition.dirichlet(jax.random.key(0), data.train_y, N, 0.1)
    task = rs.tasks.classification(rs.models.MLP((), 10), data, shares)
    held = task.held_back(100)
    training = {x.tobytes() for x in np.asarray(held.x[held.indices])}
    testing = {x.tobytes() for x in np.asarray(held.test_x)}
    assert not training & testing and len(held.test_y) <= 100
    assert training | testing == {x.tobytes() for x in np.asarray(task.x[task.indices])}
    assert held.sizes.sum() == len(held.indices) and (held.sizes > 0).all()


SCRIPT = """
import sys, jax, optax, relaysim as rs
from relaysim import topology
ring = topology.ring(4)
def dpsgd(momentum):
    return lambda task, rate: rs.dpsgd(task.grad, rs.gossip(ring), optax.sgd(rate, momentum=momentum))
methods = {str(k): dpsgd(k / 10) for k in range(4)}
tasks = {"t": lambda seed: rs.tasks.random_quadratics(jax.random.key(seed), 4, 3, zeta2=1.0)}
options = {"metric": "suboptimality", "mode": "min", "out": sys.argv[1], "progress": False}
found = rs.compare(methods, tasks, num_steps=20, seeds=2, **options)
found.table.to_csv(sys.argv[1] + "/table.csv", index=False)
"""


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_table(tmp_path):
    def run(name, kill=False):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name)])
        runs = tmp_path / name / "runs.jsonl"
        while kill and process.poll() is None:
            if runs.exists() and b'"run"' in runs.read_bytes():
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        return process.wait()

    assert run("whole") == 0
    assert run("killed", kill=True) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "table.csv").exists()
    assert run("killed") == 0
    assert (tmp_path / "killed" / "table.csv").read_bytes() == (tmp_path / "whole" / "table.csv").read_bytes()


@pytest.mark.slow
def test_more_seeds_are_more_to_do_and_other_settings_are_refused(tmp_path):
    compare(out=tmp_path)
    before = (tmp_path / "runs.jsonl").read_text().splitlines()
    more = compare(out=tmp_path, seeds=3)
    assert (tmp_path / "runs.jsonl").read_text().splitlines()[: len(before)] == before
    pd.testing.assert_frame_equal(more.table, compare(seeds=3).table)
    for options, message in (
        ({"num_steps": 40}, "has num_steps 20, expected 40"),
        (
            {"methods": {"D-PSGD": METHODS["D-PSGD"]}},
            r"has methods \['D-PSGD', 'RelaySGD'\], expected \['D-PSGD'\]",
        ),
        ({"rates": 0.5}, r"has rates .*0\.25.*, expected .*0\.5"),
        ({"about": {"model": "mlp"}}, "has model missing, expected mlp"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(out=tmp_path, **options)
    assert json.loads((tmp_path / "settings.json").read_text())["metric"] == "suboptimality"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": {}}, "methods is {}, expected a dict"),
        ({"methods": list(METHODS)}, "methods is .*expected a dict"),
        ({"methods": {"a": rs.dpsgd, 2: rs.d2}}, "methods is .*expected a dict from names"),
        ({"methods": {"a": 3}}, r"methods\['a'\] is 3, expected a function"),
        ({"tasks": {"t": 3}}, "tasks holds 3"),
        ({"tasks": {"t": lambda seed: seed}}, "tasks holds 0, which has no init"),
        ({"metric": "accuracy"}, "metric is 'accuracy', expected one of"),
        ({"metric": None}, "metric is None"),
        ({"mode": "best"}, "mode is 'best', expected one of 'max', 'min'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": []}, r"seeds is \[\]"),
        ({"seeds": [1, 1]}, "expected one or more, all different"),
        ({"seeds": "12"}, "seeds is '12'"),
        ({"rates": -1.0}, "rates is -1.0"),
        ({"rates": "fast"}, "rates is 'fast'"),
        ({"rates": {"D-PSGD": 0.1}}, "rates lacks the learning rate of 'RelaySGD' on 'alike'"),
        ({"rates": [0.1, -1]}, "rates is -1"),
        ({"num_steps": 2.5}, "num_steps is 2.5"),
        ({"num_steps": 20, "every": 7}, "num_steps is 20, expected a multiple of every = 7"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        compare(**options)


@pytest.mark.parametrize(
    "options", [{"start": 0}, {"start": {"m": "x"}}, {"margin": -1}, {"seeds": []}, {"grid": [np.nan]}]
)
def test_bad_searches(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is"):
        rs.search(**options)
