"""Messages that get lost: each by itself, in bursts, or all to and from workers that are down for a while."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_number, shown
from relaysim.types import Array, Key


class Loss(NamedTuple):
    """A process by which messages get lost on m directed links."""

    init: Callable[[int], Any]
    """m -> the state before the first message."""
    lost: Callable[[Key, Array, Any, Any, Any], tuple[Any, Array]]
    """(key, step, state, senders (m,), receivers (m,)) -> (state, (m,) bool), for one message on each
    link."""


def independent(probability: float | Array) -> Loss:
    """Each message is lost with this probability, whatever happens to the others.

    >>> loss = independent(0.5)
    >>> _, lost = loss.lost(jax.random.key(0), 0, loss.init(4), np.arange(4), np.arange(4))
    >>> lost.shape
    (4,)
    """
    _check_probability("probability", probability)

    def lost(key: Key, step: Array, state: tuple, senders: Any, receivers: Any) -> tuple[tuple, Array]:
        return state, jax.random.bernoulli(key, probability, (len(receivers),))

    return Loss(lambda m: (), lost)


def bursts(probability: float | Array, length: float | Array) -> Loss:
    """Losses that come in bursts (Gilbert 1960, Elliott 1963), on each directed link apart.

    A link is good or bad, and loses all messages while it is bad, none while it is good. From one message to
    the next a bad link turns good with probability 1 / length and a good one bad with probability

        probability / (length (1 − probability)),

    so that in the long run a share `probability` of the messages is lost, in bursts of `length` on average,
    from the first message on. Independent losses have bursts of 1 / (1 − probability).

    >>> import relaysim as rs
    >>> mixer = rs.gossip(rs.topology.ring(8), drop=rs.faults.bursts(0.1, 5))

    Args:
      probability: of a loss, in [0, length / (length + 1)]: a link is good for one message at least.
      length: the mean number of messages that are lost in a row, at least 1.

    Raises:
      ValueError: where a number is out of its range.
    """
    _check_probability("probability", probability)
    try:
        check_number("length", length, 1)
    except ValueError:
        raise ValueError(f"length is {shown(length)}, expected a mean burst length of at least 1") from None
    if not _traced(probability, length) and probability > length / (length + 1):
        raise ValueError(
            f"probability is {probability} in bursts of {length}, expected at most length / (length + 1)"
        )

    def lost(key: Key, step: Array, state: Array, senders: Any, receivers: Any) -> tuple[Array, Array]:
        turns_bad = probability / (length * (1 - probability))
        chance = jnp.stack([jnp.asarray(p, float) for p in (turns_bad, 1 - 1 / length, probability)])
        bad = jax.random.bernoulli(key, chance[state])
        return bad.astype(jnp.int8), bad

    # 0: good, 1: bad, 2: not used yet
    return Loss(lambda m: jnp.full(m, 2, jnp.int8), lost)


@dataclass(frozen=True)
class Outage:
    """Workers that are down for some steps, which count from 0.

    As a mixer's `drop` it loses all that is sent to or from them meanwhile: they are cut off. Under `pause`
    they take no steps either.

    >>> Outage([3, 4], first=20, last=60).is_down(jnp.arange(6), step=30).tolist()
    [False, False, False, True, True, False]

    Args:
      workers: which ones, any collection of their numbers.
      first: the step at which they go down.
      last: the step at which they are back, above `first`.

    Raises:
      ValueError: where there are no workers or no steps.
    """

    workers: Iterable[int]
    first: int
    last: int

    def __post_init__(self) -> None:
        if isinstance(self.workers, str) or not isinstance(self.workers, Iterable):
            raise ValueError(f"workers is {shown(self.workers)}, expected numbers of workers such as [3, 4]")
        workers = tuple(self.workers)
        for worker in workers:
            if not _counts(worker):
                raise ValueError(f"workers holds {shown(worker)}, expected numbers of workers from 0 on")
        if not workers:
            raise ValueError("workers is empty, expected one or more")
        object.__setattr__(self, "workers", tuple(map(int, workers)))
        for name, step in (("first", self.first), ("last", self.last)):
            if not _counts(step):
                raise ValueError(f"{name} is {shown(step)}, expected a step, an integer from 0 to 2³¹ − 1")
        if self.last <= self.first:
            raise ValueError(f"last is {self.last}, expected a step after first = {self.first}")

    def is_down(self, worker: Any, step: Array) -> Array:
        """Workers (k,) and a step () -> (k,) bool."""
        return jnp.isin(worker, np.array(self.workers)) & (self.first <= step) & (step < self.last)

    def check_workers(self, num_workers: int) -> None:
        """Raise a ValueError where it is about workers that there are not."""
        worker = max(self.workers)
        if worker >= num_workers:
            raise ValueError(f"{self} is of worker {worker}, but there are {num_workers} workers")

    def loss(self) -> Loss:
        """Losing all messages to and from the workers. It keeps no state."""

        def lost(key: Key, step: Array, state: tuple, senders: Any, receivers: Any) -> tuple[tuple, Array]:
            return state, self.is_down(senders, step) | self.is_down(receivers, step)

        return Loss(lambda m: (), lost)


def together(losses: Sequence[Loss]) -> Loss:
    """A message is lost where any of these processes, each with randomness of its own, loses it.

    >>> loss = together([independent(0.1), bursts(0.1, 5)])
    """

    def init(m: int) -> list:
        return [loss.init(m) for loss in losses]

    def lost(key: Key, step: Array, states: list, senders: Any, receivers: Any) -> tuple[list, Array]:
        keys = jax.random.split(key, len(losses))
        each = [
            loss.lost(k, step, s, senders, receivers) for loss, k, s in zip(losses, keys, states, strict=True)
        ]
        return [s for s, _ in each], jnp.stack([is_lost for _, is_lost in each]).any(0)

    return Loss(init, lost)


@runtime_checkable
class Absence(Protocol):
    """Workers that are away for some time, such as an `Outage` or `Churn`."""

    def is_down(self, worker: Any, step: Any, /) -> Array:
        """Workers (k,) and a step () -> (k,) bool."""

    def loss(self) -> Loss:
        """Losing all messages to and from those that are away."""

    def check_workers(self, num_workers: int, /) -> None:
        """Raise a ValueError where this is about other workers than so many."""


Drop = float | Array | Loss | Absence | list["Drop"]
"""What a mixer takes as its `drop`."""


def loss_of(drop: Drop, num_workers: int | None) -> Loss | None:
    """The process that a mixer's `drop` stands for, None where it never loses anything.

    A traced probability cannot be checked and counts as one that can lose. Where the number of workers is not
    known yet, nothing is compared with it.

    >>> loss_of(0.0, 8) is None
    True

    Raises:
      ValueError: where `drop` is no loss of messages, or is about workers that are not there.
    """
    if isinstance(drop, Loss):
        return drop
    if isinstance(drop, Absence):
        if num_workers is not None:
            drop.check_workers(num_workers)
        return drop.loss()
    if isinstance(drop, list):
        losses = [loss for part in drop if (loss := loss_of(part, num_workers)) is not None]
        return together(losses) if len(losses) > 1 else next(iter(losses), None)
    _check_probability("drop", drop, " or a process of rs.faults")
    return independent(drop) if _traced(drop) or drop > 0 else None


def _check_probability(name: str, value: Any, others: str = "") -> None:
    try:
        check_number(name, value, 0, 1)
    except ValueError:
        raise ValueError(f"{name} is {shown(value)}, expected a probability in [0, 1]{others}") from None


def _traced(*values: Any) -> bool:
    return any(isinstance(value, jax.core.Tracer) for value in values)


def _counts(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(0 <= value < 2**31)
