"""Gradients of some workers, each at a step of its own, against those of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relaysim as rs
from relaysim.tasks.sampling import in_one_row, normal_rows

N = 5
key = jax.random.key(7)
workers, steps = jnp.array([3, 0, 4, 3]), jnp.array([2, 4, 0, 1])


def noisy_quadratics():
    return rs.tasks.random_quadratics(jax.random.key(0), N, 3, zeta2=1.0, noise=0.5)


def digits():
    data = rs.tasks.datasets.digits()
    shares = rs.tasks.partition.dirichlet(jax.random.key(0), data.train_y, N, 0.1, equal=False)
    changes = rs.tasks.augment.crop_and_flip(1)
    images = data._replace(train_x=data.train_x.reshape(-1, 8, 8, 1), test_x=data.test_x.reshape(-1, 8, 8, 1))
    return rs.tasks.classification(rs.models.MLP((8,), 10), images, shares, batch_size=4, augment=changes)


@pytest.mark.parametrize("make", [noisy_quadratics, pytest.param(digits, marks=pytest.mark.slow)])
def test_some_workers_get_the_gradients_that_they_get_among_all(make):
    task = make()
    params = jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), task.init(key))
    some = jax.tree.map(lambda x: x[workers], params)
    losses, grads = jax.jit(task.grad_at)(key, workers, steps, some)
    grad = jax.jit(task.grad)
    for k, (i, t) in enumerate(zip(workers.tolist(), steps.tolist(), strict=True)):
        loss, g = grad(key, t, params)
        np.testing.assert_allclose(losses[k], loss[i], rtol=1e-6)
        jax.tree.map(
            lambda a, b, k=k, i=i: np.testing.assert_allclose(a[k], b[i], rtol=1e-5, atol=1e-7), grads, g
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_rows_are_those_of_the_whole_draw(dtype, impl, x64):
    key = jax.random.key(5, impl=impl)
    found = normal_rows(key, steps, workers, N, 6, dtype)
    for k, (i, t) in enumerate(zip(workers.tolist(), steps.tolist(), strict=True)):
        whole = jax.random.normal(in_one_row(jax.random.fold_in(key, t)), (N, 6), dtype)
        if impl == "threefry2x32":
            np.testing.assert_array_equal(found[k], whole[i])
        assert found[k].dtype == dtype
