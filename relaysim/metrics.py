"""What to look at in a set of models."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import shown
from relaysim.types import Array, Stacked


def mean_model(params: Stacked) -> Stacked:
    """x̄, the average of the workers' models: leaves (n, ...) -> (...).

    >>> mean_model({"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])})["w"].tolist()
    [2.0, 3.0]
    """
    return jax.tree.map(lambda x: x.mean(0), params)


def consensus_distance(params: Stacked) -> Array:
    """(1/n) Σ_i ‖x_i − x̄‖², how far the workers disagree: leaves (n, ...) -> ().

    >>> consensus_distance(jnp.array([[1.0], [3.0]])).item()
    1.0
    """

    def of_leaf(x: Array) -> Array:
        return jnp.sum((x - x.mean(0, keepdims=True)) ** 2) / x.shape[0]

    return sum(map(of_leaf, jax.tree.leaves(params)), jnp.zeros(()))


def chosen(params: Stacked, workers: Any = None) -> Stacked:
    """The models of some workers (k,) alone, all of them by default: leaves (n, ...) -> (k, ...).

    >>> chosen(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 2])).tolist()
    [[1.0], [5.0]]
    """
    if workers is None:
        return params
    which = workers if isinstance(workers, jax.Array) else np.asarray(workers)
    if which.ndim != 1 or not jnp.issubdtype(which.dtype, jnp.integer):
        raise ValueError(f"workers is {shown(workers)}, expected (k,) integers, such as [0, 2]")
    return jax.tree.map(lambda x: x[which], params)


def of_workers(measure: Callable[..., dict[str, Array]], mask: Any) -> Callable[[Stacked], dict[str, Array]]:
    """The metrics of some workers alone, such as those that are there, or are honest.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> first = rs.metrics.of_workers(task.measure, [True, True, False, False])
    >>> first(task.init(jax.random.key(1)))["worker_suboptimality"].shape
    (4,)

    Args:
      measure: (params, workers=) -> dict of arrays, any task's.
      mask: (n,) bool, which workers.

    Returns:
      A function of the models of all workers. What is of the whole, such as the mean model's accuracy, is of
      these workers; of what is of each worker, arrays (n, ...), the others' part is NaN.

    Raises:
      ValueError: where `mask` is no mask of n workers, or leaves nobody.
    """
    mask = np.asarray(mask)
    if mask.ndim != 1 or mask.dtype != bool or not mask.any():
        raise ValueError(f"mask is {shown(mask)}, expected (n,) booleans of which one is true at least")
    here = np.flatnonzero(mask)

    def measured(params: Stacked) -> dict[str, Array]:
        def whole(some: Array, like: jax.ShapeDtypeStruct) -> Array:
            if some.shape == like.shape:
                return some
            return jnp.full(like.shape, jnp.nan, jnp.result_type(some, float)).at[here].set(some)

        return jax.tree.map(whole, measure(params, workers=here), jax.eval_shape(measure, params))

    return measured


def all_finite(params: Stacked) -> Array:
    """Which workers hold only finite numbers: leaves (n, ...) -> (n,) bool.

    >>> all_finite(jnp.array([[1.0], [jnp.nan]])).tolist()
    [True, False]
    """
    finite = [jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in jax.tree.leaves(params)]
    return jnp.stack(finite).all(0)
