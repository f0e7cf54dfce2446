"""Figure 5: how fast RelaySum and gossip average, by topology and number of workers.

At the first step a single worker (the last: a leaf of the tree, the end of the chain) makes an update u = 1;
then everybody only averages. All models tend to the same limit c, and the distance from it, the root of the
mean of (x_i / c − 1)² over the workers, is drawn against the steps:

    gossip      x ← W (x + u), with Metropolis weights; c = 1/n;
    RelaySum    x ← x + RelaySum(u) (RelaySGD/Grad): the update is averaged once; c = 1/n;
    RelaySGD    x ← RelaySum(x + u): averages of averages; c = 1/(nτ), see figure 6 on τ.

RelaySum is exact after as many steps as the diameter: about n on a chain, 2 log₂ n on a binary tree, 2 on a
star. The other two shrink the distance by |λ| a step in the long run. A call of a mixer on its own output is
a linear map of (the mixer's state, x), for gossip W itself, for RelaySum in terms of x and of the messages
under way; λ is the largest eigenvalue of this matrix but for those equal to 1, which belong to consensus.
Drawn are the steps 1 / −log|λ| in which the distance shrinks by a factor of e: on large chains n²/6 for
RelaySGD and n²/3.3 for gossip, n²/13 for gossip on a ring, and n for both on a star. So what sets RelaySGD
apart is not how fast its models come together, but that each of its averages weighs all workers the same.
(Its λ is negative: what dies out last is a difference that changes its sign at every step.)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import seaborn as sns
from jax.flatten_util import ravel_pytree
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tqdm.auto import tqdm

from relaysim.catalogue import METHODS
from relaysim.mixing import gossip, relay_sum
from relaysim.simulate import simulate
from relaysim.topology import (
    Topology,
    binary_tree,
    chain,
    diameter,
    hypercube,
    learning_rate_correction,
    ring,
    star,
)
from relaysim.types import Array, Key, Mixer


class Entry(NamedTuple):
    """A method in the comparison."""

    name: str
    method: str
    """Its name in the catalogue."""
    mixer: Callable[[Topology], Mixer]
    topologies: Sequence[Callable[[int], Topology]]
    limit: Callable[[Topology], float]
    """n c."""
    is_exact: bool = False


TREES = [chain, binary_tree, star]
ENTRIES = [
    Entry("RelaySum", "relaysgd-grad", relay_sum, TREES, lambda _: 1.0, is_exact=True),
    Entry("RelaySGD", "relaysgd", relay_sum, TREES, lambda tree: 1 / learning_rate_correction(tree)),
    Entry("gossip", "dpsgd", gossip, [ring, binary_tree, hypercube, star], lambda _: 1.0),
]
COLOURS: dict[Any, str] = {entry.name: METHODS[entry.method].colour for entry in ENTRIES}
LOOKS: dict[Any, dict] = {
    "chain": {"linestyle": "-", "marker": "o"},
    "ring": {"linestyle": "-", "marker": "o"},
    "binary_tree": {"linestyle": "--", "marker": "^"},
    "star": {"linestyle": ":", "marker": "*"},
    "hypercube": {"linestyle": "-.", "marker": "s"},
}


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """Follow an impulse, and take the eigenvalues.

    Returns:
      One number a row: method, topology, n, metric, step and value. The metrics are "distance" (with a step),
      "eigenvalue" (|λ|) and "steps" (to shrink by e; for RelaySum to be exact).
    """
    sizes, n, num_steps = ([4], 8, 20) if smoke else ([4, 8, 16, 32, 64, 128], 16, 100)
    cases = [(entry, family) for entry in ENTRIES for family in entry.topologies]
    rows: list[tuple] = []
    with jax.enable_x64(True):
        for entry, family in (bar := tqdm(cases, disable=not progress, unit="topology")):
            name = (entry.name, family.__name__)
            bar.set_description(", ".join(name))
            distances = _impulse(entry, family(n), num_steps)
            rows += [(*name, n, "distance", t + 1, value) for t, value in enumerate(distances)]
            for size in sizes:
                if entry.is_exact:
                    rows.append((*name, size, "steps", pd.NA, float(diameter(family(size)))))
                    continue
                eigenvalue = second_eigenvalue(entry.mixer(family(size)))
                rows.append((*name, size, "eigenvalue", pd.NA, eigenvalue))
                rows.append((*name, size, "steps", pd.NA, -1 / np.log(eigenvalue)))
    table = pd.DataFrame(rows, columns=["method", "topology", "n", "metric", "step", "value"])
    return table.astype({"step": "Int64"})


def second_eigenvalue(mixer: Mixer) -> float:
    """|λ|, the largest modulus of an eigenvalue of a mixer other than 1."""
    x = jnp.zeros(mixer.num_workers)
    start, unravel = ravel_pytree((mixer.init(x), x))

    def call(flat: Array) -> Array:
        return ravel_pytree(mixer.mix(jax.random.key(0), jnp.asarray(0), *unravel(flat)))[0]

    values = np.linalg.eigvals(jax.jit(jax.jacfwd(call))(start))
    return float(np.abs(values[np.abs(values - 1) > 1e-6]).max())


def picture(table: pd.DataFrame) -> Figure:
    """The distance of an impulse from its average; the steps to average it, by the number of workers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for (method, topology), rows in table.groupby(["method", "topology"], sort=False):
        look = LOOKS[topology] | {"color": COLOURS[method]}
        distance = rows[rows.metric == "distance"]
        left.plot(distance.step, distance.value.clip(lower=1e-16), **look | {"marker": ""})
        steps = rows[rows.metric == "steps"]
        right.plot(steps.n, steps.value, **look)
    left.set(yscale="log", ylim=(1e-4, 10), xlabel="steps", ylabel="distance from the average")
    left.set_title(f"an update at one of {distance.n.iloc[0]} workers", fontsize=10)
    right.set(xlabel="number of workers n", ylabel="steps")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title("steps to be exact (RelaySum), to shrink by e (others)", fontsize=10)
    handles = [Line2D([], [], color=colour, linewidth=3, label=name) for name, colour in COLOURS.items()]
    names = {"chain": "chain or ring", "binary_tree": "binary tree", "star": "star", "hypercube": "hypercube"}
    handles += [
        Line2D([], [], color="0.4", label=name, **LOOKS[topology]) for topology, name in names.items()
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3.5)
    sns.despine(figure)
    return figure


def _impulse(entry: Entry, topology: Topology, num_steps: int) -> np.ndarray:
    """(num_steps,) the distance after an update of 1 at the last worker."""
    n, limit = topology.num_workers, entry.limit(topology)

    def grad(key: Key, step: Array, params: Array) -> tuple[Array, Array]:
        return jnp.zeros(n), jnp.where((step == 0) & (jnp.arange(n) == n - 1), -1.0, 0.0)

    def measure(params: Array) -> dict[str, Array]:
        return {"distance": jnp.sqrt(jnp.mean((n / limit * params - 1) ** 2))}

    method = METHODS[entry.method].build(grad, entry.mixer(topology), optax.sgd(1.0))
    trace = simulate(jax.random.key(0), method, jnp.zeros(n), num_steps=num_steps, measure=measure)
    return trace.metrics["distance"]
