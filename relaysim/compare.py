"""Comparing methods on tasks, each at its own learning rate, found with the same effort for all."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from relaysim.checks import (
    check_bool,
    check_choice,
    check_count,
    check_function,
    check_number,
    check_path,
    shown,
)
from relaysim.kept import Kept
from relaysim.simulate import Trace, simulate
from relaysim.threads import side_by_side
from relaysim.timing import Network
from relaysim.types import Algorithm, Array, Key

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Method = Callable[[Any, Any], Algorithm]
"""(task, learning rate) -> method, called inside the compiled program, where both may be traced."""
Length = int | Callable[[Any], int]
"""A number of steps, or a function of the task that tells it."""


class Search(NamedTuple):
    """How a learning rate is looked for, see `search`."""

    start: float | Mapping[str, float]
    grid: tuple[float, ...]
    seeds: tuple[int, ...]
    margin: float


def search(
    start: float | Mapping[str, float] = 0.125,
    *,
    grid: Sequence[float] = (),
    seeds: Sequence[int] = (1000, 1001),
    margin: float = 0.005,
) -> Search:
    """A search for learning rates: among the powers of two up and down from `start`, for as long as it helps.

    The rate is doubled or halved until both neighbours of the best have been tried. A rate with which one of
    the seeds diverges counts for nothing. Of those whose metric is nearly as good as the best the smallest is
    taken, since the best of few seeds may lie at the edge of what converges.

    >>> search(1.0, seeds=[7, 8]).start, search(grid=[0.1, 0.2]).grid
    (1.0, (0.1, 0.2))

    Args:
      start: the first rate, the same for all methods or by name.
      grid: try exactly these rates instead.
      seeds: of the runs that it makes, other ones than those of the comparison.
      margin: how much worse than the best counts as nearly as good, as a share of the best.

    Raises:
      ValueError: where an argument is out of its range.
    """
    for rate in start.values() if isinstance(start, Mapping) else [start]:
        check_number("start", rate, 0, math.inf, "()")
    grid = _grid("grid", grid)
    return Search(start, grid, _seeds(seeds), check_number("margin", margin, 0))


@dataclass(frozen=True)
class Comparison:
    """What `compare` found."""

    metric: str
    mode: str
    rows: list[dict[str, Any]]
    """The runs with their records, in the order of tasks, methods and seeds."""
    rates: dict[tuple[str, str], float]
    """(task, method) -> the learning rate of the runs."""
    trials: list[dict[str, Any]]
    """What the search tried."""

    def __repr__(self) -> str:
        tasks, methods = (len(set(names)) for names in zip(*self.rates, strict=True))
        runs = f"{methods} methods on {tasks} tasks, {len(self.rows)} runs"
        return f"Comparison({self.metric!r}, {runs}: see .summary, .table and .plot())"

    def _repr_html_(self) -> str:
        return self.summary.to_html(index=False, float_format="{:.4g}".format)

    @property
    def table(self) -> "pd.DataFrame":
        """A row a run: task, method, seed, learning_rate, steps, diverged (the step, or −1), worker (that was
        the first to), and all that was measured at the end: the mean over workers by the metric's own name,
        of the metric itself also the worst worker. Of a run that diverged they are NaN."""
        import pandas as pd

        plain = [{k: v for k, v in row.items() if k not in ("records", "kind", "at")} for row in self.rows]
        return pd.DataFrame(plain)

    @property
    def tried(self) -> "pd.DataFrame":
        """A row a rate that the search tried: task, method, learning_rate and the metric, NaN if a seed
        diverged."""
        import pandas as pd

        columns = ["task", "method", "learning_rate", self.metric]
        return pd.DataFrame([{k: row[k] for k in columns} for row in self.trials], columns=columns)

    @property
    def summary(self) -> "pd.DataFrame":
        """A row a task and method: learning_rate, the mean of the metric over seeds and workers, its
        deviation over seeds, its worst seed, and how many of the seeds diverged."""
        cells = self.table.groupby(["task", "method"], sort=False)
        worst = "min" if self.mode == "max" else "max"
        return cells.agg(
            learning_rate=("learning_rate", "first"),
            mean=(self.metric, lambda v: v.mean(skipna=False)),
            deviation=(self.metric, lambda v: v.std(ddof=0, skipna=False)),
            worst=(self.metric, lambda v: v.agg(worst, skipna=False)),
            diverged=("diverged", lambda v: int((v >= 0).sum())),
        ).reset_index()

    @property
    def curves(self) -> "pd.DataFrame":
        """A row a record and metric, the mean over the workers: task, method, seed, step, metric, value."""
        import pandas as pd

        tables = [
            pd.DataFrame({"task": r["task"], "method": r["method"], "seed": r["seed"], "step": r["at"]})
            .assign(metric=name, value=[np.mean(values) for values in r["records"][name]])
            for r in self.rows
            for name in r["records"]
        ]  # fmt: skip
        return pd.concat(tables, ignore_index=True)

    def plot(self, metric: str | None = None, x: str = "step") -> "Figure":
        """A metric over the course of the runs, a panel for each task: the mean over seeds, and their range;
        over steps, or over another metric such as "seconds"."""
        from relaysim import plot

        return plot.comparison(self.curves, metric or self.metric, x=x)

    def to_latex(self) -> str:
        """The summary as a LaTeX table: a row a method, a column a task, mean ± deviation."""
        s = self.summary
        tasks, cells = list(dict.fromkeys(s.task)), s.set_index(["method", "task"])
        lines = [" & ".join(["method", *tasks]) + r" \\", r"\midrule"]
        for method in dict.fromkeys(s.method):
            at = [cells.loc[(method, task)] for task in tasks]
            told = ["diverges" if c.diverged else f"${c['mean']:.4g} \\pm {c.deviation:.2g}$" for c in at]
            lines.append(" & ".join([method, *told]) + r" \\")
        head = [rf"\begin{{tabular}}{{l{'r' * len(tasks)}}}", r"\toprule"]
        return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"]).replace("_", r"\_") + "\n"


def compare(
    methods: Mapping[str, Method],
    tasks: Mapping[str, Any],
    *,
    num_steps: Length,
    every: Length | None = None,
    seeds: int | Sequence[int] = 3,
    rates: Any = None,
    metric: str,
    mode: str = "max",
    until: Callable[[dict[str, Array]], Array] | None = None,
    network: Network | None = None,
    out: Path | str | None = None,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Comparison:
    """Run every method on every task with every seed, at a learning rate found for each method and task.

    >>> import optax, relaysim as rs
    >>> ring, chain = rs.topology.ring(8), rs.topology.chain(8)
    >>> found = compare(
    ...     {"D-PSGD": lambda task, rate: rs.dpsgd(task.grad, rs.gossip(ring), optax.sgd(rate)),
    ...      "RelaySGD": lambda task, rate: rs.relaysgd(task.grad, rs.relay_sum(chain), optax.sgd(rate))},
    ...     {"ζ² = 1": lambda seed: rs.tasks.random_quadratics(jax.random.key(seed), 8, 5, zeta2=1.0)},
    ...     num_steps=100, seeds=2, metric="suboptimality", mode="min", progress=False)
    >>> found.summary.sort_values("mean").method.tolist()
    ['RelaySGD', 'D-PSGD']

    Args:
      methods: name -> (task, learning rate) -> method.
      tasks: name -> (seed -> task), or name -> a task that is the same for all seeds. A task has `init(key)`
        and `measure(params)`. Where it has `held_back()`, which gives the same task with test data out of its
        training data, the search takes that.
      num_steps: of each run, or a function of the task that tells.
      every: steps between records, likewise; if None a hundredth of the run, or the next divisor of it.
      seeds: how many (0, 1, …), or which. A seed fixes the task, the first models and all that is random.
      rates: a `search` (the default), rates to choose from in the same way, one rate for all, or rates known
        before, by method or by (task, method).
      metric: the name of what `measure` returns, () or (n,), whose mean over workers is to be best
        at the end.
      mode: "max" or "min", which is best.
      until: stops runs early, see `simulate`.
      network: records "seconds" and "waited" too, see `simulate`.
      out: a folder that each run is written to when it is done. The same call goes on from there after an
        interruption, also with more seeds; other settings are refused. That the functions are the same is up
        to the caller.
      about: what else should be written down with the settings and be the same, names and numbers.
      progress: show a bar of the runs that are done, those of the searches too, and which is going on.

    The seeds of a method on a task are one program where their tasks can be stacked; large models, which
    tasks compute one after the other, are run one by one. Each method is compiled once for all tasks of the
    same shapes. A run that diverges has NaN in the table, and is warned of.

    Raises:
      ValueError: where an argument does not fit, or the folder holds a comparison with other settings.
    """
    _check(methods, tasks, metric, mode)
    _check_options(num_steps, every, until, network, out, progress)
    seeds = _seeds(range(check_count("seeds", seeds)) if isinstance(seeds, int) else seeds)
    how, known = _rates(rates, methods, tasks)
    names: dict[str, Any] = {"methods": list(methods), "tasks": list(tasks), "metric": metric, "mode": mode}
    settings = names | dict(about or {})
    lengths = {"num_steps": num_steps, "every": every}
    settings |= {name: value for name, value in lengths.items() if not callable(value)}
    settings |= {"network": repr(network)} if network else {}
    settings["rates"] = [[*key, rate] for key, rate in known.items()] if known else how._asdict()
    kept = Kept(out, settings)
    draw = functools.cache(lambda task, seed: _drawn(tasks[task], seed))

    def study(name: str) -> dict[str, float]:
        train, found = _trainer(methods[name], num_steps, every, until, network), {}
        for task in tasks:
            cell = _Cell(kept, metric, mode, train, functools.partial(draw, task), task, name, bar)
            found[task] = known[task, name] if known else _climb(cell, how)
            cell.run(found[task], seeds)
            bar.update(len(seeds))
        return found

    with tqdm(total=len(methods) * len(tasks) * len(seeds), disable=not progress, unit="run") as bar:
        found = dict(zip(methods, side_by_side(study, methods), strict=True))
    chosen = {(task, name): found[name][task] for task, name in product(tasks, methods)}
    rows: list[Any] = [
        kept.find(kind="run", task=task, method=name, seed=seed, learning_rate=rate)
        for (task, name), rate in chosen.items()
        for seed in seeds
    ]
    trials = [row for row in kept.rows if row["kind"] == "trial"]
    places = {cell: i for i, cell in enumerate(chosen)}
    trials.sort(key=lambda row: (places[row["task"], row["method"]], row["learning_rate"]))
    _warn([row for row in rows if row["diverged"] >= 0], len(rows))
    return Comparison(metric, mode, rows, chosen, trials)


class _Cell(NamedTuple):
    """A method on a task."""

    kept: Kept
    metric: str
    mode: str
    train: Callable[[list, list, float], list[Trace]]
    draw: Callable[[int], Any]
    """seed -> task"""
    task: str
    method: str
    bar: Any
    """Of the runs, which says what is going on."""

    def run(self, rate: float, seeds: Sequence[int]) -> None:
        """The runs that are not there yet."""
        what = {"kind": "run", "task": self.task, "method": self.method, "learning_rate": rate}
        missing = [seed for seed in seeds if self.kept.find(**what, seed=seed) is None]
        self.bar.set_postfix_str(f"{self.method}, {self.task}")
        tasks = [self.draw(seed) for seed in missing]
        for seed, trace in zip(missing, self.train(tasks, missing, rate), strict=True):
            self.kept.add(**what, **self._told(seed, trace))

    def score(self, rate: float, seeds: Sequence[int]) -> float:
        """How good a rate is on data that are held back, the more the better; −∞ where a run diverges."""
        what = {"kind": "trial", "task": self.task, "method": self.method, "learning_rate": rate}
        row = self.kept.find(**what)
        if row is None:
            self.bar.set_postfix_str(f"{self.method}, {self.task}: trying {rate:g}")
            self.bar.total += len(seeds)
            held = [
                task.held_back() if hasattr(task, "held_back") else task for task in map(self.draw, seeds)
            ]
            runs = [self._told(s, t) for s, t in zip(seeds, self.train(held, list(seeds), rate), strict=True)]
            value = float(np.mean([run[self.metric] for run in runs]))
            row = self.kept.add(**what, **{self.metric: value})
            self.bar.update(len(seeds))
        value = row[self.metric] if self.mode == "max" else -row[self.metric]
        return -math.inf if math.isnan(value) else value

    def _told(self, seed: int, trace: Trace) -> dict[str, Any]:
        """What a run comes to, in plain numbers."""
        at = [int(step) for step in trace.steps if step <= trace.num_steps]
        metrics = {
            name: np.asarray(v)[: len(at)] for name, v in trace.metrics.items() if np.ndim(v) in (1, 2)
        }
        check_choice("metric", self.metric, metrics)
        if trace.divergence:
            metrics = {name: np.append(v[:-1], v[-1:] * np.nan, axis=0) for name, v in metrics.items()}
        end = {name: float(v[-1].mean()) for name, v in metrics.items()}
        end["worst"] = float((np.min if self.mode == "max" else np.max)(metrics[self.metric][-1]))
        with np.errstate(all="ignore"):  # of runs that diverge
            records = {k: v if k == self.metric or v.ndim == 1 else v.mean(1) for k, v in metrics.items()}
        step, worker = (int(number) for number in trace.divergence)
        told = {"seed": int(seed), "steps": at[-1], "diverged": step, "worker": worker, **end}
        return {**told, "at": at, "records": {name: values.tolist() for name, values in records.items()}}


def _climb(cell: _Cell, how: Search) -> float:
    start = how.start[cell.method] if isinstance(how.start, Mapping) else how.start
    scores: dict[float, float] = {rate: cell.score(rate, how.seeds) for rate in how.grid}

    def at(power: int) -> float:
        rate = start * 2.0**power
        if rate not in scores:
            scores[rate] = cell.score(rate, how.seeds)
        return scores[rate]

    best = 0
    while not how.grid and at(best) == -math.inf and best > -30:
        best -= 1
    while not how.grid and any(at(best + step) > at(best) for step in (1, -1)):
        best += 1 if at(best + 1) > at(best) else -1
    return _smallest_good(scores, how.margin)


def _smallest_good(scores: Mapping[float, float], margin: float) -> float:
    """The smallest rate whose score is within a share of the best."""
    best = max(scores.values())
    return min(
        rate for rate, score in scores.items() if best == -math.inf or score >= best - margin * abs(best)
    )


def _trainer(
    method: Method, num_steps: Length, every: Length | None, until: Any, network: Network | None
) -> Callable[[list, list, float], list[Trace]]:
    """(tasks, seeds, learning rate) -> traces."""

    def one(task: Any, params: Any, key: Key, rate: Any, steps: int, gap: int) -> Trace:
        trace = simulate(
            key,
            method(task, rate),
            params,
            num_steps=steps,
            every=gap,
            measure=task.measure,
            until=until,
            network=network,
        )
        return trace._replace(params=None, state=None)

    compiled = jax.jit(one, static_argnums=(4, 5))
    together = jax.jit(
        lambda *args: jax.vmap(lambda task, x, key: one(task, x, key, *args[3:]))(*args[:3]),
        static_argnums=(4, 5),
    )
    init = jax.jit(lambda task, key: task.init(key))
    init_all = jax.jit(jax.vmap(lambda task, key: task.init(key)))

    def train(tasks: list, seeds: list, rate: float) -> list[Trace]:
        if not tasks:
            return []
        keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
        lengths = [_lengths(task, num_steps, every) for task in tasks]
        if len(tasks) > 1 and len(set(lengths)) == 1 and _alike(tasks):
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
            key = jnp.stack(keys)
            traces = together(stacked, init_all(stacked, key[:, 0]), key[:, 1], rate, *lengths[0])
            return [jax.tree.map(lambda v, i=i: v[i], jax.device_get(traces)) for i in range(len(tasks))]
        return [
            jax.device_get(
                compiled(task, init(task, key[0]), key[1], rate, *length)
                if _is_pytree(task)
                else one(task, task.init(key[0]), key[1], rate, *length)
            )
            for task, key, length in zip(tasks, keys, lengths, strict=True)
        ]

    return train


def _lengths(task: Any, num_steps: Length, every: Length | None) -> tuple[int, int]:
    steps = num_steps(task) if callable(num_steps) else num_steps
    gap = every(task) if callable(every) else every
    steps = check_count("num_steps", steps)
    if gap is None:
        gap = next(size for size in range(max(steps // 100, 1), steps + 1) if steps % size == 0)
    return steps, check_count("every", gap)


def _is_pytree(task: Any) -> bool:
    leaves = jax.tree.leaves(task)
    return bool(leaves) and all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)


def _alike(tasks: list) -> bool:
    """Whether tasks can be stacked, and want to: not those that compute their workers one after the other."""
    if not all(map(_is_pytree, tasks)) or any(
        getattr(t, "group", math.inf) < getattr(t, "num_workers", 0) for t in tasks
    ):
        return False
    return (
        len({(jax.tree.structure(t), tuple((x.shape, x.dtype) for x in jax.tree.leaves(t))) for t in tasks})
        == 1
    )


def _drawn(task: Any, seed: int) -> Any:
    is_task = hasattr(task, "measure") and not isinstance(task, type)
    drawn = task(seed) if callable(task) and not is_task else task
    for name in ("init", "measure"):
        if not callable(getattr(drawn, name, None)):
            what = f"tasks holds {shown(drawn)}, which has no {name}"
            raise ValueError(f"{what}: expected a task or seed -> task")
    return drawn


def _rates(rates: Any, methods: Mapping, tasks: Mapping) -> tuple[Search, dict[tuple[str, str], float]]:
    """How to search, and the rates that are known; one of the two counts."""
    if rates is None or isinstance(rates, Search):
        how = rates or search()
        missing = sorted(set(methods) - set(how.start)) if isinstance(how.start, Mapping) else []
        if missing:
            raise ValueError(f"start lacks a rate for {missing[0]!r}, expected one for each method")
        return how, {}
    cells = list(product(tasks, methods))
    if isinstance(rates, Mapping):
        for task, name in cells:
            if (task, name) not in rates and name not in rates:
                raise ValueError(f"rates lacks the learning rate of {name!r} on {task!r}, expected all")
        known = {(t, m): rates[t, m] if (t, m) in rates else rates[m] for t, m in cells}
    elif isinstance(rates, list | tuple | np.ndarray | jax.Array) and np.size(rates) and np.ndim(rates):
        return search(grid=_grid("rates", rates)), {}
    else:
        known = dict.fromkeys(cells, rates)
    return search(), {cell: check_number("rates", rate, 0, math.inf, "()") for cell, rate in known.items()}


def _grid(name: str, rates: Any) -> tuple[float, ...]:
    """Rates to choose from."""
    if isinstance(rates, str | Mapping) or not np.iterable(rates):
        raise ValueError(f"{name} is {shown(rates)}, expected learning rates")
    return tuple(check_number(name, rate, 0, math.inf, "()") for rate in rates)


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, str) or not np.iterable(seeds):
        raise ValueError(f"seeds is {shown(seeds)}, expected a number of them, or the seeds")
    chosen = tuple(check_count("seeds", seed, 0) for seed in seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds is {shown(seeds)}, expected one or more, all different")
    return chosen


def _check(methods: Any, tasks: Any, metric: Any, mode: Any) -> None:
    for name, given, what in (("methods", methods, "(task, rate) -> method"), ("tasks", tasks, "task")):
        if not isinstance(given, Mapping) or not given or not all(isinstance(key, str) for key in given):
            raise ValueError(f"{name} is {shown(given)}, expected a dict from names to {what}")
    for name, method in methods.items():
        check_function(f"methods[{name!r}]", method, "(task, rate) -> method")
    if not isinstance(metric, str):
        raise ValueError(f"metric is {shown(metric)}, expected the name of what tasks measure")
    check_choice("mode", mode, ("max", "min"))


def _check_options(num_steps: Any, every: Any, until: Any, network: Any, out: Any, progress: Any) -> None:
    if not callable(num_steps):
        check_count("num_steps", num_steps)
    if every is not None and not callable(every):
        check_count("every", every)
    if until is not None:
        check_function("until", until, "of a record")
    if network is not None and not isinstance(network, Network):
        raise ValueError(f"network is {shown(network)}, expected one such as rs.timing.wan()")
    if out is not None:
        check_path("out", out)
    check_bool("progress", progress)


def _warn(broken: list[dict[str, Any]], runs: int) -> None:
    if broken:
        first = broken[0]
        where = f"{first['method']} on {first['task']} with seed {first['seed']}"
        warnings.warn(
            f"{len(broken)} of {runs} runs diverged, the first {where}: "
            f"worker {first['worker']} is not finite after step {first['diverged']}",
            stacklevel=3,
        )
