"""What methods without barriers are made of, and what is laid out of a run before it starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from relaysim.asynchronous.presence import NONE, Presence, Restarts
from relaysim.types import Array, Key, Stacked, made_by

GradAt = Callable[[Key, Array, Array, Stacked], tuple[Array, Stacked]]
"""(key, workers (k,), steps (k,), params (k, ...)) -> (losses (k,), gradients): a task's `grad_at`."""


class Links(NamedTuple):
    """Which messages went where, M of them."""

    event: np.ndarray
    """(M,) int, the event in which its sender, `events.worker[event]`, sent it."""
    partner: np.ndarray
    """(M,) int, who it is for."""
    arrives: np.ndarray
    """(M,) seconds, when it is there."""
    returns: np.ndarray
    """(M,) seconds, when the answer is back; NaN where nobody answers."""


class Events(NamedTuple):
    """What happened when, E events by time (and by worker, where two have the same): in each a worker is done
    with a gradient, adds it to its model, sends messages, and begins with the next."""

    time: np.ndarray
    """(E,) seconds"""
    worker: np.ndarray
    """(E,) int"""
    step: np.ndarray
    """(E,) int, the number of the gradient among the worker's own, from 0."""
    links: Links

    @property
    def partner(self) -> np.ndarray:
        """(E,) int, of methods in which each event has one: whom the worker averages with."""
        if not np.array_equal(self.links.event, np.arange(len(self.time))):
            raise ValueError("events have none or several partners each, expected one: look at links")
        return self.links.partner

    def __repr__(self) -> str:
        return f"Events({len(self.time)} to {max(self.time, default=0.0):.4g} s)"


class Order(NamedTuple):
    """A run as it is laid out: everything but the models."""

    events: Events
    waves: Any
    """A NamedTuple of (W, ...) arrays, of each wave who does what: the method's own, but for `worker` and
    `event` (W, k), who is done with a gradient, and in which event."""
    layout: Any
    """What else the method keeps of the order, such as where its messages lie."""
    starts: np.ndarray
    """(R + 1,) int, the first wave of each record, and W."""
    counts: np.ndarray
    """(R, n) int, the steps that each worker has taken at each record."""
    seconds: np.ndarray
    """(R,) when the records are taken."""
    sent: np.ndarray
    """(R,) messages sent so far by all workers together, answers included, each of a model's size."""
    restarts: Restarts = NONE
    """Who starts anew, and from what."""
    restart_waves: np.ndarray = NONE.worker
    """(C,) int, ascending: the wave of each restart, in which nothing else happens."""

    def __repr__(self) -> str:
        return f"Order({self.events!r}, {self.counts.shape[1]} workers, {len(self.seconds)} records)"


class Method(NamedTuple):
    """A decentralized optimization method whose workers do not wait for each other."""

    num_workers: int
    init: Callable[[Key, Stacked, Any], Any]
    """(key, models, layout) -> state."""
    step: Callable[[Any, Any], tuple[Any, Array]]
    """(state, a wave) -> (state, losses (k,) of `wave.worker` (k,), who are done in it)."""
    params: Callable[[Any], Stacked]
    """state -> the models to evaluate."""
    lay_out: Callable[..., Order]
    """(key, network, bytes of a model, `Horizon`, `Coming`) -> order."""
    put: Callable[[Any, Array, Stacked], Any]
    """(state, workers (k,), models (k, ...)) -> the state in which these workers have these models."""
    name: str = ""

    def __repr__(self) -> str:
        return f"Method({self.name or made_by(self.step)!r}, {self.num_workers} workers)"


class Horizon(NamedTuple):
    """How long a run is, and when to record: in seconds or in events, one of the two."""

    seconds: float | None
    num_events: int | None
    every: float
    num_records: int


class Coming(NamedTuple):
    """Who is there when, and what workers start from that come back."""

    presence: Presence | None
    start: str
