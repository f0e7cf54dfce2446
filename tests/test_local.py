import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relaysim.local import local_update, per_worker

OPTIMIZERS = [
    pytest.param(optax.clip_by_global_norm(1.0), id="clip_by_global_norm"),
    pytest.param(optax.adam(0.1), id="adam"),
    pytest.param(optax.sgd(optax.exponential_decay(0.1, 1, 0.5), momentum=0.9), id="schedule"),
    pytest.param(optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(0.1, weight_decay=0.1)), id="lamb"),
]


def stacked(seed, n=3):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(n)  # so that a norm over all workers would be that of the last
    return {"w": rng.normal(size=(n, 2, 2)) * scale[:, None, None], "s": rng.normal(size=n) * scale}


def of_worker(i, pytree):
    return jax.tree.map(lambda leaf: leaf[i], pytree)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_per_worker_equals_a_loop_over_workers(optimizer, x64):
    together, params = per_worker(optimizer), stacked(0)
    state = together.init(params)
    states = [optimizer.init(of_worker(i, params)) for i in range(3)]
    for step in range(3):
        g = stacked(1 + step)
        updates, state = together.update(g, state, params)
        for i in range(3):
            alone, states[i] = optimizer.update(of_worker(i, g), states[i], of_worker(i, params))
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), of_worker(i, updates), alone
            )


def test_gradient_gets_the_key_of_the_start_and_the_step(x64):
    seen = []

    def grad(key, step, params):
        seen.append((key, int(step)))
        return jnp.zeros(3), {"w": params["w"], "s": params["s"]}

    local, key, params = local_update(grad, optax.sgd(0.1)), jax.random.key(7), stacked(0)
    state = local.init(key, params)
    for _ in range(3):
        state, _, _ = local.update(len(seen), state, params)
    assert [step for _, step in seen] == [0, 1, 2]
    assert all(k == key for k, _ in seen)


def test_update_is_minus_the_learning_rate_times_the_gradient(x64):
    local = local_update(lambda key, step, x: (jnp.sum(x**2, 1), 2 * x), optax.sgd(0.25))
    x = jnp.arange(6.0).reshape(3, 2)
    _, u, info = local.update(0, local.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(u, -x / 2)
    np.testing.assert_array_equal(info.loss, [1, 13, 41])
