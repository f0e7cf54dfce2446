"""Measures relaysim: `python -m benchmarks --help`."""

import sys
import time
from pathlib import Path

import click
import matplotlib
import pandas as pd

from benchmarks import (
    asynchronous,
    compiled,
    compiling,
    cost,
    devices,
    floor,
    folded,
    gradients,
    loops,
    methods,
    precision,
    stacked,
    tuning,
)
from benchmarks.timing import machine
from relaysim import io, plot
from relaysim.platforms import NotInstalled

BENCHMARKS = {
    "floor": floor,
    "loops": loops,
    "folded": folded,
    "devices": devices,
    "cost": cost,
    "compiling": compiling,
    "precision": precision,
    "tuning": tuning,
    "stacked": stacked,
    "asynchronous": asynchronous,
    "methods": methods,
    "compiled": compiled,
    "gradients": gradients,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--out", default="out/bench", show_default=True, type=click.Path(path_type=Path))
@click.option("--smoke", is_flag=True, help="Small sizes and one round: whether it runs, not how fast.")
@click.option(
    "--torch-python",
    default=sys.executable,
    envvar="TORCH_PYTHON",
    help="Who runs the PyTorch loop of `loops`; by default this Python.",
)
@click.option(
    "--platform", type=click.Choice(list(compiled.ONE)), help="What `compiled` compiles for; all by default."
)
@click.option("--topology", help="Its devices instead: h100, or a grid of TPUs such as v5e:16x16.")
def main(
    names: tuple[str, ...],
    out: Path,
    smoke: bool,
    torch_python: str,
    platform: str | None,
    topology: str | None,
) -> None:
    """Measure the benchmarks NAMES (all, if none is named), and write a table and a picture of each."""
    matplotlib.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    print(machine(), flush=True)
    with io.whole(out / "machine.txt") as beside:
        beside.write_text(machine() + "\n")
    options = {
        "loops": {"torch_python": torch_python},
        "compiled": {"platform": platform, "topology": topology},
    }
    for name in names or BENCHMARKS:
        start = time.perf_counter()
        try:
            table = BENCHMARKS[name].run(smoke, **options.get(name, {}))
        except NotInstalled as missing:
            if names:
                raise click.ClickException(str(missing)) from missing
            print(f"\n{name} is left out: {missing}", flush=True)
            continue
        print(f"\n{name}, {time.perf_counter() - start:.0f} s")
        with pd.option_context("display.width", 160, "display.float_format", "{:.4g}".format):
            print(table.drop(columns="benchmark").to_string(index=False), flush=True)
        io.save_table(table, out / f"{name}.csv")
        plot.save(BENCHMARKS[name].picture(table), out / f"{name}.png")


if __name__ == "__main__":
    main()
