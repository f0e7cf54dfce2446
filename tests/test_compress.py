"""Compressed messages: what is kept, how many bits that takes, and what a memory makes of the rest."""

import math

import jax
import jax.numpy as jnp
import newer_twins as newer
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from relaysim import compress, topology

key = jax.random.key(0)
rng = np.random.default_rng(0)
N, D = 6, 20
ring, chain = topology.ring(N), topology.chain(N)
three = rs.gossip(topology.ring(3))


def compressed(compressor, x, k=key, step=0):
    x = jax.tree.map(jnp.asarray, x)
    return compressor.compress(k, step, compressor.init(x), x)[1]


def tree_of(x):
    """Three leaves that hold the (n, 20) numbers one after the other."""
    return {"a": x[:, :12].reshape(-1, 4, 3), "b": x[:, 12], "c": x[:, 13:]}


def flat(params):
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)], 1)


vectors = st.lists(st.floats(-100, 100, width=32), min_size=D, max_size=D).map(
    lambda row: np.stack([np.asarray(row, np.float32), np.arange(D, dtype=np.float32)])
)


@settings(max_examples=25, deadline=None)
@given(vectors)
def test_top_k_keeps_the_largest(x):
    np.testing.assert_array_equal(compressed(compress.top_k(3), x), newer.top_k(3)(None, x))


@settings(max_examples=25, deadline=None)
@given(vectors)
def test_what_top_k_and_sign_leave_out_is_less_than_the_whole(x):
    """‖x − C(x)‖² ≤ (1 − δ) ‖x‖², δ = k / d of top-k and ‖x‖₁² / (d ‖x‖²) of signs."""
    x = x.astype(np.float64)
    whole, absolute = np.sum(x**2, 1), np.sum(np.abs(x), 1)
    top, signs = (np.asarray(compressed(c, x), np.float64) for c in (compress.top_k(3), compress.sign()))
    assert (np.sum((x - top) ** 2, 1) <= (1 - 3 / D) * whole * (1 + 1e-5) + 1e-9).all()
    assert (np.sum((x - signs) ** 2, 1) <= (whole - absolute**2 / D) * (1 + 1e-5) + 1e-3).all()


def test_random_k_keeps_k_entries_anywhere():
    x = np.ones((4000, 5), np.float32)
    kept = np.asarray(compressed(compress.random_k(2), x))
    assert (kept.sum(1) == 2).all()
    np.testing.assert_allclose(kept.mean(0), 0.4, atol=5 * math.sqrt(0.24 / 4000))


def test_random_k_takes_recorded_masks():
    masks = rng.integers(0, 2, (3, N, D))
    x, compressor = rng.normal(size=(N, D)), compress.random_k(2, draw=lambda k, t, s: jnp.asarray(masks)[t])
    np.testing.assert_allclose(compressed(compressor, x, step=2), x * masks[2], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_quantized_entries_are_right_on_average(bits):
    one, runs = rng.normal(size=D), 20_000
    q = np.asarray(compressed(compress.quantize(bits), np.tile(one, (runs, 1))), np.float64)
    step = np.linalg.norm(one) / (2 ** (bits - 1) - 1)
    np.testing.assert_allclose(q / step, np.round(q / step), atol=1e-4)
    assert (np.abs(q.mean(0) - one) < 5 * step / 2 / math.sqrt(runs)).all()


def test_quantize_equals_its_slow_twin(x64):
    x = rng.normal(size=(N, D))
    x[2] = 0
    np.testing.assert_allclose(
        compressed(compress.quantize(3), x), newer.quantize(3)(key, x), rtol=1e-12, atol=1e-12
    )


def test_low_rank_finds_the_best_matrix_of_that_rank(x64):
    m = rng.normal(size=(N, 7, 2)) @ rng.normal(size=(N, 2, 5)) + 0.01 * rng.normal(size=(N, 7, 5))
    compressor = compress.low_rank(2)
    state = compressor.init({"m": m, "b": m[:, 0]})
    for _ in range(10):
        state, q = compressor.compress(key, 0, state, {"m": m, "b": m[:, 0]})
    u, s, v = np.linalg.svd(m)
    best = (u[:, :, :2] * s[:, None, :2]) @ v[:, :2]
    np.testing.assert_allclose(q["m"], best, atol=1e-8)
    np.testing.assert_array_equal(q["b"], m[:, 0])
    whole = compressed(compress.low_rank(5, each="model"), rng.normal(size=(N, D)))
    assert whole.shape == (N, D)


@pytest.mark.parametrize(
    "make",
    [compress.top_k, compress.random_k],
)
def test_of_each_leaf_or_of_the_whole(make):
    x = rng.normal(size=(N, D)).astype(np.float32)
    whole = compressed(make(4), tree_of(x))
    np.testing.assert_array_equal(flat(whole), compressed(make(4), x))
    apart = compressed(make(0.5, each="leaf"), tree_of(x))
    assert [(np.asarray(apart[name]).reshape(N, -1) != 0).sum(1).tolist() for name in "abc"] == [
        [6] * N,
        [1] * N,
        [3] * N,
    ]


def test_bits():
    x = tree_of(np.zeros((N, D), np.float32))
    index = 5  # ⌈log₂ 20⌉
    assert compress.top_k(3).bits(x) == 3 * (32 + index)
    assert compress.top_k(0.15).bits(x) == 3 * (32 + index)
    assert compress.top_k(np.array(1)).bits(x) == 32 + index  # not a share of 1
    assert compress.top_k(2, each="leaf").bits(x) == 2 * (32 + 4) + 1 * 32 + 2 * (32 + 3)
    assert compress.random_k(3).bits(x) == 3 * 32
    assert compress.sign().bits(x) == D + 32
    assert compress.sign(each="leaf").bits(x) == D + 3 * 32
    assert compress.quantize(4).bits(x) == 4 * D + 32
    assert compress.low_rank(1).bits(x) == 32 * ((4 + 3) + 1 + 7)
    assert compress.low_rank(1, each="model").bits(x) == 32 * (4 + 5)
    assert compress.in_cosines(compress.top_k(3), chunk=8).bits(x) == 3 * (32 + 5)
    assert compress.sign().share(x) == (D + 32) / (32 * D)


def test_all_cosines_are_the_whole():
    x = rng.normal(size=(N, D)).astype(np.float32)
    same = compressed(compress.in_cosines(compress.top_k(1.0), chunk=8), tree_of(x))
    np.testing.assert_allclose(flat(same), x, atol=1e-5)


def gradients(n, d):
    task = rs.tasks.random_quadratics(jax.random.key(1), n, d, zeta2=1.0)
    return task.grad, np.zeros((n, d))


def run(method, x, steps=12):
    return rs.simulate(key, method, x, num_steps=steps, every=steps, measure=lambda x: {"x": x})


def test_choco_is_dpsgd_with_error_feedback():
    grad, x = gradients(N, D)
    top, sgd = compress.top_k(4), optax.sgd(0.2)
    mixer = compress.error_feedback(rs.gossip(ring), top, gamma=0.3)
    choco = run(rs.choco_sgd(grad, rs.gossip(ring), sgd, compressor=top, gamma=0.3), x)
    same = run(rs.dpsgd(grad, mixer, sgd), x)
    np.testing.assert_allclose(same.params, choco.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same.metrics["bytes_sent"], choco.metrics["bytes_sent"])


def test_feedback_of_updates_loses_nothing():
    mixer = compress.error_feedback(rs.all_reduce(N), compress.top_k(2), of="updates")
    state, got, given = mixer.init(np.zeros((N, D))), 0, 0
    for t in range(4):
        u = rng.normal(size=(N, D)).astype(np.float32)
        state, mean = mixer.mix(jax.random.key(t), t, state, u)
        got, given = got + mean[0], given + u.mean(0)
    np.testing.assert_allclose(got + state.memory.mean(0), given, atol=1e-5)


def test_feedback_of_models_keeps_their_mean():
    mixer = compress.error_feedback(rs.gossip(topology.star(N)), compress.sign(), gamma=0.5)
    x = rng.normal(size=(N, D)).astype(np.float32)
    _, mixed = mixer.mix(key, 0, mixer.init(x), x)
    assert np.abs(mixed - x).max() > 0.1
    np.testing.assert_allclose(mixed.mean(0), x.mean(0), atol=1e-6)


@pytest.mark.parametrize("of", ["models", "updates"])
def test_an_uncompressed_relay_is_relay_sum(of, x64):
    tree, x = topology.random_tree(N, seed=3), rng.normal(size=(N, D))
    plain, same = rs.relay_sum(tree), compress.relay_sum(tree, compress.top_k(1.0), of=of)
    one, other = plain.init(0 * x), same.init(0 * x)
    for t in range(4):
        one, expected = plain.mix(key, t, one, x + t)
        other, found = same.mix(key, t, other, x + t)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_compressed_relay_delivers_every_update_once(x64):
    mixer, u = compress.relay_sum(chain, compress.top_k(6), of="updates"), rng.normal(size=(N, D))

    def one(carry, t):
        state, total = carry
        state, mean = mixer.mix(key, t, state, jnp.where(t == 0, 1, 0) * u)
        return (state, total + mean), None

    (_, total), _ = jax.lax.scan(one, (mixer.init(0 * u), 0 * u), jnp.arange(60))
    np.testing.assert_allclose(total, np.tile(u.mean(0), (N, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("build", "messages"),
    [
        (lambda grad, mix, sgd, c: rs.choco_sgd(grad, mix, sgd, compressor=c, gamma=0.1), 1),
        (lambda grad, mix, sgd, c: rs.beer(grad, mix, sgd, compressor=c, gamma=0.1), 2),
        (lambda grad, mix, sgd, c: rs.dpsgd(grad, compress.error_feedback(mix, c), sgd), 1),
        (lambda grad, mix, sgd, c: rs.dpsgd(grad, compress.relay_sum(chain, c), sgd), 5 / 6),
        (lambda grad, mix, sgd, c: rs.dpsgd(grad, rs.deal([compress.error_feedback(mix, c)]), sgd), 1),
        (lambda grad, mix, sgd, c: rs.gta(grad, mix, sgd, mixings=3), 6 * 32 * D / 185),
        (lambda grad, mix, sgd, c: rs.prox_skip(grad, mix, sgd, probability=0.25), 32 * D / 185 / 4),
        (lambda grad, mix, sgd, c: rs.moniqua(grad, mix, sgd, theta=1.0), 2 * D / 185),
        (lambda grad, mix, sgd, c: rs.btpp(grad, N, sgd), 32 * D / 185 * 5 / 6),
        (lambda grad, mix, sgd, c: rs.ceca(grad, N, sgd), 32 * D / 185 / 2),
        (lambda grad, mix, sgd, c: rs.dpsgd(grad, rs.random_matching(N), sgd), 32 * D / 185 / 2),
        (lambda grad, mix, sgd, c: rs.dpsgd(grad, rs.epidemic(N, peers=3), sgd), 3 * 32 * D / 185 / 2),
        (lambda grad, mix, sgd, c: rs.teleportation(grad, three, sgd, num_workers=N), 1.5 * 32 * D / 185 / 2),
    ],
    ids=[
        "choco",
        "beer",
        "feedback",
        "relay",
        "dealt",
        "gta",
        "prox_skip",
        "moniqua",
        "btpp",
        "ceca",
        "matching",
        "epidemic",
        "teleportation",
    ],
)
def test_bytes_that_are_sent(build, messages):
    """In messages of 5 values and coordinates to both neighbours."""
    grad = lambda key, step, x: (jnp.zeros(len(x)), x)  # noqa: E731
    method = build(grad, rs.gossip(ring), optax.sgd(0.1), compress.top_k(5))
    models = jax.ShapeDtypeStruct((N, D), np.float32)
    vectors, _ = rs.types.sent(method.messages(models), N)
    assert vectors.mean() * 32 * D == pytest.approx(2 * messages * 5 * (32 + 5))


@pytest.mark.parametrize("n", [2, 5, 8])
def test_random_peers(n):
    x = rng.normal(size=(n, D)).astype(np.float32)
    for mixer in (rs.random_matching(n), rs.epidemic(n, peers=2, oracle=True)):
        _, mixed = mixer.mix(key, 0, mixer.init(x), x)
        np.testing.assert_allclose(mixed.mean(0), x.mean(0), atol=1e-6)
    assert len(set(np.asarray(mixed)[:, 0].tolist())) > 1 or n == 2
    targets = newer.random_peers._others(key, 0, (n, n - 1))
    assert [sorted(row) for row in targets.tolist()] == [[j for j in range(n) if j != i] for i in range(n)]


def test_what_epidemic_learning_loses_does_not_count():
    x = rng.normal(size=(N, D)).astype(np.float32)
    to_the_next = lambda key, step, shape: (jnp.arange(N)[:, None] + 1) % N  # noqa: E731
    mixer = rs.epidemic(N, drop=rs.faults.Outage([2], 0, 1), draw=to_the_next)
    _, mixed = mixer.mix(key, 0, mixer.init(x), x)
    expected = (x + np.roll(x, 1, axis=0)) / 2
    expected[[2, 3]] = x[[2, 3]]
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_a_traced_probability_cannot_be_counted():
    grad = lambda key, step, x: (jnp.zeros(len(x)), x)  # noqa: E731
    build = lambda p: rs.prox_skip(grad, rs.gossip(ring), optax.sgd(0.1), probability=p).num_workers  # noqa: E731
    with pytest.raises(ValueError, match="probability is traced"):
        jax.jit(build)(0.5)


def test_a_pass_of_ceca_averages_exactly(x64):
    grad = lambda key, step, x: (jnp.zeros(len(x)), 0 * x)  # noqa: E731
    for n, peers in ((5, 2), (6, 1), (7, 2)):
        x = rng.normal(size=(n, 3))
        final = run(rs.ceca(grad, n, optax.sgd(0.1), peers=peers), x, steps=3).params
        np.testing.assert_allclose(final, np.tile(x.mean(0), (n, 1)), atol=1e-12)


@pytest.mark.slow
def test_variance_reduction_reduces_the_noise():
    """The noise ball of GT-HSGD is smaller than that of gradient tracking at the same rate."""
    task = rs.tasks.random_quadratics(jax.random.key(2), N, 5, zeta2=1.0, noise=1.0)
    x, sgd, mixer = task.init(key), optax.sgd(0.3), rs.gossip(ring)

    def error(method):
        trace = rs.simulate(key, method, x, num_steps=1000, every=10, measure=task.measure)
        return trace.metrics["suboptimality"][30:].mean()

    assert error(rs.gt_hsgd(task.grad, mixer, sgd, beta=0.02)) < 0.5 * error(
        rs.gradient_tracking(task.grad, mixer, sgd)
    )
