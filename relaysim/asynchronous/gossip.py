"""Asynchronous gossip of whole neighbourhoods (as in Boyd et al. 2006, "Randomized gossip algorithms", with
all neighbours of the worker whose clock ticks, instead of one)."""

from typing import Any

import numpy as np
import optax
import scipy.sparse

from relaysim.asynchronous.exchange import exchange
from relaysim.asynchronous.exchange_order import Calls
from relaysim.asynchronous.graphs import check_undirected
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology, check_weights, metropolis_weights
from relaysim.types import Key


def gossip(
    grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation, weights: Any = None
) -> Method:
    """A worker that is done with its gradient averages with all its neighbours j:

        x_i ← x_i + Σ_j W_ij (x_j − x_i),    x_j ← x_j + W_ij (x_i − x_j),    x_i ← x_i + u_i,

    a neighbourhood at a time. Either end of an edge calls the other, so half of D-PSGD's weights mix as
    much. All else is as in `ad_psgd`, which calls one neighbour.

    >>> import jax, optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.asynchronous.gossip(task.grad_at, rs.topology.ring(8), optax.sgd(0.3))

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      topology: any connected, undirected graph.
      optimizer: makes u from g, for each worker apart.
      weights: W, (n, n), dense or scipy-sparse, symmetric, its rows summing to 1 and zero where the graph has
        no edge; (I + Metropolis–Hastings weights) / 2 by default. Where messages take longer than
        gradients, differences are acted on that are out of date: larger weights than these can then diverge.

    Raises:
      ValueError: where the graph is directed or not connected, or the weights do not fit it or are not
        symmetric.
    """
    topology = check_undirected(topology)
    n, m = topology.num_workers, len(topology.senders)
    if weights is None:
        matrix = (metropolis_weights(topology) + scipy.sparse.eye_array(n)) / 2
    else:
        matrix = check_weights(weights, topology)
    matrix = matrix.tocsr()
    if abs(matrix - matrix.T).max() > 1e-9:
        raise ValueError("weights are not symmetric, expected W_ij = W_ji: both ends move by as much")
    weight = np.asarray(matrix[topology.receivers, topology.senders]).ravel()

    def calls(key: Key, num_steps: int) -> Calls:
        step, edge = np.divmod(np.arange(num_steps * m), m)
        order = np.lexsort((topology.senders[edge], step, topology.receivers[edge]))
        step, edge = step[order], edge[order]
        return Calls(topology.receivers[edge], step, topology.senders[edge], weight[edge], edge)

    return exchange(grad, optimizer, topology, calls)
