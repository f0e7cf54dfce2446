"""What can go wrong: messages that get lost, alone or in bursts, and workers that are down for a while.

Every mixer that can lose messages takes, as its `drop`, a probability, a process of this module, or a list of
them: a message is then lost where any of them loses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.links import rows
from relaysim.types import Algorithm, Array, Info, Key, Stacked


class Loss(NamedTuple):
    """A process by which messages get lost on m directed links."""

    init: Callable[[int], Any]
    """m -> the state before the first message."""
    lost: Callable[[Key, Any, Any, Any], tuple[Any, Array]]
    """(key, state, senders (m,), receivers (m,)) -> (state, (m,) bool), for one message on each link."""
    tick: Callable[[Any], Any] = lambda state: state
    """state -> state, when a call of the mixer is over."""


def independent(probability: float | Array) -> Loss:
    """Each message is lost with this probability, whatever happens to the others."""
    _check_probability("probability", probability)

    def lost(key: Key, state: tuple, senders: Any, receivers: Any) -> tuple[tuple, Array]:
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
    if not _traced(length) and not 1 <= length < np.inf:
        raise ValueError(f"length is {length}, expected a mean burst length of at least 1")
    if not _traced(probability, length) and probability > length / (length + 1):
        raise ValueError(
            f"probability is {probability} in bursts of {length}, expected at most length / (length + 1)"
        )

    def lost(key: Key, state: Array, senders: Any, receivers: Any) -> tuple[Array, Array]:
        turns_bad = probability / (length * (1 - probability))
        chance = jnp.stack([jnp.asarray(p, float) for p in (turns_bad, 1 - 1 / length, probability)])
        bad = jax.random.bernoulli(key, chance[state])
        return bad.astype(jnp.int8), bad

    # 0: good, 1: bad, 2: not used yet
    return Loss(lambda m: jnp.full(m, 2, jnp.int8), lost)


@dataclass(frozen=True)
class Outage:
    """Workers that are down for some steps. Steps, and the calls of a mixer, count from 0.

    As a mixer's `drop` it loses all that is sent to or from them meanwhile: they are cut off. Under `pause`
    they take no steps either.

    Args:
      workers: which ones.
      first: the step at which they go down.
      last: the step at which they are back, above `first`.

    Raises:
      ValueError: where there are no workers or no steps.
    """

    workers: Sequence[int]
    first: int
    last: int

    def __post_init__(self) -> None:
        for worker in self.workers:
            if not isinstance(worker, int | np.integer) or worker < 0:
                raise ValueError(f"workers holds {worker!r}, expected numbers of workers from 0 on")
        if not self.workers:
            raise ValueError("workers is empty, expected one or more")
        for name, step in (("first", self.first), ("last", self.last)):
            if not isinstance(step, int | np.integer) or step < 0:
                raise ValueError(f"{name} is {step!r}, expected a step, an integer from 0 on")
        if self.last <= self.first:
            raise ValueError(f"last is {self.last}, expected a step after first = {self.first}")

    def is_down(self, worker: Any, step: Array) -> Array:
        """Workers (k,) and a step () -> (k,) bool."""
        return jnp.isin(worker, np.array(self.workers)) & (self.first <= step) & (step < self.last)

    def loss(self) -> Loss:
        """Losing all messages to and from the workers. The state is the number of the call."""

        def lost(key: Key, call: Array, senders: Any, receivers: Any) -> tuple[Array, Array]:
            return call, self.is_down(senders, call) | self.is_down(receivers, call)

        return Loss(lambda m: jnp.zeros((), jnp.int32), lost, lambda call: call + 1)


def together(losses: Sequence[Loss]) -> Loss:
    """A message is lost where any of these processes, each with randomness of its own, loses it."""

    def init(m: int) -> list:
        return [loss.init(m) for loss in losses]

    def lost(key: Key, states: list, senders: Any, receivers: Any) -> tuple[list, Array]:
        keys = jax.random.split(key, len(losses))
        each = [loss.lost(k, s, senders, receivers) for loss, k, s in zip(losses, keys, states, strict=True)]
        return [s for s, _ in each], jnp.stack([is_lost for _, is_lost in each]).any(0)

    def tick(states: list) -> list:
        return [loss.tick(s) for loss, s in zip(losses, states, strict=True)]

    return Loss(init, lost, tick)


Drop = float | Array | Loss | Outage | list["Drop"]
"""What a mixer takes as its `drop`."""


def loss_of(drop: Drop, num_workers: int) -> Loss | None:
    """The process that a mixer's `drop` stands for, None where it never loses anything.

    A traced probability cannot be checked and counts as one that can lose.

    Raises:
      ValueError: where `drop` is none, or is about workers that there are not.
    """
    if isinstance(drop, Loss):
        return drop
    if isinstance(drop, Outage):
        _check_workers(drop, num_workers)
        return drop.loss()
    if isinstance(drop, list):
        losses = [loss for part in drop if (loss := loss_of(part, num_workers)) is not None]
        return together(losses) if len(losses) > 1 else next(iter(losses), None)
    _check_probability("drop", drop, " or a process of rs.faults")
    return independent(drop) if _traced(drop) or drop > 0 else None


class PausedState(NamedTuple):
    step: Array
    """() int32, taken so far."""
    state: Any
    """The method's own."""


def pause(method: Algorithm, outages: Outage | Sequence[Outage]) -> Algorithm:
    """Workers that are down take no steps, and come back as they went.

    While a worker is down its rows of all that the method keeps (model, optimizer, D²'s and tracking's
    corrections, momentum, push-sum's numerator and weight) stay as they are. For a whole outage the mixer has
    to lose the messages meanwhile, so it takes the same outage as its `drop`:

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> down = rs.faults.Outage([3], first=10, last=30)
    >>> mixer = rs.relay_sum(rs.topology.chain(8), drop=down, fill="local")
    >>> method = rs.faults.pause(rs.relaysgd(task.grad, mixer, optax.sgd(0.1)), down)

    What the mixer keeps goes on: a relay that comes back has heard nothing yet, and its neighbours nothing
    of it. The losses that are reported for a worker that is down are those at its model, and the batches
    of these steps are skipped: the data go by the number of the step. `sent` counts as if nobody were down.

    What an outage leaves behind, by method:

    - D-PSGD, RelaySGD, quasi-global momentum: an old model, which averaging draws in.
    - Push-sum: shares sent to a worker that is down are lost, in numerator and weight alike, so x / w stays
      an average of models. The others' weights shrink meanwhile while that of the worker is kept whole, so
      its old model counts for more when it is back. In float32 they can vanish in outages of very many steps.
    - D² and gradient tracking: their corrections no longer sum to zero over the workers, as after any lost
      message, and nothing brings that back: the bias stays.
    - RelaySGD/Grad: updates missed on either side are missed for good.
    - All-reduce has no messages to lose: the gradient of a paused worker counts on, its model stays behind.

    Args:
      method: what `rs.relaysgd(...)` and its like return: its state is a named tuple whose field `mix` is the
        mixer's, and elsewhere whatever has a leading axis of n is the workers'.
      outages: one or several.

    Raises:
      ValueError: where an outage is about workers that there are not, or the state is no such named tuple.
    """
    outages = [outages] if isinstance(outages, Outage) else list(outages)
    n = method.num_workers
    for outage in outages:
        _check_workers(outage, n)

    def init(key: Key, params: Stacked) -> PausedState:
        state = method.init(key, params)
        if not hasattr(state, "_replace") or not hasattr(state, "mix"):
            raise ValueError(
                f"the method's state is a {type(state).__name__}, expected a named tuple with a mix"
            )
        return PausedState(jnp.zeros((), jnp.int32), state)

    def step(key: Key, s: PausedState) -> tuple[PausedState, Info]:
        is_down = jnp.stack([outage.is_down(np.arange(n), s.step) for outage in outages]).any(0)

        def keep(before: Array, after: Array) -> Array:
            return jnp.where(rows(is_down, after), before, after) if jnp.shape(after)[:1] == (n,) else after

        after, info = method.step(key, s.state)
        kept = jax.tree.map(keep, s.state._replace(mix=()), after._replace(mix=()))
        return PausedState(s.step + 1, kept._replace(mix=after.mix)), info

    return method._replace(init=init, step=step, params=lambda s: method.params(s.state))


def _check_probability(name: str, value: Any, others: str = "") -> None:
    if _traced(value):
        return
    number = isinstance(value, int | float | np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, expected a probability in [0, 1]{others}")


def _check_workers(outage: Outage, num_workers: int) -> None:
    if max(outage.workers) >= num_workers:
        raise ValueError(f"{outage} is of worker {max(outage.workers)}, but there are {num_workers} workers")


def _traced(*values: Any) -> bool:
    return any(isinstance(value, jax.core.Tracer) for value in values)
