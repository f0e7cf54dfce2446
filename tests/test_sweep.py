import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import relaysim as rs
from relaysim.sweep import best, sweep

rates = [0.05, 0.1, 0.3]
keys = jax.random.split(jax.random.key(0), 2)
tasks = rs.tuning.stack(
    [rs.tasks.random_quadratics(jax.random.key(k), 4, 3, zeta2=1.0, noise=0.1) for k in (0, 1)]
)
ring = rs.gossip(rs.topology.ring(4))


def run(learning_rate, key, task):
    method = rs.dpsgd(task.grad, ring, optax.sgd(learning_rate))
    return rs.simulate(key, method, task.init(key), num_steps=6, every=3, measure=task.measure)


single_run = jax.jit(run)


@pytest.mark.parametrize("together", [5, 64])
def test_sweep_equals_a_loop_of_single_runs(together):
    table = sweep(run, together=together, learning_rate=rates, key=keys, task=tasks)
    assert list(table.columns) == ["learning_rate", "key", "task", "step", "metric", "worker", "value"]
    assert not table.duplicated(["learning_rate", "key", "task", "step", "metric", "worker"]).any()
    for learning_rate in rates:
        for k in range(2):
            for t in range(2):
                task = jax.tree.map(lambda leaf, t=t: leaf[t], tasks)
                single = single_run(learning_rate, keys[k], task)
                rows = table[(table.learning_rate == learning_rate) & (table.key == k) & (table.task == t)]
                for metric, shape in (("suboptimality", (2,)), ("loss", (2, 4))):
                    values = rows[rows.metric == metric].value.to_numpy().reshape(shape)
                    np.testing.assert_allclose(values, single.metrics[metric], rtol=1e-5)


def test_a_sweep_can_return_plain_numbers():
    table = sweep(lambda x, y: {"product": x * y}, x=[1.0, 2.0], y=range(3))
    expected = pd.DataFrame(
        [(x, y, x * y) for x in (1.0, 2.0) for y in range(3)], columns=["x", "y", "product"]
    )
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)


def records(values):
    return pd.DataFrame(
        [(rate, seed, step, "error", v) for (rate, seed, step), v in values.items()],
        columns=["rate", "seed", "step", "metric", "value"],
    )


def test_best_takes_the_mean_of_the_last_records_and_no_divergence():
    table = records(
        {(0.1, 0, 1): 0.0, (0.1, 0, 2): 3.0, (0.1, 1, 2): 5.0, (0.2, 0, 2): 1.0, (0.2, 1, 2): 6.0}
        | {(0.4, 0, 2): 0.0, (0.4, 1, 2): np.nan, (0.8, 0, 2): -np.inf, (0.8, 1, 2): 0.0}
    )
    assert best(table, "error", over="rate").to_dict("records") == [{"rate": 0.2, "error": 3.5}]
    assert best(table, "error", over="rate", highest=True).rate.item() == 0.1
    assert best(table, "error", over="rate", within="seed").rate.tolist() == [0.4, 0.8]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sweep(run), "axes are missing"),
        (lambda: sweep(run, learning_rate=[]), "learning_rate has leading axes"),
        (lambda: sweep(run, learning_rate=0.1), "learning_rate has leading axes"),
        (lambda: sweep(run, learning_rate=rates, together=0), "together is 0"),
        (
            lambda: best(records({(1, 1, 1): 1.0}), "loss", over="rate"),
            "metric is 'loss', expected one of 'error'",
        ),
        (
            lambda: best(records({(1, 1, 1): 1.0}), "error", over="task"),
            "over is 'task', expected one of",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_everything_is_jitted_once():
    traces = 0

    def counted(x):
        nonlocal traces
        traces += 1
        return {"y": jnp.square(x)}

    sweep(counted, together=2, x=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert traces == 1


def test_runs_that_diverge_are_told():
    def run(learning_rate):
        method = rs.dpsgd(
            lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(learning_rate)
        )
        return rs.simulate(jax.random.key(0), method, jnp.ones((4, 2)), num_steps=4)

    with pytest.warns(UserWarning, match=r"1 of 2 runs diverged, first that of .*e\+30\}: worker 0"):
        rs.sweep(run, learning_rate=[0.1, 1e30])
