"""Digits: a thousand steps of RelaySGD in float32 beside the same in float64, at a million workers; and in
bfloat16, whose sums are float32, at a thousand."""

import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure

import relaysim as rs
from benchmarks.drawing import bars
from benchmarks.floor import TREES
from benchmarks.timing import row, table

STEPS, RATE, TARGET, HALF = 1000, 0.01, 1e-5, 1024


def run(smoke: bool = False) -> pd.DataFrame:
    """The largest error of any parameter of any worker, over the largest parameter."""
    n, d, steps = (1000, 8, 20) if smoke else (1_000_000, 8, STEPS)
    b = np.random.default_rng(0).normal(1, 1, (n, d)).astype(np.float32)
    rows = []
    for name, tree in TREES.items():
        single = learn(tree(n), b, steps)
        with jax.enable_x64(True):
            double = learn(tree(n), b.astype(np.float64), steps)
        error = np.abs(single - double).max() / np.abs(double).max()
        rows.append(row(f"RelaySGD, {name}", n, d, "relative error", error))
        gc.collect()
    for name, tree in TREES.items():
        rows.append(
            row(f"RelaySGD, {name}, bfloat16", HALF, d, "relative error", short(tree(HALF), d, steps))
        )
    return table("precision", rows)


def short(tree: rs.Topology, d: int, steps: int) -> float:
    """The error of bfloat16 models and messages, on data that are bfloat16 themselves."""
    b = np.random.default_rng(0).normal(1, 1, (tree.num_workers, d)).astype(jnp.bfloat16)
    found = learn(tree, b, steps).astype(np.float64)
    with jax.enable_x64(True):
        double = learn(tree, b.astype(np.float64), steps)
    return np.abs(found - double).max() / np.abs(double).max()


def learn(tree: rs.Topology, b: np.ndarray, steps: int) -> np.ndarray:
    """The models (n, d) after so many steps from 0 on ½ ‖x − b_i‖²."""
    data = jnp.asarray(b)

    def grad(key: Any, step: Any, x: Any) -> Any:
        return jnp.zeros(len(x), x.dtype), x - data

    method = rs.relaysgd(grad, rs.relay_sum(tree), optax.sgd(RATE))
    trace = rs.simulate(jax.random.key(1), method, jnp.zeros_like(data), num_steps=steps, every=steps)
    return np.asarray(trace.params)


def picture(found: pd.DataFrame) -> Figure:
    """The errors, and what is asked for."""
    return bars(found, "relative error", target=TARGET)
