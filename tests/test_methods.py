"""Every method, in one table: against its slow twin, and what it must do as every other one does."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import newer_twins as newer
import numpy as np
import optax
import pytest
import twins

import relaysim as rs
from relaysim import topology

N, D, STEPS, LR = 8, 11, 12, 0.1

pytestmark = pytest.mark.filterwarnings("error")


def directed(n):
    """A directed ring where worker 0 speaks to everybody, so that its mass goes away faster."""
    edges = {(i, (i + 1) % n) for i in range(n)} | {(0, i) for i in range(n)}
    return topology.from_edges(n, [(i, j) for i, j in edges if i != j], directed=True)


def changing(n):
    return [topology.ring(n), topology.star(n), topology.chain(n)]


ring, random_tree = topology.ring, functools.partial(topology.random_tree, seed=1)
outage = rs.faults.Outage([0], 3, 6)


class Row(NamedTuple):
    name: str
    build: Callable
    """(grad, optimizer, n) -> Algorithm"""
    twin: Callable
    """(n, the mean of the first models, *what every method's twin takes) -> a generator of models"""
    is_sgd: bool = True
    """Whether a single worker does plain SGD."""
    tells_loss: bool = True
    """Whether the loss is that of the models, one gradient in a step."""


def gossip(n):
    return rs.gossip(ring(n))


def w(n):
    return twins.metropolis(ring(n))


def mixed(n):
    return twins.gossip(w(n))


top = rs.compress.top_k(3)


ROWS = [
    Row(
        "dpsgd",
        lambda grad, opt, n: rs.dpsgd(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "d2",
        lambda grad, opt, n: rs.d2(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.d2(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "exact_diffusion",
        lambda grad, opt, n: rs.exact_diffusion(grad, gossip(n), opt),
        lambda n, x0, *run: newer.exact_diffusion(mixed(n), *run),
    ),
    Row(
        "gradient_tracking",
        lambda grad, opt, n: rs.gradient_tracking(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.gradient_tracking(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "quasi_global_momentum",
        lambda grad, opt, n: rs.quasi_global_momentum(grad, rs.gossip(ring(n)), opt, beta=0.8),
        lambda n, x0, *run: twins.quasi_global_momentum(
            twins.gossip(twins.metropolis(ring(n))), *run, beta=0.8
        ),
        is_sgd=False,
    ),
    Row(
        "quasi_global_momentum_nesterov",
        lambda grad, opt, n: rs.quasi_global_momentum(
            grad, rs.gossip(ring(n)), opt, beta=0.8, variant="nesterov"
        ),
        lambda n, x0, *run: twins.quasi_global_momentum(
            twins.gossip(twins.metropolis(ring(n))), *run, beta=0.8, nesterov=True
        ),
        is_sgd=False,
    ),
    Row(
        "relaysgd",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(random_tree(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum(random_tree(n), x0), *run),
    ),
    Row(
        "relaysgd_double_trees",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(topology.double_binary_trees(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum_over(topology.double_binary_trees(n), x0), *run),
    ),
    Row(
        "relaysgd_drops",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(random_tree(n), drop=0.3, fill="local"), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum(random_tree(n), x0, drop=0.3, fill="local"), *run),
    ),
    Row(
        "relaysgd_outage",
        lambda grad, opt, n: rs.faults.pause(
            rs.relaysgd(
                grad,
                rs.relay_sum(random_tree(n), drop=[rs.faults.bursts(0.2, 3.0), outage], fill="local"),
                opt,
            ),
            outage,
        ),
        lambda n, x0, *run: twins.dpsgd(
            twins.relay_sum(
                random_tree(n),
                x0,
                drop=twins.together([twins.bursts(0.2, 3.0), twins.outage([0], 3, 6)]),
                fill="local",
            ),
            *run,
            down=lambda t: [0] * (3 <= t < 6),
        ),
        is_sgd=False,
    ),
    Row(
        "relaysgd_grad",
        lambda grad, opt, n: rs.relaysgd_grad(grad, rs.relay_sum(random_tree(n)), opt),
        lambda n, x0, *run: twins.relaysgd_grad(twins.relay_sum(random_tree(n), 0 * x0), *run),
    ),
    Row(
        "push_sum_one_peer",
        lambda grad, opt, n: rs.push_sum(grad, rs.one_peer_exponential(n, rounds=2), opt),
        lambda n, x0, *run: twins.push_sum(twins.one_peer_exponential(n, rounds=2), *run),
    ),
    Row(
        "push_sum_directed_drops",
        lambda grad, opt, n: rs.push_sum(grad, rs.push(directed(n), drop=0.2), opt),
        lambda n, x0, *run: twins.push_sum(twins.push(directed(n), drop=0.2), *run),
    ),
    Row(
        "d2_time_varying",
        lambda grad, opt, n: rs.d2(grad, rs.time_varying(topology.simple_base(n, 2)), opt),
        lambda n, x0, *run: twins.d2(
            twins.time_varying([twins.gossip(w.toarray()) for w in topology.simple_base(n, 2)]), *run
        ),
    ),
    Row(
        "gradient_tracking_time_varying",
        lambda grad, opt, n: rs.gradient_tracking(grad, rs.time_varying(changing(n), drop=0.3), opt),
        lambda n, x0, *run: twins.gradient_tracking(
            twins.time_varying([twins.gossip(twins.metropolis(g), drop=0.3) for g in changing(n)]), *run
        ),
    ),
    Row(
        "push_sum_time_varying",
        lambda grad, opt, n: rs.push_sum(
            grad, rs.time_varying([directed(n), ring(n)], push=True, drop=0.2), opt
        ),
        lambda n, x0, *run: twins.push_sum(
            twins.time_varying([twins.push(g, drop=0.2) for g in (directed(n), ring(n))]), *run
        ),
    ),
    Row(
        "allreduce",
        lambda grad, opt, n: rs.allreduce(grad, rs.all_reduce(n), opt),
        lambda n, x0, *run: twins.allreduce(twins.all_reduce(n), *run),
    ),
    Row(
        "beer",
        lambda grad, opt, n: rs.beer(grad, gossip(n), opt, compressor=top, gamma=0.4),
        lambda n, x0, *run: newer.motef(mixed(n), *run, compress=newer.top_k(3), gamma=0.4, momentum=1),
    ),
    Row(
        "btpp",
        lambda grad, opt, n: rs.btpp(grad, n, opt, branching=2),
        lambda n, x0, *run: newer.btpp(*run, branching=2),
    ),
    Row(
        "ceca",
        lambda grad, opt, n: rs.ceca(grad, n, opt, peers=2),
        lambda n, x0, *run: newer.ceca(*run, peers=2),
        tells_loss=False,
    ),
    Row(
        "choco_sgd",
        lambda grad, opt, n: rs.choco_sgd(grad, gossip(n), opt, compressor=top, gamma=0.4),
        lambda n, x0, *run: newer.choco_sgd(
            mixed(n), *run, compress=newer.top_k(3), gamma=0.4, order="gradient_first"
        ),
    ),
    Row(
        "choco_sgd_together",
        lambda grad, opt, n: rs.choco_sgd(
            grad, gossip(n), opt, compressor=rs.compress.random_k(4), gamma=0.4, order="together"
        ),
        lambda n, x0, *run: newer.choco_sgd(
            mixed(n), *run, compress=newer.random_k(4), gamma=0.4, order="together"
        ),
    ),
    Row(
        "compressed_relay",
        lambda grad, opt, n: rs.relaysgd_grad(
            grad, rs.compress.relay_sum(random_tree(n), rs.compress.top_k(8), of="updates"), opt
        ),
        lambda n, x0, *run: twins.relaysgd_grad(
            newer.compressed_relay_sum(random_tree(n), 0 * x0, newer.top_k(8)), *run
        ),
    ),
    Row(
        "decentlam",
        lambda grad, opt, n: rs.decentlam(grad, gossip(n), opt, beta=0.8),
        lambda n, x0, *run: newer.decentlam(mixed(n), *run, beta=0.8),
        is_sgd=False,
    ),
    Row(
        "decoupled_momentum",
        lambda grad, opt, n: rs.decoupled_momentum(
            grad, rs.all_reduce(n), opt, compressor=rs.compress.quantize(4), beta=0.8
        ),
        lambda n, x0, *run: newer.decoupled_momentum(
            twins.all_reduce(n), *run, compress=newer.quantize(4), beta=0.8
        ),
        is_sgd=False,
    ),
    Row(
        "destress",
        lambda grad, opt, n: rs.destress(
            grad, gossip(n), opt, inner_steps=2, inner_mixings=2, outer_mixings=3
        ),
        lambda n, x0, *run: newer.destress(w(n), *run, inner=2, k_in=2, k_out=3),
        is_sgd=False,
    ),
    Row(
        "diloco",
        lambda grad, opt, n: rs.diloco(grad, gossip(n), opt, local_steps=2),
        lambda n, x0, *run: newer.diloco(mixed(n), *run, steps=2, rate=0.7, momentum=0.9),
        is_sgd=False,
        tells_loss=False,
    ),
    Row(
        "epidemic",
        lambda grad, opt, n: rs.dpsgd(grad, rs.epidemic(n, peers=2), opt),
        lambda n, x0, *run: twins.dpsgd(newer.epidemic(n, 2), *run),
    ),
    Row(
        "extra",
        lambda grad, opt, n: rs.extra(grad, gossip(n), opt),
        lambda n, x0, *run: newer.extra(mixed(n), *run),
    ),
    Row(
        "gt_hsgd",
        lambda grad, opt, n: rs.gt_hsgd(grad, gossip(n), opt, beta=0.3),
        lambda n, x0, *run: newer.gt_hsgd(mixed(n), *run, beta=0.3),
        is_sgd=False,
    ),
    Row(
        "gta",
        lambda grad, opt, n: rs.gta(grad, gossip(n), opt, variant=3, mixings=2, local_steps=3),
        lambda n, x0, *run: newer.gta(w(n), *run, variant=3, mixings=2, local_steps=3),
        is_sgd=False,
        tells_loss=False,
    ),
    Row(
        "k_gt",
        lambda grad, opt, n: rs.k_gt(grad, gossip(n), opt, local_steps=2, server_rate=0.9),
        lambda n, x0, *run: newer.k_gt(mixed(n), *run, steps=2, rate=0.9),
        is_sgd=False,
        tells_loss=False,
    ),
    Row(
        "led",
        lambda grad, opt, n: rs.led(grad, gossip(n), opt, local_steps=2),
        lambda n, x0, *run: newer.led(mixed(n), *run, steps=2, beta=0.5),
        is_sgd=False,
        tells_loss=False,
    ),
    Row(
        "momentum_tracking",
        lambda grad, opt, n: rs.momentum_tracking(grad, gossip(n), opt, beta=0.8),
        lambda n, x0, *run: newer.momentum_tracking(mixed(n), *run, beta=0.8),
        is_sgd=False,
    ),
    Row(
        "moniqua",
        lambda grad, opt, n: rs.moniqua(grad, gossip(n), opt, theta=2.0, gamma=0.1),
        lambda n, x0, *run: newer.moniqua(w(n), *run, theta=2.0, gamma=0.1),
    ),
    Row(
        "motef",
        lambda grad, opt, n: rs.motef(grad, gossip(n), opt, compressor=top, gamma=0.4, momentum=0.5),
        lambda n, x0, *run: newer.motef(mixed(n), *run, compress=newer.top_k(3), gamma=0.4, momentum=0.5),
        is_sgd=False,
    ),
    Row(
        "nids",
        lambda grad, opt, n: rs.nids(grad, gossip(n), opt),
        lambda n, x0, *run: newer.exact_diffusion(mixed(n), *run, first_is_mixed=False),
    ),
    Row(
        "noloco",
        lambda grad, opt, n: rs.noloco(grad, rs.random_matching(n), opt, local_steps=2),
        lambda n, x0, *run: newer.noloco(newer.random_matching(n), *run, steps=2, rate=0.7, momentum=0.5),
        is_sgd=False,
        tells_loss=False,
    ),
    Row(
        "prox_skip",
        lambda grad, opt, n: rs.prox_skip(grad, gossip(n), opt, probability=0.4, relaxation=0.6),
        lambda n, x0, *run: newer.prox_skip(mixed(n), *run, probability=0.4, relaxation=0.6),
    ),
    Row(
        "teleportation",
        lambda grad, opt, n: rs.teleportation(grad, gossip(min(n, 3)), opt, num_workers=n),
        lambda n, x0, *run: newer.teleportation(mixed(min(n, 3)), min(n, 3), *run),
        tells_loss=False,
    ),
]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


class Case(NamedTuple):
    row: Row
    algorithm: rs.Algorithm
    calls: list
    """Grows with every call of the gradient, that is, while the method is traced."""


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def case(request):
    """One of the methods in float64; the tests share it, and with it what is compiled."""
    with jax.enable_x64(True):
        calls, noisy_grad = [], quadratics_grad(N)

        def grad(key, step, params):
            calls.append(step)
            return noisy_grad(key, step, params)

        return Case(request.param, request.param.build(grad, optax.sgd(LR), N), calls)


def problem(n):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, D, D)) / np.sqrt(D), rng.normal(size=(n, D))


def noise(key, step, n):
    """Depends on the key and the step, as the noise of gradients does, but costs little to compile."""
    return jnp.cos(step + jax.random.key_data(key)[-1] % 100 + jnp.arange(n * D)).reshape(n, D)


def quadratics_grad(n):
    task = rs.tasks.quadratics(*problem(n))

    def grad(key, step, params):
        loss, g = task.grad(key, step, params)
        return loss, g + noise(key, step, n)

    return grad


def start(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, D))


def models(params):
    return {"x": params}


def run(algorithm, params, seed=0, **options):
    """`seed` may be a key as well."""
    options = {"num_steps": STEPS, "measure": models} | options
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    return rs.simulate(key, algorithm, params, **options)


def run_twin(twin, n, params, seed=0):
    exact = twins.quadratics(*problem(n))

    def grad(key, step, params):
        return exact(params) + np.asarray(noise(key, step, n))

    method = functools.partial(twin, n, params.mean(0))
    return twins.simulate(jax.random.key(seed), method, grad, LR, params, STEPS)


def distance(x, y):
    """max |x − y|, relative to max |y|."""
    return np.max(np.abs(np.asarray(x) - np.asarray(y))) / np.max(np.abs(y))


def test_equals_its_slow_twin(case, x64):
    fast = run(case.algorithm, start()).metrics["x"]
    assert distance(fast, run_twin(case.row.twin, N, start())) < 1e-12


def test_each_worker_tells_the_loss_of_its_model(case, x64):
    if not case.row.tells_loss:
        return
    A, b = problem(N)
    metrics = run(case.algorithm, start()).metrics
    residuals = np.einsum("nij,tnj->tni", A, metrics["x"][:-1]) - b
    assert distance(metrics["loss"][1:], np.sum(residuals**2, axis=2) / 2) < 1e-12


def test_is_traced_once(case, x64):
    run(case.algorithm, start())
    traced = len(case.calls)
    run(case.algorithm, start(seed=1), seed=1)
    assert traced > 0
    assert len(case.calls) == traced


def test_recording_interval_and_progress_bar_change_nothing(case, x64, capsys):
    often, seldom = run(case.algorithm, start()), run(case.algorithm, start(), every=6, progress=True)
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err
    np.testing.assert_array_equal(often.params, seldom.params)
    np.testing.assert_array_equal(often.metrics["x"][5::6], seldom.metrics["x"])


def test_a_run_that_goes_on_equals_one_that_never_stopped(case, x64):
    whole, records = run(case.algorithm, start(), every=6, progress=True), []

    def remember(step, record):
        records.append((step, record["x"]))

    half = run(case.algorithm, start(), num_steps=6, every=6, callback=remember)
    rest = run(case.algorithm, None, num_steps=6, every=6, callback=remember, state=half.state)
    assert half.num_steps == 6 and rest.num_steps == 12 and rest.steps.tolist() == [12]
    chex.assert_trees_all_equal(raw(rest.state), raw(whole.state))
    assert [step for step, _ in records] == [6, 12]
    np.testing.assert_array_equal(np.stack([x for _, x in records]), whole.metrics["x"])


def raw(state):
    """Random keys as their numbers."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, state)


@functools.cache
def under_vmap():
    """The models of seeds 0 to 2, by the method: all in one program, which compiles sooner than one each."""
    keys, starts = jax.vmap(jax.random.key)(np.arange(3)), np.stack([start(s) for s in range(3)])

    def run_all(key, params):
        return {row.name: run(row.build(quadratics_grad(N), optax.sgd(LR), N), params, key) for row in ROWS}

    return jax.jit(jax.vmap(run_all))(keys, starts)


def test_vmap_equals_a_loop(case, x64):
    apart = np.stack([run(case.algorithm, start(s), seed=s).metrics["x"] for s in range(3)])
    assert distance(under_vmap()[case.row.name].metrics["x"], apart) < 1e-12


def test_sharding_over_workers_changes_nothing(case, x64):
    mesh = jax.make_mesh((4,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    over_workers = jax.sharding.NamedSharding(mesh, jax.P("workers"))
    sharded = run(case.algorithm, jax.device_put(start(), over_workers))
    assert len(sharded.params.sharding.device_set) == 4
    assert distance(sharded.metrics["x"], run(case.algorithm, start()).metrics["x"]) < 1e-12


@functools.cache
def in_pytrees():
    """The models as vectors, by the method, where each method saw them as three arrays."""

    def unravel(x):
        n = len(x)
        return {"b": x[:, :4], "s": x[:, 4], "w": x[:, 5:].reshape(n, 3, 2)}

    def ravel(params):
        n = len(params["s"])
        return jnp.concatenate([params["b"], params["s"][:, None], params["w"].reshape(n, 6)], axis=1)

    of_vector = quadratics_grad(N)

    def grad(key, step, params):
        loss, g = of_vector(key, step, ravel(params))
        return loss, unravel(g)

    def run_one(row, x):
        algorithm = row.build(grad, optax.sgd(LR), N)
        return run(algorithm, unravel(x), measure=lambda params: models(ravel(params))).metrics["x"]

    return jax.jit(lambda x: {row.name: run_one(row, x) for row in ROWS})(start())


def test_pytree_equals_its_raveled_vector(case, x64):
    expected = run(case.algorithm, start()).metrics["x"]
    assert distance(in_pytrees()[case.row.name], expected) < 1e-12


@functools.cache
def few_workers(n):
    """The models of n workers, by the method."""

    def run_one(row, x):
        return run(row.build(quadratics_grad(n), optax.sgd(LR), n), x).metrics["x"]

    return jax.jit(lambda x: {row.name: run_one(row, x) for row in ROWS})(start(n=n))


@pytest.mark.parametrize("n", [1, 2])
@every_row
def test_few_workers_equal_the_slow_twin(row, n, x64):
    assert distance(few_workers(n)[row.name], run_twin(row.twin, n, start(n=n))) < 1e-12


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_sgd], ids=lambda row: row.name)
def test_twin_of_one_worker_does_plain_sgd(row, x64):
    plain = run_twin(lambda n, x0, *run: twins.sgd(*run), 1, start(n=1))
    assert distance(run_twin(row.twin, 1, start(n=1)), plain) < 1e-12


@pytest.mark.parametrize("in_x64", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@every_row
def test_dtype_is_kept(row, dtype, in_x64):
    def grad(key, step, params):
        return jnp.sum(params**2, axis=1), params

    def dtypes(pytree):
        return jax.tree.map(lambda leaf: leaf.dtype, pytree)

    with jax.enable_x64(in_x64):
        method, key = row.build(grad, optax.sgd(LR, momentum=0.9), N), jax.random.key(0)
        first = jax.eval_shape(method.init, key, jax.ShapeDtypeStruct((N, D), dtype))
        second, info = jax.eval_shape(method.step, key, 0, first)
        assert dtypes(second) == dtypes(first)
        assert jax.eval_shape(method.params, second).dtype == info.loss.dtype == dtype
