"""What got worse between two result files: `python -m benchmarks.compare OLD.csv NEW.csv`."""

import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd

from benchmarks import compiled, gradients
from benchmarks.timing import COLUMNS

KEY = ["benchmark", "case", "n", "d", "metric", "better"]
NOISY, EXACT = 1.25, 1.01
"""Factors that are let pass by default: of what is timed, and of what is counted in compiled programs."""


def read(path: Path) -> pd.DataFrame:
    """
    Raises:
      ValueError: where the columns are not those of a benchmark's table, or a number is there twice.
    """
    table = pd.read_csv(path)
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}, expected {', '.join(COLUMNS)}")
    if (twice := table.duplicated(KEY)).any():
        raise ValueError(f"{path} has two rows for {', '.join(map(str, table.loc[twice, KEY].iloc[0]))}")
    return table


def worse(old: pd.DataFrame, new: pd.DataFrame, tolerance: float | None = None) -> pd.DataFrame:
    """The numbers in both tables that got worse by more than a factor, NOISY or EXACT by default, with their
    `factor`.

    And that lie outside of what they spread over before: the best of the new rounds is worse than the
    worst of the old ones. What is in one of the tables alone is not compared.
    """
    both = old.merge(new, on=KEY, suffixes=("_old", "_new"))
    lower = both.better == "lower"
    up, down = both.median_new / both.median_old, both.median_old / both.median_new
    both["factor"] = up.where(lower, down)
    apart = (both.low_new > both.high_old).where(lower, both.high_new < both.low_old)
    counted = both.benchmark.isin([compiled.NAME, gradients.NAME]) & (both.metric != compiled.TOOK)
    tolerated = np.where(counted, EXACT, NOISY) if tolerance is None else tolerance
    return both[(both.factor > tolerated) & apart].sort_values("factor", ascending=False)


@click.command()
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=1),
    help=f"A factor. By default {EXACT} for what is counted in compiled programs, {NOISY} for the rest.",
)
def main(old: Path, new: Path, tolerance: float | None) -> None:
    """Print what is worse in NEW.csv than in OLD.csv; exit with 1 where anything is.

    And with 2 where the two files cannot be compared.
    """
    try:
        before, after = read(old), read(new)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    found = worse(before, after, tolerance)
    shared = len(before.merge(after, on=KEY))
    if not shared:
        raise click.UsageError(f"{old} and {new} have no number in common")
    columns = ["benchmark", "case", "n", "d", "metric", "median_old", "median_new", "factor"]
    if len(found):
        print(found[columns].to_string(index=False, float_format="{:.4g}".format))
    limit = f"{tolerance:g} times" if tolerance else "is tolerated"
    print(f"{len(found)} of {shared} numbers are worse by more than {limit}")
    sys.exit(len(found) > 0)


if __name__ == "__main__":
    main()
