"""A gradient step of 16 workers with 32 images each, by each way, against one model that sees all 512 images.

The ratio is to the faster of the two ways to compute the one model's convolutions. VGG-11 is computed by
patches alone: by jax's convolutions 64 images already take 10 seconds on two cores.

python -m benchmarks.stacked
"""

import os
import platform
import statistics

import jax
import jax.numpy as jnp
import optax

from benchmarks.twins import seconds
from relaysim.models import CNN, MLP, VGG11
from relaysim.tasks.stacked import apply, stacked

WORKERS = 16
BATCH = 32
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


def compare(name, model, image, ways, groups, rounds):
    """Medians of interleaved rounds, after one round that compiles and is not counted."""
    x = jax.random.normal(jax.random.key(0), (WORKERS, BATCH, *image))
    y = jax.random.randint(jax.random.key(1), (WORKERS, BATCH), 0, 10)
    params = jax.jit(model.init)(jax.random.key(2), x[0])["params"]
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * WORKERS), params)

    runs = {}
    for patches in ways:
        grad = gradient(model, patches)
        one = jax.jit(grad)
        runs["one", patches] = lambda one=one: one(params, x.reshape(-1, *image), y.reshape(-1))
        for group in groups:
            step = jax.jit(stacked(grad, group))
            runs[group, patches] = lambda step=step: step(many, x, y)
    times = {way: [] for way in runs}
    for _ in range(1 + rounds):
        for way, run in runs.items():
            times[way].append(1e3 * seconds(lambda run=run: jax.block_until_ready(run())))
    times = {way: column[1:] for way, column in times.items()}
    alone = min(statistics.median(column) for (group, _), column in times.items() if group == "one")
    for (group, patches), column in times.items():
        label = "one model" if group == "one" else f"{group} at once"
        median, spread = statistics.median(column), f"{min(column):.1f} to {max(column):.1f}"
        how = "patches" if patches else "jax"
        print(
            f"{name:8s} {label:12s} {how:8s} {median:9.1f} ms {median / alone:6.2f}x  ({spread})", flush=True
        )


def main():
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    print(f"{'':8s} {'workers':12s} {'by':8s} {'a step':>12s} {'ratio':>7s}  medians of interleaved rounds")
    for case in CASES:
        compare(*case)


if __name__ == "__main__":
    main()
