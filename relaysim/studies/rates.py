"""Predicted rates beside measured curves: four methods on quadratics, at a tenth of their stable rates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim import palette, theory
from relaysim.algorithms import d2, dpsgd, gradient_tracking, relaysgd
from relaysim.mixing import gossip, relay_sum
from relaysim.simulate import simulate
from relaysim.tasks import Quadratics, quadratics
from relaysim.topology import chain, ring
from relaysim.types import Algorithm

WORKERS, DIM, STEPS = 16, 5, 1500
METHODS: dict[str, Callable[[Any, Any], Algorithm]] = {
    "RelaySGD, chain": lambda grad, rate: relaysgd(grad, relay_sum(chain(WORKERS)), optax.sgd(rate)),
    "D-PSGD, ring": lambda grad, rate: dpsgd(grad, gossip(ring(WORKERS)), optax.sgd(rate)),
    "D², lazy ring": lambda grad, rate: d2(grad, gossip(ring(WORKERS), lazy=True), optax.sgd(rate)),
    "gradient tracking, ring": lambda grad, rate: gradient_tracking(
        grad, gossip(ring(WORKERS)), optax.sgd(rate)
    ),
}


def problem() -> Quadratics:
    """Heterogeneous, in double precision."""
    rng = np.random.default_rng(0)
    A = 0.7 * np.eye(DIM) + 0.15 * rng.normal(size=(WORKERS, DIM, DIM))
    return quadratics(jnp.asarray(A), jnp.asarray(rng.normal(size=(WORKERS, DIM))))


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """A row a method and step: method, learning_rate, largest (that is stable), rate (ρ, predicted), step,
    moved (‖x_{t+1} − x_t‖, measured) and predicted (the same, drawn by ρ from the end back)."""
    names = tqdm(list(METHODS)[: 1 if smoke else None], disable=not progress, unit="method")
    with jax.enable_x64(True):
        return pd.concat([_curve(name) for name in names], ignore_index=True)


def _curve(name: str) -> pd.DataFrame:
    task, start = problem(), np.random.default_rng(1).normal(size=(WORKERS, DIM))
    build = lambda rate: METHODS[name](task.grad, rate)  # noqa: E731
    largest = theory.largest_stable(build, start)
    rho = theory.rate(build(largest / 10), start)
    method = build(largest / 10)
    trace = simulate(
        jax.random.key(0), method, jnp.asarray(start), num_steps=STEPS, every=1, measure=lambda x: {"x": x}
    )
    moved = np.linalg.norm(np.diff(trace.metrics["x"], axis=0), axis=(1, 2))
    step = np.arange(1, STEPS)
    seen = moved > 1e-12 * moved[0]
    last = np.flatnonzero(seen)[-1]
    return pd.DataFrame(
        {
            "method": name,
            "learning_rate": largest / 10,
            "largest": largest,
            "rate": rho,
            "step": step,
            "moved": moved,
            "predicted": moved[last] * rho ** (step - step[last]),
        }
    )[: last + 1]


def picture(table: pd.DataFrame) -> Figure:
    """What is measured as lines, what is predicted dashed beside them."""
    colours = palette.colours(dict.fromkeys(table.method))
    grid = sns.relplot(
        table, x="step", y="moved", hue="method", palette=colours, kind="line", height=4, aspect=1.4
    )
    for name, rows in table.groupby("method", sort=False):
        grid.ax.plot(rows.step, 2 * rows.predicted, "--", color=colours[str(name)], lw=1)
    grid.set(yscale="log", ylabel="‖x_{t+1} − x_t‖, and 2 ρ^t dashed")
    return grid.figure
