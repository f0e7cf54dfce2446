"""Running a method without barriers: the order of events first, then the models, wave by wave."""

import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from relaysim.asynchronous.presence import Presence
from relaysim.asynchronous.types import Coming, Events, Horizon, Method, Order
from relaysim.asynchronous.waves import NOBODY
from relaysim.checks import check_choice, check_count, check_key, check_number, kinds, shown
from relaysim.faults import Churn, Start
from relaysim.metrics import all_finite
from relaysim.programs import Program, is_traced, program
from relaysim.records import Measure, Record, united
from relaysim.simulate import Divergence, check_models, first_broken, measured, warn_of
from relaysim.types import Array, Key, Stacked


class Trace(NamedTuple):
    """What a run leaves behind, R records long."""

    steps: np.ndarray
    """(R,) the steps that all workers together have taken at each record: the events so far."""
    metrics: Record
    """Arrays (R, ...): what `measure` returned; "loss" (R, n), each worker's mean loss over its steps since
    the last record, or what it was then where it took none; "steps" (R, n), how many these are so far;
    "seconds" (R, n), the same for all workers; "vectors_sent", "messages_sent" and "bytes_sent" (R,), sent so
    far by a worker on average."""
    params: Stacked
    """The models at the end, leaves (n, ...)."""
    state: Any
    """The method's state at the end, messages under way included."""
    divergence: Divergence
    """Its `step` is the number of the event."""
    num_steps: int
    """The steps of all workers together."""
    seconds: np.ndarray
    """(R,) when the records were taken."""
    events: Events
    """What happened when."""

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {np.shape(values)}" for name, values in self.metrics.items())
        return f"Trace({np.shape(self.steps)[-1]} records, models {kinds(self.params)}; metrics {metrics})"


def simulate(
    key: Key,
    method: Method,
    network: Any,
    params: Stacked,
    *,
    seconds: float | None = None,
    num_events: int | None = None,
    every: float | None = None,
    churn: Churn | None = None,
    start: Start = "own",
    measure: Measure | None = None,
    progress: bool | str = False,
) -> Trace:
    """Run a method whose workers do not wait for each other, for some seconds or so many steps.

    When things happen does not hang on the models. So all that is laid out first (`lay_out`), and then run in
    waves of events that do not get in each other's way (`replay`), as one compiled program. What a message
    carries is what its sender had when it left, and it counts from when it is there. Of two events at the
    same time that of the worker with the lower number comes first.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.asynchronous.relaysgd(task.grad_at, rs.topology.chain(8), optax.sgd(0.3))
    >>> network = rs.timing.Network(compute=0.1 * rs.timing.stragglers(0.25, 4.0), latency=0.02)
    >>> trace = rs.asynchronous.simulate(
    ...     jax.random.key(1), method, network, task.init(jax.random.key(2)), seconds=60, every=20
    ... )
    >>> trace.seconds
    array([20., 40., 60.])

    Args:
      key: fixes all randomness: that of the network and that of the gradients.
      method: what `rs.asynchronous.relaysgd(...)` and its like return.
      network: an `rs.timing.Network`; for `dadao` its events.
      params: the initial models, leaves (n, ...).
      seconds: how long the run is, or
      num_events: how many steps all workers take together.
      every: seconds (or events) between records, of which there is a whole number; by default there is one,
        at the end.
      churn: who is there when, in seconds. The time of who is away stands still: it goes on with its gradient
        when it is back. What is sent to it waits for it; who calls it to average gets nothing back, and
        neither moves.
      start: what a worker starts from that comes back: "own", the model that it had; "neighbour", that of its
        first neighbour that was there all along, at that time; "mean", the mean of those of all such
        neighbours. Where it has none it starts from its own. Push-sum's weight stays as it is. Averages then
        do not keep the sum of the models any more.
      measure: what to record, such as `task.measure`: a function of the models (n, ...), or of the models and
        the method's state, that returns a dict of arrays. The models are those of the workers at that time.
      progress: show a progress bar, with this name if it is a string.

    Returns:
      A trace. Where the run diverges a warning names the event and the worker, and so does
      `trace.divergence`.

    Raises:
      ValueError: where an argument does not fit, `params` is not finite, or the network loses messages.
    """
    order = lay_out(
        key,
        method,
        network,
        params,
        seconds=seconds,
        num_events=num_events,
        every=every,
        churn=churn,
        start=start,
    )
    return replay(key, method, order, params, measure=measure, progress=progress)


def lay_out(
    key: Key,
    method: Method,
    network: Any,
    params: Stacked,
    *,
    seconds: float | None = None,
    num_events: int | None = None,
    every: float | None = None,
    churn: Churn | None = None,
    start: Start = "own",
) -> Order:
    """The order of the events in a run, all but the models; `order.events` can be looked at.

    The arguments are those of `simulate`; `params` may be shapes, as it only matters how large messages are.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 3, 5)
    >>> method = rs.asynchronous.gossip(task.grad_at, rs.topology.chain(3), optax.sgd(0.1))
    >>> network = rs.timing.Network(compute=np.array([0.1, 0.2, 0.4]))
    >>> models = task.init(jax.random.key(1))
    >>> events = lay_out(jax.random.key(2), method, network, models, seconds=0.41).events
    >>> events.worker.tolist(), events.time.round(1).tolist()
    ([0, 0, 1, 0, 0, 1, 2], [0.1, 0.2, 0.2, 0.3, 0.4, 0.4, 0.4])

    Raises:
      ValueError: as `simulate`.
    """
    check_key("key", key)
    if not isinstance(method, Method):
        raise ValueError(f"method is {shown(method)}, expected one such as rs.asynchronous.ad_psgd(...)")
    check_models(params, method.num_workers)
    horizon = _horizon(seconds, num_events, every)
    check_choice("start", start, get_args(Start))
    if churn is not None:
        if not isinstance(churn, Churn):
            raise ValueError(f"churn is {shown(churn)}, expected rs.faults.Churn")
        churn.check_workers(method.num_workers)
    coming = Coming(None if churn is None else Presence(churn.changes), start)
    return method.lay_out(key, network, _model_bytes(params), horizon, coming)


def replay(
    key: Key,
    method: Method,
    order: Order,
    params: Stacked,
    *,
    measure: Measure | None = None,
    progress: bool | str = False,
) -> Trace:
    """Run a method in an order that was laid out before. Can be called under vmap and jit.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, noise=1.0)
    >>> models, network = task.init(jax.random.key(1)), rs.timing.Network(compute=0.1)
    >>> def method(rate):
    ...     return rs.asynchronous.ad_psgd(task.grad_at, rs.topology.ring(8), optax.sgd(rate))
    >>> order = rs.asynchronous.lay_out(jax.random.key(2), method(0.1), network, models, num_events=400)
    >>> def run(key, rate):
    ...     return rs.asynchronous.replay(key, method(rate), order, models, measure=task.measure).metrics
    >>> jax.vmap(run)(jax.random.split(jax.random.key(3), 2), jnp.array([0.1, 0.2]))["suboptimality"].shape
    (2, 1)

    Args:
      key: of the gradients.
      order: what `lay_out` returned for this method, whatever its optimizer and gradients.

    The others, and what is returned and raised, are as in `simulate`.
    """
    check_key("key", key)
    check_models(params, method.num_workers)
    measure = measured(measure)
    given = jax.tree.map(jnp.asarray, params)
    start_key, _ = jax.random.split(key)
    start = program(_begin, (method,), (start_key, order.layout, given), ())
    waves, anew = _narrow(order.waves), None
    if len(order.restart_waves):
        anew = _narrow((order.restart_waves, *order.restarts[1:]))
    records, num_records = _records(order), len(order.seconds)

    def advance(first: int, last: int) -> tuple[Program, Any]:
        kept = waves, anew, jax.tree.map(lambda v: v[first:last], records)
        return program(_advance, (method, measure), kept, start.outputs), kept

    whole, _ = advance(0, num_records)
    traced = is_traced((key, given, start.closed_over, whole.closed_over))
    at_once = 1 if progress and not traced else num_records
    carry, made = start((start_key, order.layout, given), ()), []
    taken = np.append(0, order.counts.sum(1))
    bar = tqdm(
        total=int(taken[-1]),
        desc=progress if isinstance(progress, str) else None,
        disable=not progress or traced,
        unit="step",
    )
    with bar:
        for first in range(0, num_records, at_once):
            run, kept = advance(first, first + at_once)
            carry, record = run(kept, carry)
            made.append(jax.block_until_ready(record) if not traced else record)
            bar.update(int(taken[first + at_once] - taken[first]))
    metrics = jax.tree.map(lambda *parts: jnp.concatenate(parts) if len(parts) > 1 else parts[0], *made)
    divergence = first_broken(jnp.where(carry.broken == NOBODY, -1, carry.broken))
    if not traced:
        metrics, divergence = jax.device_get((metrics, divergence))
        divergence = Divergence(int(divergence.step), int(divergence.worker))
        warn_of(divergence, "event")
    models = method.params(carry.method)
    return Trace(
        order.counts.sum(1),
        metrics | _costs(order, models),
        models,
        carry.method,
        divergence,
        int(order.counts[-1].sum()),
        order.seconds,
        order.events,
    )


class _Carry(NamedTuple):
    method: Any
    loss: Array
    """(n,) the losses at the last record."""
    broken: Array
    """(n,) int32, the event after which each worker was first seen not to be finite, NOBODY for never."""


def _begin(method: Method, kept: tuple[Key, Any, Stacked], _: tuple) -> _Carry:
    n = method.num_workers
    key, layout, params = kept
    params = jax.tree.map(jnp.copy, params)  # since what is carried on is given away
    return _Carry(method.init(key, params, layout), jnp.full(n, jnp.nan), jnp.full(n, NOBODY, jnp.int32))


def _advance(
    method: Method, measure: Measure, kept: tuple[Any, Any, Any], carry: _Carry
) -> tuple[_Carry, Record]:
    """The next records, each after its waves."""
    waves, anew, records = kept

    def restarted(number: Array, state: Any) -> Any:
        """The state after a wave, in which a worker may have come back."""
        of_restarts, workers, sources, shares = anew
        at = jnp.minimum(jnp.searchsorted(of_restarts, number), len(of_restarts) - 1)

        def started(state: Any) -> Any:
            def mean(v: Array) -> Array:
                return jnp.tensordot(shares[at].astype(v.dtype), v[sources[at]], 1)[None]

            return method.put(state, workers[at][None], jax.tree.map(mean, method.params(state)))

        return jax.lax.cond(of_restarts[at] == number, started, lambda state: state, state)

    def wave(number: Array, carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        state, total, broken = carry
        here = jax.tree.map(lambda table: table[number], waves)
        state, losses = method.step(state, here)
        if anew is not None:
            state = restarted(number, state)
        event = jnp.where(jnp.isfinite(losses), NOBODY, here.event)
        total = total.at[here.worker].add(losses.astype(total.dtype), mode="drop")
        return state, total, broken.at[here.worker].min(event, mode="drop")

    def record(carry: _Carry, here: tuple[Array, Array, Array, Array]) -> tuple[_Carry, Record]:
        first, last, counts, events = here
        start = carry.method, jnp.zeros_like(carry.loss), carry.broken
        state, total, broken = jax.lax.fori_loop(first, last, wave, start)
        loss = jnp.where(counts > 0, total / jnp.maximum(counts, 1), carry.loss)
        params = method.params(state)
        broken = jnp.where(all_finite(params), broken, jnp.minimum(broken, events - 1))
        return _Carry(state, loss, broken), united({"loss": loss}, measure(params, state))

    return jax.lax.scan(record, carry, records)


def _narrow(tables: Any) -> Any:
    """As jax's arrays, whole numbers as int32."""
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.int32 if v.dtype.kind in "iu" else None), tables)


def _records(order: Order) -> tuple[Array, ...]:
    """Of each record (R,): its first wave, the first that is not its own, the steps of each worker since the
    last (R, n), and the events so far."""
    own = np.diff(order.counts, axis=0, prepend=0)
    columns = order.starts[:-1], order.starts[1:], own, order.counts.sum(1)
    return tuple(jnp.asarray(column, jnp.int32) for column in columns)


def _costs(order: Order, models: Stacked) -> dict[str, np.ndarray]:
    n = order.counts.shape[1]
    sent = order.sent / n
    return {
        "seconds": np.repeat(order.seconds[:, None], n, 1),
        "steps": order.counts,
        "vectors_sent": sent,
        "messages_sent": sent,
        "bytes_sent": sent * _model_bytes(models),
    }


def _model_bytes(models: Stacked) -> int:
    return sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(models))


def _horizon(seconds: Any, num_events: Any, every: Any) -> Horizon:
    if (seconds is None) == (num_events is None):
        given = f"seconds is {shown(seconds)} and num_events {shown(num_events)}"
        raise ValueError(f"{given}, expected one of the two and not both")
    if num_events is not None:
        num_events = check_count("num_events", num_events)
        every = num_events if every is None else check_count("every", every)
        if num_events % every:
            raise ValueError(f"num_events is {num_events}, expected a multiple of every = {every}")
        return Horizon(None, num_events, every, num_events // every)
    seconds = check_number("seconds", seconds, 0, ends="(]")
    every = seconds if every is None else check_number("every", every, 0, ends="(]")
    num_records = round(seconds / every)
    if num_records < 1 or abs(num_records * every - seconds) > 1e-9 * seconds:
        raise ValueError(f"seconds is {seconds}, expected a multiple of every = {every}")
    return Horizon(seconds, None, every, num_records)
