"""Robust mixers against loops over neighbours, and against liars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relaysim as rs
from benchmarks.devices import collectives, cut_edges
from relaysim import topology

GRAPH = topology.small_world(9, 4, 0.3, 1)  # of different degrees
W = topology.metropolis_weights(GRAPH).toarray()


def clipped(x, i, near, radius):
    moved = x[i].copy()
    for j in near:
        away = x[j] - x[i]
        moved += W[i, j] * away * min(1, radius / np.linalg.norm(away))
    return moved


def adaptive(x, i, near, b):
    far = sorted(near, key=lambda j: np.linalg.norm(x[j] - x[i]))
    trusted = sum(W[i, j] * np.sum((x[j] - x[i]) ** 2) for j in far[: max(len(far) - b, 0)])
    doubt = sum(sorted(W[i, j] for j in GRAPH.neighbours(i))[-b:])
    return clipped(x, i, near, np.sqrt(trusted / doubt))


def trimmed(x, i, near, b):
    kept = np.sort(x[near], axis=0)[b : len(near) - b]
    return np.vstack([kept, x[i : i + 1]]).mean(0)


def krum(x, i, near, b):
    models = x[[i, *near]]
    m = len(models)
    if m < b + 3:
        return x[i]
    scores = []
    for j in range(m):
        far = sorted(np.sum((models[j] - models[k]) ** 2) for k in range(m) if k != j)
        scores.append(sum(far[: m - b - 2]))
    return models[int(np.argmin(scores))]


def weiszfeld(x, i, near):
    models, z = x[[i, *near]], x[i]
    for _ in range(8):
        beta = [1 / max(1e-6, np.linalg.norm(z - v)) for v in models]
        z = sum(b * v for b, v in zip(beta, models, strict=True)) / sum(beta)
    return z


robust = rs.robust
MIXERS = {
    "clipped": (
        lambda g, **given: robust.clipped_gossip(g, radius=0.7, **given),
        lambda x, i, near: clipped(x, i, near, 0.7),
    ),
    "clipped, adaptive": (
        lambda g, **given: robust.clipped_gossip(g, attackers=1, **given),
        lambda x, i, near: adaptive(x, i, near, 1),
    ),
    "trimmed mean": (
        lambda g, **given: robust.trimmed_mean(g, attackers=1, **given),
        lambda x, i, near: trimmed(x, i, near, 1),
    ),
    "median": (robust.median, lambda x, i, near: np.median(x[[i, *near]], axis=0)),
    "krum": (
        lambda g, **given: robust.krum(g, attackers=1, **given),
        lambda x, i, near: krum(x, i, near, 1),
    ),
    "geometric median": (robust.geometric_median, weiszfeld),
}
every_mixer = pytest.mark.parametrize("name", MIXERS)
LOST = np.random.default_rng(3).random(2 * GRAPH.num_edges) < 0.5
as_told = rs.faults.Loss(lambda m: (), lambda key, step, s, senders, receivers: (s, jnp.asarray(LOST)))


def mixed(mixer, x):
    return mixer.mix(jax.random.key(0), 0, mixer.init(x), x)[1]


@every_mixer
@pytest.mark.parametrize("lost", [None, LOST], ids=["all heard", "half lost"])
def test_a_robust_mixer_equals_a_loop_over_neighbours(name, lost, x64):
    build, twin = MIXERS[name]
    mixer = build(GRAPH) if lost is None else build(GRAPH, drop=as_told)
    x = np.random.default_rng(0).normal(size=(9, 5))
    found = mixed(mixer, {"a": jnp.asarray(x[:, :2]), "b": jnp.asarray(x[:, 2:]).reshape(9, 3, 1)})
    found = np.concatenate([found["a"], found["b"][..., 0]], axis=1)
    heard = np.ones(len(LOST), bool) if lost is None else ~lost
    near = [GRAPH.senders[(GRAPH.receivers == i) & heard].tolist() for i in range(9)]
    np.testing.assert_allclose(found, [twin(x, i, near[i]) for i in range(9)], rtol=1e-10, atol=1e-12)
    assert lost is None or 0 in map(len, near) or {1, 2} <= set(map(len, near))  # too few for some


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


def test_runs_side_by_side_equal_one_after_the_other(x64):
    """All in one program, which compiles sooner than one each."""
    x, drops = np.random.default_rng(0).normal(size=(3, 9, 4)), jnp.array([0.0, 0.3, 0.9])

    def all_mixed(x, drop):
        return {name: mixed(build(GRAPH, drop=drop), x) for name, (build, _) in MIXERS.items()}

    together, one = jax.jit(jax.vmap(all_mixed))(x, drops), jax.jit(all_mixed)
    for k, drop in enumerate(drops):
        for name, expected in one(x[k], drop).items():
            np.testing.assert_allclose(together[name][k], expected, rtol=1e-12, atol=1e-12)


def test_workers_over_devices_hear_the_same(x64):
    """And only the rows that cross between devices are sent."""
    graph, mesh = topology.torus(4, 8), rs.sharding.mesh()
    x = np.random.default_rng(0).normal(size=(32, 50))

    def all_mixed(mesh):
        return lambda x: [mixed(build(graph, drop=0.3, mesh=mesh), x) for build, _ in MIXERS.values()]

    spread, rows = rs.sharding.place(x, mesh), jax.NamedSharding(mesh, jax.P("workers"))
    program = jax.jit(all_mixed(mesh), out_shardings=rows).lower(spread).compile()
    for found, expected in zip(program(spread), jax.jit(all_mixed(None))(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    sent = [(kind, size * pairs) for kind, size, pairs in collectives(program.as_text())]
    assert {kind for kind, _ in sent} == {"collective-permute"}
    assert 0 < sum(size for _, size in sent) <= len(MIXERS) * 2 * cut_edges(graph, 4) * 50


def test_messages_go_along_the_edges():
    (((senders, receivers, vectors),),) = robust.median(GRAPH).messages()
    assert (senders == GRAPH.senders).all() and (receivers == GRAPH.receivers).all() and vectors == 1
