"""The types that everything else speaks in: stacked models, mixers, algorithms.

A *stacked* pytree holds one value per worker: each of its leaves has shape (n, ...), worker i's part
being `leaf[i]`. A method is a pair of pure functions over a state; so is a way of communicating. There is
one clock: the number of the step, from 0, is an argument of all that happens in it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
    metrics: dict[str, Array] = {}  # noqa: RUF012 - never written to
    """Further arrays by name, recorded as they are in the last step before a record."""


class Messages(NamedTuple):
    """What goes over the links at the same time: one round of communication."""

    senders: np.ndarray
    """(m,) int"""
    receivers: np.ndarray
    """(m,) int"""
    vectors: float | np.ndarray = 1.0
    """The size of each message, in vectors of the model's size: a number for all, or (m,)."""


Calls = Sequence[Sequence[Messages]]
"""For each call of a period, its rounds, one after the other; the calls repeat themselves from there on."""


class Lasting(list[Sequence[Messages]]):
    """Calls that do not repeat themselves: from the last of them on, all are like that."""


def changed(calls: Calls, change: Callable[[Sequence[Messages]], Sequence[Messages]]) -> Calls:
    """The same calls, each changed."""
    return (Lasting if isinstance(calls, Lasting) else list)(map(change, calls))


def call_of(calls: Calls, step: int) -> Sequence[Messages]:
    """That of a step."""
    return calls[min(step, len(calls) - 1) if isinstance(calls, Lasting) else step % len(calls)]


def scaled(calls: Calls, share: float) -> Calls:
    """The same messages, each `share` times as large."""
    if share == 1:
        return calls
    rounds = {id(r): r._replace(vectors=share * r.vectors) for call in calls for r in call}
    return changed(calls, lambda call: [rounds[id(r)] for r in call])


def sent(calls: Calls, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and messages that each worker sends in a call, (n,) each, on average over a period."""
    rounds, times = {id(r): r for call in calls for r in call}, Counter(id(r) for call in calls for r in call)
    vectors = messages = np.zeros(num_workers)
    for i, r in rounds.items():
        sizes = np.broadcast_to(r.vectors, r.senders.shape)
        vectors = vectors + times[i] * np.bincount(r.senders, sizes, num_workers)
        messages = messages + times[i] * np.bincount(r.senders, minlength=num_workers)
    return vectors / len(calls), messages / len(calls)


class Mixer(NamedTuple):
    """A way of communicating: how models (or any stacked pytree) become averages of one another."""

    num_workers: int
    init: Callable[[Stacked], Any]
    """The state before the first call, given what is common knowledge then (for models: the start)."""
    mix: Callable[[Key, Array, Any, Stacked], tuple[Any, Stacked]]
    """(key, step, state, x) -> (state, mixed x). `step` is the number of the method's step, from 0."""
    messages: Callable[[], Calls]
    """() -> who sends to whom, in vectors of x's size; call t of the period is that of step t."""
    share: Callable[[Stacked], float] = lambda x: 1.0
    """(x, or its shapes) -> how large these vectors are for such an x, less than 1 where it is compressed."""
    name: str = ""
    """For people, such as "gossip on ring"; by default that of the function which made it."""

    def __repr__(self) -> str:
        return f"Mixer({self.name or made_by(self.mix)!r}, {self.num_workers} workers)"

    def sent(self) -> np.ndarray:
        """(n,) the vectors of x's size that each worker sends in one call, on average over a period."""
        return sent(self.messages(), self.num_workers)[0]


class Algorithm(NamedTuple):
    """A decentralized optimization method, complete with its gradients, mixer and optimizer."""

    num_workers: int
    init: Callable[[Key, Stacked], Any]
    """(key, params) -> state. The key is for what stays fixed in a run, such as the order of the data."""
    step: Callable[[Key, Array, Any], tuple[Any, Info]]
    """(key, step, state) -> (state, info). A fresh key at every step; `step` counts from 0."""
    params: Callable[[Any], Stacked]
    """The models to evaluate: what each worker would deploy."""
    messages: Callable[[Stacked], Calls]
    """(models, or their shapes) -> who sends to whom, in model-sized vectors: a call of the period for each
    step."""
    name: str = ""
    """For people, such as "dpsgd with gossip on ring"; by default that of the function which made it."""

    def __repr__(self) -> str:
        return f"Algorithm({self.name or made_by(self.step)!r}, {self.num_workers} workers)"


def made_by(function: Callable) -> str:
    """The name of the function that another one was defined in."""
    return getattr(function, "__qualname__", type(function).__name__).split(".")[0]


def rows(values: Any, like: Array) -> Array:
    """(n,) -> (n, 1, ..., 1), to go with an array whose rows are the workers."""
    return jnp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


def widened(x: Any) -> Any:
    """Half-precision numbers as float32, to be added up; others as they are."""

    def of_leaf(v: Array) -> Array:
        half = jnp.issubdtype(v.dtype, jnp.floating) and v.dtype.itemsize < np.dtype(np.float32).itemsize
        return v.astype(jnp.float32) if half else v

    return jax.tree.map(of_leaf, x)


def narrowed(x: Any, like: Any) -> Any:
    """The inverse: numbers of the types that they have in `like`."""
    return jax.tree.map(lambda v, w: v.astype(w.dtype), x, like)
