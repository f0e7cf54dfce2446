"""The one loop that steps methods: a number of steps, then a look; inside of one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relaysim.columns import repeat, repeated
from relaysim.metrics import all_finite
from relaysim.types import Algorithm, Array, Info, Key, Stacked


class RunState(NamedTuple):
    """All that a run hands on from step to step."""

    step: Array
    """() int32, the steps taken."""
    method: Any
    """The method's state."""
    broken: Array
    """(n,) int32, the steps taken when each worker was first seen not to be finite, −1 if it never was."""

    def __repr__(self) -> str:
        return f"RunState(step {self.step}, {type(self.method).__name__}, {len(self.broken)} workers)"


class Taken(NamedTuple):
    """What some steps told."""

    loss: Array
    """(n,) the sum over these steps."""
    metrics: dict[str, Array]
    """`Info.metrics` of the last of them."""


def begin(algorithm: Algorithm, key: Key, params: Stacked) -> RunState:
    """The state before the first step."""
    never = jnp.full(algorithm.num_workers, -1, jnp.int32)
    return RunState(jnp.zeros((), jnp.int32), algorithm.init(key, params), never)


def nothing(algorithm: Algorithm, key: Key, run: RunState) -> Taken:
    """What no steps tell."""
    _, info = jax.eval_shape(algorithm.step, key, run.step, run.method)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), Taken(*info))


def advance(
    algorithm: Algorithm, key: Key, run: RunState, steps: int | Array, taken: Taken | None = None
) -> tuple[RunState, Taken]:
    """Take so many steps, on top of what was taken. Step t gets `fold_in(key, t)`, so that how many are taken
    at once changes nothing."""

    def step(carry: tuple[RunState, Taken]) -> tuple[RunState, Taken]:
        run, taken = carry
        state, info = algorithm.step(jax.random.fold_in(key, run.step), run.step, run.method)
        broken = _seen(run, jnp.isfinite(info.loss))
        return RunState(run.step + 1, state, broken), Taken(taken.loss + info.loss, info.metrics)

    carry = run, nothing(algorithm, key, run) if taken is None else taken
    if isinstance(steps, int):
        return repeat(step, steps, carry)
    return repeated(step, steps, carry)


def silent(algorithm: Algorithm) -> Algorithm:
    """The same method where nobody asks for losses: none are computed, and one 0 stands for all."""

    def step(key: Key, t: Array, state: Any) -> tuple[Any, Info]:
        return algorithm.step(key, t, state)[0], Info(jnp.zeros(()))

    return algorithm._replace(step=step)


def look(algorithm: Algorithm, run: RunState) -> tuple[RunState, Stacked]:
    """The models, and the state that knows whether these are finite."""
    params = algorithm.params(run.method)
    return run._replace(broken=_seen(run, all_finite(params))), params


def watch(
    algorithm: Algorithm,
    key: Key,
    run: RunState,
    memory: Any,
    *,
    gap: Callable[[Array, Any], int | Array],
    see: Callable[[RunState, Taken, Any], tuple[RunState, Any]],
    go_on: Callable[[Any], Array],
) -> tuple[RunState, Any]:
    """While go_on(memory): take gap(step, memory) steps, then (run, memory) ← see(run, what they told,
    memory).

    Under vmap each run stops by itself, those that are done waiting for the others. Runs that have a name of
    their axis in common can agree on gaps and on when to stop, by `jax.lax.pmin(..., name)` and its like.
    """

    def body(carry: tuple[RunState, Any]) -> tuple[RunState, Any]:
        run, memory = carry
        run, taken = advance(algorithm, key, run, gap(run.step, memory))
        return see(run, taken, memory)

    return jax.lax.while_loop(lambda carry: go_on(carry[1]), body, (run, memory))


def _seen(run: RunState, finite: Array) -> Array:
    return jnp.where((run.broken < 0) & ~finite, run.step, run.broken)
