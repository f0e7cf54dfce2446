"""What a worker does by itself: take the gradient of its own loss, turn it into an update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from relaysim.types import Array, Grad, Info, Key, Stacked


def per_worker(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply an optax transformation to each worker apart: its state and its norms are the worker's own.

    Without it, a transformation that looks at a whole pytree (`optax.clip_by_global_norm`) would see the
    stacked models of all workers as one.

    Raises:
      ValueError: where `optimizer` is not an optax transformation.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(f"optimizer is {optimizer!r}, expected an optax transformation")
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


class LocalState(NamedTuple):
    key: Key
    steps: Array
    """() int32, taken so far."""
    opt: Any


class LocalUpdate(NamedTuple):
    """The local half of a step, for all workers."""

    init: Callable[[Key, Stacked], LocalState]
    update: Callable[[LocalState, Stacked], tuple[LocalState, Stacked, Info]]
    """(state, params) -> (state, u, info): the optimizer's update u, to be added to the models."""


def local_update(grad: Grad, optimizer: optax.GradientTransformation) -> LocalUpdate:
    """Each worker's gradient at its own model, through its own copy of the optimizer.

    Args:
      grad: (key, step, params) -> (losses (n,), gradients like params).
      optimizer: any optax transformation; for plain SGD, u = −γ g.

    Raises:
      ValueError: where `grad` cannot be called or `optimizer` is not an optax transformation.
    """
    if not callable(grad):
        raise ValueError(f"grad is {grad!r}, expected a function (key, step, params) -> (losses, gradients)")
    optimizer = per_worker(optimizer)

    def init(key: Key, params: Stacked) -> LocalState:
        return LocalState(key, jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(s: LocalState, params: Stacked) -> tuple[LocalState, Stacked, Info]:
        loss, g = grad(s.key, s.steps, params)
        u, opt = optimizer.update(g, s.opt, params)
        return LocalState(s.key, s.steps + 1, opt), u, Info(loss)

    return LocalUpdate(init, update)
