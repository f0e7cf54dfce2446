"""Workers that lie: what they send, and what becomes of the honest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import norm

import relaysim as rs
from relaysim import attack, topology

N, D = 6, 3
MASK = np.arange(N) == 2
graph = topology.ring(N)
W = topology.metropolis_weights(graph).toarray()


def grad(key, step, x):
    return jnp.sum(x**2, 1) / 2, x


method = rs.dpsgd(grad, rs.gossip(graph), optax.sgd(0.1))
START = np.random.default_rng(0).normal(size=(N, D))
AFTER = W @ (0.9 * START)


def liars(lying, steps=1):
    state = lying.init(jax.random.key(0), jnp.asarray(START))
    for t in range(steps):
        state, _ = lying.step(jax.random.key(t), t, state)
    return np.asarray(lying.params(state))


honest = AFTER[~MASK]
mean, step = honest.mean(0), honest.mean(0) - START[~MASK].mean(0)
TABLE = {
    "sign flip": (attack.sign_flip(method, MASK, scale=2), START[2] - 2 * (AFTER[2] - START[2])),
    "constant": (attack.constant(method, MASK, value=7.0), np.full(D, 7.0)),
    "alie": (attack.alie(method, MASK, z=1.5), mean - 1.5 * honest.std(0)),
    "inner product": (attack.inner_product(method, MASK, scale=0.5), START[~MASK].mean(0) - 0.5 * step),
}


@pytest.mark.parametrize("name", TABLE)
def test_liars_say_what_they_should_and_the_honest_go_on(name, x64):
    lying, expected = TABLE[name]
    found = liars(lying)
    np.testing.assert_allclose(found[MASK], [expected], rtol=1e-12)
    np.testing.assert_allclose(found[~MASK], honest, rtol=1e-12)


def test_lies_are_what_neighbours_hear_in_the_next_step(x64):
    lied = AFTER.copy()
    lied[2] = 7
    found = liars(attack.constant(method, MASK, value=7.0), steps=2)
    np.testing.assert_allclose(found[~MASK], (W @ (0.9 * lied))[~MASK], rtol=1e-12)


def test_lies_are_passed_on_with_the_models_of_a_few(x64):
    """Workers 0 to 2 are active, then 3 to 5."""
    few = rs.gossip(topology.ring(3))
    turns = rs.teleportation(
        grad, few, optax.sgd(0.1), num_workers=N, draw=lambda key, t, shape: (jnp.arange(N) + 3 * t) % N
    )
    passed_on = np.repeat(0.9 * START[:3].mean(0, keepdims=True), 3, 0)
    passed_on[2] = 7
    found = liars(attack.constant(turns, MASK, value=7.0), steps=2)
    np.testing.assert_allclose(found[3:], np.repeat(0.9 * passed_on.mean(0, keepdims=True), 3, 0), rtol=1e-12)


def test_noise_has_its_deviation_and_differs_from_step_to_step(x64):
    many = rs.dpsgd(grad, rs.gossip(topology.ring(2000)), optax.sgd(0.1))
    mask = np.arange(2000) > 0
    lying = attack.noise(many, mask, scale=3.0)
    state = lying.init(jax.random.key(0), jnp.zeros((2000, 2)))
    first = lying.step(jax.random.key(0), 0, state)[0].params
    second = lying.step(jax.random.key(1), 0, state)[0].params
    assert float(first[1:].std()) == pytest.approx(3, rel=0.05)
    assert (first[0] == 0).all() and not (first[1] == second[1]).any()


def test_alie_takes_as_many_deviations_as_a_majority_bears():
    """Of 50 workers 24 lie: 2 honest ones beyond are enough (Baruch et al. 2019, section 3)."""
    assert attack._most_deviations(50, 24) == pytest.approx(norm.ppf(24 / 26))


def test_dissensus_undoes_averaging(x64):
    """On a ring each honest neighbour of the liar stays where it is, if the liar has it alone to deceive."""
    chain = topology.chain(3)
    mask = np.array([True, False, False])
    averaging = rs.dpsgd(lambda k, t, x: (jnp.zeros(3), 0 * x), rs.gossip(chain), optax.sgd(1.0))
    lying = attack.dissensus(averaging, mask, weights=chain)
    state = lying.init(jax.random.key(0), jnp.asarray([[0.0], [1.0], [3.0]]))
    state, _ = lying.step(jax.random.key(0), 0, state)
    before = np.asarray(state.params)
    state, _ = lying.step(jax.random.key(0), 1, state)
    np.testing.assert_allclose(state.params[1], before[1], rtol=1e-12)


def test_flipped_labels_are_the_attackers_alone():
    data = rs.tasks.datasets.digits()
    shares = rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), 4)
    wrong = attack.label_flip(data, shares, np.arange(4) == 1)
    np.testing.assert_array_equal(wrong.train_y[shares[1]], 9 - data.train_y[shares[1]])
    for i in (0, 2, 3):
        np.testing.assert_array_equal(wrong.train_y[shares[i]], data.train_y[shares[i]])


def test_scales_side_by_side(x64):
    """Trackers and corrections go on as they are."""
    task = rs.tasks.random_quadratics(jax.random.key(0), N, 4, zeta2=1.0)
    tracking = rs.gradient_tracking(task.grad, rs.gossip(graph), optax.sgd(0.1))
    run = jax.vmap(
        lambda scale: (
            rs.simulate(
                jax.random.key(1), attack.sign_flip(tracking, MASK, scale=scale), task.init(None), num_steps=4
            ).params
        )
    )
    found = run(jnp.array([0.0, 1.0]))
    assert np.isfinite(found).all() and (found[0] != found[1]).any()


def test_clipping_bears_a_liar_that_gossip_does_not(x64):
    task = rs.tasks.random_quadratics(jax.random.key(0), 9, 3, mu=0.5, zeta2=0.01)
    dense, mask = topology.fully_connected(9), np.arange(9) == 0

    def error(mixer):
        lying = attack.constant(rs.dpsgd(task.grad, mixer, optax.sgd(0.2)), mask, value=100.0)
        run = rs.simulate(
            jax.random.key(1), lying, task.init(None), num_steps=200, every=200,
            measure=rs.metrics.of_workers(task.measure, ~mask),
        )  # fmt: skip
        return run.metrics["suboptimality"][-1]

    assert error(rs.gossip(dense)) > 100
    assert error(rs.robust.clipped_gossip(dense, attackers=1)) < 0.1
    assert error(rs.robust.median(dense)) < 0.1


@functools.cache
def problem():
    return rs.tasks.random_quadratics(jax.random.key(0), 16, 10, zeta2=0.01)


some = {"compressor": rs.compress.top_k(0.5), "gamma": 0.3}
BEAR = {
    "beer": some,
    "choco_sgd": some,
    "destress": {},
    "diloco": {"local_steps": 2},
    "dpsgd": {},
    "gradient_tracking": {},
    "gt_hsgd": {},
    "gta": {},
    "k_gt": {"local_steps": 2},
    "momentum_tracking": {},
    "motef": some | {"momentum": 0.3},
    "noloco": {"local_steps": 2},
    "quasi_global_momentum": {},
}
ATTACKS = [
    attack.alie,
    functools.partial(attack.sign_flip, scale=3.0),
    functools.partial(attack.noise, scale=10.0),
    functools.partial(attack.constant, value=1000.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BEAR)
def test_a_robust_average_in_place_of_gossip_saves_the_honest(name):
    task, dense, lies = problem(), topology.random_regular(16, 6, seed=0), np.arange(16) == 3

    def error(mixer, lie):
        method = lie(getattr(rs, name)(task.grad, mixer, optax.sgd(0.05), **BEAR[name]), lies)
        honest = rs.metrics.of_workers(task.measure, ~lies)
        start = task.init(jax.random.key(2))
        run = rs.simulate(jax.random.key(1), method, start, num_steps=400, every=400, measure=honest)
        return float(np.squeeze(run.metrics["suboptimality"]))

    assert max(error(rs.robust.clipped_gossip(dense, attackers=1), lie) for lie in ATTACKS) < 0.01
    assert not error(rs.gossip(dense), ATTACKS[-1]) < 1000
