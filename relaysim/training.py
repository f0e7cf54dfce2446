"""One method on one data set, by the names of the catalogue: what `relaysim train` and the tables run."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from relaysim import catalogue, faults, io, recipe
from relaysim.checkpoint import Checkpoint, check_same
from relaysim.checks import check_number
from relaysim.memory import Memory
from relaysim.sharding import check_mesh, described, mesh
from relaysim.simulate import Trace, estimate_memory, simulate
from relaysim.tasks import Dataset, Supervised, augment, classification
from relaysim.timing import Network
from relaysim.topology import Topology, learning_rate_correction
from relaysim.types import Algorithm, Mixer


def _field(default: Any, text: str, choices: dict[str, Any] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What fixes a training run.

    Without steps and epochs there are 200 steps. Records are 10 steps apart, with epochs an epoch.
    """

    dataset: str = _field("digits", "The data that the workers share out.", catalogue.DATASETS)
    folder: str | None = _field(
        None, "The folder of its files; by default below $RELAYSIM_DATA, or where Debian's packages put it."
    )
    partition: str = _field(
        "dirichlet",
        "How: by Dirichlet proportions of labels (in equal shares, or as they fall), evenly, or by shards "
        "of sorted labels.",
        catalogue.PARTITIONS,
    )
    alpha: float = _field(0.1, "Dirichlet α: the smaller, the more the workers differ.")
    workers: int = _field(16, "How many workers.")
    model: str = _field(
        "mlp",
        "What each worker trains. vgg11 needs images of 32 × 32 pixels, transformer texts.",
        catalogue.MODELS,
    )
    augment: bool = _field(
        False, "Shift each training image at random, and mirror it or not; digits are never mirrored."
    )
    topology: str | None = _field(
        None,
        "Who talks to whom. By default what suits the method; relaysgd needs trees.",
        catalogue.TOPOLOGIES,
    )
    method: str = _field("relaysgd", "How they learn together.", catalogue.METHODS)
    optimizer: str = _field(
        "sgd",
        "How each worker makes a step from its gradient; rms is Adam without momentum.",
        catalogue.OPTIMIZERS,
    )
    learning_rate: float = _field(0.1, "γ.")
    corrected: bool = _field(
        False, "For relaysgd: γ times the mean of max(distance, 1) over all pairs of workers in the tree."
    )
    momentum: float = _field(0.0, "Nesterov momentum of sgd, β₁ of adam.")
    weight_decay: float = _field(0.0, "Of sgd a part of the gradient, of adam apart from it (AdamW).")
    batch_size: int = _field(32, "Samples in each worker's batch.")
    steps: int | None = _field(None, "Steps of every worker, a multiple of --every. 200 by default.")
    epochs: int | None = _field(
        None, "Instead of --steps: how often the workers go through their samples, on average."
    )
    warmup: float = _field(0.0, "Epochs in which γ is reached, linearly.")
    milestones: tuple[float, ...] = _field(
        (), "A fraction of the run, after which γ is a tenth. Can be given again."
    )
    every: int | None = _field(None, "Steps between records. 10 by default, with --epochs an epoch.")
    seeds: int = _field(1, "Runs, with the seeds 0, 1, …")
    group: int | None = _field(
        None,
        "How many workers are computed at once. By default 1 (CPUs) or 64 (GPUs) for convolutions, or all.",
    )
    drop: float = _field(0.0, "The probability that a message is lost.")
    burst: float = _field(0.0, "Lose messages in bursts of this mean length on each link; 0: each by itself.")
    down: tuple[str, ...] = _field(
        (), "WORKER:FIRST:LAST, a worker that is down from one step to before another. Can be given again."
    )

    network: str | None = _field(
        None,
        "Record how long it takes on a network; gcp and aws spread the workers over regions.",
        catalogue.NETWORKS,
    )
    compute: float = _field(0.1, "With --network: seconds that a gradient takes.")
    timeout: float = _field(1.0, "With --network: seconds that a lost message is waited for.")

    def __post_init__(self) -> None:
        for option in fields(self):
            choices, value = option.metadata["choices"], getattr(self, option.name)
            if choices is not None and value is not None and option.name != "topology":
                catalogue.choose(option.name, value, choices)
        if self.folder is not None and self.dataset in catalogue.WITHOUT_FILES:
            came = "digits come with scikit-learn" if self.dataset == "digits" else f"{self.dataset} are made"
            raise ValueError(f"folder is {self.folder!r}, but {came}, from no folder")
        method = catalogue.METHODS[self.method]
        if self.topology is None:
            object.__setattr__(self, "topology", method.topology)
        elif method.topology:
            catalogue.choose("topology", self.topology, catalogue.TOPOLOGIES)
        elif self.topology:
            raise ValueError(f"topology is {self.topology!r}, but {self.method} takes none")
        check_number("learning_rate", self.learning_rate, 0, math.inf, "()")
        if self.corrected and self.method != "relaysgd":
            raise ValueError(f"corrected is for relaysgd, but method is {self.method!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}, expected a number in [0, 1)")
        if self.momentum and method.momentum:
            raise ValueError(
                f"momentum is {self.momentum}, but {self.method} is a momentum already: expected 0"
            )
        for name in ("weight_decay", "warmup", "compute", "timeout"):
            if not 0 <= getattr(self, name) <= 1e9:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number from 0 to 1e9")
        if not all(0 < part < 1 for part in self.milestones):
            raise ValueError(f"milestones is {self.milestones}, expected fractions of the run, in (0, 1)")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs}, expected one of them alone")
        if self.epochs is None:
            object.__setattr__(self, "steps", 200 if self.steps is None else self.steps)
            object.__setattr__(self, "every", 10 if self.every is None else self.every)
        for name in ("steps", "epochs", "every", "seeds"):
            if (number := getattr(self, name)) is not None and not 1 <= number < 2**31:
                raise ValueError(f"{name} is {number}, expected at least 1 and below 2³¹")
        if self.burst and not self.drop:
            raise ValueError(f"burst is {self.burst}, expected a drop above 0 with it")
        for name, value in (("drop", self.drop), ("down", outages(self.down))):
            if value and "drop" not in signature(method.mixer).parameters:
                raise ValueError(f"{name} is {value}, but {method.label} loses no messages")


def outages(down: Sequence[str]) -> list[faults.Outage]:
    """What "worker:first:last" stands for.

    Raises:
      ValueError: where one is not of this form.
    """
    found = []
    for text in down:
        numbers = text.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ValueError(f"down is {text!r}, expected worker:first:last, three whole numbers")
        worker, first, last = map(int, numbers)
        found.append(faults.Outage([worker], first, last))
    return found


def task_of(settings: Settings, data: Dataset | None = None) -> Callable[[int], Supervised]:
    """seed -> task: the seed fixes who gets which part of the data. The data are loaded where they are not
    given.

    Raises:
      ValueError: where the data are not found or do not suit the model.
    """
    s = settings
    data = catalogue.DATASETS[s.dataset](s.folder) if data is None else data
    model = catalogue.MODELS[s.model](data)
    changes = augment.crop_and_flip(flip=s.dataset not in catalogue.HANDED) if s.augment else None
    x, test_x = jnp.asarray(data.train_x), jnp.asarray(data.test_x)  # shared by the tasks of all seeds

    @cache
    def task(seed: int) -> Supervised:
        key = jax.random.fold_in(jax.random.key(seed), 1)
        shares = catalogue.PARTITIONS[s.partition](key, data.train_y, s.workers, s.alpha)
        made = classification(model, data, shares, batch_size=s.batch_size, augment=changes, group=s.group)
        return replace(made, x=x, test_x=test_x)

    return task


def mixer_of(settings: Settings, mesh: Mesh | None = None) -> tuple[Mixer, float]:
    """The way to communicate, over the devices of a mesh where it takes one, and by what its topology
    multiplies the learning rate.

    Raises:
      ValueError: where the topology does not suit the method.
    """
    s, method = settings, catalogue.METHODS[settings.method]
    graph: Any = catalogue.TOPOLOGIES[s.topology](s.workers) if s.topology else s.workers
    lossy = {"drop": losses} if (losses := losses_of(s)) else {}
    takes_it = mesh is not None and "mesh" in signature(method.mixer).parameters
    over = {"mesh": mesh} if takes_it else {}
    return method.mixer(graph, **lossy, **over), correction(graph) if s.corrected else 1.0


def losses_of(settings: Settings) -> list[faults.Drop]:
    """What loses messages."""
    s = settings
    losses = [faults.bursts(s.drop, s.burst)] if s.burst else [s.drop] if s.drop else []
    return [*losses, *outages(s.down)]


def network_of(settings: Settings) -> Network | None:
    """The network whose time is recorded, which loses messages as the mixer does."""
    s = settings
    if s.network is None:
        return None
    made = catalogue.NETWORKS[s.network](s.workers, s.compute)
    return replace(made, drop=losses, timeout=s.timeout) if (losses := losses_of(s)) else made


def method_of(settings: Settings, mesh: Mesh | None = None) -> Callable[[Supervised, Any], Algorithm]:
    """(task, learning rate) -> method."""
    s, entry = settings, catalogue.METHODS[settings.method]
    mixer, factor = mixer_of(s, mesh)

    def method(task: Supervised, rate: Any) -> Algorithm:
        gamma: Any = factor * rate if s.corrected else rate
        if s.warmup or s.milestones:
            warmup = epoch_of(s, task) * s.warmup
            gamma = recipe.schedule(gamma, 1, steps_of(s, task), warmup=warmup, milestones=s.milestones)
        optimizer: optax.GradientTransformation
        optimizer = catalogue.OPTIMIZERS[s.optimizer](gamma, s.momentum, s.weight_decay)
        made = entry.build(task.grad, mixer, optimizer)
        return faults.pause(made, outages(s.down)) if s.down else made

    return method


def epoch_of(settings: Settings, task: Supervised) -> int:
    """The steps of an epoch."""
    return recipe.steps_per_epoch(task.indices.shape[-1], task.num_workers, task.batch_size)


def steps_of(settings: Settings, task: Supervised) -> int:
    """The steps of a run."""
    return settings.steps or epoch_of(settings, task) * (settings.epochs or 0)


def every_of(settings: Settings, task: Supervised) -> int:
    """The steps between records."""
    return settings.every or epoch_of(settings, task)


def train(settings: Settings, *, progress: bool = False, checkpoint: Checkpoint | None = None) -> list[Trace]:
    """Train once for each seed 0, 1, …; a seed fixes the partition, the initial model and everything else.

    Args:
      checkpoint: where to write down what was done: the settings, and each seed in a folder of its own.

    Raises:
      ValueError: where the settings do not fit together, or with those in the folder of checkpoints.
      MemoryError: where the run cannot fit.
    """
    s, method, draw, network = settings, method_of(settings), task_of(settings), network_of(settings)
    init = jax.jit(lambda task, key: task.init(key))
    if checkpoint:
        _keep_settings(settings, checkpoint)
    traces = []
    for seed in range(s.seeds):
        task, (init_key, run_key) = draw(seed), jax.random.split(jax.random.key(seed))
        traces.append(
            simulate(
                run_key,
                method(task, s.learning_rate),
                init(task, init_key),
                num_steps=steps_of(s, task),
                every=every_of(s, task),
                measure=task.measure,
                progress=progress and "accuracy",
                checkpoint=checkpoint and replace(checkpoint, folder=Path(checkpoint.folder) / f"seed{seed}"),
                network=network,
            )
        )
    return traces


SHAPES = {"mnist": (28, 28, 1), "fashion-mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
"""Of one image. For `memory_needed` blank ones do, 50,000 to train on and 10,000 to test."""
SUITED = {"vgg11": "cifar10", "resnet20": "cifar10", "transformer": "topics"}
"""The data of a model where none are named; digits for others."""


def memory_needed(settings: Settings, on: str | None = None) -> Memory:
    """What a run needs on each device, without running it, and without the files of its data.

    Args:
      settings: of the run.
      on: devices to compile for, which need not be there, as in `estimate_memory`.

    Raises:
      ValueError: where the settings do not fit together, or the workers not on the devices.
      NotInstalled: where the compiler for the devices is missing.
    """
    s, devices = settings, described(on) if on else []
    over = mesh(devices) if len(devices) > 1 else None
    if over is not None:
        check_mesh(over, s.workers)
    task = task_of(s, _blank(s.dataset) if s.dataset in SHAPES else None)(0)
    models, every = jax.eval_shape(task.init, jax.random.key(0)), every_of(s, task)
    method = method_of(s, over)(task, s.learning_rate)
    return estimate_memory(method, models, num_steps=every, every=every, measure=task.measure, on=on)


def _blank(name: str) -> Dataset:
    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((count, *SHAPES[name]), np.uint8), np.arange(count) % 10

    return Dataset(*images(50_000), *images(10_000), num_classes=10)


def correction(trees: Topology | Sequence[Topology]) -> float:
    """What RelaySGD's learning rate is multiplied by (Figure 6), the mean over trees that share the model."""
    each = [trees] if isinstance(trees, Topology) else trees
    return float(np.mean([learning_rate_correction(tree) for tree in each]))


def save(settings: Settings, traces: list[Trace], folder: Path | str) -> list[Path]:
    """Write settings.json, records.csv (tidy: seed, step, metric, worker, value) and curves.png."""
    import pandas as pd
    from matplotlib import pyplot as plt

    from relaysim import plot

    folder = Path(folder)
    _write(settings, folder / "settings.json")
    records = pd.concat([io.tidy(trace).assign(seed=seed) for seed, trace in enumerate(traces)])
    io.save_table(records[["seed", "step", "metric", "worker", "value"]], folder / "records.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    x = "seconds" if settings.network else "step"
    plot.curves({settings.method: traces}, "accuracy", x=x, ax=left)
    plot.curves({settings.method: traces}, "consensus_distance", x=x, ax=right)
    plot.save(figure, folder / "curves.png")
    plt.close(figure)
    return [folder / name for name in ("settings.json", "records.csv", "curves.png")]


def _write(settings: Settings, path: Path) -> None:
    with io.whole(path) as beside:
        beside.write_text(json.dumps(asdict(settings), indent=2) + "\n")


def _keep_settings(settings: Settings, checkpoint: Checkpoint) -> None:
    """Write the settings beside the checkpoints, or compare them with those that are there."""
    folder = Path(checkpoint.folder)
    path = folder / "settings.json"
    if checkpoint.resume and path.exists():
        return check_same(folder, json.loads(json.dumps(asdict(settings))), json.loads(path.read_text()))
    if not checkpoint.resume and any(folder.glob("seed*/*")):
        raise ValueError(
            f"folder is {folder}, which holds checkpoints: expected another, or to resume (--resume)"
        )
    _write(settings, path)
