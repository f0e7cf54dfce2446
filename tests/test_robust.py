"""Robust mixers against loops over neighbours, and against liars."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import topology

GRAPH = topology.small_world(9, 4, 0.3, 1)  # of different degrees
W = topology.metropolis_weights(GRAPH).toarray()


def near(i):
    return GRAPH.neighbours(i).tolist()


def clipped(x, i, radius):
    moved = x[i].copy()
    for j in near(i):
        away = x[j] - x[i]
        moved += W[i, j] * away * min(1, radius / np.linalg.norm(away))
    return moved


def adaptive(x, i, b):
    far = sorted(near(i), key=lambda j: np.linalg.norm(x[j] - x[i]))
    trusted = sum(W[i, j] * np.sum((x[j] - x[i]) ** 2) for j in far[: len(far) - b])
    doubt = sum(sorted(W[i, j] for j in near(i))[-b:])
    return clipped(x, i, np.sqrt(trusted / doubt))


def trimmed(x, i, b):
    kept = np.sort(x[near(i)], axis=0)[b : len(near(i)) - b]
    return np.vstack([kept, x[i : i + 1]]).mean(0)


def krum(x, i, b):
    models = x[[i, *near(i)]]
    m = len(models)
    scores = []
    for j in range(m):
        far = sorted(np.sum((models[j] - models[k]) ** 2) for k in range(m) if k != j)
        scores.append(sum(far[: m - b - 2]))
    return models[int(np.argmin(scores))]


def weiszfeld(x, i):
    models, z = x[[i, *near(i)]], x[i]
    for _ in range(8):
        beta = [1 / max(1e-6, np.linalg.norm(z - v)) for v in models]
        z = sum(b * v for b, v in zip(beta, models, strict=True)) / sum(beta)
    return z


robust = rs.robust
MIXERS = {
    "clipped": (lambda g: robust.clipped_gossip(g, radius=0.7), lambda x, i: clipped(x, i, 0.7)),
    "clipped, adaptive": (lambda g: robust.clipped_gossip(g, attackers=1), lambda x, i: adaptive(x, i, 1)),
    "trimmed mean": (lambda g: robust.trimmed_mean(g, attackers=1), lambda x, i: trimmed(x, i, 1)),
    "median": (robust.median, lambda x, i: np.median(x[[i, *near(i)]], axis=0)),
    "krum": (lambda g: robust.krum(g, attackers=1), lambda x, i: krum(x, i, 1)),
    "geometric median": (robust.geometric_median, weiszfeld),
}
every_mixer = pytest.mark.parametrize("name", MIXERS)


def mixed(mixer, x):
    return mixer.mix(jax.random.key(0), 0, mixer.init(x), x)[1]


@every_mixer
def test_a_robust_mixer_equals_a_loop_over_neighbours(name, x64):
    build, twin = MIXERS[name]
    x = np.random.default_rng(0).normal(size=(9, 5))
    found = mixed(build(GRAPH), {"a": jnp.asarray(x[:, :2]), "b": jnp.asarray(x[:, 2:]).reshape(9, 3, 1)})
    found = np.concatenate([found["a"], found["b"][..., 0]], axis=1)
    np.testing.assert_allclose(found, np.stack([twin(x, i) for i in range(9)]), rtol=1e-10, atol=1e-12)


@every_mixer
@pytest.mark.parametrize("lie", [1e6, np.inf, np.nan])
def test_one_liar_moves_nobody_far(name, lie, x64):
    x = np.random.default_rng(0).normal(size=(9, 5))
    x[4] = lie
    found = np.delete(np.asarray(mixed(MIXERS[name][0](GRAPH), jnp.asarray(x))), 4, axis=0)
    assert np.isfinite(found).all() and abs(found).max() < 10


@every_mixer
def test_who_agrees_goes_on_agreeing(name, x64):
    x = jnp.ones((9, 2)) * 3
    np.testing.assert_allclose(mixed(MIXERS[name][0](GRAPH), x), x, rtol=1e-12)


@pytest.mark.parametrize("build", [robust.median, robust.geometric_median, MIXERS["clipped"][0]])
@pytest.mark.parametrize("n", [1, 2])
def test_few_workers(build, n, x64):
    x = np.random.default_rng(0).normal(size=(n, 2))
    found = mixed(build(topology.ring(n)), jnp.asarray(x))
    assert found.shape == x.shape and np.isfinite(found).all()
    if build is robust.median:
        np.testing.assert_allclose(found, np.broadcast_to(x.mean(0), x.shape))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "clipped" else pytest.mark.slow) for name in MIXERS]
)
def test_runs_side_by_side_equal_one_after_the_other(name, x64):
    build, _ = MIXERS[name]
    task = rs.tasks.random_quadratics(jax.random.key(0), 9, 3, zeta2=0.1)

    def run(rate):
        method = rs.dpsgd(task.grad, build(GRAPH), optax.sgd(rate))
        return rs.simulate(jax.random.key(1), method, task.init(None), num_steps=5, every=5).params

    rates = jnp.array([0.1, 0.3])
    np.testing.assert_allclose(jax.vmap(run)(rates), [run(rate) for rate in rates], rtol=1e-10, atol=1e-14)


def test_messages_go_along_the_edges():
    (((senders, receivers, vectors),),) = robust.median(GRAPH).messages()
    assert (senders == GRAPH.senders).all() and (receivers == GRAPH.receivers).all() and vectors == 1
