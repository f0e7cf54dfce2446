"""SWIFT (Bornstein et al. 2023, "SWIFT: Rapid decentralized federated learning via wait-free model
communication", Algorithm 1, with communication after every step)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relaysim.asynchronous.graphs import check_undirected
from relaysim.asynchronous.one_way import Step, one_way
from relaysim.asynchronous.types import GradAt, Method
from relaysim.checks import shown
from relaysim.topology import Topology
from relaysim.types import Array, Stacked, rows


def swift(
    grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation, *, influence: Any = None
) -> Method:
    """A worker that is done averages its model with what it last received from each neighbour j:

        x_i ← W_ii x_i + Σ_j W_ij x_j(last) + u_i,    and sends x_i to all neighbours.

    Nobody changes a worker's model but itself. The weights are those for which p_i W_ij = p_j W_ji, p_i being
    the worker's influence score:

        W_ij = min(p_i / (1 + deg_i), p_j / (1 + deg_j)) / p_i,

    which for equal p are Metropolis–Hastings weights. A worker that averages more often is moved more by its
    neighbours and less by itself, so that steps of fast and slow workers count as much in all: it goes to
    the minimum of Σ p_i f_i, up to a distance of O(γ), whatever the speeds. (In the paper p_i is the share of
    all steps that the worker takes, and every step counts the same.)

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.asynchronous.swift(task.grad_at, rs.topology.ring(8), optax.sgd(0.3))

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      topology: any connected, undirected graph.
      optimizer: makes u from g, for each worker apart.
      influence: p, (n,) numbers above 0, only whose proportions count; by default all the same.

    Raises:
      ValueError: where the graph is directed or not connected, or an argument is none of these.
    """
    topology = check_undirected(topology)
    own_weights, weights = _weights(topology, influence)

    def start(params: Stacked) -> tuple[Stacked, Stacked, Any]:
        return params, params, ()

    def step(workers: Array, own: Stacked, u: Stacked, heard: Stacked, _: Any) -> tuple[Stacked, Stacked]:
        w = jnp.asarray(own_weights).at[workers].get(mode="clip")
        x = jax.tree.map(lambda v, h, u: rows(w, v).astype(v.dtype) * v + h + u, own, heard, u)
        return x, x

    equations = Step(start, lambda own, _: own, step, lambda own, models, _: models)
    return one_way(grad, optimizer, topology, equations, latest=True, weights=weights)


def _weights(topology: Topology, influence: Any) -> tuple[np.ndarray, np.ndarray]:
    """W_ii (n,), and W_ij (m,) of the edges j → i."""
    n, i, j = topology.num_workers, topology.receivers, topology.senders
    p = np.ones(n) if influence is None else np.asarray(influence)
    if p.shape != (n,) or p.dtype.kind not in "fiu" or not (np.isfinite(p) & (p > 0)).all():
        raise ValueError(f"influence is {shown(influence)}, expected ({n},) numbers above 0")
    each = p / (1 + topology.degrees)
    weights = np.minimum(each[i], each[j]) / p[i]
    return 1 - np.bincount(i, weights, n), weights
