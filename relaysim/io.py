"""Traces as tidy tables, and files that are either whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from relaysim.checks import check_path, shown
from relaysim.simulate import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["save_table", "tidy", "unstack"]


def tidy(trace: Trace) -> "pd.DataFrame":
    """One number a row: columns step, metric, worker (missing where it is not one worker's) and value.

    Metrics (R,) are of the whole, metrics (R, n) are of each worker; other shapes are left out.

    >>> from relaysim import Divergence
    >>> run = Trace(np.array([5]), {"loss": np.ones((1, 2))}, np.ones((2, 3)), None, Divergence(-1, -1), 5)
    >>> tidy(run)
       step metric  worker  value
    0     5   loss       0    1.0
    1     5   loss       1    1.0

    Raises:
      ValueError: where the trace is of several runs (made under vmap).
    """
    import pandas as pd  # slow to import

    _check_trace("trace", trace)
    num_records, n = len(trace.steps), jax.tree.leaves(trace.params)[0].shape[0]
    if np.ndim(trace.divergence.step):
        raise ValueError("trace is of several runs, expected one: take trace i with rs.io.unstack(trace)[i]")
    tables = []
    for name, values in trace.metrics.items():
        values = np.asarray(values)
        if values.shape == (num_records,):
            tables.append(
                pd.DataFrame({"step": trace.steps, "metric": name, "worker": pd.NA, "value": values})
            )
        elif values.shape == (num_records, n):
            step, worker = np.repeat(trace.steps, n), np.tile(np.arange(n), num_records)
            tables.append(
                pd.DataFrame({"step": step, "metric": name, "worker": worker, "value": values.ravel()})
            )
    return pd.concat([table.astype({"worker": "Int64"}) for table in tables], ignore_index=True)


def unstack(traces: Trace) -> list[Trace]:
    """The traces of k runs that were made together by `jax.vmap`, one by one.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(3)), optax.sgd(0.1))
    >>> def run(key):
    ...     return rs.simulate(key, method, jax.random.normal(key, (3, 2)), num_steps=2)
    >>> traces = jax.vmap(run)(jax.random.split(jax.random.key(0), 2))
    >>> [trace.metrics["loss"].shape for trace in unstack(traces)]
    [(2, 3), (2, 3)]

    Raises:
      ValueError: where it is the trace of one run.
    """
    _check_trace("traces", traces)
    traces = jax.device_get(traces)
    if not np.ndim(traces.divergence.step):
        raise ValueError("traces is of one run, expected those of several from jax.vmap")
    k = len(traces.divergence.step)
    return [jax.tree.map(lambda x, i=i: x[i], traces) for i in range(k)]


def _check_trace(name: str, trace: Trace) -> None:
    if not isinstance(trace, Trace):
        raise ValueError(f"{name} is {shown(trace)}, expected a trace from rs.simulate")


def save_table(table: "pd.DataFrame", path: Path | str) -> Path:
    """Write a table as .csv, .md (Markdown), .tex (LaTeX, for booktabs) or .parquet, which needs pyarrow.

    >>> import pandas as pd
    >>> save_table(pd.DataFrame({"method": ["D²"], "steps": [3]}), "out/steps.md").read_text()
    '| method   |   steps |\\n|:---------|--------:|\\n| D²       |       3 |\\n'

    Raises:
      ValueError: for another ending.
      OSError: where it cannot be written.
    """
    path = check_path("path", path)
    if not hasattr(table, "to_csv"):
        raise ValueError(f"table is {shown(table)}, expected a table of pandas")
    writers = {
        ".csv": lambda p: table.to_csv(p, index=False),
        ".md": lambda p: p.write_text(table.to_markdown(index=False) + "\n"),
        ".parquet": lambda p: table.to_parquet(p, index=False),
        ".tex": lambda p: table.to_latex(p, index=False, escape=True, float_format="%.4g"),
    }
    if path.suffix not in writers:
        raise ValueError(f"path is {path}, expected an ending out of {', '.join(writers)}")
    with whole(path) as beside:
        writers[path.suffix](beside)
    return path


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when all is written, and goes if that fails.

    >>> with whole("out/note.txt") as beside:
    ...     _ = beside.write_text("all of it")
    >>> Path("out/note.txt").read_text()
    'all of it'

    Raises:
      OSError: where it cannot be written, in one line that names `path`.
    """
    path = Path(path)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # of what was never there
            beside.unlink()
