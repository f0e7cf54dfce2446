"""Lost messages and workers that are down: how often, where, and what the methods make of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import twins

import relaysim as rs
from relaysim import faults, topology

N, D, CALLS, LR = 6, 3, 12, 0.1
random = np.random.default_rng


def draw(loss, senders, receivers, num_calls, seed=0):
    """(num_calls, m) which messages are lost."""

    def call(state, now):
        return loss.lost(*now, state, senders, receivers)

    calls = jax.random.split(jax.random.key(seed), num_calls), jnp.arange(num_calls)
    return np.asarray(jax.jit(lambda calls: jax.lax.scan(call, loss.init(len(senders)), calls)[1])(calls))


# The processes


@pytest.mark.parametrize(("probability", "length"), [(0.05, 2.0), (0.1, 5.0), (0.3, 20.0), (0.4, 1.0)])
def test_bursts_are_as_frequent_and_as_long_as_asked(probability, length):
    m, num_calls = 2000, 500
    lost = draw(faults.bursts(probability, length), np.arange(m), np.arange(m), num_calls)

    at_first = np.sqrt(probability * (1 - probability) / m)
    for call in (0, 1, -1):  # from the first on
        assert abs(lost[call].mean() - probability) < 4 * at_first

    turns_bad = probability / (length * (1 - probability))
    correlation = 1 - 1 / length - turns_bad  # of a link's state with its last
    deviation = at_first * np.sqrt((1 + correlation) / (1 - correlation) / num_calls)
    assert abs(lost.mean() - probability) < 4 * deviation

    ends, bad = (lost[:-1] & ~lost[1:]).sum(), lost[:-1].sum()
    assert abs(ends / bad - 1 / length) <= 4 * np.sqrt((1 - 1 / length) / length / bad)


def test_bursts_of_the_length_of_independent_losses_are_these():
    probability, m = 0.3, 200
    args = np.arange(m), np.arange(m), 20
    bursts = draw(faults.bursts(probability, 1 / (1 - probability)), *args)
    np.testing.assert_array_equal(bursts, draw(faults.independent(probability), *args))
    assert bursts.any() and not bursts.all()


def test_each_link_has_bursts_of_its_own():
    m, num_calls, probability = 4000, 20, 0.2
    lost = draw(faults.bursts(probability, 10.0), np.arange(m), np.arange(m), num_calls)
    pairs = (lost[:, ::2] & lost[:, 1::2]).mean(1)
    expected = probability**2
    assert (abs(pairs - expected) < 4 * np.sqrt(expected * (1 - expected) / (m / 2))).all()


def test_an_outage_loses_what_is_sent_to_and_from_its_workers_in_its_calls():
    senders, receivers = np.array([0, 1, 2, 3, 4]), np.array([1, 2, 3, 4, 0])
    lost = draw(faults.Outage([2, 4], 3, 5).loss(), senders, receivers, 8)
    expected = np.zeros((8, 5), bool)
    expected[3:5] = [False, True, True, True, True]
    np.testing.assert_array_equal(lost, expected)


def test_several_processes_lose_what_any_of_them_loses():
    m, num_calls = 2000, 6
    both = faults.loss_of([0.1, faults.bursts(0.2, 3.0), faults.Outage([7], 2, 4)], m)
    lost = draw(both, np.arange(m), np.arange(m), num_calls)
    np.testing.assert_array_equal(lost[2:4, 7], True)
    others = np.delete(lost, 7, axis=1).mean(1)
    expected = 1 - 0.9 * 0.8
    assert (abs(others - expected) < 4 * np.sqrt(expected * (1 - expected) / m)).all()


def test_one_process_in_a_list_is_that_process():
    plain, listed = (rs.gossip(topology.ring(N), drop=drop) for drop in (0.3, [0.3, 0.0]))
    x, key = jnp.asarray(random(0).normal(size=(N, D))), jax.random.key(0)
    np.testing.assert_array_equal(plain.mix(key, 0, (), x)[1], listed.mix(key, 0, (), x)[1])


@pytest.mark.parametrize(
    "mixer",
    [
        rs.relay_sum(topology.chain(N), drop=0.1),
        rs.gossip(topology.ring(N), drop=0.1),
        rs.push(topology.ring(N), drop=0.1),
        rs.one_peer_exponential(N, drop=0.1),
    ],
    ids=["relay_sum", "gossip", "push", "one_peer_exponential"],
)
def test_a_probability_keeps_no_state(mixer):
    state = mixer.init(jnp.zeros((N, D)))
    assert not jax.tree.leaves(getattr(state, "loss", state))


# The mixers

DROP = [faults.bursts(0.2, 3.0), 0.1, faults.Outage([0, 3], 2, 5)]


def twin_drop():
    return twins.together([twins.bursts(0.2, 3.0), 0.1, twins.outage([0, 3], 2, 5)])


tree, graph = topology.random_tree(N, 0), topology.star(N)
MIXERS = {
    **{
        f"relay_sum {fill}": (
            functools.partial(rs.relay_sum, tree, fill=fill),
            lambda x0, fill=fill: twins.relay_sum(tree, x0, drop=twin_drop(), fill=fill),
        )
        for fill in ("initial", "last", "local", "count")
    },
    "gossip": (
        functools.partial(rs.gossip, graph),
        lambda x0: twins.gossip(twins.metropolis(graph), drop=twin_drop()),
    ),
    "push": (functools.partial(rs.push, graph), lambda x0: twins.push(graph, drop=twin_drop())),
    "one_peer_exponential": (
        functools.partial(rs.one_peer_exponential, N, rounds=2),
        lambda x0: twins.one_peer_exponential(N, rounds=2, drop=twin_drop()),
    ),
}


@pytest.mark.parametrize("name", MIXERS)
def test_mixer_equals_a_loop_over_messages(name, x64):
    build, twin = MIXERS[name]
    mixer = build(drop=DROP)
    xs, x0 = random(0).normal(size=(CALLS, N, D)), random(1).normal(size=D)
    keys = jax.random.split(jax.random.key(0), CALLS)

    @jax.jit
    def mix_all(state, xs):
        return jax.lax.scan(
            lambda s, now: mixer.mix(*now[:2], s, now[2]), state, (keys, jnp.arange(CALLS), xs)
        )[1]

    mixed = mix_all(mixer.init(jnp.broadcast_to(x0, (N, D))), xs)
    mix = twin(x0)
    expected = np.stack([mix(key, x) for key, x in zip(keys, xs, strict=True)])
    np.testing.assert_allclose(mixed, expected, rtol=1e-12, atol=1e-12)


# Workers that are down

DOWN = [faults.Outage([1, 4], 3, 7), faults.Outage([2], 0, 2)]
down_drop = functools.partial(twins.together, [twins.outage([1, 4], 3, 7), twins.outage([2], 0, 2)])


def down_at(t):
    return [1, 4] * (3 <= t < 7) + [2] * (t < 2)


def problem():
    rng = random(0)
    return rng.normal(size=(N, D, D)), rng.normal(size=(N, D))


def grad():
    return rs.tasks.quadratics(*problem()).grad


def twin_ring():
    return twins.gossip(twins.metropolis(topology.ring(N)), drop=down_drop())


def ring():
    return rs.gossip(topology.ring(N), drop=DOWN)


METHODS = {
    "dpsgd": (lambda g, opt: rs.dpsgd(g, ring(), opt), lambda x0: (twins.dpsgd, twin_ring())),
    "d2": (lambda g, opt: rs.d2(g, ring(), opt), lambda x0: (twins.d2, twin_ring())),
    "gradient_tracking": (
        lambda g, opt: rs.gradient_tracking(g, ring(), opt),
        lambda x0: (twins.gradient_tracking, twin_ring()),
    ),
    "quasi_global_momentum": (
        lambda g, opt: rs.quasi_global_momentum(g, ring(), opt),
        lambda x0: (functools.partial(twins.quasi_global_momentum, beta=0.9), twin_ring()),
    ),
    "relaysgd": (
        lambda g, opt: rs.relaysgd(g, rs.relay_sum(tree, drop=DOWN, fill="local"), opt),
        lambda x0: (twins.dpsgd, twins.relay_sum(tree, x0, drop=down_drop(), fill="local")),
    ),
    "relaysgd_grad": (
        lambda g, opt: rs.relaysgd_grad(g, rs.relay_sum(tree, drop=DOWN), opt),
        lambda x0: (twins.relaysgd_grad, twins.relay_sum(tree, 0 * x0, drop=down_drop())),
    ),
    "push_sum": (
        lambda g, opt: rs.push_sum(g, rs.push(topology.exponential(N), drop=DOWN), opt),
        lambda x0: (twins.push_sum, twins.push(topology.exponential(N), drop=down_drop())),
    ),
    "push_sum one peer": (
        lambda g, opt: rs.push_sum(g, rs.one_peer_exponential(N, rounds=2, drop=DOWN), opt),
        lambda x0: (twins.push_sum, twins.one_peer_exponential(N, rounds=2, drop=down_drop())),
    ),
    "allreduce": (
        lambda g, opt: rs.allreduce(g, rs.all_reduce(N), opt),
        lambda x0: (twins.allreduce, twins.all_reduce(N)),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_paused_method_equals_its_slow_twin(name, x64):
    build, twin = METHODS[name]
    start = random(2).normal(size=(N, D))
    algorithm = faults.pause(build(grad(), optax.sgd(LR)), DOWN)
    measure = lambda params: {"x": params}  # noqa: E731
    trace = rs.simulate(jax.random.key(0), algorithm, start, num_steps=CALLS, measure=measure)

    exact = twins.quadratics(*problem())
    method, mix = twin(start.mean(0))
    expected = twins.simulate(
        jax.random.key(0),
        lambda *run: method(mix, *run, down=down_at),
        lambda key, t, x: exact(x),
        LR,
        start,
        CALLS,
    )
    np.testing.assert_allclose(trace.metrics["x"], expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(trace.metrics["x"][2:7, [1, 4]], trace.metrics["x"][[2] * 5][:, [1, 4]])


def test_the_optimizer_of_a_worker_that_is_down_waits():
    """Adam's moments and its count of steps."""
    down = faults.Outage([1], 2, 5)
    algorithm = faults.pause(rs.dpsgd(grad(), rs.gossip(topology.ring(N), drop=down), optax.adam(LR)), down)
    state = rs.simulate(jax.random.key(0), algorithm, jnp.ones((N, D)), num_steps=8).state
    count = state.method.local.opt[0].count
    np.testing.assert_array_equal(count, [8, 5, 8, 8, 8, 8])
    assert int(state.step) == 8


@pytest.mark.parametrize("name", ["push_sum", "push_sum one peer"])
def test_push_sum_keeps_a_consensus_and_all_mass_while_messages_are_lost(name, x64):
    algorithm = faults.pause(METHODS[name][0](grad(), optax.sgd(0.0)), DOWN)
    start = np.tile(random(3).normal(size=D), (N, 1))
    trace = rs.simulate(jax.random.key(0), algorithm, start, num_steps=CALLS)
    np.testing.assert_allclose(trace.params, start, rtol=1e-13)
    weight = trace.state.method.weight
    assert weight.min() > 0
    np.testing.assert_allclose(weight.sum(), N, rtol=1e-13)


def test_without_pause_a_worker_that_is_cut_off_works_on_alone(x64):
    down = faults.Outage([1], 0, 5)
    algorithm = rs.dpsgd(grad(), rs.gossip(topology.ring(N), drop=down), optax.sgd(LR))
    start = random(2).normal(size=(N, D))
    params = rs.simulate(jax.random.key(0), algorithm, start, num_steps=5).params
    exact, x = twins.quadratics(*problem()), start
    for _ in range(5):
        x = x - LR * exact(x)
    np.testing.assert_allclose(params[1], x[1], rtol=1e-12)
    assert abs(params[0] - x[0]).max() > 0.01


def test_a_state_that_cannot_be_paused_is_refused():
    algorithm = rs.Algorithm(N, lambda key, params: params, None, lambda s: s, None)
    with pytest.raises(ValueError, match="state is a ndarray, expected a named tuple with a mix"):
        faults.pause(algorithm, DOWN).init(jax.random.key(0), np.ones((N, D)))
