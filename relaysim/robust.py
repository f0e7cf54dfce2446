"""Averages that bear liars: each worker looks at the models of its neighbours before it follows them.

A model is one vector here, all leaves of a worker together. What is not finite counts as infinitely far. A
call holds the neighbours' models side by side: n times the largest degree times a model, so hubs are dear.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim import topology as topologies
from relaysim.checks import check_count, check_number
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Messages, Mixer, Stacked, made_by


def clipped_gossip(
    topology: Topology, weights: Any = None, *, radius: float | Array | None = None, attackers: int = 0
) -> Mixer:
    """Self-centred clipping: x_i ← x_i + Σ_j W_ij clip(x_j − x_i, τ_i), no longer than τ_i each.

    Source: He, Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022. With
    no radius given it follows the disagreement, as theirs: τ_i² = (1/δ_i) Σ_j W_ij ‖x_j − x_i‖² over all
    neighbours but the `attackers` farthest ones, δ_i being the most weight that so many neighbours have.

    >>> import relaysim as rs
    >>> mixer = clipped_gossip(rs.topology.ring(8), radius=0.1)

    Args:
      topology: connected and undirected.
      weights: W, as for `gossip`; Metropolis–Hastings by default.
      radius: τ of all workers, at least 0.
      attackers: how many neighbours of a worker may lie, where there is no radius; then at least 1.

    Raises:
      ValueError: where neither is given, an argument is out of its range or the weights do not fit.
    """
    near = _Neighbours(topology)
    if radius is None:
        check_count("attackers", attackers)
    else:
        check_number("radius", radius, 0)
    w = (
        topologies.metropolis_weights(near.graph)
        if weights is None
        else topologies.check_weights(weights, near.graph)
    )
    w = near.padded(_entries(w, near.index), 0)
    doubt = np.sort(w, axis=1)[:, -attackers:].sum(1) if radius is None else np.ones(near.n)

    def mixed(x: Array) -> Array:
        moved = near.of(x) - x[:, None]
        far = jnp.linalg.norm(moved, axis=2)
        far, moved = jnp.where(jnp.isfinite(far), far, jnp.inf), jnp.where(jnp.isfinite(moved), moved, 0)
        if radius is None:
            rank = jnp.argsort(jnp.argsort(jnp.where(near.there, -far, jnp.inf)))  # 0 is the farthest
            trusted = jnp.where((rank >= attackers) & near.there, w.astype(x.dtype) * far**2, 0)
            tau = jnp.sqrt(trusted.sum(1) / doubt.astype(x.dtype))
        else:
            tau = jnp.full(near.n, radius, x.dtype)
        share = jnp.minimum(1, tau[:, None] / jnp.maximum(far, jnp.finfo(x.dtype).tiny))
        return x + jnp.einsum("nk,nkd->nd", w.astype(x.dtype) * share, moved)

    return near.mixer(mixed)


def trimmed_mean(topology: Topology, *, attackers: int) -> Mixer:
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
    near = _Neighbours(topology, 2 * b + 1, "attackers")
    kept = (np.arange(near.index.shape[1]) >= b) & (
        np.arange(near.index.shape[1]) < near.degrees[:, None] - b
    )

    def mixed(x: Array) -> Array:
        ordered = jnp.sort(near.padded(_known(near.of(x)), jnp.inf), axis=1)
        total = x + jnp.where(kept[..., None], ordered, 0).sum(1)
        return total / (near.degrees - 2 * b + 1)[:, None].astype(x.dtype)

    return near.mixer(mixed)


def median(topology: Topology) -> Mixer:
    """The median of the neighbours' numbers and the own one, in each coordinate.

    >>> import relaysim as rs
    >>> x = jnp.array([[0.0], [1.0], [100.0]])
    >>> mixer = median(rs.topology.fully_connected(3))
    >>> mixer.mix(jax.random.key(0), 0, mixer.init(x), x)[1].ravel().tolist()
    [1.0, 1.0, 1.0]

    Source: Yang, Gang and Bajwa, "BRIDGE: Byzantine-resilient decentralized gradient descent", 2022 (M).
    """
    near = _Neighbours(topology)
    low, high = near.degrees // 2, (near.degrees + 1) // 2

    def mixed(x: Array) -> Array:
        everybody = jnp.concatenate([_known(x)[:, None], near.padded(_known(near.of(x)), jnp.inf)], 1)
        ordered, worker = jnp.sort(everybody, axis=1), np.arange(near.n)
        return (ordered[worker, low] + ordered[worker, high]) / 2

    return near.mixer(mixed)


def krum(topology: Topology, *, attackers: int) -> Mixer:
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
    near = _Neighbours(topology, b + 2, "attackers")
    nearest = np.arange(1 + near.index.shape[1]) < (near.degrees - b - 1)[:, None]
    there = np.append(np.ones((near.n, 1), bool), near.there, 1)
    pairs = there[:, :, None] & there[:, None] & ~np.eye(there.shape[1], dtype=bool)

    def mixed(x: Array) -> Array:
        everybody = jnp.concatenate([x[:, None], near.of(x)], 1)
        far = jnp.sum((everybody[:, :, None] - everybody[:, None]) ** 2, 3)
        far = jnp.sort(jnp.where(pairs & jnp.isfinite(far), far, jnp.inf), axis=2)
        score = jnp.where(nearest[:, None], far, 0).sum(2)
        best = jnp.argmin(jnp.where(there, score, jnp.inf), axis=1)
        return everybody[np.arange(near.n), best]

    return near.mixer(mixed)


def geometric_median(topology: Topology, *, iterations: int = 8, smoothing: float = 1e-6) -> Mixer:
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
    near, iterations = _Neighbours(topology), check_count("iterations", iterations)
    check_number("smoothing", smoothing, 0, ends="()")
    there = np.append(np.ones((near.n, 1), bool), near.there, 1)

    def mixed(x: Array) -> Array:
        everybody = jnp.concatenate([x[:, None], near.of(x)], 1)
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

    def __init__(self, topology: Any, least: int = 0, name: str = "") -> None:
        self.graph = as_topology("topology", topology)
        if self.graph.directed or not self.graph.is_connected:
            raise ValueError(f"topology {self.graph!r} must be connected and undirected")
        self.n, self.degrees = self.graph.num_workers, self.graph.degrees
        if self.degrees.min() < least:
            few = f"{name} is too large: somebody in {self.graph!r} has {self.degrees.min()} neighbours"
            raise ValueError(f"{few}, expected {least} at least")
        places = np.arange(self.degrees.max(initial=0))
        self.there = places < self.degrees[:, None]
        first = np.cumsum(self.degrees) - self.degrees
        edge = np.where(self.there, first[:, None] + places, 0)
        senders = np.append(self.graph.senders, 0)
        self.index = np.where(self.there, senders[edge], np.arange(self.n)[:, None])

    def of(self, x: Array) -> Array:
        """(n, d) -> (n, K, d)"""
        return x[self.index]

    def padded(self, values: Any, filler: float) -> Any:
        """The filler where nobody is."""
        there = self.there.reshape(self.there.shape + (1,) * (values.ndim - 2))
        where = np.where if isinstance(values, np.ndarray) else jnp.where
        return where(there, values, filler)

    def mixer(self, mixed: Callable[[Array], Array]) -> Mixer:
        def mix(key: Key, step: Array, s: tuple, x: Stacked) -> tuple[tuple, Stacked]:
            leaves, treedef = jax.tree.flatten(x)
            flat = jnp.concatenate([leaf.reshape(self.n, -1) for leaf in leaves], 1)
            sizes = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
            parts = jnp.split(mixed(flat), sizes, 1)
            parts = [p.reshape(v.shape).astype(v.dtype) for p, v in zip(parts, leaves, strict=True)]
            return s, jax.tree.unflatten(treedef, parts)

        edges = Messages(self.graph.senders, self.graph.receivers)
        name = f"{made_by(mixed)} on {self.graph.name}"
        return Mixer(self.n, lambda x: (), mix, messages=lambda: [[edges]], name=name)


def _entries(w: Any, columns: np.ndarray) -> np.ndarray:
    """(n, K): of row i of a sparse matrix those in the columns (n, K)."""
    row = np.broadcast_to(np.arange(len(columns))[:, None], columns.shape)
    entries = w[row.ravel(), columns.ravel()] if columns.size else np.zeros(0)
    return np.asarray(entries).reshape(columns.shape)


def _known(x: Array) -> Array:
    return jnp.where(jnp.isnan(x), jnp.inf, x)
