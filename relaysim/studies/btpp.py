"""The public comparison of B-ary tree push-pull with RelaySGD and others, repeated, then done at fair rates.

You and Pu ("B-ary tree push-pull method is provably efficient for distributed learning on heterogeneous
data", 2024) compare methods on a logistic regression with a penalty that is not convex, all at one rate μ
that falls to two fifths every so often (github.com/ryou98/BTPP). `METHODS` are theirs, number for number;
`run` looks for each method's own μ with the same effort, on several problems.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import struct
from matplotlib.figure import Figure
from optax import tree
from scipy.sparse import csr_array

from relaysim import plot, topology
from relaysim.algorithms import ceca, d2, dpsgd, relaysgd
from relaysim.algorithms.base import method
from relaysim.compare import Comparison, compare, search
from relaysim.local import LocalState, local_update
from relaysim.mixing import gossip, relay_sum, time_varying
from relaysim.mixing.gossip import linear
from relaysim.types import Algorithm, Array, Info, Key, Mixer, Stacked

DIM, SAMPLES, PENALTY, SPREAD = 20, 200, 0.01, 0.8
STEPS, PERIOD, DECAY = 300, 100, 0.4
SIZES = (16, 64, 256)

# The task


@struct.dataclass
class Logistic:
    """f_i(x) = mean_l log(1 + exp(−y_il ⟨h_il, x⟩)) + R Σ_j x_j² / (1 + x_j²), one sample a step."""

    features: Array
    """(n, m, d) h"""
    labels: Array
    """(n, m) y, −1 or 1"""
    order: Array | None = None
    """(T, n) int: which sample each worker takes at each step; if None they are drawn anew."""

    def init(self, key: Key) -> Array:
        """Every worker starts from x = 0: (n, d)."""
        return jnp.zeros(self.features.shape[::2], self.features.dtype)

    def grad(self, key: Key, step: Array, params: Array) -> tuple[Array, Array]:
        """Losses and gradients on the samples of the step: params (n, d) -> (n,), (n, d)."""
        n, m, _ = self.features.shape
        if self.order is None:
            sample = jax.random.randint(jax.random.fold_in(key, step), (n,), 0, m)
        else:
            sample = self.order[step]
        h, y = self.features[jnp.arange(n), sample], self.labels[jnp.arange(n), sample]
        margin = y * jnp.sum(h * params, 1)
        loss = jnp.logaddexp(0, -margin) + PENALTY * jnp.sum(params**2 / (1 + params**2), 1)
        return loss, _penalty(params) - (jax.nn.sigmoid(-margin) * y)[:, None] * h

    def gradient_norm(self, x: Array) -> Array:
        """‖∇F‖ of the mean F of all f_i, at each of the models (k, d) -> (k,)."""
        labels = self.labels[None]
        pull = jax.nn.sigmoid(-labels * jnp.einsum("nmd,kd->knm", self.features, x)) * labels
        g = jnp.einsum("knm,nmd->kd", pull, self.features) / self.labels.size
        return jnp.linalg.norm(_penalty(x) - g, axis=1)

    def measure(self, params: Array) -> dict[str, Array]:
        """Gradient norms: of each worker's model (n,), of the mean model and of worker 0's ()."""
        each = self.gradient_norm(params)
        return {
            "gradient_norm": each,
            "at_mean": self.gradient_norm(params.mean(0)[None])[0],
            "at_root": each[0],
        }


def _penalty(x: Array) -> Array:
    return 2 * PENALTY * x / (1 + x**2) ** 2


def draw(num_workers: int, seed: int) -> Logistic:
    """A problem of the published kind: worker i's labels follow w + 0.8 v_i, v_i a direction of its own."""
    rng = np.random.default_rng([num_workers, seed])
    own = rng.normal(size=(num_workers, DIM))
    w = rng.normal(size=DIM) + SPREAD * own / np.linalg.norm(own, axis=1, keepdims=True)
    features = rng.normal(size=(num_workers, SAMPLES, DIM))
    chance = 1 / (1 + np.exp(-np.einsum("nmd,nd->nm", features, w)))
    labels = 2.0 * (rng.random(chance.shape) < chance) - 1
    return Logistic(jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.float32))


# The methods


class PushPullState(NamedTuple):
    params: Stacked
    mixed: Stacked
    """C y of the last step."""
    last: Stacked
    """The last gradient."""
    local: LocalState
    mix: Any


def push_pull(grad: Any, pull: Mixer, push: Mixer, rate: Callable[[Array], Any]) -> Algorithm:
    """x' = R (x − μ_t y), y' = C y + g' − g, y = g at first: with R = C gradient tracking, as published.

    The rate μ_t stands outside: y follows gradients, not steps, which differs where the rate changes.
    """
    local = local_update(grad, optax.identity())

    def init(key: Key, params: Stacked) -> PushPullState:
        zeros = tree.zeros_like(params)
        states = pull.init(params), push.init(zeros)
        return PushPullState(params, zeros, zeros, local.init(key, params), states)

    def step(key: Key, t: Array, s: PushPullState) -> tuple[PushPullState, Info]:
        local_state, g, info = local.gradient(t, s.local, s.params)
        y = tree.add(s.mixed, tree.sub(g, s.last))
        mu = jnp.asarray(rate(t), jax.tree.leaves(y)[0].dtype)
        pulled, x = pull.mix(key, t, s.mix[0], tree.add_scale(s.params, -mu, y))
        pushed, mixed = push.mix(key, t, s.mix[1], y)
        return PushPullState(x, mixed, g, local_state, (pulled, pushed)), info

    return method(pull, init, step, vectors=2)


def trees(num_workers: int, branching: int) -> tuple[Mixer, Mixer]:
    """Push-pull's R and C: everybody takes its parent's model, parents add up what their children track."""
    n = num_workers
    parent = np.maximum(np.arange(n) - 1, 0) // branching
    pull = csr_array((np.ones(n), (np.arange(n), parent)), shape=(n, n))
    return linear(pull, 0.0, None, renormalise=False), linear(csr_array(pull.T), 0.0, None, renormalise=False)


Rate = Callable[[Array], Any]
Build = Callable[[Any, int, Rate], Algorithm]
"""(task, n, step -> rate) -> method"""


def _gossip(mixer: Callable[[int], Mixer]) -> Build:
    return lambda task, n, rate: dpsgd(task.grad, mixer(n), optax.sgd(rate))


def _tracking(mixer: Callable[[int], Mixer]) -> Build:
    return lambda task, n, rate: push_pull(task.grad, mixer(n), mixer(n), rate)


def _btpp(branching: int) -> Build:
    return lambda task, n, rate: push_pull(task.grad, *trees(n, branching), lambda t: rate(t) / n)


def _relay(tree: Callable[[int], Any], fill: Any) -> Build:
    return lambda task, n, rate: relaysgd(task.grad, relay_sum(tree(n), fill=fill), optax.sgd(rate))


def _ring(n: int) -> Mixer:
    return gossip(topology.ring(n))


def _grid(n: int) -> Mixer:
    rows = next(r for r in range(int(n**0.5), 0, -1) if n % r == 0)
    return gossip(topology.grid(rows, n // rows))


def _exponential(n: int) -> Mixer:
    return time_varying([topology.metropolis_weights(topology.exponential(n)).T])  # from those ahead


def _base(n: int) -> Mixer:
    return time_varying(topology.base(n, 2))


def _one_peer(n: int) -> Mixer:
    """Worker i hears from i + 2, i + 4, …, i + 1: the published tracking starts at the second phase."""
    hops = [2**k % n for k in range((n - 1).bit_length())]
    return time_varying([(_hop(n, hop) + _hop(n, 0)) / 2 for hop in hops[1:] + hops[:1]])


def _hop(n: int, hop: int) -> csr_array:
    worker = np.arange(n)
    return csr_array((np.ones(n), (worker, (worker + hop) % n)), shape=(n, n))


def _d2(task: Any, n: int, rate: Rate) -> Algorithm:
    return d2(task.grad, _ring(n), optax.sgd(rate))


METHODS: dict[str, Build] = {
    "BTPP, B = 2": _btpp(2),
    "BTPP, B = 4": _btpp(4),
    "RelaySGD, chain, by count": _relay(topology.chain, "count"),
    "RelaySGD, chain": _relay(topology.chain, "initial"),
    "RelaySGD, binary tree": _relay(topology.binary_tree, "initial"),
    "DSGD, ring": _gossip(_ring),
    "DSGD, fully connected": _gossip(lambda n: gossip(topology.fully_connected(n))),
    "DSGD, exponential": _gossip(_exponential),
    "DSGD, base-3": _gossip(_base),
    "DSGD-CECA": lambda task, n, rate: ceca(task.grad, n, optax.sgd(rate)),
    "DSGT, ring": _tracking(_ring),
    "DSGT, grid": _tracking(_grid),
    "DSGT, one-peer exponential": _tracking(_one_peer),
    "D², ring": _d2,
}
"""The published ones, and RelaySGD as its authors have it: what is missing counts as the first model."""
PUBLISHED = 0.7
"""μ, of all methods."""


def run(
    smoke: bool = False,
    progress: bool = True,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 5,
    num_steps: int = STEPS,
    out: Path | None = None,
) -> Comparison:
    """All methods at rates of their own: each first μ searched among powers of two, on problems apart.

    Best is the smallest mean over the workers of ‖∇F‖ at their own models after the last step; μ falls to two
    fifths three times a run, as published. Each seed is another problem, with other samples.

    Args:
      smoke: 8 workers, one seed and 30 steps only.
      progress: show a bar.
      sizes: numbers of workers, each with 200 samples.
      seeds: how many.
      num_steps: of each run, a multiple of 30.
      out: a folder to write runs to as they come, see `compare`.
    """
    sizes, seeds, num_steps = ((8,), 1, 30) if smoke else (sizes, seeds, num_steps)
    return compare(
        {name: _at(build, num_steps // 3) for name, build in METHODS.items()},
        {f"n = {n}": _problems(n) for n in sizes},
        num_steps=num_steps,
        every=num_steps // 10,
        seeds=seeds,
        rates=search(PUBLISHED, seeds=range(1000, 1003)),
        metric="gradient_norm",
        mode="min",
        out=out,
        progress=progress,
    )


def _problems(n: int) -> Callable[[int], Logistic]:
    return lambda seed: draw(n, seed)


def _at(build: Build, period: int) -> Callable[[Logistic, Any], Algorithm]:
    def method(task: Logistic, mu: Any) -> Algorithm:
        return build(task, task.features.shape[0], lambda t: mu * DECAY ** ((t + 1) // period))

    return method


def table(found: Comparison) -> pd.DataFrame:
    """A row a method, the best first, and for each n: ‖∇F‖ at the workers' own models after the last step,
    mean ± deviation over the seeds; at the mean model; and the first μ."""
    cells = found.table.groupby(["method", "task"], sort=False)
    own, at_mean = cells.gradient_norm, cells.at_mean.mean()
    columns = {
        "own": [f"{m:.4f} ± {d:.4f}" for m, d in zip(own.mean(), own.std(ddof=0), strict=True)],
        "mean model": at_mean.map("{:.4f}".format),
        "μ": cells.learning_rate.first(),
    }
    wide = pd.DataFrame(columns, index=at_mean.index).unstack("task").swaplevel(axis=1)
    tasks = list(dict.fromkeys(found.table.task))
    wide = wide[[(task, name) for task in tasks for name in columns]]
    return wide.loc[own.mean().unstack("task")[tasks[-1]].sort_values().index]


def picture(found: Comparison) -> Figure:
    """‖∇F‖ over the steps, the mean over seeds, a panel for each n."""
    figure = plot.comparison(found.curves, "gradient_norm", band="none")
    figure.axes[0].set(yscale="log", ylabel="‖∇F‖, mean over workers")
    return figure
