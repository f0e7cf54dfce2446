"""Every method of the table in `rows`: against its slow twin, and what it must do as every other one does."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import twins
from rows import ROWS, Row

import relaysim as rs

N, D, STEPS, LR = 8, 11, 12, 0.1

pytestmark = pytest.mark.filterwarnings("error")


every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
often = [pytest.param(row, marks=() if row.often else pytest.mark.slow, id=row.name) for row in ROWS]


class Case(NamedTuple):
    row: Row
    algorithm: rs.Algorithm
    calls: list
    """Grows with every call of the gradient, that is, while the method is traced."""


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: row.name)
def case(request):
    """One of the methods in float64; the tests share it, and with it what is compiled."""
    return case_of(request.param)


@pytest.fixture(scope="module", params=often)
def often_case(request):
    """The same, where those that need not go through the test every time are slow."""
    return case_of(request.param)


@functools.cache
def case_of(row):
    with jax.enable_x64(True):
        calls, noisy_grad = [], quadratics_grad(N)

        def grad(key, step, params):
            calls.append(step)
            return noisy_grad(key, step, params)

        return Case(row, row.build(grad, optax.sgd(LR), N), calls)


def those(often):
    return [row for row in ROWS if row.often == often]


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


def test_recording_interval_and_progress_bar_change_nothing(often_case, x64, capsys):
    often, seldom = (
        run(often_case.algorithm, start()),
        run(often_case.algorithm, start(), every=6, progress=True),
    )
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err
    np.testing.assert_array_equal(often.params, seldom.params)
    np.testing.assert_array_equal(often.metrics["x"][5::6], seldom.metrics["x"])


def test_a_run_that_goes_on_equals_one_that_never_stopped(often_case, x64):
    whole, records = run(often_case.algorithm, start(), every=6, progress=True), []

    def remember(step, record):
        records.append((step, record["x"]))

    half = run(often_case.algorithm, start(), num_steps=6, every=6, callback=remember)
    rest = run(often_case.algorithm, None, num_steps=6, every=6, callback=remember, state=half.state)
    assert half.num_steps == 6 and rest.num_steps == 12 and rest.steps.tolist() == [12]
    chex.assert_trees_all_equal(raw(rest.state), raw(whole.state))
    assert [step for step, _ in records] == [6, 12]
    np.testing.assert_array_equal(np.stack([x for _, x in records]), whole.metrics["x"])


def raw(state):
    """Random keys as their numbers."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, state)


@functools.cache
def under_vmap(often):
    """The models of seeds 0 to 2, by the method: all in one program, which compiles sooner than one each."""
    keys, starts = jax.vmap(jax.random.key)(np.arange(3)), np.stack([start(s) for s in range(3)])

    def run_all(key, params):
        return {
            row.name: run(row.build(quadratics_grad(N), optax.sgd(LR), N), params, key)
            for row in ROWS
            if row.often == often
        }

    return jax.jit(jax.vmap(run_all))(keys, starts)


def test_vmap_equals_a_loop(often_case, x64):
    apart = np.stack([run(often_case.algorithm, start(s), seed=s).metrics["x"] for s in range(3)])
    assert distance(under_vmap(often_case.row.often)[often_case.row.name].metrics["x"], apart) < 1e-12


def test_sharding_over_workers_changes_nothing(often_case, x64):
    mesh = jax.make_mesh((4,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    over_workers = jax.sharding.NamedSharding(mesh, jax.P("workers"))
    sharded = run(often_case.algorithm, jax.device_put(start(), over_workers))
    assert len(sharded.params.sharding.device_set) == 4
    assert distance(sharded.metrics["x"], run(often_case.algorithm, start()).metrics["x"]) < 1e-12


@functools.cache
def in_pytrees(often):
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

    return jax.jit(lambda x: {row.name: run_one(row, x) for row in those(often)})(start())


def test_pytree_equals_its_raveled_vector(often_case, x64):
    expected = run(often_case.algorithm, start()).metrics["x"]
    assert distance(in_pytrees(often_case.row.often)[often_case.row.name], expected) < 1e-12


@functools.cache
def few_workers(n, often):
    """The models of n workers, by the method."""

    def run_one(row, x):
        return run(row.build(quadratics_grad(n), optax.sgd(LR), n), x).metrics["x"]

    return jax.jit(lambda x: {row.name: run_one(row, x) for row in those(often)})(start(n=n))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("row", often)
def test_few_workers_equal_the_slow_twin(row, n, x64):
    assert distance(few_workers(n, row.often)[row.name], run_twin(row.twin, n, start(n=n))) < 1e-12


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
