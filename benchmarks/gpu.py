"""Times on a GPU, beside what its compiled programs are said to move: `python -m benchmarks.gpu`.

A step is told in arrays at the speed of a copy: how many arrays of the models' size a plain copy reads and
writes in the time that the step takes. Steps are those of `simulate`, and of plain loops over single steps
and over pairs of them; beside them stands what the program that was compiled for this GPU moves, counted as
`benchmarks.compiled` does. Gradients are those of n models on 32 samples each, by every way to compute them.
Each row is written as soon as it is there, so that a run that is cut short leaves what it has.
"""

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax

import relaysim as rs
from benchmarks import compiled, stacked
from benchmarks.gradients import BATCH, MODELS, label
from benchmarks.timing import Row, interleaved, machine, ratios, row, table
from relaysim import engine
from relaysim.tasks import grouped

SIZES = compiled.SIZES
CASES: dict[str, Callable[[int], rs.Mixer]] = {
    **{
        f"RelaySGD, {name}": lambda n, name=name: rs.relay_sum(compiled.TREES[name](n))
        for name in ("chain", "binary tree", "star", "random recursive tree")
    },
    "D-PSGD, ring": lambda n: rs.gossip(rs.topology.ring(n)),
    "D-PSGD, random regular, degree 3": lambda n: rs.gossip(rs.topology.random_regular(n, 3, seed=0)),
}
FLOOR = {"RelaySGD": 7, "D-PSGD": 3}
"""Arrays that a step must move, models, messages and data."""
SECONDS, RATE, ARRAYS, DIFFERENT = "s a step", "GB/s", "arrays at the speed of a copy", "largest difference"
MOVING = "GB/s of what is moved"
GRADIENT, TEMPORARIES = "ms a gradient", "GB, temporaries"


def steps(smoke: bool) -> Iterator[Row]:
    for n, d in ((256, 10),) if smoke else SIZES:
        count = 20 if smoke else max(20, min(2000, 2 * 10**9 // (n * d)))
        for name, mixer in CASES.items():
            yield from of_step(name, mixer(n), n, d, count)


def loop_of(method: rs.Algorithm, key: Any) -> Callable[[Any, int, int], Any]:
    """(state, how many steps, so many in the loop's body) -> state; the state is given away."""

    @functools.partial(jax.jit, static_argnums=(1, 2), donate_argnums=0)
    def plain(state: Any, num_steps: int, unroll: int) -> Any:
        def step(t: Any, state: Any) -> Any:
            return method.step(jax.random.fold_in(key, t), t, state)[0]

        return jax.lax.fori_loop(0, num_steps, step, state, unroll=unroll)

    return plain


def fresh(method: rs.Algorithm, key: Any, start: Any) -> Any:
    return jax.tree.map(jnp.array, method.init(key, start))  # no two of one array, which are given away


def of_step(name: str, mixer: rs.Mixer, n: int, d: int, count: int) -> Iterator[Row]:
    method = engine.silent(rs.dpsgd(compiled.grad, mixer, optax.sgd(0.01)))
    key, start = jax.random.key(0), jax.random.normal(jax.random.key(1), (n, d))

    def learn(num_steps: int) -> Any:
        return rs.simulate(key, method, start, num_steps=num_steps, every=num_steps).params

    @functools.partial(jax.jit, donate_argnums=0)
    def copied(x: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda t, x: -x, x)

    plain = loop_of(method, key)
    held = {1: fresh(method, key, start), 2: fresh(method, key, start), "copy": jnp.copy(start)}

    def again(what: Any) -> Any:
        held[what] = copied(held[what]) if what == "copy" else plain(held[what], count, what)
        return held[what]

    runs = {"simulate": lambda: learn(count), "longer": lambda: learn(3 * count)}
    times = interleaved(runs | {what: lambda what=what: again(what) for what in held}, 3)
    longer = np.array(times.pop("longer"))  # what a call costs besides its steps is no part of a step
    yield row(f"{name}, a call", n, d, "s besides its steps", 1.5 * np.array(times["simulate"]) - longer / 2)
    times["simulate"] = list((longer - times["simulate"]) / 2)
    over = ratios(times, "copy")
    labels = {"simulate": name, 1: f"{name}, loop over steps", 2: f"{name}, loop over pairs of steps"}
    for what, case in labels.items():
        yield row(case, n, d, SECONDS, np.array(times[what]) / count)
        yield row(case, n, d, ARRAYS, 2 * over[what])
    floor, taken = 4 * n * d * FLOOR[name.split(",")[0]], np.array(times["simulate"]) / count
    yield row(f"{name}, of the floor", n, d, RATE, 1e-9 * floor / taken, "higher")
    device = jax.devices()[0]
    shape = jax.ShapeDtypeStruct((n, d), jnp.float32)
    moved = compiled.facts(compiled.loop(method, shape, device, None), device.platform)[compiled.MOVED]
    yield row(name, n, d, compiled.MOVED, moved / (4 * n * d))
    yield row(name, n, d, MOVING, 1e-9 * moved / taken, "higher")
    copy = 1e-9 * 8 * n * d * count / np.array(times["copy"])
    yield row("copy", n, d, f"{RATE}, beside {name}", copy, "higher")


def right() -> Iterator[Row]:
    """The models after 50 steps, against those on the CPU; those of `simulate`, against single steps."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cpu.npz"
        command = [sys.executable, "-m", "benchmarks.gpu", "--models", str(file)]
        subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        there, here = np.load(file), models()
    for name, x in here.items():
        apart = np.abs(x - there[name]).max() / np.abs(there[name]).max()
        yield row(f"{name}, against the CPU", 1000, 8, DIFFERENT, apart)
    key, start = jax.random.key(0), jax.random.normal(jax.random.key(1), (1000, 8))
    for name, mixer in CASES.items():
        method = engine.silent(rs.dpsgd(compiled.grad, mixer(1000), optax.sgd(0.1)))
        single = loop_of(method, key)
        for count in (6, 7):
            learnt = rs.simulate(key, method, start, num_steps=count, every=count).params
            apart = jnp.abs(learnt - method.params(single(fresh(method, key, start), count, 1))).max()
            yield row(f"{name}, {count} steps, simulate − loop", 1000, 8, DIFFERENT, float(apart))


def models() -> dict[str, np.ndarray]:
    start = jax.random.normal(jax.random.key(1), (1000, 8))
    learnt = {}
    for name, mixer in CASES.items():
        method = rs.dpsgd(compiled.grad, mixer(1000), optax.sgd(0.1))
        learnt[name] = np.asarray(rs.simulate(jax.random.key(0), method, start, num_steps=51, every=3).params)
    return learnt


def gradients(smoke: bool) -> Iterator[Row]:
    for n in (2,) if smoke else (256, 16, 64):
        for name, (model, sample) in list(MODELS.items())[: 1 if smoke else None]:
            images = len(sample) > 1
            for patches in (True, False) if images else (False,):
                for group in (64, 16, 1) if n == 64 else sorted({n, min(n, 64), min(n, 16)}, reverse=True):
                    yield from of_gradient(name, model, sample, n, group, patches)


def of_gradient(
    name: str, model: Any, sample: tuple[int, ...], n: int, group: int, patches: bool
) -> Iterator[Row]:
    shape = (n, BATCH, *sample)
    if len(sample) == 1:
        x = jax.random.randint(jax.random.key(0), shape, 0, 5000)
    else:
        x = jax.random.normal(jax.random.key(0), shape)
    y = jax.random.randint(jax.random.key(1), (n, BATCH), 0, 4)
    one = jax.jit(model.init)(jax.random.key(2), x[0])["params"]
    d = sum(leaf.size for leaf in jax.tree.leaves(one))
    many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)) + 0, one)
    case = label(name, group, patches)
    begin = time.perf_counter()
    try:
        step = jax.jit(grouped.stacked(stacked.gradient(model, patches), group)).lower(many, x, y).compile()
        took = time.perf_counter() - begin
        times = interleaved({case: lambda: step(many, x, y)}, 5)[case]
    except jax.errors.JaxRuntimeError as error:
        print(f"{case}, n = {n}: {str(error).splitlines()[0][:120]}", flush=True)
        return
    yield row(case, n, d, GRADIENT, 1e3 * np.array(times))
    yield row(case, n, d, TEMPORARIES, 1e-9 * step.memory_analysis().temp_size_in_bytes)
    yield row(case, n, d, compiled.TOOK, took)


@click.command()
@click.option("--out", default="out/gpu.csv", show_default=True, type=click.Path(path_type=Path))
@click.option("--limit", default=420.0, show_default=True, help="Seconds after which nothing new is begun.")
@click.option("--only", type=click.Choice(["right", "steps", "gradients"]), multiple=True)
@click.option("--smoke", is_flag=True, help="Small sizes: whether it runs.")
@click.option("--models", "file", type=click.Path(path_type=Path), hidden=True)
def main(out: Path, limit: float, only: tuple[str, ...], smoke: bool, file: Path | None) -> None:
    """Time steps and gradients on the device that jax finds, and write a table."""
    if file:
        np.savez(file, **models())
        return
    print(machine(), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".txt").write_text(machine() + "\n")
    begin, rows = time.perf_counter(), []
    parts = {"right": right, "steps": lambda: steps(smoke), "gradients": lambda: gradients(smoke)}
    for name in only or parts:
        for each in parts[name]():
            rows.append(each)
            print(
                f"{each.case:60s} {each.n:8d} x {each.d:<9d} {each.metric:32s} {each.median:.4g}", flush=True
            )
            table("gpu", rows).to_csv(out, index=False)
            if time.perf_counter() - begin > limit:
                print(f"cut short after {limit:g} s")
                return


if __name__ == "__main__":
    main()
