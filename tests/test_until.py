"""Runs that stop early, go on, tell more than the loss, and are looked at as they come."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import programs, topology

N, D = 6, 4
key = jax.random.key(1)
task = rs.tasks.random_quadratics(jax.random.key(0), N, D, zeta2=0.1)


def relaysgd(rate=0.5):
    return rs.relaysgd(task.grad, rs.relay_sum(topology.chain(N)), optax.sgd(rate))


def below(target):
    return lambda record: record["suboptimality"] < target


def run(method, params=None, **options):
    options = {"num_steps": 200, "measure": task.measure} | options
    return rs.simulate(key, method, task.init(key) if params is None else params, **options)


@pytest.mark.parametrize("every", [1, 5, [1, 2, 5, 10, 20, 50, 100, 200]])
def test_until_stops_at_the_first_record_that_satisfies_it(every):
    method = relaysgd()
    whole, stopped = run(method, every=every), run(method, every=every, until=below(1e-3))
    first = int(np.argmax(whole.metrics["suboptimality"] < 1e-3))
    assert stopped.num_steps == whole.steps[first] < 200
    np.testing.assert_array_equal(stopped.steps, whole.steps[: first + 1])
    for name in ("suboptimality", "loss", "bytes_sent"):
        np.testing.assert_array_equal(stopped.metrics[name], whole.metrics[name][: first + 1])
    again = run(method, num_steps=stopped.num_steps, every=stopped.num_steps)
    np.testing.assert_array_equal(stopped.params, again.params)


def test_until_that_is_never_satisfied_changes_nothing():
    whole, watched = run(relaysgd(), every=20), run(relaysgd(), every=20, until=below(0.0))
    assert watched.num_steps == 200
    np.testing.assert_array_equal(watched.metrics["loss"], whole.metrics["loss"])
    np.testing.assert_array_equal(watched.params, whole.params)


def test_under_vmap_each_run_stops_where_it_stops_alone():
    rates = jnp.array([0.1, 0.3, 0.9])

    def one(rate):
        return run(relaysgd(rate), every=5, until=below(1e-3))

    together, alone = jax.vmap(one)(rates), [one(rate) for rate in rates.tolist()]
    assert len({trace.num_steps for trace in alone}) == 3
    np.testing.assert_array_equal(together.num_steps, [trace.num_steps for trace in alone])
    for i, trace in enumerate(alone):
        np.testing.assert_allclose(together.params[i], trace.params, rtol=1e-5, atol=1e-6)
        count, values = len(trace.steps), together.metrics["suboptimality"][i]
        np.testing.assert_allclose(values[:count], trace.metrics["suboptimality"], rtol=1e-4)
        assert np.isnan(values[count:]).all()


def test_records_at_chosen_steps():
    at = [1, 3, 10, 12]
    method = relaysgd()
    every, chosen = run(method, num_steps=12), run(method, num_steps=12, every=at)
    np.testing.assert_array_equal(chosen.steps, at)
    places = np.array(at) - 1
    np.testing.assert_array_equal(chosen.metrics["suboptimality"], every.metrics["suboptimality"][places])
    means = [every.metrics["loss"][a:b].mean(0) for a, b in zip([0, *at[:-1]], at, strict=True)]
    np.testing.assert_allclose(chosen.metrics["loss"], means, rtol=1e-5)


def test_a_callback_gets_each_record_on_the_host_as_it_comes():
    seen = []
    trace = run(relaysgd(), num_steps=30, every=10, callback=lambda step, record: seen.append((step, record)))
    assert [step for step, _ in seen] == [10, 20, 30]
    assert all(isinstance(record["loss"], np.ndarray) for _, record in seen)
    np.testing.assert_array_equal([r["suboptimality"] for _, r in seen], trace.metrics["suboptimality"])
    more = run(
        relaysgd(), state=trace.state, num_steps=10, every=10, callback=lambda step, _: seen.append((step, 0))
    )
    assert seen[-1][0] == 40 == more.num_steps


LOSSY = {"drop": [rs.faults.bursts(0.2, 3.0), rs.faults.Outage([1], 4, 9)]}


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "method",
    [
        rs.dpsgd(task.grad, rs.one_peer_exponential(N, rounds=2, **LOSSY), optax.adam(0.1)),
        slow(
            rs.relaysgd(
                task.grad,
                rs.relay_sum(topology.chain(N), fill="count", **LOSSY),
                optax.sgd(0.1, momentum=0.9),
            )
        ),
        slow(
            rs.d2(
                task.grad,
                rs.gossip(topology.ring(N), **LOSSY),
                optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
            )
        ),
        rs.faults.pause(
            rs.push_sum(task.grad, rs.push(topology.ring(N), **LOSSY), optax.adam(0.1)), LOSSY["drop"][1]
        ),
        rs.allreduce(
            rs.local_steps(task.grad, optax.sgd(0.1, momentum=0.9), 3), rs.all_reduce(N), optax.sgd(1.0)
        ),
    ],
    ids=["peers, adam", "relay, momentum", "gossip, noise", "paused", "local steps"],
)
def test_with_state_everywhere_a_run_that_goes_on_equals_one_that_never_stopped(method):
    whole = run(method, num_steps=20, every=10)
    half = run(method, num_steps=10, every=10)
    rest = run(method, num_steps=10, every=10, state=half.state)
    again = run(method, num_steps=10, every=10, state=half.state)  # which was not given away
    for name in ("suboptimality", "loss"):
        np.testing.assert_array_equal(rest.metrics[name], whole.metrics[name][1:])
    np.testing.assert_array_equal(rest.metrics["bytes_sent"], whole.metrics["bytes_sent"][1:])
    np.testing.assert_array_equal(rest.params, whole.params)
    np.testing.assert_array_equal(again.params, whole.params)


def test_a_state_goes_on_under_vmap_and_jit():
    def in_two(rate):
        method = relaysgd(rate)
        half = run(method, num_steps=10, every=10)
        return run(method, num_steps=10, every=10, state=half.state).params

    rates = jnp.array([0.1, 0.5])
    whole = jnp.stack([run(relaysgd(rate), num_steps=20, every=10).params for rate in rates.tolist()])
    np.testing.assert_allclose(jax.jit(jax.vmap(in_two))(rates), whole, rtol=1e-5, atol=1e-6)


def test_what_a_method_tells_besides_the_loss_is_recorded_as_it_is():
    method = relaysgd()

    def step(key, t, state):
        state, info = method.step(key, t, state)
        return state, info._replace(metrics={"clock": t, "norm": jnp.sum(state.params**2, 1)})

    trace = run(method._replace(step=step), num_steps=6, every=3)
    np.testing.assert_array_equal(trace.metrics["clock"], [2, 5])
    np.testing.assert_allclose(trace.metrics["norm"][-1], jnp.sum(trace.params**2, 1), rtol=1e-6)
    clash = method._replace(
        step=lambda *now: (now[2], rs.Info(jnp.zeros(N), {"suboptimality": jnp.zeros(())}))
    )
    with pytest.raises(
        ValueError, match="measure returned 'suboptimality', which the method records already"
    ):
        run(clash, num_steps=2)


def test_measure_may_look_at_the_state():
    def measure(params, state):
        return {"up": state.mix.up, "x": params}

    trace = run(relaysgd(), num_steps=4, measure=measure)
    np.testing.assert_array_equal(trace.metrics["up"][-1], trace.state.method.mix.up)
    np.testing.assert_array_equal(trace.metrics["x"][-1], trace.params)


def test_a_measure_that_is_written_twice_is_compiled_once():
    traced, method = [], relaysgd()

    def record(scale):
        def measure(params):
            traced.append(1)
            return {"x": scale * params.mean()}

        return measure

    for scale in (2.0, 2.0, 3.0):
        run(method, num_steps=2, measure=record(scale))
    assert len(traced) == 2
    run(method, num_steps=2, measure=lambda params: {"y": params.sum()})
    kept = len(programs._programs[method.step])
    run(method, num_steps=2, measure=lambda params: {"y": params.sum()})
    assert len(programs._programs[method.step]) == kept


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 6))])
def test_metrics_do_not_hang_on_the_interval(seed):
    """To the last bit, though a step before a record compiles to something else where it is the only one."""
    some = rs.tasks.random_quadratics(jax.random.key(seed), 5 + seed, 3 + 4 * seed, zeta2=1.0, noise=0.1)
    method = rs.relaysgd(some.grad, rs.relay_sum(topology.random_tree(5 + seed, seed)), optax.sgd(0.1))
    often, seldom = (
        rs.simulate(key, method, some.init(key) + 1, num_steps=12, every=e, measure=some.measure)
        for e in (1, 6)
    )
    for name in ("suboptimality", "worker_suboptimality", "consensus_distance"):
        np.testing.assert_array_equal(often.metrics[name][5::6], seldom.metrics[name])


def test_metrics_of_some_workers_alone():
    data = rs.tasks.datasets.digits()
    shares = rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), N)
    digits = rs.tasks.classification(rs.models.MLP((), 10), data, shares)
    there = np.array([True, False, True, True, False, False])
    for some in (task, digits):
        spread = jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), some.init(key))
        found = jax.jit(rs.metrics.of_workers(some.measure, there))(spread)
        few = jax.tree.map(lambda x: x[there], spread)
        np.testing.assert_allclose(found["consensus_distance"], rs.metrics.consensus_distance(few), rtol=1e-5)
        whole = jax.jit(some.measure)(spread)
        assert found.keys() == whole.keys()
        for name, values in whole.items():
            if values.ndim:
                np.testing.assert_allclose(found[name][there], values[there], rtol=1e-5)
                assert np.isnan(found[name][~there]).all()
    for mask in ([False] * N, [1, 0], "all", np.ones((2, 2), bool)):
        with pytest.raises(ValueError, match="mask is"):
            rs.metrics.of_workers(task.measure, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": 3}, "measure is 3, expected a function"),
        ({"measure": lambda: {}}, "measure takes 0 arguments"),
        ({"measure": lambda a, b, c: {}}, "measure takes 3 arguments"),
        ({"measure": lambda params: params}, "measure returned .*, expected a dict"),
        ({"measure": lambda params: {3: params}}, "measure returned .*, expected a dict"),
        (
            {"until": lambda record: record["loss"] < 1},
            r"until returned bool of shape \(6,\), expected one boolean",
        ),
        ({"until": lambda record: record["suboptimality"]}, "until returned float32"),
        ({"until": 3}, "until is 3, expected a function"),
        ({"callback": 3}, "callback is 3, expected a function"),
        ({"checkpoint": "folder"}, "checkpoint is 'folder', expected rs.Checkpoint"),
        ({"progress": 3}, "progress is 3, expected True, False or the name of a metric"),
        ({"state": 3}, "state is a int, expected the state of a trace"),
        ({"every": [2, 2, 200]}, "every is .*expected ascending steps"),
        ({"every": [1, 5]}, "every is .*of which the last is num_steps = 200"),
        ({"every": [10, 200], "checkpoint": rs.Checkpoint("out", 10)}, "every is an array"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run(relaysgd(), **options)


def test_the_state_of_another_method_is_refused():
    state = run(rs.d2(task.grad, rs.gossip(topology.ring(N)), optax.sgd(0.1)), num_steps=2).state
    with pytest.raises(ValueError, match="state is that of another method"):
        run(relaysgd(), state=state)
    with pytest.raises(ValueError, match="callback is given under vmap or jit"):
        jax.jit(lambda x: run(relaysgd(), x, callback=print).params)(task.init(key))
    for wrong in (0, jnp.zeros(2, jnp.uint32), jax.random.split(key, 2)):
        with pytest.raises(ValueError, match=r"key is .*, expected a jax random key"):
            rs.simulate(wrong, relaysgd(), task.init(key), num_steps=2)
