"""Gradients of n models at once on an H100: what each way to compute them moves, and whether it fits.

Compiled, not timed, as in `compiled`; `benchmarks.gpu` times them where there is a GPU. Each model has 32
samples of its own. What cuDNN does inside of a convolution is not seen: it counts as one kernel, which reads
its operands and writes its result and its workspace. What a loop over groups of models takes out of arrays,
and puts into them, counts as the whole arrays, each time, so that it moves less than is said.
"""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
from jax.sharding import SingleDeviceSharding
from matplotlib.figure import Figure

from benchmarks import compiled, hlo, stacked
from benchmarks.drawing import bars
from benchmarks.timing import Row, row, table
from relaysim import platforms, programs
from relaysim.models import CNN, VGG11, Transformer, resnet20
from relaysim.tasks import grouped

NAME, ON, BATCH = "gradients", "h100", 32
MOVED, NEEDED = "GB moved", "GB needed"
MODELS = {
    "CNN": (CNN(10), (28, 28, 1)),
    "VGG-11": (VGG11(10), (32, 32, 3)),
    "ResNet-20": (resnet20(10), (32, 32, 3)),
    "transformer": (Transformer(4, 5000, 64, width=128, heads=4, layers=2), (64,)),
}
"""Model, one sample."""


def ways(sample: tuple[int, ...], n: int) -> Iterator[tuple[int, bool]]:
    """(how many at once, whether by patches)"""
    for patches in (True, False) if len(sample) > 1 else (False,):
        for group in sorted({n, min(n, 64)}, reverse=True):
            yield group, patches


def label(name: str, group: int, patches: bool) -> str:
    return f"{name}, {group} at once, by {'patches' if patches else 'jax'}"


def shapes(model: Any, sample: tuple[int, ...], n: int) -> tuple[Any, Any, Any, int]:
    """Of n models, their samples and labels; and the parameters of one model."""
    kind = jnp.int32 if len(sample) == 1 else jnp.float32
    x, y = jax.ShapeDtypeStruct((n, BATCH, *sample), kind), jax.ShapeDtypeStruct((n, BATCH), jnp.int32)
    one = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape[1:], kind))["params"]
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape), leaf.dtype), one)
    return many, x, y, sum(leaf.size for leaf in jax.tree.leaves(one))


def of_way(name: str, n: int, group: int, patches: bool, device: Any) -> Iterator[Row]:
    model, sample = MODELS[name]
    *given, d = shapes(model, sample, n)
    on = SingleDeviceSharding(device)
    there = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on), given)
    begin = time.perf_counter()
    step = jax.jit(grouped.stacked(stacked.gradient(model, patches), group)).trace(*there)
    made = step.lower(lowering_platforms=("cuda",)).compile(programs.OPTIONS["gpu"])
    took, case, held = time.perf_counter() - begin, label(name, group, patches), made.memory_analysis()
    needed = held.argument_size_in_bytes + held.output_size_in_bytes + held.temp_size_in_bytes
    yield row(case, n, d, MOVED, 1e-9 * hlo.moved(made.as_text()))
    yield row(case, n, d, NEEDED, 1e-9 * needed)
    yield row(case, n, d, compiled.TOOK, took)


def run(smoke: bool = False) -> pd.DataFrame:
    """
    Raises:
      NotInstalled: where the compiler is not installed.
    """
    device, rows = platforms.described(ON)[0], []
    for n in (2,) if smoke else (16, 64, 256):
        for name in list(MODELS)[: 1 if smoke else None]:
            for group, patches in ways(MODELS[name][1], n):
                rows += of_way(name, n, group, patches, device)
    return table(NAME, rows)


def picture(table: pd.DataFrame) -> Figure:
    return bars(table[table.n == table.n.max()], MOVED)
