"""Many runs as one compiled program: every combination of learning rates, seeds and problems."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from tqdm.auto import tqdm

from relaysim import io
from relaysim.checks import check_bool, check_choice, check_count, check_function, shown
from relaysim.sharding import check_mesh, fetch
from relaysim.simulate import Trace

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    run: Callable[..., Trace | dict[str, Any]],
    *,
    together: int = 64,
    progress: bool = False,
    mesh: Mesh | None = None,
    **axes: Any,
) -> "pd.DataFrame":
    """Run every combination of the axes, side by side under vmap.

    Runs differ in what the axes say and in nothing else: with an axis of keys, all learning rates meet the
    same keys, which makes comparisons paired.

    >>> import optax, relaysim as rs
    >>> task, tree = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0), rs.topology.chain(8)
    >>> def run(learning_rate, key):
    ...     method = rs.relaysgd(task.grad, rs.relay_sum(tree), optax.sgd(learning_rate))
    ...     return rs.simulate(key, method, task.init(key), num_steps=100, every=50, measure=task.measure)
    >>> table = sweep(run, learning_rate=[0.1, 0.2, 0.4], key=jax.random.split(jax.random.key(1), 2))
    >>> best(table, "suboptimality", over="learning_rate").learning_rate.item()
    0.4

    Args:
      run: takes the axes by name and returns a trace, or a dict of scalars. Called inside the compiled
        program, where all that the axes hold is traced.
      together: how many runs go side by side, which bounds the memory.
      progress: show a bar.
      mesh: devices to deal the runs out to, such as `rs.sharding.mesh()`, `together` being rounded up to
        equally many runs on each. The runs' mixers then take no mesh.
      axes: a sequence of numbers, an array or a stacked pytree (such as tasks, from `tuning.stack`), each
        with its choices along the leading axis.

    Returns:
      A tidy table. For traces a row for each record and metric: the axes, step, metric, worker, value; for
      dicts a row for each run: the axes and the dict's entries. An axis of numbers stands with its values,
      others (keys, tasks) with the number of the choice. Where runs diverge a warning says how many, and
      which is the first.

    Raises:
      ValueError: where there is no axis, or one has no choices or holds strings, or `together` is not
        positive, or `mesh` is not of `AxisType.Auto`.
    """
    import pandas as pd  # slow to import

    check_function("run", run, "of the axes")
    check_count("together", together)
    check_bool("progress", progress)
    if not axes:
        raise ValueError("axes are missing, expected one or more such as learning_rate=[0.1, 0.2]")
    values = {name: _stacked(name, axis) for name, axis in axes.items()}
    sizes = {name: _size(name, axis) for name, axis in values.items()}
    places = np.array(list(itertools.product(*map(range, sizes.values()))))

    def run_all(values: dict[str, Any], places: Any) -> Any:
        def one(place: Any) -> Any:
            chosen = zip(sizes, place, strict=True)
            result = run(**{name: jax.tree.map(lambda v, i=i: v[i], values[name]) for name, i in chosen})
            return result._replace(state=()) if isinstance(result, Trace) else result

        return jax.vmap(one)(places)

    names = {name: _names(axis, sizes[name]) for name, axis in values.items()}
    together = min(together, len(places))
    if mesh is not None:
        check_mesh(mesh)
        over = P(mesh.axis_names)
        run_all = jax.shard_map(run_all, mesh=mesh, in_specs=(P(), over), out_specs=over, check_vma=False)
        together += -together % mesh.size
    run_all = jax.jit(run_all)
    tables, broken = [], []
    with tqdm(total=len(places), disable=not progress, unit="run") as bar:
        for first in range(0, len(places), together):
            here = places[first : first + together]
            padded = np.concatenate([here, np.repeat(here[-1:], together - len(here), axis=0)])
            results = fetch(run_all(values, padded))
            for i, place in enumerate(here):
                result = jax.tree.map(lambda v, i=i: v[i], results)
                labels = {name: names[name][k] for name, k in zip(sizes, place, strict=True)}
                if isinstance(result, Trace) and result.divergence:
                    broken.append((labels, result.divergence))
                table = io.tidy(result) if isinstance(result, Trace) else pd.DataFrame([result])
                tables.append(pd.DataFrame(labels, index=table.index).join(table))
            bar.update(len(here))
    if broken:
        labels, (step, worker) = broken[0]
        which = f"that of {labels}: worker {worker} is not finite after step {step}"
        warnings.warn(f"{len(broken)} of {len(places)} runs diverged, first {which}", stacklevel=2)
    return pd.concat(tables, ignore_index=True)


def best(
    table: "pd.DataFrame",
    metric: str,
    *,
    over: str | Sequence[str],
    within: str | Sequence[str] = (),
    highest: bool = False,
) -> "pd.DataFrame":
    """The best choice in a sweep of traces, by the mean of a metric at the last record.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"rate": [0.1, 0.2], "step": 9, "metric": "loss", "value": [3.0, 2.0]})
    >>> best(table, "loss", over="rate").rate.item()
    0.2

    Args:
      table: from `sweep`.
      metric: the name of a metric.
      over: the axes to choose from. The metric is averaged over all other axes and the workers; a choice with
        a number that is not finite cannot be the best.
      within: axes to choose apart for, such as "task".
      highest: whether more is better.

    Returns:
      A row for each combination of `within`: the best choice of `over`, and its mean as the column `metric`.

    Raises:
      ValueError: where the table does not hold the metric or an axis.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame) or not {"step", "metric", "value"} <= set(table.columns):
        raise ValueError(f"table is {shown(table)}, expected one of traces from rs.sweep")
    axes = [name for name in table.columns if name not in ("step", "metric", "worker", "value")]
    over, within = _chosen("over", over, axes), _chosen("within", within, axes)
    if not over:
        raise ValueError(f"over is empty, expected one or more of {', '.join(axes)}")
    check_choice("metric", metric, sorted(set(table["metric"])))
    check_bool("highest", highest)
    last = table[(table["metric"] == metric) & (table["step"] == table["step"].max())]
    means = (
        last.groupby([*within, *over])["value"].agg(lambda v: v.mean(skipna=False)).reset_index(name=metric)
    )
    means = means.replace({metric: [np.inf, -np.inf, np.nan]}, -np.inf if highest else np.inf)
    ranked = means.sort_values(metric, ascending=not highest, kind="stable")
    return (ranked.groupby(within, sort=True).head(1) if within else ranked.head(1)).reset_index(drop=True)


def _chosen(name: str, axes: Any, known: list[str]) -> list[str]:
    """One or more axes, as a list."""
    chosen = axes if isinstance(axes, list | tuple) else [axes]
    return [check_choice(name, axis, known) for axis in chosen]


def _stacked(name: str, axis: Any) -> Any:
    """The axis with arrays of jax for its leaves."""
    try:
        axis = np.asarray(axis) if isinstance(axis, list | tuple | range | str) else axis
        return jax.tree.map(jnp.asarray, axis)
    except (TypeError, ValueError, OverflowError):
        expected = "numbers, an array or a stacked pytree"
        raise ValueError(f"{name} is {shown(axis)}, expected {expected}") from None


def _size(name: str, axis: Any) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(axis)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(
            f"{name} has leading axes {sorted(sizes)}, expected one or more choices along one axis"
        )
    return sizes.pop()[0]


def _names(axis: Any, size: int) -> list:
    others = jax.dtypes.prng_key, jnp.complexfloating
    numbers = isinstance(axis, jax.Array) and axis.ndim == 1
    numbers = numbers and not any(jnp.issubdtype(axis.dtype, kind) for kind in others)
    return [round(v, 7) for v in axis.tolist()] if numbers else list(range(size))
