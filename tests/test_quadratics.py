from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import relaysim as rs

N, D = 6, 4
published = np.load(Path(__file__).parent / "reference" / "trajectories.npz")


def drawn(seed=0, **options):
    return rs.tasks.random_quadratics(jax.random.key(seed), N, D, **options)


def gradients(task, x):
    """(n, d) ∇f_i(x) = A_iᵀ (A_i x − b_i) of all workers at the same x (d,)."""
    return np.stack([A.T @ (A @ x - b) for A, b in zip(np.asarray(task.A), np.asarray(task.b), strict=True)])


@pytest.mark.parametrize("zeta2", [0.1, 10.0])
@pytest.mark.parametrize(("mu", "r0"), [(0.05, 100.0), (0.5, 0.0), (1.0, 1.0)])
def test_random_quadratics_are_as_ordered(zeta2, mu, r0, x64):
    task = drawn(zeta2=zeta2, mu=mu, r0=r0)
    np.testing.assert_allclose((gradients(task, task.x_star) ** 2).sum() / N, zeta2, rtol=1e-8)
    np.testing.assert_allclose(task.zeta2, zeta2, rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(task.x_star), r0, rtol=1e-10, atol=1e-12)
    spectra = np.linalg.svd(task.A, compute_uv=False)
    np.testing.assert_allclose(spectra, np.tile(np.linspace(1, mu, D), (N, 1)), rtol=1e-12)


def test_without_heterogeneity_all_workers_share_the_optimum(x64):
    task = drawn(zeta2=0.0, r0=2.0)
    np.testing.assert_allclose(gradients(task, task.x_star), 0, atol=1e-14)
    assert task.zeta2 < 1e-28


def test_one_worker_alone_has_no_heterogeneity(x64):
    task = rs.tasks.random_quadratics(jax.random.key(0), 1, D, zeta2=3.0)
    assert task.zeta2 < 1e-28
    np.testing.assert_allclose(np.linalg.norm(task.x_star), 1, rtol=1e-12)


def test_another_key_draws_other_problems(x64):
    assert not np.allclose(drawn(0).A, drawn(1).A)
    np.testing.assert_array_equal(drawn(0).A, drawn(0).A)


@pytest.mark.parametrize("topology", ["chain8", "ring8", "star9", "binary_tree12"])
def test_x_star_is_the_joint_optimum_of_the_published_problems(topology, x64):
    A, b = published[f"{topology}/A"], published[f"{topology}/b"]
    task = rs.tasks.quadratics(A, b)
    expected, *_ = np.linalg.lstsq(A.reshape(-1, A.shape[2]), b.ravel())
    np.testing.assert_allclose(task.x_star, expected, rtol=1e-10)
    np.testing.assert_allclose(gradients(task, task.x_star).sum(0), 0, atol=1e-10)


@pytest.mark.parametrize(("A", "b"), [(int, int), (np.float32, np.float64), (np.float64, np.float32)])
def test_numbers_of_different_kinds_become_floats_of_one_kind(A, b, x64):
    task = rs.tasks.quadratics(np.eye(D, dtype=A)[None], np.ones((1, D), b), noise=0.5)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(task)} == {"float64"}


def test_gradient_is_that_of_the_loss(x64):
    task, x = drawn(zeta2=1.0), jnp.asarray(np.random.default_rng(0).normal(size=(N, D)))
    loss, g = task.grad(jax.random.key(0), 0, x)
    residuals = np.einsum("nij,nj->ni", task.A, x) - task.b
    np.testing.assert_allclose(loss, (residuals**2).sum(1) / 2, rtol=1e-12)
    by_jax = jax.grad(lambda x: task.grad(jax.random.key(0), 0, x)[0].sum())(x)
    np.testing.assert_allclose(g, by_jax, rtol=1e-10)


def test_measure_equals_the_definitions(x64):
    task, x = drawn(zeta2=1.0), np.random.default_rng(1).normal(size=(N, D))

    def objective(x):
        return np.mean([((A @ x - b) ** 2).sum() for A, b in zip(task.A, task.b, strict=True)])

    best, mean = objective(task.x_star), x.mean(0)
    measured = task.measure(jnp.asarray(x))
    np.testing.assert_allclose(measured["suboptimality"], objective(mean) - best, rtol=1e-10)
    expected = [objective(x_i) - best for x_i in x]
    np.testing.assert_allclose(measured["worker_suboptimality"], expected, rtol=1e-10)
    expected = np.mean([((x_i - mean) ** 2).sum() for x_i in x])
    np.testing.assert_allclose(measured["consensus_distance"], expected, rtol=1e-12)


def test_noise_has_the_expected_square_and_no_mean(x64):
    sigma, draws = 3.0, 2000
    silent, noisy = drawn(), drawn(noise=sigma)
    x = silent.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), draws)
    _, g = jax.vmap(noisy.grad, (0, None, None))(keys, 0, x)
    xi = np.asarray(g) - np.asarray(silent.grad(keys[0], 0, x)[1])
    # ‖ξ‖² has mean σ² and variance 2σ⁴/d; the draws are draws · n of them
    assert abs((xi**2).sum(2).mean() / sigma**2 - 1) < 4 * np.sqrt(2 / D / (draws * N))
    assert abs(xi.mean()) < 4 * sigma / np.sqrt(D) / np.sqrt(draws * N * D)


def test_noise_is_new_at_every_step_and_for_every_worker(x64):
    task = drawn(noise=1.0)
    x, key = task.init(jax.random.key(0)), jax.random.key(1)
    first, second = (np.asarray(task.grad(key, step, x)[1]) for step in (0, 1))
    exact = np.asarray(drawn().grad(key, 0, x)[1])
    assert not np.isclose(first, second).any()
    assert len(np.unique(first - exact)) == N * D


def test_problems_can_be_vmapped_over(x64):
    def measured(key, zeta2):
        task = rs.tasks.random_quadratics(key, N, D, zeta2=zeta2, noise=0.1)
        return task, task.measure(task.init(key))["suboptimality"]

    keys, zeta2s = jax.random.split(jax.random.key(0), 3), jnp.array([0.0, 1.0, 4.0])
    together, errors = jax.jit(jax.vmap(measured))(keys, zeta2s)
    np.testing.assert_allclose(jax.vmap(lambda task: task.zeta2)(together), zeta2s, rtol=1e-8, atol=1e-20)
    for i in range(3):
        alone, error = measured(keys[i], zeta2s[i])
        np.testing.assert_allclose(errors[i], error, rtol=1e-8)
        for of_all, own in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(of_all[i], own, rtol=1e-8, atol=1e-8)
