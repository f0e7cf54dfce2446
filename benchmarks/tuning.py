"""The published searches on published rows, against their plain NumPy twin, in one run.

python -m benchmarks.tuning
"""

import os
import platform
import time
from pathlib import Path

import jax
import numpy as np

from relaysim.experiments import figure2
from tests import published_tuner

ROWS = Path(__file__).parent.parent / "tests" / "reference"


def main():
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    rows, _ = figure2.read(ROWS)
    start = time.perf_counter()
    figure2.check(ROWS, progress=False)
    ours = time.perf_counter() - start
    with np.load(ROWS / "quadratics.npz", allow_pickle=False) as arrays:
        start = time.perf_counter()
        for row in rows.itertuples():
            published_tuner.tune(row, *(arrays[f"{row.problem}/{part}"] for part in ("A", "b", "x_star")))
        twin = time.perf_counter() - start
    print(f"{len(rows)} rows: {ours:.1f} s with compilation, the twin {twin:.1f} s, {twin / ours:.1f}x")


if __name__ == "__main__":
    main()
