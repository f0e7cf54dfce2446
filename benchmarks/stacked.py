"""A gradient step of 16 workers with 32 images each, by each way, against one model that sees all 512 images.

The ratio is to the faster of the two ways to compute the one model's convolutions. VGG-11 is computed by
patches alone: by jax's convolutions 64 images already take 10 seconds on two cores.
"""

import statistics

import jax
import jax.numpy as jnp
import optax
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.drawing import bars
from benchmarks.timing import Row, interleaved, ratios, row, table
from relaysim.models import CNN, MLP, VGG11
from relaysim.tasks.grouped import apply, stacked

WORKERS = 16
BATCH = 32
METRIC = "step / step of one model"
CASES = (
    ("MLP", MLP((64,), 10), (28, 28, 1), (False,), (1, 4, WORKERS), 20),
    ("CNN", CNN(10), (28, 28, 1), (True, False), (1, 4, WORKERS), 7),
    ("VGG-11", VGG11(10), (32, 32, 3), (True,), (1, 4), 2),
)
"""Name, model, image, whether by patches, workers at once, rounds."""


def gradient(model, patches):
    def loss(params, x, y):
        logits = apply(model, params, x, patches=patches)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return jax.value_and_grad(loss)


def compare(name, model, image, ways, groups, rounds) -> list[Row]:
    x = jax.random.normal(jax.random.key(0), (WORKERS, BATCH, *image))
    y = jax.random.randint(jax.random.key(1), (WORKERS, BATCH), 0, 10)
    params = jax.jit(model.init)(jax.random.key(2), x[0])["params"]
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * WORKERS), params)
    d = sum(leaf.size for leaf in jax.tree.leaves(params))

    runs = {}
    for patches in ways:
        grad = gradient(model, patches)
        one = jax.jit(grad)
        runs["one", patches] = lambda one=one: one(params, x.reshape(-1, *image), y.reshape(-1))
        for group in groups:
            step = jax.jit(stacked(grad, group))
            runs[group, patches] = lambda step=step: step(many, x, y)
    times = interleaved(runs, rounds)
    alone = min((way for way in times if way[0] == "one"), key=lambda way: statistics.median(times[way]))
    rows = []
    for (group, patches), relative in ratios(times, alone).items():
        if (group, patches) != alone:
            label = "one model" if group == "one" else f"{group} at once"
            case = f"{name}, {label}, by {'patches' if patches else 'jax'}"
            rows.append(row(case, WORKERS, d, METRIC, relative))
    return rows


def run(smoke: bool = False) -> pd.DataFrame:
    if smoke:
        name, model, image, ways, groups, _ = CASES[0]
        return table("stacked", compare(name, model, image, ways, groups[-1:], 1))
    return table("stacked", [each for case in CASES for each in compare(*case)])


def picture(table: pd.DataFrame) -> Figure:
    return bars(table, METRIC)
