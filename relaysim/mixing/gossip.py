"""Averages over neighbours: gossip over graphs, and pushing shares along directed ones."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import Mesh

from relaysim import topology as topologies
from relaysim.checks import check_bool
from relaysim.columns import on_columns, settled
from relaysim.faults import Drop, loss_of
from relaysim.mixing.deal import deal
from relaysim.mixing.halo import edge_sum_over
from relaysim.mixing.links import edge_sum, lose, weight_sum
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Messages, Mixer, Stacked, narrowed, rows, widened


def gossip(
    topology: Topology | Sequence[Topology],
    weights: Any = None,
    *,
    lazy: bool = False,
    drop: Drop = 0.0,
    mesh: Mesh | None = None,
) -> Mixer:
    """Gossip averaging: x_i ← Σ_j W_ij x_j over the neighbours j and the worker itself.

    >>> import relaysim as rs
    >>> gossip(rs.topology.ring(8), lazy=True)
    Mixer('gossip on ring (lazy)', 8 workers)

    Args:
      topology: any connected graph (of networkx, too), or a list of several, to which the parameters are then
        dealt out evenly.
      weights: the mixing matrix W, (n, n), dense or scipy-sparse, doubly stochastic and zero where the
        topology has no edge; W_ij is the weight that i gives to j. Metropolis–Hastings weights by default.
        Under `jax.grad` and the like a traced array, whose values nobody can check, and which is read where
        there are edges and on the diagonal alone.
      lazy: mix with (W + I) / 2.
      drop: the weights of what arrived are scaled to sum to 1; where their sum is not above 0, a worker keeps
        its own x.

    Raises:
      ValueError: where the graph is not connected, the weights do not fit it or do not sum to one, or `drop`
        does not fit.
    """
    check_bool("lazy", lazy)
    if isinstance(topology, list | tuple):
        return deal([gossip(t, weights, lazy=lazy, drop=drop, mesh=mesh) for t in topology])
    topology = _connected(topology)
    if isinstance(weights, jax.core.Tracer):
        return _traced(topology, weights, lazy, drop, mesh)
    if weights is None:
        matrix = topologies.metropolis_weights(topology)
    else:
        matrix = topologies.check_weights(weights, topology)
    if lazy:
        matrix = (matrix + scipy.sparse.eye_array(topology.num_workers)) / 2
    name = f"gossip on {topology.name}" + (" (lazy)" if lazy else "")
    return linear(matrix, drop, mesh, renormalise=True)._replace(name=name)


def push(topology: Topology, *, drop: Drop = 0.0, mesh: Mesh | None = None) -> Mixer:
    """Each worker splits its x evenly among itself and those that it sends to: x_i ← Σ_j x_j / (1 + out_j).

    The columns of this matrix sum to one, its rows do not: on a directed graph it keeps the sum over workers
    but tilts the average. `push_sum` corrects for that.

    >>> import relaysim as rs
    >>> push(rs.topology.exponential(8)).sent().tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]

    Args:
      topology: a directed (strongly connected) or undirected graph.
      drop: a lost message's share stays with its sender, to whom nobody has acknowledged it.
      mesh: devices that the workers lie over (see `sharding`): only rows that cross between them are sent.

    Raises:
      ValueError: where the graph is not connected, `drop` does not fit or `mesh` does not divide the workers.
    """
    topology = _connected(topology)
    name = f"push on {topology.name}"
    return linear(even_shares(topology), drop, mesh, renormalise=False)._replace(name=name)


def even_shares(topology: Topology) -> scipy.sparse.csr_array:
    """(n, n) what `push` sends: 1 / (1 + out_j) at [i, j] on edges j → i and on the diagonal."""
    n, senders, receivers = topology.num_workers, topology.senders, topology.receivers
    share = 1 / (1 + topology.out_degrees)
    edges = scipy.sparse.coo_array((share[senders], (receivers, senders)), shape=(n, n))
    return scipy.sparse.csr_array(edges + scipy.sparse.diags_array(share))


def linear(matrix: Any, drop: Drop, mesh: Mesh | None, *, renormalise: bool) -> Mixer:
    """x_i ← Σ_j M_ij x_j, a message along each edge j → i with M_ij ≠ 0."""
    matrix = scipy.sparse.csr_array(matrix)
    matrix.sum_duplicates()  # which sorts the edges by receiver and sender
    own, matrix = matrix.diagonal(), matrix.tocoo()
    edges = (matrix.row != matrix.col) & (matrix.data != 0)
    receivers, senders, weights = matrix.row[edges], matrix.col[edges], matrix.data[edges]
    return _along(senders, receivers, own, weights, drop, mesh, renormalise=renormalise)


def _traced(topology: Topology, weights: Array, lazy: bool, drop: Drop, mesh: Mesh | None) -> Mixer:
    n = topology.num_workers
    if weights.shape != (n, n):
        raise ValueError(
            f"weights has shape {weights.shape}, expected {(n, n)} as the topology has {n} workers"
        )
    order = np.lexsort((topology.senders, topology.receivers))
    senders, receivers = topology.senders[order], topology.receivers[order]
    matrix = (weights + jnp.eye(n, dtype=weights.dtype)) / 2 if lazy else weights
    along, own = matrix[receivers, senders], jnp.diagonal(matrix)
    return _along(senders, receivers, own, along, drop, mesh, renormalise=True)


def _along(
    senders: np.ndarray,
    receivers: np.ndarray,
    own: Any,
    weights: Any,
    drop: Drop,
    mesh: Mesh | None,
    *,
    renormalise: bool,
) -> Mixer:
    """x_i ← own_i x_i + Σ weight · x_sender over the edges (m,), sorted by receiver."""
    n, loss = len(own), loss_of(drop, len(own))
    heard = edge_sum(senders, receivers, n) if mesh is None else edge_sum_over(mesh, senders, receivers, n)
    arriving, returning = weight_sum(senders, receivers, n), weight_sum(receivers, senders, n)

    def mix(key: Key, step: Array, s: Any, x: Stacked) -> tuple[Any, Stacked]:
        kept, w, x = own, weights, settled(x)
        if loss:
            s, w = lose(key, step, loss, s, senders, receivers, jnp.asarray(weights))
            if renormalise:
                arrived = own + arriving(w)
                scale = 1 / jnp.where(arrived > 0, arrived, 1)
            else:
                kept = own + returning(weights - w)

        def of_leaf(v: Array) -> Array:
            sent, v = v, widened(v)
            mixed = rows(kept, v).astype(v.dtype) * v + heard(w, v)
            if loss and renormalise:
                mixed = jnp.where(rows(arrived > 0, v), mixed * rows(scale, v).astype(v.dtype), v)
            return narrowed(mixed, sent)

        constant = isinstance(weights, np.ndarray) and not loss
        return s, jax.tree.map(on_columns(of_leaf) if constant else of_leaf, x)

    def init(x: Stacked) -> Any:
        return loss.init(len(weights)) if loss else ()

    return Mixer(n, init, mix, messages=lambda: [[Messages(senders, receivers)]])


def _connected(graph: Any) -> Topology:
    topology = as_topology("topology", graph)
    if not topology.is_connected:
        raise ValueError(f"topology {topology!r} is not connected: averages would never meet")
    return topology
