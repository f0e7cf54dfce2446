"""Quadratics: worker i holds f_i(x) = ½ ‖A_i x − b_i‖². The problems of the paper's simulations."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from relaysim.checks import check_count, check_key, check_num_workers, check_number
from relaysim.metrics import chosen, consensus_distance, mean_model
from relaysim.tasks.sampling import in_one_row, normal_rows
from relaysim.types import Array, Key, Stacked


@struct.dataclass
class Quadratics:
    """n least-squares problems over the same d variables. A pytree, to be passed and vmapped over."""

    A: Array
    """(n, m, d)"""
    b: Array
    """(n, m)"""
    H: Array
    """(d, d) the mean Hessian (1/n) Σ_i A_iᵀ A_i."""
    x_star: Array
    """(d,) the joint optimum, where Σ_i ∇f_i = 0."""
    noise: Array | None = None
    """() σ: each gradient has Gaussian noise ξ added, with E ‖ξ‖² = σ². None: exact gradients."""

    def __repr__(self) -> str:
        *_, n, _, d = jnp.shape(self.A)
        return f"Quadratics({n} workers, {d} variables)"

    @property
    def num_workers(self) -> int:
        return self.b.shape[0]

    @property
    def zeta2(self) -> Array:
        """The heterogeneity ζ² = (1/n) Σ_i ‖∇f_i(x*)‖²."""
        _, g = self._exact_grad(jnp.broadcast_to(self.x_star, (self.num_workers, len(self.x_star))))
        return jnp.sum(g**2) / self.num_workers

    def init(self, key: Key) -> Array:
        """Every worker starts from x = 0: (n, d)."""
        return jnp.zeros((self.num_workers, self.A.shape[-1]), self.b.dtype)

    def grad(self, key: Key, step: Array, params: Array) -> tuple[Array, Array]:
        """f_i and ∇f_i(x) = A_iᵀ (A_i x − b_i), the latter with noise: params (n, d) -> (n,), (n, d)."""
        shape = (self.num_workers, self.A.shape[-1])
        if params.shape != shape:
            raise ValueError(f"params has shape {params.shape}, the quadratics have (workers, dim) {shape}")
        loss, g = self._exact_grad(params)
        if self.noise is not None:
            xi = jax.random.normal(in_one_row(jax.random.fold_in(key, step)), g.shape, g.dtype)
            g = g + self.noise / np.sqrt(g.shape[1]) * xi
        return loss, g

    def grad_at(self, key: Key, workers: Array, steps: Array, params: Array) -> tuple[Array, Array]:
        """`grad` of workers (k,), each at a step (k,) and a model (k, d) of its own -> (k,), (k, d)."""
        here = replace(self, A=self.A[workers], b=self.b[workers])
        loss, g = here._exact_grad(params)
        if self.noise is not None:
            xi = normal_rows(key, steps, workers, self.num_workers, g.shape[1], g.dtype)
            g = g + self.noise / np.sqrt(g.shape[1]) * xi
        return loss, g

    def _exact_grad(self, x: Array) -> tuple[Array, Array]:
        residual = jnp.einsum("nij,nj->ni", self.A, x) - self.b
        return jnp.sum(residual**2, 1) / 2, jnp.einsum("nji,nj->ni", self.A, residual)

    def measure(self, params: Stacked, workers: Array | None = None) -> dict[str, Array]:
        """How good (n, d) models are, or those of some workers (k,) alone.

        Returns:
          "suboptimality" F(x̄) − F(x*), with F(x) = (1/n) Σ_i ‖A_i x − b_i‖² (without the ½, as in the
          published errors); "worker_suboptimality" (n,) or (k,), the same of each worker's model; and
          "consensus_distance".
        """

        def suboptimality(x: Array) -> Array:
            away = x - self.x_star[None]
            return jnp.einsum("ki,ij,kj->k", away, self.H, away)

        params = chosen(params, workers)
        return {
            "suboptimality": suboptimality(mean_model(params)[None])[0],
            "worker_suboptimality": suboptimality(params),
            "consensus_distance": consensus_distance(params),
        }


def quadratics(A: Array, b: Array, noise: float | Array = 0.0) -> Quadratics:
    """Exactly these problems: f_i(x) = ½ ‖A_i x − b_i‖².

    >>> task = quadratics(jnp.ones((2, 3, 1)), jnp.array([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]]))
    >>> task.x_star
    Array([2.], dtype=float32)

    Args:
      A: (n, m, d), m rows for each worker; (1/n) Σ_i A_iᵀ A_i must be invertible.
      b: (n, m).
      noise: σ, the root of the expected squared norm of the noise in each gradient.

    Raises:
      ValueError: where the shapes do not fit, a number is not finite, or `noise` is negative.
    """
    shape = np.shape(b)
    if len(shape) != 2 or np.ndim(A) != 3 or np.shape(A)[:2] != shape:
        raise ValueError(f"A has shape {np.shape(A)} and b {shape}, expected (n, m, d) and (n, m)")
    for name, value in (("A", A), ("b", b), ("noise", noise)):
        if not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    silent = not isinstance(noise, jax.core.Tracer) and np.ndim(noise) == 0 and noise == 0
    if not isinstance(noise, jax.core.Tracer) and np.any(np.less(noise, 0)):
        raise ValueError(f"noise is {noise}, expected σ ≥ 0")
    A, b = jnp.asarray(A), jnp.asarray(b)
    dtype = jnp.result_type(A, b, float)
    A, b = A.astype(dtype), b.astype(dtype)
    H = jnp.einsum("nij,nik->jk", A, A) / shape[0]
    x_star = jnp.linalg.solve(H, jnp.einsum("nij,ni->j", A, b) / shape[0])
    if not isinstance(x_star, jax.core.Tracer) and not bool(jnp.isfinite(x_star).all()):
        raise ValueError("A has a singular mean of A_iᵀ A_i, expected problems with one joint optimum")
    return Quadratics(A, b, H, x_star, None if silent else jnp.asarray(noise, b.dtype))


def random_quadratics(
    key: Key,
    num_workers: int,
    dim: int,
    *,
    zeta2: float | Array = 0.0,
    mu: float | Array = 0.5,
    r0: float | Array = 1.0,
    noise: float | Array = 0.0,
) -> Quadratics:
    """Problems of a chosen heterogeneity and conditioning, as in the paper's simulations.

    Each A_i is a Gaussian matrix whose singular values are replaced by d equally spaced values from μ to
    L = 1. Each worker's optimum lies in its own Gaussian direction from the joint one, all scaled by one
    factor such that (1/n) Σ_i ‖∇f_i(x*)‖² = ζ². The joint optimum x* has the norm r0.

    >>> task = random_quadratics(jax.random.key(0), 4, 3, zeta2=0.5)
    >>> task, round(float(task.zeta2), 3)
    (Quadratics(4 workers, 3 variables), 0.5)

    Args:
      key: fixes the problems.
      num_workers: n.
      dim: d.
      zeta2: ζ², the heterogeneity.
      mu: μ in (0, 1], the smallest singular value of each A_i.
      r0: ‖x*‖, the distance to go from the start at 0.
      noise: σ, the root of the expected squared norm of the noise in each gradient.

    Raises:
      ValueError: where an argument is out of its range.
    """
    check_num_workers(num_workers)
    check_count("dim", dim)
    check_key("key", key)
    for name, value, low, high, ends in (
        ("zeta2", zeta2, 0, math.inf, "[)"),
        ("mu", mu, 0, 1, "(]"),
        ("r0", r0, 0, math.inf, "[)"),
        ("noise", noise, 0, math.inf, "[)"),
    ):
        check_number(name, value, low, high, ends)
    A, b = _draw(key, num_workers, dim, zeta2, mu, r0)
    return quadratics(A, b, noise)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _draw(key: Key, n: int, dim: int, zeta2: Any, mu: Any, r0: Any) -> tuple[Array, Array]:
    """A and b, from n matrices, n directions of the workers' optima and one of the joint optimum."""
    draws = jax.random.normal(in_one_row(key), (n * dim + n + 1, dim))
    matrices, apart, direction = draws[: n * dim].reshape(n, dim, dim), draws[n * dim : -1], draws[-1]
    U, _, Vt = jnp.linalg.svd(matrices)
    A = jnp.einsum("nij,j,njk->nik", U, jnp.linspace(mu, 1, dim), Vt)
    task = quadratics(A, jnp.einsum("nij,nj->ni", A, apart))
    b = task.b - jnp.einsum("nij,j->ni", A, task.x_star)
    alone = n == 1  # at its own optimum: ζ² = 0
    b = jnp.zeros_like(b) if alone else b * jnp.sqrt(zeta2 / task.zeta2)
    x_star = r0 * direction / jnp.linalg.norm(direction)
    return A, b + jnp.einsum("nij,j->ni", A, x_star)
