"""What a worker does alone, for those workers that are at it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from relaysim.asynchronous.types import GradAt
from relaysim.checks import check_function
from relaysim.local import per_worker, started
from relaysim.types import Array, Key, Stacked


class LocalState(NamedTuple):
    key: Key
    """That of the start, the same throughout a run."""
    opt: Any
    """The workers' optimizers, leaves (n, ...)."""


class LocalUpdate(NamedTuple):
    init: Callable[[Key, Stacked], LocalState]
    update: Callable[[LocalState, Array, Array, Stacked], tuple[LocalState, Stacked, Array]]
    """(state, workers (k,), steps (k,), models (k, ...)) -> (state, u (k, ...), losses (k,)). Numbers
    from n on stand for nobody."""


def local_update(grad: GradAt, optimizer: optax.GradientTransformation, num_workers: int) -> LocalUpdate:
    """The gradients of some workers at steps of their own, each through its own copy of the optimizer.

    Raises:
      ValueError: where `grad` cannot be called or `optimizer` is not an optax transformation.
    """
    expected = "(key, workers, steps, params) -> (losses, gradients), such as task.grad_at"
    check_function("grad", grad, expected)
    optimizer = per_worker(optimizer)

    def init(key: Key, params: Stacked) -> LocalState:
        return LocalState(key, started(optimizer, params, grad))

    def update(
        s: LocalState, workers: Array, steps: Array, models: Stacked
    ) -> tuple[LocalState, Stacked, Array]:
        loss, g = grad(s.key, jnp.minimum(workers, num_workers - 1), steps, models)
        u, opt = optimizer.update(g, take(s.opt, workers), models, value=loss, grad=g)
        return s._replace(opt=put(s.opt, workers, opt)), u, loss

    return LocalUpdate(init, update)


def take(leaves: Stacked, at: Array) -> Stacked:
    """Rows (k, ...) of leaves (n, ...); the last of them stands in where there is none."""
    return jax.tree.map(lambda x: x.at[at].get(mode="clip"), leaves)


def put(leaves: Stacked, at: Array, rows: Stacked) -> Stacked:
    """Rows (k, ...) into leaves (n, ...), each to a place of its own, or none."""
    return jax.tree.map(
        lambda x, r: x.at[at].set(r.astype(x.dtype), mode="drop", unique_indices=True), leaves, rows
    )


def add(leaves: Stacked, at: Array, rows: Stacked) -> Stacked:
    """Rows (k, ...) added to leaves (n, ...); several may go to one place."""
    return jax.tree.map(lambda x, r: x.at[at].add(r.astype(x.dtype), mode="drop"), leaves, rows)
