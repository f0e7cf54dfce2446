"""The command line: `relaysim --help`."""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

import click

_PAPER = "relaysim.papers.relaysum"
_FIGURES = {name: f"{_PAPER}.figure{name}" for name in ("2", "3", "5", "6", "9")}
_FIGURES |= dict.fromkeys(("7", "8", "10"), f"{_PAPER}.heterogeneity")
STUDIES = ("adversaries", "btpp", "churn", "compressed", "rates", "scaling", "seconds", "stragglers")
_TABLES = ("2", "topologies", "4", "5", "scaling")


@click.group(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="relaysim")
def app() -> None:
    """Decentralized learning of many workers, simulated in one jitted program."""


def _one_line(command: Callable) -> Callable:
    """What goes wrong in a command is one line, and so is being stopped."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except (ValueError, MemoryError, OSError, OverflowError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as stop:
            click.echo(f"Stopped: {str(stop).replace('resume=True', '--resume') or 'interrupted'}", err=True)
            raise SystemExit(128 + int(getattr(stop, "signal", 2))) from stop

    return run


def _out(default: str) -> Callable:
    """The option --out, a folder that is made and tried before anything else."""

    def made(context: click.Context, option: click.Parameter, folder: Path) -> Path:
        try:
            new = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise click.BadParameter(f"{folder} cannot be written to: {error.strerror}") from error
        context.call_on_close(lambda: _remove_empty(new))
        return folder

    kind = click.Path(path_type=Path)
    return click.option("--out", type=kind, default=default, callback=made, help="Folder for the results.")


def _remove_empty(folders: list[Path]) -> None:
    """Those that nothing was written to, the innermost first."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@app.command()
@_out("out/demo")
@click.option("--seeds", type=click.IntRange(1), default=3, help="How many seeds.")
@click.option("--search", is_flag=True, help="Search the learning rates again instead.")
@_one_line
def demo(out: Path, seeds: int, search: bool) -> None:
    """RelaySGD and its rivals on handwritten digits, dealt out unevenly to 16 workers."""
    from relaysim import plot
    from relaysim.studies import demo as demos

    if search:
        found = demos.search()
        tried = found.pivot(index="method", columns="learning_rate", values="accuracy")
        click.echo(tried.round(3).to_string())
        return
    runs = demos.run(seeds)
    click.echo(demos.table(runs).to_string())
    click.echo(f"\n{plot.save(demos.picture(runs), out / 'demo.png')}")


def find_study(name: str) -> Any:
    """Of a figure: what has `run` and `picture`, a module or one of several in it."""
    module = import_module(_FIGURES[name])
    return getattr(module, f"FIGURE_{name}", module)


@app.command()
@click.argument("name", type=click.Choice(list(_FIGURES)))
@_out("out")
@click.option("--smoke", is_flag=True, help="Few and small problems, in seconds.")
@click.option("--seeds", type=click.IntRange(1), help="Of figure 2: problems of each kind, 10 by default.")
@click.option(
    "--published",
    type=click.Path(path_type=Path),
    help="Of figure 2: check the published rows in this folder.",
)
@_one_line
def figure(name: str, out: Path, smoke: bool, seeds: int | None, published: Path | None) -> None:
    """A figure of the RelaySum paper, as a tidy table and a picture."""
    from relaysim import io, plot

    if name != "2" and (seeds or published):
        raise click.UsageError("--seeds and --published are for figure 2")
    study = find_study(name)
    if published:
        raise SystemExit(0 if study.check(published) else 1)
    table = study.run(smoke, **({"seeds": seeds} if seeds else {}))
    click.echo(io.save_table(table, out / f"figure{name}.csv"))
    click.echo(plot.save(study.picture(table), out / f"figure{name}.png"))


@app.command()
@click.argument("name", type=click.Choice(STUDIES))
@_out("out/study")
@click.option("--smoke", is_flag=True, help="Few and small problems.")
@_one_line
def study(name: str, out: Path, smoke: bool) -> None:
    """A study of our own, as a tidy table and a picture: liars (adversaries), the public comparison of B-ary
    tree push-pull with RelaySGD (btpp), workers that come and go (churn), compressed relays (compressed),
    predicted rates beside measured ones (rates), many workers (scaling), seconds to accuracy (seconds), how
    one slow step spreads (stragglers)."""
    from relaysim import io, plot
    from relaysim.compare import Comparison

    module = import_module(f"relaysim.studies.{name}")
    found = module.run(smoke)
    table = found.summary if isinstance(found, Comparison) else found
    click.echo(io.save_table(table, out / f"{name}.csv"))
    click.echo(plot.save(module.picture(found), out / f"{name}.png"))


@app.command()
@click.argument("name", type=click.Choice(_TABLES))
@click.option("--data", help="A data set; Fashion-MNIST by default, texts for table 4.")
@click.option("--folder", help="Where the files of the data are.")
@click.option("--epochs", type=click.IntRange(1, 10**6), help="Of each run; 3 by default, 12 of table 4.")
@click.option(
    "--workers", type=click.IntRange(2), multiple=True, help="How many; 16 by default. Can be given again."
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Dirichlet α, by default those of the table. Can be given again.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, help="Runs of each kind.")
@click.option("--search", is_flag=True, help="Search the learning rates for these data first.")
@click.option("--paper", is_flag=True, help="The paper's own: VGG-11 on CIFAR-10 for 200 epochs (on a GPU).")
@_out("out")
@_one_line
def table(
    name: str,
    data: str | None,
    folder: str | None,
    epochs: int | None,
    workers: tuple[int, ...],
    alpha: tuple[float, ...],
    seeds: int,
    search: bool,
    paper: bool,
    out: Path,
) -> None:
    """A table of the RelaySum paper on deep learning, its numbers beside ours.

    Each run is written down when it is done: started again, the command goes on from there.
    """
    from relaysim import io, plot
    from relaysim.papers.relaysum import tables

    chosen = tables.TABLES[name]
    chosen = chosen._replace(alphas=alpha or chosen.alphas, workers=workers or chosen.workers)
    rates: Any = tables.searched(chosen) if search else tables.RATES
    if paper:
        given = [
            option for option, value in (("data", data), ("epochs", epochs), ("workers", workers)) if value
        ]
        if given:
            raise click.UsageError(f"--paper fixes the {given[0]}: leave out --{given[0]}")
        if name == "4":
            raise click.UsageError("--paper is for images: table 4 is of texts")
        setting, rates = tables.full(folder), rates if search else tables.PAPER_RATES
    else:
        setting = tables.small(data or chosen.data, folder, epochs or chosen.epochs)
    runs = tables.run(chosen, setting, seeds=seeds, rates=rates, out=out / f"table{name}")
    click.echo(tables.summary(chosen, runs).to_string())
    click.echo(io.save_table(runs, out / f"table{name}.csv"))
    click.echo(plot.save(tables.picture(chosen, runs), out / f"table{name}.png"))


def _settings(*without: str) -> Callable:
    """An option for each field of the settings but those."""
    from relaysim.training import Settings

    def options(command: Callable) -> Callable:
        for field in reversed(fields(Settings)):
            if field.name in without:
                continue
            kind: Any = next(iter(get_args(field.type)), field.type)  # of X | None and tuple[X, ...], X
            if field.metadata["choices"] is not None:
                kind = click.Choice(list(field.metadata["choices"]))
            command = click.option(
                "--" + field.name.replace("_", "-"),
                type=kind,
                is_flag=kind is bool,
                multiple=get_origin(field.type) is tuple,
                default=field.default,
                help=field.metadata["help"],
            )(command)
        return command

    return options


@app.command()
@_settings()
@_out("out/train")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    help="Steps between checkpoints, a multiple of --every. None by default.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoints under --out.")
@_one_line
def train(out: Path, checkpoint_every: int | None, resume: bool, **options: Any) -> None:
    """Train one method; write a tidy table of records, the settings and a picture."""
    from relaysim import training
    from relaysim.checkpoint import Checkpoint

    if resume and not checkpoint_every:
        raise click.UsageError("--resume needs --checkpoint-every")
    folder, settings = out / "checkpoints", training.Settings(**options)
    if (out / "records.csv").exists() and not resume:
        with_checkpoints = ", or to go on with --resume" if folder.exists() else ""
        raise ValueError(
            f"out is {out}, which holds a run already: expected another folder{with_checkpoints}"
        )
    checkpoint = Checkpoint(folder, checkpoint_every, resume) if checkpoint_every else None
    traces = training.train(settings, progress=True, checkpoint=checkpoint)
    for seed, trace in enumerate(traces):
        last = {name: values[-1] for name, values in trace.metrics.items()}
        click.echo(
            f"seed {seed}: test accuracy {100 * last['accuracy'].mean():.1f} % "
            f"({100 * last['accuracy'].min():.1f} to {100 * last['accuracy'].max():.1f}), "
            f"mean model {100 * last['mean_model_accuracy']:.1f} %, "
            f"consensus distance {last['consensus_distance']:.2e}, {last['bytes_sent'] / 1e6:.1f} MB a worker"
            + (f", {last['seconds'].max():.4g} s" if settings.network else "")
        )
    for path in training.save(settings, traces, out):
        click.echo(path)


@app.command()
@_settings("dataset", "folder", "seeds")
@click.option("--dataset", help="The data; by default what suits the model. Their files need not be there.")
@click.option("--on", help="Devices, which need not be there: cpu, h100, v5e:2x2, v5e:16x16, …")
@_one_line
def memory(dataset: str | None, on: str | None, **options: Any) -> None:
    """What a run of `train` would need on each device: compiled for it, but not run."""
    from relaysim import catalogue, platforms, training
    from relaysim.memory import human

    dataset = dataset or training.SUITED.get(options["model"], "digits")
    catalogue.choose("dataset", dataset, catalogue.DATASETS)
    needed = training.memory_needed(training.Settings(dataset=dataset, **options), on)
    click.echo(needed)
    if on and (there := platforms.memory_of(on)):
        fits = "fits" if needed.total <= there else "does not fit"
        click.echo(f"{fits} into {human(there)} of each device")


@app.command()
@click.option(
    "--method", "methods", multiple=True, required=True, help="A method of `train`. Give it again for more."
)
@_settings("method", "alpha", "learning_rate", "corrected", "seeds", "every", "down")
@click.option(
    "--alpha",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(0.1,),
    help="Dirichlet α, one or more.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, help="Runs of each kind.")
@click.option("--search", is_flag=True, help="Search each method's learning rate, from --learning-rate on.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), default=0.125, help="γ, of all methods."
)
@_out("out/compare")
@_one_line
def compare(
    methods: tuple[str, ...],
    alpha: tuple[float, ...],
    seeds: int,
    search: bool,
    learning_rate: float,
    out: Path,
    topology: str | None,
    momentum: float,
    **options: Any,
) -> None:
    """Compare methods, each at a learning rate of its own; go on where an interruption left off."""
    from relaysim import catalogue, io, plot, training
    from relaysim import compare as comparing
    from relaysim import search as searching

    entries = {name: catalogue.choose("method", name, catalogue.METHODS) for name in methods}
    shared = training.Settings(**options)
    of_method = {
        name: training.replace(
            shared,
            method=name,
            topology=topology if entry.topology else None,
            momentum=0.0 if entry.momentum else momentum,
            drop=0.0 if name == "allreduce" else shared.drop,
        )
        for name, entry in entries.items()
    }
    tasks = {f"α = {a:g}": training.task_of(training.replace(shared, alpha=a)) for a in alpha}
    found = comparing(
        {entries[name].label: training.method_of(settings) for name, settings in of_method.items()},
        tasks,
        num_steps=lambda task: training.steps_of(shared, task),
        every=functools.partial(training.epoch_of, shared) if shared.epochs else None,
        seeds=seeds,
        rates=searching(learning_rate) if search else learning_rate,
        metric="accuracy",
        out=out,
        network=training.network_of(shared),
        about={**training.asdict(shared), "momentum": momentum, "topology": topology},
    )
    click.echo(found.summary.to_string(index=False))
    for name, rows in (("table", found.table), ("summary", found.summary), ("curves", found.curves)):
        click.echo(io.save_table(rows, out / f"{name}.csv"))
    along = "seconds" if shared.network else "step"
    click.echo(plot.save(found.plot(x=along), out / "comparison.png"))
