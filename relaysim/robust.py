"""Averages that bear liars: each worker looks at the models of its neighbours before it follows them.

A model is one vector here, all leaves of a worker together. What is not finite counts as infinitely far. A
call holds the neighbours' models side by side: n times the largest degree times a model, so hubs are dear.

All take `drop`, the probability with which each message is lost, or a process of `rs.faults`: a worker looks
at what arrived, and where that is too little for `attackers` it keeps its own model. And `mesh`, the devices
that the workers lie over (see `sharding`): only rows that cross between them are sent.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relaysim import topology as topologies
from relaysim.checks import check_count, check_number
from relaysim.faults import Drop, loss_of
from relaysim.mixing.halo import neighbours_over
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Messages, Mixer, Stacked, made_by


def clipped_gossip(
    topology: Topology,
    weights: Any = None,
    *,
    radius: float | Array | None = None,
    attackers: int = 0,
    drop: Drop = 0.0,
    mesh: Mesh | None = None,
) -> Mixer:
    """Self-centred clipping: x_i ← x_i + Σ_j W_ij clip(x_j − x_i, τ_i), no longer than τ_i each.

    Source: He, Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022. With
    no radius given it follows the disagreement, as theirs: τ_i² = (1/δ_i) Σ_j W_ij ‖x_j − x_i‖² over all
    neighbours but the `attackers` farthest ones, δ_i being the most weight that so many neighbours have.

    >>> import relaysim as rs
    >>> clipped_gossip(rs.topology.ring(8), radius=0.1)
    Mixer('clipped_gossip on ring', 8 workers)

    Args:
      topology: connected and undirected.
      weights: W, as for `gossip`; Metropolis–Hastings by default.
      radius: τ of all workers, at least 0.
      attackers: how many neighbours of a worker may lie, where there is no radius; then at least 1.
      drop: who is not heard counts as one who agrees.
      mesh: as for all robust mixers.

    Raises:
      ValueError: where neither is given, an argument is out of its range or the weights do not fit.
    """
    near = _Neighbours(topology, drop, mesh)
    if radius is None:
        check_count("attackers", attackers)
    else:
        check_number("radius", radius, 0)
    w = (
        topologies.metropolis_weights(near.graph)
        if weights is None
        else topologies.check_weights(weights, near.graph)
    )
    w = np.where(near.there, _entries(w, near.index), 0)
    doubt = np.sort(w, axis=1)[:, -attackers:].sum(1) if radius is None else np.ones(near.n)

    def mixed(x: Array, others: Array, there: Array) -> Array:
        weight, moved = jnp.where(there, w, 0).astype(x.dtype), others - x[:, None]
        far = jnp.linalg.norm(moved, axis=2)
        far, moved = jnp.where(jnp.isfinite(far), far, jnp.inf), jnp.where(jnp.isfinite(moved), moved, 0)
        if radius is None:
            rank = jnp.argsort(jnp.argsort(jnp.where(there, -far, jnp.inf)))  # 0 is the farthest
            trusted = jnp.where((rank >= attackers) & there, weight * far**2, 0)
            tau = jnp.sqrt(trusted.sum(1) / doubt.astype(x.dtype))
        else:
            tau = jnp.full(near.n, radius, x.dtype)
        share = jnp.minimum(1, tau[:, None] / jnp.maximum(far, jnp.finfo(x.dtype).tiny))
        return x + jnp.einsum("nk,nkd->nd", weight * share, moved)

    return near.mixer(mixed)


def trimmed_mean(topology: Topology, *, attackers: int, drop: Drop = 0.0, mesh: Mesh | None = None) -> Mixer:
    """In each coordinate the mean of the own number and the neighbours' but their b largest and smallest.

    >>> import relaysim as rs
    >>> mixer = trimmed_mean(rs.topology.fully_connected(5), attackers=1)

    Source: Yang, Gang and Bajwa, "BRIDGE: Byzantine-resilient decentralized gradient descent", 2022 (T).

    Args:
      topology: undirected, everybody with 2 b + 1 neighbours at least.
      attackers: b, how many neighbours of a worker may lie.

    Raises:
      ValueError: where somebody has too few neighbours.
    """
    b = check_count("attackers", attackers, 0)
    near = _Neighbours(topology, drop, mesh, 2 * b + 1)

    def mixed(x: Array, others: Array, there: Array) -> Array:
        ordered = jnp.sort(jnp.where(there[..., None], _known(others), jnp.inf), axis=1)
        rank, count = np.arange(there.shape[1])[None], there.sum(1)[:, None]
        kept = (rank >= b) & (rank < count - b)
        total = x + jnp.where(kept[..., None], ordered, 0).sum(1)
        return total / jnp.maximum(count - 2 * b + 1, 1).astype(x.dtype)

    return near.mixer(mixed)


def median(topology: Topology, *, drop: Drop = 0.0, mesh: Mesh | None = None) -> Mixer:
    """The median of the neighbours' numbers and the own one, in each coordinate.

    >>> import relaysim as rs
    >>> x = jnp.array([[0.0], [1.0], [100.0]])
    >>> mixer = median(rs.topology.fully_connected(3))
    >>> mixer.mix(jax.random.key(0), 0, mixer.init(x), x)[1].ravel().tolist()
    [1.0, 1.0, 1.0]

    Source: Yang, Gang and Bajwa, "BRIDGE: Byzantine-resilient decentralized gradient descent", 2022 (M).
    """
    near = _Neighbours(topology, drop, mesh)

    def mixed(x: Array, others: Array, there: Array) -> Array:
        others = jnp.where(there[..., None], _known(others), jnp.inf)
        ordered = jnp.sort(jnp.concatenate([_known(x)[:, None], others], 1), axis=1)
        count = there.sum(1)
        middle = jnp.stack([count // 2, (count + 1) // 2], 1)[..., None]
        return jnp.take_along_axis(ordered, middle, 1).sum(1) / 2

    return near.mixer(mixed)


def krum(topology: Topology, *, attackers: int, drop: Drop = 0.0, mesh: Mesh | None = None) -> Mixer:
    """Of the m models of its neighbours and itself each worker takes the one with the smallest sum of squared
    distances to the m − b − 2 that are nearest to it.

    >>> import relaysim as rs
    >>> mixer = krum(rs.topology.fully_connected(5), attackers=1)

    Source: Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent",
    NeurIPS 2017; Yang, Gang and Bajwa 2022 (BRIDGE-K).

    Args:
      topology: undirected, everybody with b + 2 neighbours at least.
      attackers: b, how many neighbours of a worker may lie.

    Raises:
      ValueError: where somebody has too few neighbours.
    """
    b = check_count("attackers", attackers, 0)
    near = _Neighbours(topology, drop, mesh, b + 2)

    def mixed(x: Array, others: Array, there: Array) -> Array:
        everybody = jnp.concatenate([x[:, None], others], 1)
        there = jnp.concatenate([jnp.ones((near.n, 1), bool), there], 1)
        count, one = there.sum(1), np.eye(there.shape[1], dtype=bool)[None]
        far = jnp.sum((everybody[:, :, None] - everybody[:, None]) ** 2, 3)
        pairs = there[:, :, None] & there[:, None] & ~one & jnp.isfinite(far)
        far = jnp.sort(jnp.where(pairs, far, jnp.inf), axis=2)
        nearest = np.arange(there.shape[1])[None] < (count - b - 2)[:, None]
        score = jnp.where(there, jnp.where(nearest[:, None], far, 0).sum(2), jnp.inf)
        best = jnp.where(count < b + 3, 0, jnp.argmin(score, axis=1))  # 0 is its own
        return jnp.take_along_axis(everybody, best[:, None, None], 1)[:, 0]

    return near.mixer(mixed)


def geometric_median(
    topology: Topology,
    *,
    iterations: int = 8,
    smoothing: float = 1e-6,
    drop: Drop = 0.0,
    mesh: Mesh | None = None,
) -> Mixer:
    """The point of the smallest sum of distances to the neighbours' models and the own one, by Weiszfeld's
    iteration from the own model on.

    >>> import relaysim as rs
    >>> mixer = geometric_median(rs.topology.ring(5))

    Source: Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", 2022, algorithm 2.

    Args:
      topology: undirected.
      iterations: of z ← Σ_j β_j x_j / Σ_j β_j with β_j = 1 / max(ν, ‖z − x_j‖).
      smoothing: ν, above 0.
    """
    near, iterations = _Neighbours(topology, drop, mesh), check_count("iterations", iterations)
    check_number("smoothing", smoothing, 0, ends="()")

    def mixed(x: Array, others: Array, there: Array) -> Array:
        everybody = jnp.concatenate([x[:, None], others], 1)
        there = jnp.concatenate([jnp.ones((near.n, 1), bool), there], 1)
        known = there & jnp.isfinite(everybody).all(2)
        everybody = jnp.where(known[..., None], everybody, 0)

        def closer(_: int, z: Array) -> Array:
            far = jnp.linalg.norm(z[:, None] - everybody, axis=2)
            beta = jnp.where(known, 1 / jnp.maximum(smoothing, far), 0)
            return jnp.einsum("nk,nkd->nd", beta, everybody) / beta.sum(1, keepdims=True)

        return jax.lax.fori_loop(0, iterations, closer, x)

    return near.mixer(mixed)


class _Neighbours:
    """Who hears whom, side by side: places where nobody is left hold the worker itself."""

    def __init__(self, topology: Any, drop: Drop, mesh: Mesh | None, least: int = 0) -> None:
        self.graph = as_topology("topology", topology)
        if self.graph.directed or not self.graph.is_connected:
            raise ValueError(f"topology {self.graph!r} must be connected and undirected")
        self.n, degrees = self.graph.num_workers, self.graph.degrees
        if degrees.min() < least:
            few = f"attackers is too large: somebody in {self.graph!r} has {degrees.min()} neighbours"
            raise ValueError(f"{few}, expected {least} at least")
        places = np.arange(degrees.max(initial=0))
        self.there = places < degrees[:, None]
        first = np.cumsum(degrees) - degrees
        self.edge = np.where(self.there, first[:, None] + places, 0)
        senders = np.append(self.graph.senders, 0)
        self.index = np.where(self.there, senders[self.edge], np.arange(self.n)[:, None])
        self.loss = loss_of(drop, self.n)
        self.of = (lambda x: x[self.index]) if mesh is None else neighbours_over(mesh, self.index)

    def mixer(self, mixed: Callable[[Array, Array, Array], Array]) -> Mixer:
        """From a function of all models (n, d), those of the neighbours (n, K, d) and who is heard (n, K)."""
        senders, receivers = self.graph.senders, self.graph.receivers

        def mix(key: Key, step: Array, s: Any, x: Stacked) -> tuple[Any, Stacked]:
            leaves, treedef = jax.tree.flatten(x)
            flat = jnp.concatenate([leaf.reshape(self.n, -1) for leaf in leaves], 1)
            there = jnp.asarray(self.there)
            if self.loss and len(senders):
                s, lost = self.loss.lost(key, step, s, senders, receivers)
                there &= ~lost[self.edge]
            sizes = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
            parts = jnp.split(mixed(flat, self.of(flat), there), sizes, 1)
            parts = [p.reshape(v.shape).astype(v.dtype) for p, v in zip(parts, leaves, strict=True)]
            return s, jax.tree.unflatten(treedef, parts)

        def init(x: Stacked) -> Any:
            return self.loss.init(len(senders)) if self.loss else ()

        name = f"{made_by(mixed)} on {self.graph.name}"
        return Mixer(self.n, init, mix, messages=lambda: [[Messages(senders, receivers)]], name=name)


def _entries(w: Any, columns: np.ndarray) -> np.ndarray:
    """(n, K): of row i of a sparse matrix those in the columns (n, K)."""
    row = np.broadcast_to(np.arange(len(columns))[:, None], columns.shape)
    entries = w[row.ravel(), columns.ravel()] if columns.size else np.zeros(0)
    return np.asarray(entries).reshape(columns.shape)


def _known(x: Array) -> Array:
    return jnp.where(jnp.isnan(x), jnp.inf, x)
