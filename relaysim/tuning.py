"""Learning-rate searches, many problems at once and each at its own pace.

A search is a generator: it yields a `Trial`, a run that it wants to see, and is sent its `Outcome`. The runs
of all searches go on side by side in one compiled program, which comes back whenever one of them is over;
that search says what it wants next, and the others go on where they were.

`fastest` and `plateau` run the two searches behind the paper's Figure 2 (Vogels et al. 2021).
"""

import functools
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from relaysim import engine
from relaysim.checks import check_choice, check_count, check_function, check_number, shown
from relaysim.engine import RunState
from relaysim.types import Algorithm, Array, Key

Make = Callable[[Any, Array], Algorithm]
"""(task, learning rate) -> method. Called inside the compiled program, where both are traced."""

Numbers = float | Sequence[float] | np.ndarray
Event = Literal["reached", "slow", "too high", "flat", "out of steps"]


class Trial(NamedTuple):
    """A run that a search wants to see, and what should end it, in this order of precedence."""

    rate: Any
    reach: float = -math.inf
    """End with "reached" at an error below this."""
    patience: float = math.inf
    """End with "slow" after more steps than this."""
    ceiling: float = math.inf
    """End with "too high" at an error that is higher than the one before and than this. A run whose error is
    NaN or higher than at first ends so in any case."""
    tolerance: float = -math.inf
    """End with "flat" where the last three errors are within this of their mean."""


class Outcome(NamedTuple):
    """How a run ended."""

    event: Event
    step: int
    error: float
    """The last one; of a flat run the mean of the last three."""


class Found(NamedTuple):
    """The best that a search has seen."""

    steps: float = math.inf
    rate: float = math.nan


Search = Generator[Trial, Outcome, Found]


class Tuned(NamedTuple):
    """What the searches found for K problems."""

    steps: np.ndarray
    """(K,) float, the fewest steps; inf where no run reached the target."""
    learning_rate: np.ndarray
    """(K,) the learning rate that goes with them; NaN where there is none."""
    runs: np.ndarray
    """(K,) int, the learning rates tried."""


def fastest(make: Make, tasks: Any, *, target: Numbers, start: Numbers, **options: Any) -> Tuned:
    """For methods that converge: the learning rate that takes the error below the target in the fewest steps.

    Begins at twice `start`, halves the rate until a run takes too long, then bisects to 1e-4. A run whose
    error rises while above the target counts as too fast. After a run that is the best so far the next one
    has half its rate.

    >>> import optax, relaysim as rs
    >>> tasks = stack([rs.tasks.random_quadratics(jax.random.key(0), 4, 3)])
    >>> make = lambda task, rate: rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(rate))
    >>> fastest(make, tasks, target=1e-4, start=2.0, max_steps=100).steps.item() < 20
    True

    Args:
      make: (task, learning rate) -> method, see `tune`.
      tasks: K problems, see `tune`.
      target: the error to reach, one for all problems or (K,).
      start: about the largest learning rate that could work, one for all problems or (K,).
      options: those of `tune`.

    Raises:
      ValueError: where `target` or `start` is not positive, and as `tune`.
    """
    return tune(make, tasks, _each(fastest_search, tasks, target=target, start=start), **options)


def plateau(make: Make, tasks: Any, *, target: Numbers, start: Numbers, **options: Any) -> Tuned:
    """For methods whose learning rate decides how near they come: the one whose error settles at the target.

    An error has settled where three records in a row are within a hundredth of the target. Bisects between 0
    and twice `start` to 1e-6, and ends where a run settles between target / 1.1 and the target. Arguments and
    errors as for `fastest`.

    >>> import optax, relaysim as rs
    >>> tasks = stack([rs.tasks.random_quadratics(jax.random.key(0), 4, 3, zeta2=0.1)])
    >>> make = lambda task, rate: rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(rate))
    >>> plateau(make, tasks, target=1e-2, start=1.0, max_steps=200).learning_rate.round(2).tolist()
    [1.5]
    """
    return tune(make, tasks, _each(plateau_search, tasks, target=target, start=start), **options)


def fastest_search(target: float, start: float) -> Search:
    """The search of `fastest`, on one problem.

    >>> searching = fastest_search(target=1e-3, start=0.5)
    >>> next(searching).rate
    1.0
    >>> searching.send(Outcome("reached", 40, 1e-4)).rate  # twice as small a rate may be faster
    0.5
    """
    lower, upper, rate, best = -math.inf, 2 * start, 2 * start, Found()
    for _ in range(MAX_RUNS):
        event, step, error = yield Trial(rate, target, 10 * best.steps, ceiling=target, tolerance=target / 10)
        success = event == "reached" or (event == "flat" and error < target)
        if success and step < best.steps:
            best = Found(step, rate)
            rate /= 2
        elif success:
            lower, upper = min(rate, upper), min(4 * rate, upper)
        elif event in ("slow", "out of steps"):
            lower = min(rate, upper)
        else:
            upper = max(lower, rate)
            rate /= 2
        if upper - lower <= 1e-4:
            break
        if lower > 0:
            rate = (lower + upper) / 2
    return best


def plateau_search(target: float, start: float) -> Search:
    """The search of `plateau`, on one problem.

    >>> searching = plateau_search(target=1e-3, start=0.5)
    >>> next(searching).rate
    0.5
    >>> searching.send(Outcome("flat", 40, 2e-3)).rate  # it settles too high
    0.25
    """
    lower, upper, best = -math.inf, 2 * start, Found()
    for _ in range(MAX_RUNS):
        rate = (max(lower, 0) + upper) / 2
        patience = 10 * best.steps
        event, step, error = yield Trial(rate, patience=patience, ceiling=target, tolerance=target / 100)
        settled = event == "flat" and error < target
        if settled and step < best.steps:
            best = Found(step, rate)
        if event == "too high" or (event == "flat" and error > target):
            upper = rate
        else:
            lower = rate
        if upper - lower <= 1e-6 or (settled and error > target / 1.1):
            break
    return best


def tune(
    make: Make,
    tasks: Any,
    searches: Sequence[Search],
    *,
    max_steps: int = 20_000,
    metric: str = "suboptimality",
    lanes: int = 64,
    key: Key | None = None,
    progress: bool = False,
) -> Tuned:
    """Run a search on each of K problems.

    >>> import relaysim as rs, optax
    >>> mixer = rs.gossip(rs.topology.ring(8))
    >>> tasks = stack([rs.tasks.random_quadratics(jax.random.key(k), 8, 10) for k in range(3)])
    >>> make = lambda task, rate: rs.dpsgd(task.grad, mixer, optax.sgd(rate))
    >>> fastest(make, tasks, target=1e-4, start=10).steps.max() < 20
    np.True_

    A run is watched at some thousand steps, spaced evenly in the logarithm.

    Args:
      make: (task, learning rate) -> method. Large arrays belong in the task: what else `make` refers to is
        compiled into the program. The program is kept for further calls with the same function.
      tasks: K problems as one pytree whose leaves have a leading axis K, see `stack`; each with `init(key)`
        and `measure(params)` as `rs.tasks.Quadratics`.
      searches: K searches, such as `fastest_search(target, start)`, of the same or of different kinds.
      max_steps: the longest run.
      metric: the entry of `task.measure(params)` that is the error.
      lanes: runs that go on at once; a lane whose search is done takes up the next problem.
      key: fixes the randomness of every run, the same for all learning rates and problems.
      progress: show a bar of the searches that are done.

    Raises:
      ValueError: where the tasks do not fit together or do not measure `metric`, or the searches do not fit
        them.
    """
    key, searches = jax.random.key(0) if key is None else key, list(searches)
    _check(make, tasks, searches, max_steps, metric, lanes, key)
    tasks = jax.tree.map(jnp.asarray, tasks)
    count, lanes = len(searches), min(lanes, len(searches))
    found, runs = [Found()] * count, np.zeros(count, int)
    places, upcoming = np.arange(lanes), iter(range(lanes, count))  # which problem is in a lane
    trials, running = [next(searches[j]) for j in places], np.ones(lanes, bool)
    watches = _Watch(*(np.full(lanes, value) for value in _START))
    lane_runs = _blank(make, key, tasks, lanes)
    advance = functools.partial(_advance, make, metric, max_steps, key, tasks)
    with tqdm(total=count, disable=not progress, unit="search") as bar:
        while running.any():
            watches, lane_runs = advance(places, Trial(*np.array(trials).T), running, watches, lane_runs)
            watches = jax.device_get(watches)
            over = running & (watches.event > 0)
            bar.set_postfix(runs=int(runs.sum()), steps=int(watches.step.max()))
            for i in np.flatnonzero(over):
                j, event = places[i], _EVENTS[watches.event[i]]
                error = (_mean(watches) if event == "flat" else watches.error)[i]
                runs[j] += 1
                answer = _send(searches[j], Outcome(event, int(watches.step[i]), float(error)))
                if isinstance(answer, Found):
                    found[j] = answer
                    bar.update()
                    places[i] = next(upcoming, j)
                    running[i] = places[i] != j
                    answer = next(searches[places[i]]) if running[i] else trials[i]
                trials[i] = answer
            watches = _Watch(*(np.where(over, new, old) for new, old in zip(_START, watches, strict=True)))
    return Tuned(np.array([f.steps for f in found]), np.array([f.rate for f in found]), runs)


def stack(tasks: Sequence[Any]) -> Any:
    """[K problems of one shape] -> one pytree whose leaves have a leading axis K.

    >>> stack([{"a": jnp.ones(3)}, {"a": jnp.zeros(3)}])["a"].shape
    (2, 3)
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


def points(max_steps: int) -> np.ndarray:
    """The steps at which a run is watched: up to 1,000, evenly spaced in the logarithm.

    >>> points(20).tolist()
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    """
    return np.unique(np.round(np.logspace(0, math.log2(max_steps), 1000, base=2)).astype(int))


MAX_RUNS = 30
_EVENTS: tuple[str, ...] = ("", *get_args(Event))
_CHUNK = 10_000  # steps without a look at what happens


class _Watch(NamedTuple):
    """What is known of each run; numbers, or arrays (lanes,)."""

    step: Any
    first: Any
    """The first recorded error."""
    before: Any
    """The last three recorded errors are `before`, `previous` and `error`, NaN those that do not exist."""
    previous: Any
    error: Any
    event: Any
    """Where the run is over how it ended, the place in _EVENTS; else 0."""


_START = _Watch(0, math.nan, math.nan, math.nan, math.nan, 0)


def _mean(w: _Watch) -> Array:
    return (w.before + w.previous + w.error) / 3


def _event(trial: Trial, w: _Watch, max_steps: int) -> Array:
    """What happens at a point, the first that does; 0 for nothing."""
    diverged = jnp.isnan(w.error) | (w.error > w.first)
    going_up = (w.error > w.previous) & (w.error > trial.ceiling)
    near = [jnp.abs(error - _mean(w)) < trial.tolerance for error in (w.before, w.previous, w.error)]
    happened = {
        "reached": w.error < trial.reach,
        "slow": w.step > trial.patience,
        "too high": diverged | going_up,
        "flat": near[0] & near[1] & near[2],
        "out of steps": w.step == max_steps,
    }
    event = jnp.zeros_like(w.event)
    for name in reversed(happened):
        event = jnp.where(happened[name], _EVENTS.index(name), event)
    return event


def _send(search: Search, outcome: Outcome) -> Trial | Found:
    try:
        return search.send(outcome)
    except StopIteration as end:
        return end.value


def _begin(make: Make, key: Key, task: Any, rate: Array) -> RunState:
    return engine.begin(make(task, rate), key, task.init(key))


def _blank(make: Make, key: Key, tasks: Any, lanes: int) -> RunState:
    """The states of all lanes, without their contents."""

    def blank(leaf: jax.ShapeDtypeStruct) -> Any:
        shape, is_key = (lanes, *leaf.shape), jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jnp.broadcast_to(key, shape) if is_key else np.zeros(shape, leaf.dtype)

    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    return jax.tree.map(blank, jax.eval_shape(functools.partial(_begin, make, key), task, jnp.ones(())))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=9)
def _advance(
    make: Make,
    metric: str,
    max_steps: int,
    key: Key,
    tasks: Any,
    places: Array,
    trials: Trial,
    running: Array,
    watches: _Watch,
    runs: RunState,
) -> tuple[_Watch, RunState]:
    """Begin the runs at step 0, then take steps until one is over; places[i] is the task in lane i.

    All lanes take equally many steps at a time: as many as the one that is nearest to its next point needs.
    """
    watched = points(max_steps)
    next_point = jnp.asarray(watched[np.searchsorted(watched, np.arange(max_steps), side="right")])

    def lane(task: Any, trial: Trial, is_running: Array, w: _Watch, run: RunState) -> tuple[_Watch, RunState]:
        algorithm, fresh = engine.silent(make(task, trial.rate)), _begin(make, key, task, trial.rate)

        def gap(step: Array, memory: tuple[Array, _Watch]) -> Array:
            return jax.lax.pmin(jnp.where(is_running, next_point[step] - step, max_steps), "lanes")

        def see(run: RunState, taken: Any, memory: tuple[Array, _Watch]) -> Any:
            count, w = memory
            at_point = is_running & (run.step == next_point[w.step])
            count, w = count + run.step - w.step, w._replace(step=run.step.astype(w.step.dtype))
            error = task.measure(algorithm.params(run.method))[metric].astype(w.error.dtype)
            first = jnp.where(w.step == 1, error, w.first)
            seen = w._replace(first=first, before=w.previous, previous=w.error, error=error)
            seen = seen._replace(event=_event(trial, seen, max_steps))
            return run, (count, jax.tree.map(functools.partial(jnp.where, at_point), seen, w))

        def go_on(memory: tuple[Array, _Watch]) -> Array:
            count, w = memory
            return (jax.lax.pmax(w.event, "lanes") == 0) & (jax.lax.pmax(count, "lanes") < _CHUNK)

        run = jax.tree.map(functools.partial(jnp.where, w.step == 0), fresh, run)
        zero = jnp.zeros_like(w.step)
        run, (_, w) = engine.watch(algorithm, key, run, (zero, w), gap=gap, see=see, go_on=go_on)
        return w, run

    tasks = jax.tree.map(lambda leaf: leaf[places], tasks)
    return jax.vmap(lane, axis_name="lanes")(tasks, trials, running, watches, runs)


def _each(search: Callable[..., Search], tasks: Any, **numbers: Numbers) -> list[Search]:
    """A search for each problem."""
    leaves = jax.tree.leaves(tasks)
    count = len(leaves[0]) if leaves and np.ndim(leaves[0]) else 0
    for name, value in numbers.items():
        if np.shape(value) not in ((), (count,)):
            expected = f"a number or one for each of {count} tasks"
            raise ValueError(f"{name} has shape {np.shape(value)}, expected {expected}")
        for number in np.ravel(value):
            check_number(name, number, 0, math.inf, "()")
    columns = [np.broadcast_to(value, count).tolist() for value in numbers.values()]
    return [search(*values) for values in zip(*columns, strict=True)]


def _check(
    make: Make, tasks: Any, searches: list[Search], max_steps: int, metric: str, lanes: int, key: Key
) -> None:
    leading = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(tasks)}
    if leading != {(len(searches),)} or not searches:
        raise ValueError(
            f"tasks has leaves with leading axes {sorted(leading)} for {len(searches)} searches, expected "
            "one search for each task: use rs.tuning.stack"
        )
    check_function("make", make, "(task, rate) -> method")
    check_count("max_steps", max_steps)
    check_count("lanes", lanes)

    def measured(task: Any) -> dict[str, Any]:
        algorithm = make(task, jnp.ones(()))
        if not isinstance(algorithm, Algorithm):
            raise ValueError(f"make returned {shown(algorithm)}, expected a method such as rs.dpsgd(...)")
        return task.measure(algorithm.params(algorithm.init(key, task.init(key))))

    metrics = jax.eval_shape(measured, jax.tree.map(lambda leaf: leaf[0], tasks))
    check_choice("metric", metric, [name for name, value in metrics.items() if value.shape == ()])
