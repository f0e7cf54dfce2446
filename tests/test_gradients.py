"""Derivatives of whole runs: by the learning rate, the first models and the weights of the graph."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import topology

N, D, STEPS = 6, 2, 200
KEY = jax.random.key(0)
RING = topology.ring(N)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def problem():
    numbers = np.random.default_rng(0)
    A = numbers.normal(size=(N, D, D))
    return jnp.array(A @ A.transpose(0, 2, 1) / D + np.eye(D)), jnp.array(numbers.normal(size=(N, D)))


def outcome(method, mixer):
    """A run's last models in one number, as a function of (rate, first models, what the mixer is made of)."""
    A, b = problem()

    def grad(key, step, x):
        r = jnp.einsum("nij,nj->ni", A, x) - b + 0.1 * jnp.sin(x)
        return (r**2).sum(1), r

    def run(rate, start, weights):
        algorithm = method(grad, mixer(weights), optax.sgd(rate))
        trace = rs.simulate(KEY, algorithm, start, num_steps=STEPS, every=40)
        return (trace.params**2).sum() + 0.1 * trace.metrics["loss"].sum()

    return run


def given():
    start = jnp.array(np.random.default_rng(1).normal(size=(N, D)))
    return jnp.asarray(0.05), start, jnp.array(topology.metropolis_weights(RING).toarray())


RUNS = {
    "RelaySGD": outcome(rs.relaysgd, lambda weights: rs.relay_sum(topology.binary_tree(N))),
    "D²": outcome(rs.d2, lambda weights: rs.gossip(RING, weights, lazy=True)),
}


def by_differences(function, args, directions, eps=1e-5):
    def at(sign):
        return function(*jax.tree.map(lambda x, v: x + sign * eps * v, args, directions))

    return (at(1) - at(-1)) / (2 * eps)


@pytest.mark.parametrize("name", RUNS)
def test_reverse_mode_is_finite_differences(name):
    args, numbers = given(), np.random.default_rng(2)
    found = jax.jit(jax.grad(RUNS[name], argnums=(0, 1, 2)))(*args)
    for k in range(3):
        if name == "RelaySGD" and k == 2:
            continue  # which has no weights
        directions = [jnp.zeros_like(x) for x in args]
        directions[k] = jnp.array(numbers.normal(size=args[k].shape))
        if k == 2:
            directions[k] *= args[k] > 0
        expected = by_differences(jax.jit(RUNS[name]), args, tuple(directions))
        np.testing.assert_allclose(jnp.vdot(found[k], directions[k]), expected, rtol=1e-6)
        assert abs(expected) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_under_vmap_too(name):
    _, start, weights = given()
    rates = jnp.array([0.02, 0.05, 0.1])
    by_rate = jax.grad(RUNS[name])
    found = jax.jit(jax.vmap(by_rate, (0, None, None)))(rates, start, weights)
    runs = jax.vmap(RUNS[name], (0, None, None))
    summed = jax.jit(jax.grad(lambda rates: runs(rates, start, weights).sum()))
    np.testing.assert_allclose(summed(rates), found, rtol=1e-9)
    run, eps = jax.jit(RUNS[name]), 1e-5
    expected = [(run(r + eps, start, weights) - run(r - eps, start, weights)) / (2 * eps) for r in rates]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_long_run_in_pieces_keeps_their_ends_alone():
    """With `jax.checkpoint`, each piece is run again backwards: the same derivative."""
    A, b = problem()
    start = given()[1]

    def grad(key, step, x):
        r = jnp.einsum("nij,nj->ni", A, x) - b
        return (r**2).sum(1), r

    def loss(rate, pieces, remember):
        algorithm = rs.relaysgd(grad, rs.relay_sum(topology.chain(N)), optax.sgd(rate))

        def piece(state):
            return rs.simulate(KEY, algorithm, state=state, num_steps=60 // pieces, every=60 // pieces).state

        state = rs.simulate(KEY, algorithm, start, num_steps=1).state
        for _ in range(pieces):
            state = remember(piece)(state)
        return (algorithm.params(state.method) ** 2).sum()

    whole = jax.grad(loss)(jnp.asarray(0.05), 1, lambda f: f)
    pieces = jax.grad(loss)(jnp.asarray(0.05), 3, jax.checkpoint)
    np.testing.assert_allclose(pieces, whole, rtol=1e-12)


def test_traced_weights_fit_the_graph():
    with pytest.raises(ValueError, match=r"weights has shape \(3, 3\), expected \(6, 6\)"):
        jax.jit(lambda W: rs.gossip(RING, W).num_workers)(jnp.eye(3))
