"""Linear models on data that are divided among workers, with the least value of the objective known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from relaysim.tasks.datasets import Dataset, check_dataset
from relaysim.tasks.losses import l2, logistic, sign_accuracy, squared_error
from relaysim.tasks.model import Model
from relaysim.tasks.supervised import Supervised, supervised
from relaysim.types import Array


def _zeros(key: Any, x: Any) -> Array:
    return jnp.zeros(x.shape[-1], x.dtype)


def _product(w: Array, x: Any) -> Array:
    return x @ w


linear = Model(_zeros, _product)
"""w (D,), from 0: x (B, D), dense or sparse, -> x w (B,)"""


def logistic_regression(
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    *,
    regulariser: Callable[[Any], Array] | None = None,
    batch_size: Any = "full",
    **options: Any,
) -> Supervised:
    """Binary logistic regression without an intercept, f_i(w) = mean log(1 + exp(−y xᵀw)) + the regulariser.

    >>> import relaysim as rs
    >>> data = rs.tasks.datasets.from_sklearn("breast_cancer")
    >>> task = logistic_regression(data, rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), 4))
    >>> task.measure(task.init(jax.random.key(0)))["suboptimality"].item() > 0.6
    True

    Args:
      dataset: inputs (N, D), dense or a sparse matrix, and labels of two kinds, the larger of which counts as
        1, the other as −1.
      shares: n int arrays, each worker's indices into the training part.
      regulariser: params -> (); by default `losses.l2(1 / N)`. With `losses.nonconvex` what is called the
        optimum is a local one.
      batch_size: as in `supervised`, by default full batches.
      options: those of `supervised`.

    Returns:
      A task whose `measure` has suboptimality, worker_suboptimality and squared_gradient_norm, and the share
      that is right of a test part: accuracy. All in float32, which cannot tell differences below some 1e-7,
      or in float64 where jax is told so (`jax_enable_x64`).

    Raises:
      ValueError: for anything that does not fit together, or where no optimum is found.
    """
    kinds = np.unique(np.asarray(check_dataset(dataset).train_y))
    if len(kinds) != 2:
        raise ValueError(f"train_y holds labels of {len(kinds)} kinds, expected two")
    signs = dataset._replace(train_y=_signs(dataset.train_y, kinds), test_y=_signs(dataset.test_y, kinds))
    return with_optimum(
        supervised(
            linear,
            _in_default_type(signs),
            shares,
            loss=logistic,
            metrics={"accuracy": sign_accuracy},
            regulariser=regulariser or l2(1 / len(signs.train_y)),
            batch_size=batch_size,
            **options,
        )
    )


def least_squares(
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    *,
    regulariser: Callable[[Any], Array] | None = None,
    batch_size: Any = "full",
    **options: Any,
) -> Supervised:
    """Linear regression without an intercept, f_i(w) = mean ½ (xᵀw − y)² + the regulariser.

    Arguments and what is returned are those of `logistic_regression`, but for the labels (N,), which are
    numbers, and the regulariser, by default none. For matrices A_i of each worker's own see `quadratics`.

    >>> import relaysim as rs
    >>> data = rs.tasks.datasets.from_sklearn("diabetes")
    >>> task = least_squares(data, rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), 4))
    >>> bool(task.measure(task.init(jax.random.key(0)))["suboptimality"] > 0)
    True
    """
    return with_optimum(
        supervised(
            linear,
            _in_default_type(dataset),
            shares,
            loss=squared_error,
            regulariser=regulariser,
            batch_size=batch_size,
            **options,
        )
    )


def with_optimum(task: Supervised, *, max_steps: int = 1000) -> Supervised:
    """The same task, the least value of its objective F found once: `measure` then tells the suboptimality.

    Newton's method in a trust region (Steihaug 1983, in scipy), from the task's first model, in float64.

    >>> import relaysim as rs
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> line = rs.tasks.Model(lambda key, x: jnp.zeros(1), lambda w, x: x @ w)
    >>> task = rs.tasks.supervised(
    ...     line, rs.tasks.Dataset(x, x[:, 0] ** 3), [np.arange(4), np.arange(4, 8)],
    ...     loss=rs.tasks.losses.squared_error, regulariser=rs.tasks.losses.l2(0.1))
    >>> task = with_optimum(task)
    >>> round(task.measure(jnp.full((2, 1), 0.5))["suboptimality"].item(), 4)
    0.0033

    Args:
      task: with a smooth objective, which should be convex: otherwise what is found is a local minimum.
      max_steps: of Newton's method.

    Raises:
      ValueError: where it does not come to a point with a gradient of (almost) 0.
    """
    from scipy.optimize import minimize  # slow to import, as is scipy.ndimage

    with jax.enable_x64(True):
        exact = jax.tree.map(_float64, task)
        first = jax.tree.map(lambda leaf: _float64(leaf[0]), task.init(jax.random.key(0)))
        start, unravel = ravel_pytree(first)

        def objective(x: Array, exact: Supervised) -> Array:
            return exact.objective_of(unravel(x))

        value_and_gradient = jax.jit(jax.value_and_grad(objective))
        product = jax.jit(lambda x, v, exact: jax.jvp(lambda x: jax.grad(objective)(x, exact), (x,), (v,))[1])
        steep = float(jnp.linalg.norm(value_and_gradient(start, exact)[1]))
        found = minimize(
            lambda x: [np.asarray(part) for part in value_and_gradient(x, exact)],
            np.asarray(start),
            jac=True,
            hessp=lambda x, v: np.asarray(product(x, v, exact)),
            method="trust-ncg",
            options={"gtol": 1e-10 * steep, "maxiter": max_steps},
        )
    if not np.linalg.norm(found.jac) <= 1e-6 * steep:
        raise ValueError(
            f"task has a gradient of norm {np.linalg.norm(found.jac):.2g} after {found.nit} of max_steps = "
            f"{max_steps} steps, from {steep:.2g} at first: expected an objective with a minimum"
        )
    return replace(task, optimum=jnp.asarray(float(found.fun)))


def _in_default_type(dataset: Dataset) -> Dataset:
    """With inputs in jax's floating-point type of the moment."""
    inputs = {name: getattr(check_dataset(dataset), name) for name in ("train_x", "test_x")}
    return dataset._replace(
        **{name: x.astype(jnp.result_type(float)) for name, x in inputs.items() if x is not None}
    )


def _float64(leaf: Array) -> Array:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _signs(y: Any, kinds: np.ndarray) -> np.ndarray | None:
    if y is None:
        return None
    y = np.asarray(y)
    if not np.isin(y, kinds).all():
        raise ValueError(f"test_y holds labels of {len(np.unique(y))} kinds, expected {kinds} as in train_y")
    return np.where(y == kinds[1], 1, -1)
