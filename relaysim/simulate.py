"""Running a method: steps inside records inside one compiled program."""

import contextlib
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jax.tree_util import GetAttrKey

from relaysim import checkpoint as checkpoints
from relaysim import engine
from relaysim.checkpoint import Checkpoint
from relaysim.checks import check_function, check_gaps, check_key, check_method, kinds, shown
from relaysim.engine import RunState
from relaysim.memory import Memory, check_room, nbytes
from relaysim.platforms import described
from relaysim.programs import Program, is_traced, program
from relaysim.progress import Bar
from relaysim.records import Measure, Record, advance, watched
from relaysim.sharding import fetch, lies_over, mesh, spread
from relaysim.timing import Network, Traffic, check_network, dates, traffic
from relaysim.types import Algorithm, Array, Key, Stacked, sent


class Divergence(NamedTuple):
    """Where a run first met a number that is not finite; both are −1 where it did not."""

    step: Any
    worker: Any

    def __bool__(self) -> bool:
        return bool(self.step >= 0)


def warn_of(divergence: Divergence, what: str) -> None:
    """Warn where there is one, whose `step` is the number of a `what`."""
    if divergence:
        warnings.warn(
            f"diverged: worker {divergence.worker} is not finite after {what} {divergence.step}", stacklevel=3
        )


class Trace(NamedTuple):
    """What a run leaves behind, R records long."""

    steps: np.ndarray
    """(R,) the number of steps taken at each record."""
    metrics: Record
    """Arrays (R, ...): what `measure` returned; "loss" (R, n), each worker's mean loss over the steps
    since the last record; what else the method tells (`Info.metrics`); "vectors_sent", "messages_sent" and
    "bytes_sent" (R,), sent so far by a worker on average, and "busiest_vectors_sent" and "busiest_bytes_sent"
    (R,) by the worker that sends most; with a network "seconds" and "waited" (R, n), see `dated`."""
    params: Stacked
    """The models at the end, leaves (n, ...)."""
    state: Any
    """A `RunState`, all that the run needs to go on: `simulate(..., state=trace.state)`. The method's own is
    `state.method`."""
    divergence: Divergence
    num_steps: Any
    """() the steps taken, which are fewer than asked for where `until` said so. Under vmap such a run has its
    records up to there, and NaN (or 0, where they are no floating-point numbers) from there on."""
    traffic: Traffic | None = None
    """What the method sends, no array."""

    def dated(self, network: Network, key: Key) -> "Trace":
        """The same run on a network: how long things take does not depend on the models.

        >>> import optax, relaysim as rs
        >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
        >>> method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(8)), optax.sgd(0.3))
        >>> trace = rs.simulate(jax.random.key(1), method, task.init(jax.random.key(2)), num_steps=10)
        >>> trace.dated(rs.timing.home(compute=0.1), jax.random.key(1)).metrics["seconds"].shape
        (10, 8)

        Args:
          network: see `rs.timing`.
          key: of what is random in the network; with that of the run it is as with `simulate(network=)`.

        Returns:
          A trace with the metrics "seconds" (R, n), when each worker was done with the step of each record,
          and "waited" (R, n), the share of this time in which it did not compute, in double precision.

        Raises:
          ValueError: where the network is for another number of workers.
        """
        if self.traffic is None:
            raise ValueError("traffic is None: this trace does not know what its method sends")
        seconds, waited = dates(key, network, self.traffic, self.steps)
        return self._replace(metrics=self.metrics | {"seconds": seconds, "waited": waited})

    def __repr__(self) -> str:
        told = f"{len(self.steps)} records to step {self.steps[-1]}, models {kinds(self.params)}"
        metrics = ", ".join(f"{name} {np.shape(values)}" for name, values in self.metrics.items())
        step, worker = (kinds(number) if np.ndim(number) else str(number) for number in self.divergence)
        broke = f", diverged at step {step} (worker {worker})" if step != "-1" else ""
        return f"Trace({told}{broke}; metrics {metrics})"


def simulate(
    key: Key,
    algorithm: Algorithm,
    params: Stacked | None = None,
    *,
    num_steps: int,
    every: int | Sequence[int] | np.ndarray = 1,
    measure: Measure | None = None,
    until: Callable[[Record], Array] | None = None,
    state: RunState | None = None,
    callback: Callable[[int, Record], Any] | None = None,
    progress: bool | str = False,
    checkpoint: Checkpoint | None = None,
    network: Network | None = None,
) -> Trace:
    """Run a method from the given models.

    The whole run is one compiled program; running the same method again does not compile again. Step t gets
    `fold_in(key, t)`, so that the recording interval changes nothing. Can be called under vmap and jit.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(8)), optax.sgd(0.3))
    >>> from functools import partial
    >>> run = partial(rs.simulate, jax.random.key(1), method, every=10, measure=task.measure)
    >>> trace = run(task.init(jax.random.key(2)), num_steps=1000, until=lambda r: r["suboptimality"] < 1e-6)
    >>> more = run(state=trace.state, num_steps=20)
    >>> more.steps - trace.num_steps
    array([10, 20])

    Args:
      key: fixes all randomness of the run.
      algorithm: what `rs.relaysgd(...)` and its like return.
      params: the initial models, leaves (n, ...). They may be sharded over the leading axis, on a mesh whose
        axes are of type `jax.sharding.AxisType.Auto`.
      num_steps: T, a multiple of `every`.
      every: steps between records; or at which of the steps 1..T to record, ascending, T the last.
      measure: what to record, such as `task.measure`: a function of the models (n, ...), or of the models and
        the method's state, that returns a dict of arrays.
      until: record -> () bool: stop at the first record that satisfies it. A record has by name what the
        trace has in `metrics`, but for what was sent. Under vmap each run stops by itself.
      state: go on from the end of a run of the same method with the same key, `trace.state`, as if it had
        never stopped, bit for bit; `params` is then not needed, and `num_steps` are further steps.
      callback: is called with (step, record) on the host, as the records come, which are then made one call
        at a time. Not under vmap and jit.
      progress: show a bar of the steps that are done, their speed and the time that is left, and the mean of
        a metric over the workers if this is its name, such as "accuracy". Not under vmap and jit.
      checkpoint: where to write down every so many steps what was done, so that a run that was killed and is
        started again with the same arguments and `resume=True` ends as if nothing had happened, bit for bit.
        What it is checked against is the key, the numbers of steps, the first models and the shapes of all
        arrays; that method, data and hyperparameters are the same is up to the caller.
      network: how long gradients and messages take: records "seconds" and "waited" as well, see
        `Trace.dated`. The steps are the same on any network.

    Returns:
      A trace of R = T / every records. Where the run diverges a warning names the step and the worker, and so
      does `trace.divergence`. On several machines each process has all metrics, while models and state stay
      on the devices that they lie on (`sharding.fetch` gathers them).

    Raises:
      ValueError: where the sizes do not fit, `params` is not finite, a function does not return what it
        should, or the checkpoints in the folder are not this run's.
      MemoryError: where the method's state and the records cannot fit (see `estimate_memory`).
    """
    gaps = check_gaps(num_steps, every)
    check_key("key", key)
    _check(algorithm, params, state)
    _check_options(until, callback, progress, checkpoint, every)
    if network is not None:
        check_network(network, algorithm.num_workers)
    measure = measured(measure)
    start_key, run_key = jax.random.split(key)
    if state is None:
        given = jax.tree.map(jnp.array, params)  # a copy, since what is carried on is given away
        start = program(_begin, (algorithm, None if is_traced(given) else lies_over(given)), start_key, given)
        shapes = start.outputs
    else:
        shapes = given = jax.tree.map(jnp.array, state)

    def piece(num_records: int) -> Program:
        static = (algorithm, measure, until, every if np.ndim(every) == 0 else 0, num_records)
        return program(advance, static, (run_key, _gaps_of(every, gaps[:num_records])), shapes)

    whole = piece(len(gaps))
    traced = is_traced((key, given, whole.closed_over))
    if traced and callback:
        raise ValueError("callback is given under vmap or jit, expected a run by itself")
    if not traced:
        check_room(whole.outputs[:2], given)
    carry = start(start_key, given) if state is None else given
    first = carry.step if is_traced(carry.step) else int(carry.step)
    made, stopped, records = 0, False, []
    with checkpoints.held(checkpoint) as asked_to_stop:
        if checkpoint:
            run = checkpoints.describe(key, algorithm.params(carry.method), gaps[0], carry, whole.outputs[1])
            if saved := checkpoints.load(checkpoint, run, num_steps, carry, whole.outputs[1]):
                taken, carry, done = saved
                made, records = taken // gaps[0], [done]
                stopped = until is not None and bool(until(jax.tree.map(lambda values: values[-1], done)))
        between = checkpoint.every // gaps[0] if checkpoint else 0
        at_once = 1 if (progress or callback) and not traced else math.gcd(len(gaps), between, made)
        with contextlib.ExitStack() as stack:
            if progress and not traced:
                metric = _shown(progress, whole)
                bar = stack.enter_context(Bar(int(gaps.sum()), int(gaps[:made].sum()), metric))
                go_on = watched(bar, algorithm, measure, until, run_key, shapes)
            else:
                compiled = piece(at_once)
                go_on = lambda chunk, carry: compiled((run_key, _gaps_of(every, chunk)), carry)  # noqa: E731
            while made < len(gaps) and not stopped:
                chunk = gaps[made : made + at_once]
                carry, record, count, stop = go_on(chunk, carry)
                if until is None or traced:
                    count, stop = at_once, False
                count, stopped = int(count), bool(stop)
                records.append(record if count == at_once else jax.tree.map(lambda v, c=count: v[:c], record))
                made += count
                if callback:
                    callback(
                        first + int(gaps[:made].sum()), fetch(jax.tree.map(lambda values: values[0], record))
                    )
                taken, signal = int(gaps[:made].sum()), asked_to_stop()
                if checkpoint and (taken % checkpoint.every == 0 or made == len(gaps) or stopped or signal):
                    records = [_joined(records)]
                    checkpoints.save(checkpoint, run, taken, carry, records[0])
                if checkpoint and signal:
                    raise checkpoints.Interrupted(checkpoint, taken, num_steps, signal)

    metrics = _joined(records)
    divergence, taken = first_broken(carry.broken), carry.step
    if not is_traced(carry):
        metrics, divergence, taken = fetch((metrics, divergence, taken))
        divergence, taken = Divergence(int(divergence.step), int(divergence.worker)), int(taken)
        warn_of(divergence, "step")
    steps = first + np.cumsum(gaps[:made])
    models = algorithm.params(carry.method)
    sends = traffic(algorithm, models)
    trace = Trace(steps, metrics | _costs(sends, steps), models, carry, divergence, taken, sends)
    return trace if network is None else trace.dated(network, key)


def estimate_memory(
    algorithm: Algorithm,
    params: Stacked,
    *,
    num_steps: int = 1,
    every: int = 1,
    measure: Measure | None = None,
    on: str | None = None,
) -> Memory:
    """What `simulate` would need with the same arguments, on each device. Compiles the run, but does not run.

    >>> import optax, relaysim as rs
    >>> def grad(key, step, x):
    ...     return (x**2).sum(1), 2 * x
    >>> method = rs.relaysgd(grad, rs.relay_sum(rs.topology.chain(1000)), optax.adam(0.1))
    >>> models = jax.ShapeDtypeStruct((1000, 250), jnp.float32)
    >>> rs.estimate_memory(method, models).parts["state.mix.up"]
    1000000

    Args:
      algorithm: the method.
      params: the initial models, or their shapes, each a `jax.ShapeDtypeStruct`, which may have a sharding.
      num_steps: T, as the records of a longer run take more.
      every: steps between records.
      measure: as in `simulate`.
      on: devices to compile for, which need not be there, such as "cpu", "h100" or "v5e:2x2" (see
        `sharding.described`). The workers lie over several in blocks; the mixer is to be given their mesh.

    Returns:
      Bytes by part. Print it for a table.

    Raises:
      ValueError: as `simulate`, and where `on` is no such device.
      NotInstalled: where the compiler for it is missing.
    """
    num_records = len(check_gaps(num_steps, every))
    _check(algorithm, params)
    key = jax.random.key(0)
    devices: list[Any] = described(on) if on else []
    flat = over = None
    if len(devices) > 1:
        over = NamedSharding(mesh(devices), PartitionSpec("workers"))
    elif on:
        flat = SingleDeviceSharding(devices[0])
    params = jax.tree.map(lambda leaf: _shape(leaf, over or getattr(leaf, "sharding", None)), params)
    platform = devices[0].platform if on else None

    def compiled(made: Program, kept: Any, given: Any) -> Any:
        return made.compiled_for(platform, flat, kept, given) if platform else made.compiled(kept, given)

    start = program(_begin, (algorithm, lies_over(params)), key, params, platform)
    over = compiled(start, key, params).output_shardings
    carry = jax.tree.map(_shape, start.outputs, jax.tree.unflatten(jax.tree.structure(start.outputs), over))
    static = (algorithm, measured(measure), None, every, num_records)
    run = program(advance, static, (key, None), carry, platform)
    needs = compiled(run, (key, None), carry).memory_analysis()
    parts = {"given": nbytes(params)}
    for path, leaf in jax.tree.leaves_with_path(carry.method):
        fields = itertools.takewhile(lambda entry: isinstance(entry, GetAttrKey), path[:2])
        name = "state" + jax.tree_util.keystr(tuple(fields))
        parts[name] = parts.get(name, 0) + nbytes(leaf)
    several = len(devices) > 1  # each of which holds its part of the graph as well
    parts["data"] = needs.argument_size_in_bytes - nbytes(carry) if several else nbytes(run.closed_over)
    parts["records"] = nbytes(run.outputs[1])
    parts["temporaries"] = needs.temp_size_in_bytes
    return Memory(parts)


def _shape(leaf: Any, over: Any) -> jax.ShapeDtypeStruct:
    sharding = over if isinstance(over, NamedSharding) else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _begin(algorithm: Algorithm, over: NamedSharding | None, key: Key, params: Stacked) -> RunState:
    run = engine.begin(algorithm, key, params)
    return run if over is None else spread(run, over, algorithm.num_workers)


def _joined(records: list[Record]) -> Record:
    """One after the other; on the host, since XLA would take its time over so many."""
    if len(records) == 1:
        return records[0]
    return jax.tree.map(lambda *parts: np.concatenate(parts), *fetch(records))


def _shown(progress: bool | str, whole: Program) -> str | None:
    """The metric to show on the bar."""
    if isinstance(progress, bool):
        return None
    records = whole.outputs[1]
    if progress not in records:
        names = ", ".join(map(repr, sorted(records)))
        raise ValueError(f"progress is {progress!r}, expected True, or the name of a metric: {names}")
    return progress


def first_broken(broken: Array) -> Divergence:
    """The first worker to break (the lowest, among those that did in the same step), and when."""
    order = jnp.where(broken < 0, jnp.iinfo(jnp.int32).max, broken)
    worker = jnp.argmin(order).astype(jnp.int32)
    step = broken[worker]
    return Divergence(step, jnp.where(step < 0, -1, worker))


def _costs(sends: Traffic, steps: np.ndarray) -> dict[str, np.ndarray]:
    vectors, messages = sent(sends.calls, sends.num_workers)
    return {
        "vectors_sent": steps * vectors.mean(),
        "busiest_vectors_sent": steps * vectors.max(),
        "messages_sent": steps * messages.mean(),
        "bytes_sent": steps * vectors.mean() * sends.model_bytes,
        "busiest_bytes_sent": steps * vectors.max() * sends.model_bytes,
    }


def measured(measure: Measure | None) -> Measure:
    """`measure` as a function of the models and the method's state."""
    if measure is None:
        return lambda params, state: {}
    check_function("measure", measure, "such as task.measure")
    needed = [p for p in inspect.signature(measure).parameters.values() if p.default is p.empty]
    takes = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
    if takes not in (1, 2):
        raise ValueError(f"measure takes {takes} arguments, expected the models, or models and state")
    return measure if takes == 2 else lambda params, state: measure(params)


def _gaps_of(every: Any, gaps: np.ndarray) -> Array | None:
    return None if np.ndim(every) == 0 else jnp.asarray(gaps, jnp.int32)


def _check(algorithm: Algorithm, params: Stacked, state: RunState | None = None) -> None:
    check_method(algorithm, "algorithm")
    if state is not None:
        return _check_state(algorithm, state)
    check_models(params, algorithm.num_workers)


def check_models(params: Stacked, n: int) -> None:
    """Raise a ValueError where these are no models of n workers, or the first of them is not finite."""
    leaves = jax.tree.leaves_with_path(params)
    if not leaves:
        raise ValueError("params holds no arrays, expected a pytree with leaves (n, ...)")
    for path, leaf in leaves:
        name = "params" + jax.tree_util.keystr(path)
        if np.shape(leaf)[:1] != (n,):
            raise ValueError(
                f"{name} has shape {np.shape(leaf)}, expected ({n}, ...): the mixer is for {n} workers"
            )
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"{name} holds {leaf.dtype}, expected floating-point numbers")
        if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.Tracer):
            continue
        with jax.ensure_compile_time_eval():  # under jit too, where the models may be a constant
            finite = jnp.isfinite(leaf).reshape(n, -1).all(1)
            worker = -1 if bool(finite.all()) else int(jnp.argmin(finite))
        if worker >= 0:
            raise ValueError(f"{name} is not finite at worker {worker}, expected a finite start")


def _check_options(
    until: Any, callback: Any, progress: Any, checkpoint: Checkpoint | None, every: Any
) -> None:
    for name, function, takes in (("callback", callback, "(step, record)"), ("until", until, "a record")):
        if function is not None:
            check_function(name, function, f"of {takes}")
    if not isinstance(progress, bool | str):
        raise ValueError(f"progress is {shown(progress)}, expected True, False or the name of a metric")
    if checkpoint is not None:
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError(f"checkpoint is {shown(checkpoint)}, expected rs.Checkpoint(folder, every)")
        if np.ndim(every):
            raise ValueError("every is an array, expected a number where there is a checkpoint")
        if checkpoint.every % every:
            raise ValueError(
                f"checkpoint.every is {checkpoint.every}, expected a multiple of every = {every}"
            )


def _check_state(algorithm: Algorithm, state: RunState) -> None:
    """Whether a state is one of this method."""
    if not isinstance(state, RunState):
        raise ValueError(f"state is a {type(state).__name__}, expected the state of a trace, trace.state")
    import chex  # slow to import

    try:
        models = algorithm.params(state.method)
        like = jax.eval_shape(algorithm.init, jax.random.key(0), models)
        chex.assert_trees_all_equal_shapes_and_dtypes(like, state.method)
    except (AssertionError, AttributeError, TypeError, ValueError):
        expected = "expected one of this method"
        raise ValueError(f"state is that of another method, or of other models, {expected}") from None
