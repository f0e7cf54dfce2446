"""Records: the compiled pieces of a run, each some steps and a look."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim import engine
from relaysim.checks import kinds
from relaysim.columns import apart, scan
from relaysim.engine import RunState, Taken
from relaysim.programs import program
from relaysim.progress import Bar
from relaysim.types import Algorithm, Array, Key

Record = dict[str, Any]
Measure = Callable[..., Record]
"""params -> arrays by name, or (params, the method's state) -> arrays by name."""


def advance(
    algorithm: Algorithm,
    measure: Measure,
    until: Callable[[Record], Array] | None,
    every: int,
    num_records: int,
    kept: tuple[Key, Array | None],
    run: RunState,
) -> tuple[RunState, Record, Array, Array]:
    """The next records, each after `every` steps, or after those that come with the key.

    Returns (state, records, how many of these there are, whether `until` is satisfied).
    """
    key, gaps = kept

    def record(run: RunState, gap: Array | None) -> tuple[RunState, Record]:
        steps = every if gap is None else gap
        return _see(algorithm, measure, *engine.advance(algorithm, key, run, steps), steps)

    if until is None:
        run, records = scan(record, run, gaps, num_records, in_pairs=every % 2 == 1)
        return run, records, jnp.asarray(num_records), jnp.asarray(False)

    def gap(step: Array, memory: tuple[Record, Array, Array]) -> int | Array:
        return every if gaps is None else gaps[memory[1]]

    def seen(run: RunState, taken: Taken, memory: tuple[Record, Array, Array]) -> Any:
        records, count, _ = memory
        run, record = _see(algorithm, measure, run, taken, gap(run.step, memory))
        records = jax.tree.map(lambda all, one: all.at[count].set(one), records, record)
        return run, (records, count + 1, _stops(until, record))

    def go_on(memory: tuple[Record, Array, Array]) -> Array:
        return (memory[1] < num_records) & ~memory[2]

    _, one = jax.eval_shape(record, run, None if gaps is None else gaps[0])
    blank = jax.tree.map(functools.partial(_blank, num_records), one)
    memory = blank, jnp.asarray(0), jnp.asarray(False)
    run, memory = engine.watch(algorithm, key, run, memory, gap=gap, see=seen, go_on=go_on)
    return run, *memory


def _blank(length: int, leaf: Any) -> Array:
    empty = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
    return jnp.full((length, *leaf.shape), empty, leaf.dtype)


def watched(
    bar: Bar,
    algorithm: Algorithm,
    measure: Measure,
    until: Callable[[Record], Array] | None,
    key: Key,
    run: RunState,
) -> Callable[[np.ndarray, RunState], tuple[RunState, Record, Any, Any]]:
    """What `advance` does for one record, its steps taken piece by piece under a bar."""
    nothing = engine.nothing(algorithm, key, run)
    count = jnp.zeros((), jnp.int32)
    walk = program(_walk, (algorithm,), (key, count), (run, nothing))
    look = program(_look, (algorithm, measure, until), count, (run, nothing))

    def record(gaps: np.ndarray, run: RunState) -> tuple[RunState, Record, Any, Any]:
        (steps,) = gaps.tolist()
        given = run, jax.tree.map(jnp.copy, nothing)  # what is given is given away
        for piece in bar.pieces(steps):
            given = jax.block_until_ready(walk((key, count + piece), given))
        run, record, stop = look(count + steps, given)
        bar.tell(record)
        return run, record, 1, stop

    return record


def _walk(
    algorithm: Algorithm, kept: tuple[Key, Array], given: tuple[RunState, Taken]
) -> tuple[RunState, Taken]:
    (key, steps), (run, taken) = kept, given
    return engine.advance(algorithm, key, run, steps, taken)


def _look(
    algorithm: Algorithm,
    measure: Measure,
    until: Callable[[Record], Array] | None,
    steps: Array,
    given: tuple[RunState, Taken],
) -> tuple[RunState, Record, Array]:
    run, record = _see(algorithm, measure, *given, steps)
    stop = jnp.asarray(False) if until is None else _stops(until, record)
    return run, jax.tree.map(lambda value: value[None], record), stop


def _see(
    algorithm: Algorithm, measure: Measure, run: RunState, taken: Taken, steps: int | Array
) -> tuple[RunState, Record]:
    """The record after so many steps."""
    run, params = engine.look(algorithm, run)
    record = {"loss": taken.loss / jnp.asarray(steps, taken.loss.dtype), **taken.metrics}
    measured = apart(lambda *given: united({}, measure(*given)), run.step, params, run.method)
    return run, united(record, measured)


def united(record: Record, measured: Any) -> Record:
    if not isinstance(measured, dict) or not all(isinstance(name, str) for name in measured):
        raise ValueError(f"measure returned {kinds(measured)}, expected a dict of arrays by name")
    if twice := sorted(record.keys() & measured.keys()):
        raise ValueError(
            f"measure returned {twice[0]!r}, which the method records already: expected another name"
        )
    return {**record, **{name: jnp.asarray(values) for name, values in measured.items()}}


def _stops(until: Callable[[Record], Array], record: Record) -> Array:
    stop = jnp.asarray(until(record))
    if stop.shape != () or stop.dtype != bool:
        raise ValueError(f"until returned {stop.dtype} of shape {stop.shape}, expected one boolean")
    return stop
