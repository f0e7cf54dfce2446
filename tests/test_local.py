import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
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


def grad_of(scale):
    """Of scale_i ‖x_i‖² / 2, worker by worker."""

    def grad(key, step, x):
        return scale * jnp.sum(x**2, 1) / 2, scale[:, None] * x

    return grad


def steps(local, x, count):
    state, info = local.init(jax.random.key(0), x), None
    for t in range(count):
        state, u, info = jax.jit(local.update)(t, state, x)
        x = x + u
    return x, state, info


@pytest.mark.parametrize("noise_key", [0, jax.random.key(3)])
def test_an_optimizer_that_draws_random_numbers_draws_each_workers_own(noise_key):
    noise = optax.add_noise(1.0, 0.0, noise_key)
    x, _, _ = steps(local_update(lambda key, step, x: (x.sum(1), 0 * x), noise), jnp.zeros((50, 40)), 2)
    correlations = np.corrcoef(x) - np.eye(50)
    assert abs(correlations).max() < 0.7 and abs(np.std(x) - np.sqrt(2)) < 0.1


def test_an_optimizer_that_wants_the_loss_gets_each_workers_own():
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0)
    scale = jnp.array([0.0, 1.0])  # one worker's loss never gets better
    _, state, _ = steps(
        local_update(grad_of(scale), optax.chain(optax.sgd(0.1), plateau)), jnp.ones((2, 3)), 6
    )
    assert state.opt[1].scale[0] < 1 == state.opt[1].scale[1]


@pytest.mark.parametrize(
    "search",
    [
        optax.scale_by_backtracking_linesearch(30),
        pytest.param(optax.scale_by_zoom_linesearch(30), marks=pytest.mark.slow),
    ],
)
def test_a_line_search_is_each_workers_own(search):
    """Against the same search on each worker alone."""
    scale, x = jnp.array([1.0, 2.0, 30.0]), jnp.ones((3, 2))
    optimizer = optax.chain(optax.sgd(1.0), search)
    together, _, _ = steps(local_update(grad_of(scale), optimizer), x, 3)
    for i in range(3):
        alone, loss = x[i], lambda y, i=i: scale[i] * jnp.sum(y**2) / 2
        state = optimizer.init(alone)
        for _ in range(3):
            value, g = jax.value_and_grad(loss)(alone)
            u, state = optimizer.update(g, state, alone, value=value, grad=g, value_fn=loss)
            alone = alone + u
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_per_worker_twice_is_once():
    once = per_worker(optax.adam(0.1))
    assert per_worker(once) is once


def test_local_steps_are_plain_steps_between_messages(x64):
    """With rate 1, D-PSGD over local steps is the local loop, then the average; inner momentum goes on."""
    n, K, rate, beta = 4, 3, 0.1, 0.9
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(n, 5, 5)) / 3, rng.normal(size=(n, 5))
    task, asked = rs.tasks.quadratics(A, b), []

    def grad(key, step, x):
        jax.debug.callback(lambda step: asked.append(int(step)), step)
        return task.grad(key, step, x)

    several = rs.local_steps(grad, optax.sgd(rate, momentum=beta), K)
    ring = rs.topology.ring(n)
    method = rs.dpsgd(several, rs.gossip(ring), optax.sgd(1.0))
    trace = rs.simulate(jax.random.key(0), method, jnp.zeros((n, 5)), num_steps=4)
    W, x, velocity = rs.topology.metropolis_weights(ring).toarray(), np.zeros((n, 5)), np.zeros((n, 5))
    for _ in range(4):
        for _ in range(K):
            g = np.einsum("nji,nj->ni", A, np.einsum("nij,nj->ni", A, x) - b)
            velocity = beta * velocity + g
            x = x - rate * velocity
        x = W @ x
    np.testing.assert_allclose(trace.params, x, rtol=1e-12, atol=1e-12)
    jax.effects_barrier()
    assert sorted(set(asked)) == list(range(4 * K))


@pytest.mark.slow
def test_local_steps_of_one_step_change_nothing(x64):
    task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3, zeta2=1.0, noise=0.1)
    for build in (rs.dpsgd, rs.d2, rs.gradient_tracking, rs.allreduce):
        mixer = rs.all_reduce(4) if build is rs.allreduce else rs.gossip(rs.topology.ring(4))
        plain = build(task.grad, mixer, optax.sgd(0.1))
        stepped = build(rs.local_steps(task.grad, optax.sgd(0.1), 1), mixer, optax.sgd(1.0))
        runs = [
            rs.simulate(jax.random.key(1), m, task.init(jax.random.key(2)), num_steps=5)
            for m in (plain, stepped)
        ]
        np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=1e-12)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_local_steps_are_counted(count):
    with pytest.raises(ValueError, match="steps is"):
        rs.local_steps(lambda key, step, x: (x, x), optax.sgd(0.1), count)
