"""Figure 6: the learning-rate correction of a tree, simulated and in closed form.

RelaySGD needs a larger learning rate than SGD, by a factor τ. With the delays δ_ij = max(dist(i, j) − 1, 0)
each worker averages x_i' = (1/n) Σ_j x̂_j, where x̂_j = x_j + u_j is of δ_ij steps before. The sum of all
models, those still under way included,

    Q = Σ_i x_i + (1/n) Σ_ij (the sum of the last δ_ij x̂_j),

changes by Σ_j u_j in a step, and by nothing else. At a consensus c it is Q = c (n + (1/n) Σ_ij δ_ij) = n τ c,
where τ is the mean over all ordered pairs of workers of 1 + δ_ij = max(dist(i, j), 1): an update of 1 at
every worker moves the consensus by 1/τ. So where gradients change slowly, for small γ, RelaySGD with γ goes
the way of SGD with γ/τ.

Measured on many trees are 1 / c after an update of 1 at every worker in the first step and none thereafter
("impulse", which should be τ exactly), and γ / γ' where RelaySGD on f_i = ½‖x‖² shrinks the models by the
factor 1 − γ' a step ("descent", with γ = 0.01; it should tend to τ for γ → 0).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim.algorithms import relaysgd
from relaysim.mixing import relay_sum
from relaysim.simulate import simulate
from relaysim.topology import Topology, binary_tree, chain, learning_rate_correction, random_tree, star
from relaysim.types import Array, Key

SIZES = [2, 5, 10, 20, 40, 80]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """Measure the correction on trees of four kinds.

    Returns:
      One row a tree: topology, n, closed_form, impulse, descent.
    """
    trees = list(_trees(SIZES[1:2] if smoke else SIZES))
    rows = []
    with jax.enable_x64(True):
        for tree in (bar := tqdm(trees, disable=not progress, unit="tree")):
            bar.set_description(f"{tree.name}, n = {tree.num_workers}")
            rows.append((tree.name, tree.num_workers, learning_rate_correction(tree), *_measure(tree)))
    return pd.DataFrame(rows, columns=["topology", "n", "closed_form", "impulse", "descent"])


def picture(table: pd.DataFrame) -> Figure:
    """The correction by the number of workers; measured against closed form."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    palette = sns.color_palette("colorblind")
    marks = dict(zip(table.topology.unique(), "o^*s", strict=False))
    colours = dict(zip(marks, [palette[i] for i in (3, 4, 5, 7)], strict=False))
    for topology, rows in table.groupby("topology", sort=False):
        look = {
            "color": colours[topology],
            "marker": marks[topology],
            "label": str(topology).replace("_", " "),
        }
        if topology != "random_tree":
            left.plot(rows.n, rows.closed_form, color=colours[topology])
        left.plot(rows.n, rows.impulse, linestyle="", **look)
        right.plot(rows.closed_form, rows.impulse, linestyle="", **look)
        right.plot(rows.closed_form, rows.descent, "o", color="0.4", markersize=11, fillstyle="none")
    ends = [1, table.closed_form.max()]
    right.plot(ends, ends, color="0.5", linewidth=1, zorder=0)
    left.set(xlabel="number of workers n", ylabel="learning-rate correction")
    left.set_title("closed form (lines), after an impulse (marks)", fontsize=10)
    left.legend(frameon=False)
    right.set(xscale="log", yscale="log", xlabel="closed form", ylabel="measured")
    right.set_title("after an impulse (marks), in a descent with γ = 0.01 (circles)", fontsize=10)
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(plt.FixedLocator([1, 2, 5, 10, 20]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    sns.despine(figure)
    return figure


def _trees(sizes: list[int]) -> Iterator[Topology]:
    for family in (chain, binary_tree, star):
        yield from map(family, sizes)
    for n in sizes:
        yield from (random_tree(n, seed) for seed in range(2))


def _measure(tree: Topology) -> tuple[float, float]:
    """The correction as measured after an impulse and in a descent, side by side as two columns."""
    n, gamma = tree.num_workers, 0.01
    steps = 50 * n

    def grad(key: Key, step: Array, params: Array) -> tuple[Array, Array]:
        impulse = jnp.where(step == 0, -1 / gamma, 0) * jnp.ones(n)
        return jnp.zeros(n), jnp.stack([impulse, params[:, 1]], axis=1)

    def measure(params: Array) -> dict[str, Array]:
        return {"models": params.mean(0)}

    start = jnp.stack([jnp.zeros(n), jnp.ones(n)], axis=1)
    method = relaysgd(grad, relay_sum(tree), optax.sgd(gamma))
    trace = simulate(jax.random.key(0), method, start, num_steps=steps, every=n, measure=measure)
    models = np.asarray(trace.metrics["models"])
    shrinks = (models[-1, 1] / models[-2, 1]) ** (1 / n)
    return 1 / models[-1, 0], gamma / (1 - shrinks)
