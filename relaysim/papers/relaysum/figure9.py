"""Figure 9: estimating a mean together, where RelaySum soon is as good as one estimator with all samples.

At each step every worker draws a sample s of the same distribution, of mean μ = 1 and variance σ² = 1, and
wants to know μ. The best estimate after T steps is the mean of all n T samples, and its mean squared error is
σ² / (n T). The workers keep a sum and a count, in one vector x = (sum, count), and estimate sum / count:

    gossip      x ← W (x + (s, 1)),
    RelaySum    x ← x + RelaySum((s, 1)),

which are D-PSGD and RelaySGD/Grad with (s, 1) for the update. With RelaySum each sample counts once at every
worker, late by δ_ij = max(dist(i, j) − 1, 0) steps: worker i's error is σ² / Σ_j max(T − δ_ij, 0). With
gossip the mean of the workers' errors is, λ_l being the eigenvalues of W,

    σ² / (n T²) · Σ_{t=1..T} Σ_l λ_l^{2t},

which tends to σ² / (n T) as well, but only for T above Σ λ_l² / (1 − λ_l²) (the sum over all λ_l ≠ 1), which
is n²/8 on a large ring, where RelaySum on the chain does with the mean delay, n/3. In the picture the marks
are the errors of simulated estimates, the lines these formulae.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from relaysim.catalogue import METHODS
from relaysim.mixing import gossip, relay_sum
from relaysim.simulate import simulate
from relaysim.tasks.sampling import in_one_row
from relaysim.topology import Topology, binary_tree, chain, distances, metropolis_weights, ring
from relaysim.types import Array, Key, Mixer


def relayed_error(tree: Topology, steps: np.ndarray) -> np.ndarray:
    """The workers' mean squared error after these numbers of steps with RelaySum, for σ² = 1."""
    delays = np.maximum(distances(tree) - 1, 0)
    return np.array([np.mean(1 / np.maximum(T - delays, 0).sum(1)) for T in steps])


def gossiped_error(topology: Topology, steps: np.ndarray) -> np.ndarray:
    """The workers' mean squared error after these numbers of steps with gossip, for σ² = 1."""
    eigenvalues = np.linalg.eigvalsh(metropolis_weights(topology).toarray())
    powers = np.cumsum([np.sum(eigenvalues ** (2 * t)) for t in range(1, steps.max() + 1)])
    return powers[steps - 1] / (topology.num_workers * steps**2)


class Entry(NamedTuple):
    """A way of averaging."""

    name: str
    method: str
    """Its name in the catalogue."""
    mixer: Callable[[Topology], Mixer]
    error: Callable[[Topology, np.ndarray], np.ndarray]


RELAY = Entry("RelaySum", "relaysgd-grad", relay_sum, relayed_error)
GOSSIP = Entry("gossip", "dpsgd", gossip, gossiped_error)
COLOURS: dict[Any, str] = {entry.name: METHODS[entry.method].colour for entry in (RELAY, GOSSIP)}
CASES = [
    ("chain and ring", RELAY, chain),
    ("chain and ring", GOSSIP, ring),
    ("binary tree", RELAY, binary_tree),
    ("binary tree", GOSSIP, binary_tree),
]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """The workers' mean squared error, simulated (the mean over repetitions) and by the formulae.

    Returns:
      One row a number of steps: network, method, n, step, error, expected.
    """
    sizes, num_steps, repeats = ([8], 50, 10) if smoke else ([8, 32, 128], 3000, 100)
    steps = np.unique(np.geomspace(1, num_steps, 30).round().astype(int))
    cases = [(*case, n) for case in CASES for n in sizes]
    tables = []
    with jax.enable_x64(True):
        for network, entry, family, n in (bar := tqdm(cases, disable=not progress, unit="case")):
            bar.set_description(f"{entry.name}, {family.__name__}, n = {n}")
            error = _simulated(entry, family(n), num_steps, repeats)[steps - 1]
            numbers = {"step": steps, "error": error, "expected": entry.error(family(n), steps)}
            tables.append(pd.DataFrame({"network": network, "method": entry.name, "n": n} | numbers))
    return pd.concat(tables, ignore_index=True)


def picture(table: pd.DataFrame) -> Figure:
    """The error against the steps, a panel for each kind of network and number of workers."""
    networks, sizes = table.network.unique(), table.n.unique()
    figure, axes = plt.subplots(
        len(networks),
        len(sizes),
        figsize=(11, 6),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for (network, n), rows in table.groupby(["network", "n"], sort=False):
        ax = axes[list(networks).index(network), list(sizes).index(n)]
        for method, row in rows.groupby("method", sort=False):
            ax.plot(row.step, row.error, "o", color=COLOURS[method], markersize=4, label=method)
            ax.plot(row.step, row.expected, color=COLOURS[method], linewidth=1)
        steps = np.unique(rows.step)
        ax.plot(steps, 1 / (n * steps), color="0.3", linestyle="--", linewidth=1, label="1 / (nT)")
        ax.set(xscale="log", yscale="log")
        ax.set_title(f"{network}, n = {n}", fontsize=10)
    for ax in axes[-1]:
        ax.set(xlabel="steps T")
    for ax in axes[:, 0]:
        ax.set(ylabel="mean squared error")
    axes[0, 0].legend(frameon=False)
    sns.despine(figure)
    return figure


def _simulated(entry: Entry, topology: Topology, num_steps: int, repeats: int) -> np.ndarray:
    """(num_steps,) the mean squared error over workers and repetitions."""
    n = topology.num_workers

    def grad(key: Key, step: Array, params: Array) -> tuple[Array, Array]:
        samples = 1 + jax.random.normal(in_one_row(jax.random.fold_in(key, step)), (n, repeats))
        return jnp.zeros(n), -jnp.concatenate([samples, jnp.ones((n, 1))], axis=1)

    def measure(params: Array) -> dict[str, Array]:
        return {"error": jnp.mean((params[:, :-1] / params[:, -1:] - 1) ** 2)}

    method = METHODS[entry.method].build(grad, entry.mixer(topology), optax.sgd(1.0))
    start = jnp.zeros((n, repeats + 1))
    trace = simulate(jax.random.key(0), method, start, num_steps=num_steps, measure=measure)
    return trace.metrics["error"]
