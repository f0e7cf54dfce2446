"""The types that everything else speaks in: stacked models, mixers, algorithms.

A *stacked* pytree holds one value per worker: each of its leaves has shape (n, ...), worker i's part
being `leaf[i]`. A method is a pair of pure functions over a state; so is a way of communicating.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Key = jax.Array
Stacked = Any
"""A pytree whose leaves are arrays of shape (n, ...), one row per worker."""

Grad = Callable[[Key, Array, Stacked], tuple[Array, Stacked]]
"""(key, step, params) -> (losses (n,), gradients like params), each worker's own.

`key` is the same throughout a run and `step` counts from 0: noise comes from `fold_in(key, step)`, while
a pass over the data, which outlives a step, may depend on the key and the number of the epoch alone.
"""


class Info(NamedTuple):
    """What a step tells besides the new state."""

    loss: Array
    """(n,) each worker's loss on its own data, at the models that the gradients were taken at."""


class Mixer(NamedTuple):
    """A way of communicating: how models (or any stacked pytree) become averages of one another."""

    num_workers: int
    init: Callable[[Stacked], Any]
    """The state before the first call, given what is common knowledge then (for models: the start)."""
    mix: Callable[[Key, Any, Stacked], tuple[Any, Stacked]]
    """(key, state, x) -> (state, mixed x). One call is one exchange of messages between workers."""
    sent: Callable[[], np.ndarray]
    """() -> (n,) the vectors of x's size that each worker sends in one call."""


class Algorithm(NamedTuple):
    """A decentralized optimization method, complete with its gradients, mixer and optimizer."""

    num_workers: int
    init: Callable[[Key, Stacked], Any]
    """(key, params) -> state. The key is for what stays fixed in a run, such as the order of the data."""
    step: Callable[[Key, Any], tuple[Any, Info]]
    """(key, state) -> (state, info). A fresh key at every step."""
    params: Callable[[Any], Stacked]
    """The models to evaluate: what each worker would deploy."""
    sent: Callable[[], np.ndarray]
    """() -> (n,) the model-sized vectors that each worker sends in one step."""
