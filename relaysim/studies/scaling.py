"""Many workers: how the steps grow with n, from 16 to a million.

**Quadratics.** All workers share one diagonal curvature, f_i(x) = ½ (x − b_i)ᵀ H (x − b_i), with d = 8
eigenvalues from μ = 0.25 to 1, so that a step costs O(nd). Their optima b_i lie around x*, with ‖x*‖ = 10 and
ζ² = 1, in one of two ways:

    neighbours alike    on a circle, that of worker i at the angle 2πi/n: the slowest mode of a ring;
    at random           Gaussian, each on its own.

The error is the mean over the workers of F(x_i) − F(x*). That of the mean model would tell nothing: with one
H it goes down as in gradient descent, whatever the mixing matrix. Counted are the steps after which the error
stays below 1e-3. (Where averages are exact once in a while, as on the exponential graph, it is there for a
moment long before.) The learning rate is searched for each method, size and draw, to a factor of 2^¼. Runs
end after 10⁶ steps, or after 5·10⁹/(nd); where a method does not get there, larger n are not tried.

**Mean estimation.** Every worker holds an integer from 1 to 8. RelaySum relays them again and again until all
estimates of the mean are right to the last bit. Gossip on a ring never is; there the root mean squared error
must fall to a hundredth.

All is in double precision: D-PSGD needs rates near 1e-5, and in single precision its steps near the optimum,
and what gossip passes on in 10⁵ steps, are lost in rounding.

The theory that is drawn beside is told in docs/figures.md.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from flax import struct
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from scipy.optimize import brentq, minimize_scalar
from tqdm.auto import tqdm

from relaysim import catalogue, engine
from relaysim.algorithms.base import method
from relaysim.engine import RunState
from relaysim.mixing import gossip, one_peer_exponential, relay_sum
from relaysim.threads import side_by_side
from relaysim.topology import (
    Topology,
    binary_tree,
    chain,
    diameter,
    learning_rate_correction,
    random_recursive_tree,
    ring,
)
from relaysim.types import Algorithm, Array, Info, Key, Mixer

DIM, MU, R0, ZETA2, TARGET = 8, 0.25, 10.0, 1.0, 1e-3
MAX_STEPS, MAX_WORK = 1_000_000, 5e9
PLACEMENTS = ("neighbours alike", "at random")
MEAN = "mean estimation"


@struct.dataclass
class Problem:
    """n quadratics of one diagonal curvature."""

    curvature: Any
    """(d,) the diagonal of H."""
    b: Any
    """(n, d) the workers' optima."""
    x_star: Any
    """(d,) the mean of b."""

    def init(self, key: Key) -> Array:
        return jnp.zeros_like(self.b)

    def grad(self, key: Key, step: Array, x: Array) -> tuple[Array, Array]:
        away = x - self.b
        return away**2 @ self.curvature / 2, self.curvature[None] * away

    def error(self, x: Array) -> Array:
        """The mean over the workers of F(x_i) − F(x*), ()."""
        return ((x - self.x_star[None]) ** 2).mean(0) @ self.curvature / 2


def problem(num_workers: int, placement: str, seed: int = 0) -> Problem:
    """A draw of one of the two placements, in NumPy."""
    rng, curvature = np.random.default_rng(seed), np.linspace(MU, 1, DIM)
    apart = rng.standard_normal((num_workers, DIM))
    if placement == "neighbours alike":
        angle = 2 * np.pi * np.arange(num_workers) / num_workers
        apart = np.stack([np.cos(angle), np.sin(angle)], 1) @ np.linalg.qr(apart[:2].T)[0].T
    apart -= apart.mean(0)
    apart *= np.sqrt(ZETA2 / ((curvature * apart) ** 2).sum(1).mean())
    x_star = rng.standard_normal(DIM)
    x_star *= R0 / np.linalg.norm(x_star)
    return Problem(curvature, x_star + apart, x_star)


class Entry(NamedTuple):
    """A method, or for mean estimation a mixer, on a kind of graph."""

    method: str
    topology: str
    name: str
    """Of the method in the catalogue, "" where numbers are averaged alone."""
    mixer: Callable[[int], Mixer]
    theory: Callable[[int, str, Any], float]
    """(n, placement, problem or numbers) -> its steps, or what they grow in proportion to; NaN for none."""
    largest: int
    """The largest n of the study."""
    colour: str
    marker: str
    biased: bool = False
    """Whether heterogeneity keeps it from the optimum."""
    exact: bool = False
    """Whether the theory gives the steps themselves."""
    tolerance: float = 0
    """Of an average."""


def _recursive(n: int) -> Topology:
    return random_recursive_tree(n, seed=0)


def _relay(family: Callable[[int], Topology]) -> Callable[[int], Mixer]:
    return lambda n: relay_sum(family(n))


def _ring(n: int) -> Mixer:
    return gossip(ring(n))


def _ring_eigenvalues(n: int) -> np.ndarray:
    return (1 + 2 * np.cos(2 * np.pi * np.arange(n) / n)) / 3


def _two_peers(n: int) -> Mixer:
    return one_peer_exponential(n, rounds=2)  # two vectors a step, as on a ring or chain


def dpsgd_steps(n: int, placement: str, task: Problem) -> float:
    """The fewest steps in which D-PSGD on a ring takes the error below the target, in closed form."""
    h = task.curvature
    power = np.abs(np.fft.fft(task.b - task.x_star, axis=0) / n) ** 2
    heard = power.max(1) > 1e-20
    power, eigenvalues = power[heard], _ring_eigenvalues(n)[heard, None]

    def error(T: float, rate: float) -> float:
        q = eigenvalues * (1 - rate * h)
        apart = (eigenvalues * rate * h * (1 - np.abs(q) ** T) / (1 - q)) ** 2 * power
        return float(((1 - rate * h) ** (2 * T) * task.x_star**2 + apart.sum(0)) @ h / 2)

    def excess(log_rate: float) -> float:  # at the end
        rate = math.exp(log_rate)
        return error(40 / (rate * MU), rate) - TARGET

    def steps(log_rate: float) -> float:
        rate = math.exp(log_rate)
        return brentq(lambda T: error(T, rate) - TARGET, 0, 40 / (rate * MU), xtol=0.5)

    highest = brentq(excess, math.log(1e-9), 0) if excess(0) > 0 else 0
    return float(minimize_scalar(steps, bounds=(highest - 3, highest - 1e-6), method="bounded").fun)


def gossip_steps(n: int, placement: str, numbers: np.ndarray) -> float:
    """The steps in which gossip on a ring brings these numbers to a hundredth of their spread."""
    power, eigenvalues = np.abs(np.fft.fft(numbers[:, 0])[1:]) ** 2, np.abs(_ring_eigenvalues(n)[1:])
    return brentq(lambda T: eigenvalues ** (2 * T) @ power / power.sum() - 1e-4, 0, 10 * n**2, xtol=0.5)


def _correction(family: Callable[[int], Topology]) -> Callable[..., float]:
    return lambda n, *_: learning_rate_correction(family(n))


def _diameter(family: Callable[[int], Topology]) -> Callable[..., float]:
    return lambda n, *_: diameter(family(n))


def _rounds(n: int, *_: Any) -> float:
    return math.log2(n)


def _d2_growth(n: int, placement: str, task: Problem) -> float:
    return 1 / math.sqrt(1 - _ring_eigenvalues(n)[1]) if placement == "neighbours alike" else math.nan


def _sgp_growth(n: int, placement: str, task: Problem) -> float:
    return math.log2(n) if placement == "neighbours alike" else 1.0


BLUE, RED, GREEN, ORANGE = (
    catalogue.METHODS[name].colour for name in ("relaysgd", "dpsgd", "d2", "sgp-two-peers")
)
HEAP, CHAIN, RECURSIVE, RING = "binary tree", "chain", "random recursive tree", "ring"
PEERS = "one-peer exponential"
METHODS = [
    Entry("RelaySGD", CHAIN, "relaysgd", _relay(chain), _correction(chain), 4**7, BLUE, "o"),
    Entry("D-PSGD", RING, "dpsgd", _ring, dpsgd_steps, 4**7, RED, "o", biased=True, exact=True),
    Entry("D²", RING, "d2", _ring, _d2_growth, 4**7, GREEN, "x"),
    Entry("SGP", PEERS, "sgp-two-peers", _two_peers, _sgp_growth, 4**8, ORANGE, "D", biased=True),
    Entry("RelaySGD", HEAP, "relaysgd", _relay(binary_tree), _correction(binary_tree), 4**8, BLUE, "^"),
    Entry("RelaySGD", RECURSIVE, "relaysgd", _relay(_recursive), _correction(_recursive), 4**8, BLUE, "s"),
]
AVERAGES = [
    entry._replace(exact=True)
    for entry in (
        Entry("RelaySum", CHAIN, "", _relay(chain), _diameter(chain), 4**7, BLUE, "o"),
        Entry("gossip", RING, "", _ring, gossip_steps, 4**5, RED, "o", tolerance=0.01),
        Entry("RelaySum", HEAP, "", _relay(binary_tree), _diameter(binary_tree), 4**10, BLUE, "^"),
        Entry("RelaySum", RECURSIVE, "", _relay(_recursive), _diameter(_recursive), 4**10, BLUE, "s"),
        Entry("gossip", PEERS, "", one_peer_exponential, _rounds, 4**10, ORANGE, "D"),
    )
]
COLUMNS = ["problem", "method", "topology", "n", "seed", "steps", "learning_rate", "cap", "theory"]


def run(smoke: bool = False, progress: bool = True, *, sizes: Sequence[int] | None = None) -> pd.DataFrame:
    """Search the learning rates of all methods at all sizes, and average numbers.

    Args:
      smoke: 16 workers only.
      progress: show a bar.
      sizes: numbers of workers, ascending powers of two, of which each method takes those up to its own
        limit; by default the powers of 4 from 16 to 4¹⁰.

    Returns:
      One row a search, three for each n but a method's largest: problem ("neighbours alike", "at random",
      "mean estimation"), method, topology, n, seed, steps (inf where they are more than `cap`),
      learning_rate, cap, theory (the steps of D-PSGD and in mean estimation, else what they are in
      proportion to).
    """
    sizes = list(sizes) if sizes else [16] if smoke else [4**k for k in range(2, 11)]
    draws = 1 if smoke else 3

    def study(entry: Entry) -> list[tuple]:
        here = [n for n in sizes if n <= entry.largest]
        rows = []
        for row in _searches(entry, here, draws) if entry.name else _averages(entry, here):
            rows.append(row)
            bar.set_postfix_str(f"{row[1]}, {row[2]}, n = {row[3]}")
        bar.update()
        return rows

    with tqdm(total=len(METHODS + AVERAGES), disable=not progress, unit="method") as bar:
        found = side_by_side(study, METHODS + AVERAGES)
    return pd.DataFrame([row for rows in found for row in rows], columns=COLUMNS)


def _searches(entry: Entry, sizes: Sequence[int], draws: int) -> Iterator[tuple]:
    """Rows of both placements. A search begins where the rates of the last sizes point to."""
    rates: dict[str, list[float]] = {placement: [] for placement in PLACEMENTS}
    failed: set[str] = set()
    for n in sizes:
        mixer, cap = entry.mixer(n), int(min(MAX_STEPS, MAX_WORK / (n * DIM)))

        def make(task: Problem, rate: Array, mixer: Mixer = mixer) -> Algorithm:
            return catalogue.METHODS[entry.name].build(task.grad, mixer, optax.sgd(rate))

        for placement in PLACEMENTS:
            guess = _next(rates[placement])
            for seed in range(draws if n < entry.largest else 1):
                task, found = problem(n, placement, seed), (math.inf, math.nan)
                if placement not in failed:
                    found = _search(make, task, guess, cap, entry.biased)
                theory = entry.theory(n, placement, task)
                yield placement, entry.method, entry.topology, n, seed, *found, cap, theory
                if found[0] == math.inf:
                    failed.add(placement)
                    break
                guess = found[1]
            rates[placement].append(guess)


def _next(rates: list[float]) -> float:
    """Where the last two rates point to. The first, that of the fewest workers, tells nothing yet."""
    return rates[-1] ** 2 / rates[-2] if len(rates) > 2 else rates[-1] if rates else 1.0


def _search(make: Callable, task: Problem, guess: float, cap: int, biased: bool) -> tuple[float, float]:
    """The fewest steps and their rate: halve it until a run gets there, then climb by ever smaller factors.

    No run takes longer than the best so far. D-PSGD and SGP go to where their bias leaves them as fast as
    gradient descent, whose error falls as exp(−2γμT); after twice that time they are there.
    """
    best, rate = math.inf, guess
    with jax.enable_x64(True):  # holds for a thread
        task = jax.tree.map(jnp.asarray, task)
        patience = math.log(task.error(task.init(jax.random.key(0))) / TARGET) / MU if biased else math.inf

        def attempt(rate: float) -> tuple[float, bool]:
            limit = min(best, cap, patience / rate)
            settled, taken = jax.device_get(_settled(make, task, rate, int(limit)))
            return float(settled), bool(taken >= cap)

        for _ in range(30):
            best, gave_up = attempt(rate)
            if best < math.inf or gave_up:
                break
            rate /= 2
        if best == math.inf:
            return best, math.nan
        for factor in (2, 2**0.5, 2**0.25):
            for by in (factor, 1 / factor):
                before = best
                while (steps := attempt(rate * by)[0]) < best:
                    best, rate = steps, rate * by
                if best < before:
                    break
    return best, rate


@functools.partial(jax.jit, static_argnums=0)
def _settled(make: Callable, task: Problem, rate: Array, limit: Array) -> tuple[Array, Array]:
    """The steps after which the error stays below the target, inf if above `limit`; and the steps taken.

    Looks at every hundredth of the steps so far, and goes on for a quarter of them, and two rounds of an
    exponential graph, after the error was last above.
    """
    algorithm, key = engine.silent(make(task, rate)), jax.random.key(0)
    start = task.init(key)
    first, margin = task.error(start), 4 * math.log2(len(start))

    def see(run: RunState, taken: Any, memory: tuple[Array, Array]) -> Any:
        error = task.error(algorithm.params(run.method))
        diverged = ~(error < 1e3 * first)
        last = jnp.where(error < TARGET, memory[1], jnp.where(diverged, limit, run.step))
        return run, (run.step, last)

    def go_on(memory: tuple[Array, Array]) -> Array:
        t, last = memory
        return (last < limit) & (t < 1.25 * last + margin)

    zero = jnp.zeros((), jnp.int32)
    run = engine.begin(algorithm, key, start)
    _, (taken, last) = engine.watch(
        algorithm, key, run, (zero, zero), gap=lambda t, memory: 1 + t // 100, see=see, go_on=go_on
    )
    return jnp.where(last < limit, last + 1, jnp.inf), taken


def _averages(entry: Entry, sizes: Sequence[int]) -> Iterator[tuple]:
    for n in sizes:
        numbers = np.random.default_rng(0).integers(1, 9, (n, 1)).astype(float)
        relays, theory = entry.method == "RelaySum", entry.theory(n, MEAN, numbers)
        with jax.enable_x64(True):
            steps = averaged(entry.mixer(n), numbers, relays=relays, tolerance=entry.tolerance)
        yield MEAN, entry.method, entry.topology, n, 0, float(steps), math.nan, MAX_STEPS, float(theory)


def averaged(mixer: Mixer, numbers: np.ndarray, *, relays: bool, tolerance: float) -> int:
    """The steps until the root mean squared error is within `tolerance` of the numbers' spread.

    Args:
      mixer: how to average.
      numbers: (n, k), one or more for each worker.
      relays: whether the workers say the same numbers again and again (RelaySum), or average what they have.
      tolerance: 0 for all to be right to the last bit.
    """
    tolerance, key = tolerance * numbers.std(), jax.random.key(0)

    @jax.jit
    def steps(numbers: Array) -> Array:
        mean = numbers.sum(0, keepdims=True) / len(numbers)

        def init(key: Key, numbers: Array) -> tuple:
            return numbers, mixer.init(jnp.zeros_like(numbers))

        def step(key: Key, t: Array, state: tuple) -> tuple[tuple, Info]:
            x, mix = state
            mix, x = mixer.mix(key, t, mix, numbers if relays else x)
            return (x, mix), Info(jnp.zeros(len(x)))

        def error(x: Array) -> Array:
            return jnp.sqrt(((x - mean) ** 2).mean())

        averaging = method(mixer, init, step, params=lambda state: state[0])
        run, _ = engine.watch(
            averaging,
            key,
            engine.begin(averaging, key, numbers),
            (jnp.zeros((), jnp.int32), error(numbers)),
            gap=lambda t, memory: jnp.ones_like(t),
            see=lambda run, taken, memory: (run, (run.step, error(run.method[0]))),
            go_on=lambda memory: (memory[1] > tolerance) & (memory[0] < MAX_STEPS),
        )
        return run.step

    return int(steps(numbers))


def picture(table: pd.DataFrame) -> Figure:
    """Steps against n, a panel for each problem: medians of the draws, their range, and the theory."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 5.6), layout="constrained")
    entries = {(entry.method, entry.topology): entry for entry in METHODS + AVERAGES}
    for ax, name in zip(axes, (*PLACEMENTS, MEAN), strict=True):
        for kind, rows in table[table.problem == name].groupby(["method", "topology"], sort=False):
            _draw(ax, entries[kind], rows)
        ax.set_xscale("log", base=2)
        ax.set(yscale="log", xlabel="number of workers n", title=name)
        ax.xaxis.set_major_locator(LogLocator(4))
        ax.yaxis.set_minor_locator(NullLocator())
    for ax in axes[:2]:
        ax.set(ylim=(5, 4 * MAX_STEPS), title=f"quadratics, {ax.get_title()}")
    axes[0].set(ylabel=f"steps until the error stays below {TARGET:g}")
    axes[2].set(ylabel="steps until all workers know the mean")
    grey: dict[str, Any] = {"color": "0.4", "linewidth": 1}
    handles = [_handle(entry) for entry in METHODS]
    handles += [
        Line2D([], [], **grey, label="theory: how many steps"),
        Line2D([], [], **grey, linestyle=":", label="theory: how they grow"),
        Line2D([], [], **grey, linestyle="", marker="o", fillstyle="none", label="not in so many steps"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, columnspacing=4)
    sns.despine(figure)
    return figure


def _handle(entry: Entry) -> Line2D:
    of_means = {"RelaySGD": " (RelaySum)", "D-PSGD": " (gossip)", "SGP": " (gossip)"}.get(entry.method, "")
    label = f"{entry.method}{of_means}, {entry.topology}"
    return Line2D(
        [], [], color=entry.colour, marker=entry.marker, linestyle="", markersize=6, mew=1.5, label=label
    )


def _draw(ax: Axes, entry: Entry, rows: pd.DataFrame) -> None:
    colour = entry.colour
    look: dict[str, Any] = {
        "color": colour,
        "marker": entry.marker,
        "markersize": 6,
        "linestyle": "",
        "mew": 1.5,
    }
    draws = rows.groupby("n")
    steps, theory, cap = draws.steps.median(), draws.theory.median(), draws.cap.max()
    seen = steps[np.isfinite(steps)]
    lowest, highest = draws.steps.min()[seen.index], draws.steps.max()[seen.index]
    ax.vlines(seen.index, lowest, highest, colour, linewidth=4, alpha=0.3)
    ax.plot(seen.index, seen, **look)
    if len(seen) < len(steps):
        n = steps.index[len(seen)]  # the first that is out of reach
        ax.plot(n, cap[n], **look, fillstyle="none")
        ax.annotate("", (n, 2.5 * cap[n]), (n, cap[n]), arrowprops={"arrowstyle": "->", "color": colour})
    scale = 1 if entry.exact else seen.iloc[-1] / theory[seen.index[-1]]
    ax.plot(theory.index, scale * theory, "-" if entry.exact else ":", color=colour, linewidth=1, zorder=0)
