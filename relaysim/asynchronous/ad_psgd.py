"""AD-PSGD (Lian et al. 2018, "Asynchronous decentralized parallel stochastic gradient descent", Algorithm
1)."""

import numpy as np
import optax

from relaysim.asynchronous.events import choices
from relaysim.asynchronous.exchange import exchange
from relaysim.asynchronous.exchange_order import Calls
from relaysim.asynchronous.graphs import check_undirected
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology
from relaysim.types import Key


def ad_psgd(grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation) -> Method:
    """A worker that is done with its gradient averages with a random neighbour j, half and half:

        x_i, x_j ← (x_i + x_j) / 2,    x_i ← x_i + u_i,

    u_i being made from the gradient at the model that i had when it began. Where messages take time the
    neighbour moves when the offer arrives, by half the difference, and the worker as far the other way when
    the answer is back; meanwhile it computes its next gradient, and it is done with that when the answer is
    there. So Σ x is kept, nobody is locked, and any graph will do, not only bipartite ones.

    Fast workers take more steps, and their data count more: where f_i is worker i's loss and r_i its steps a
    second, it goes to the minimum of Σ r_i f_i, up to a distance of O(γ).

    >>> import jax, optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.asynchronous.ad_psgd(task.grad_at, rs.topology.ring(8), optax.sgd(0.3))
    >>> network = rs.timing.Network(compute=rs.timing.lognormal(0.1, 0.5), latency=0.01)
    >>> models = task.init(jax.random.key(1))
    >>> trace = rs.asynchronous.simulate(
    ...     jax.random.key(2), method, network, models, seconds=10, measure=task.measure
    ... )
    >>> bool(trace.metrics["suboptimality"][-1] < 1e-3)
    True

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      topology: any connected, undirected graph.
      optimizer: makes u from g, for each worker apart.

    Raises:
      ValueError: where the graph is directed or not connected, or an argument is none of these.
    """
    topology = check_undirected(topology)
    n, degrees = topology.num_workers, topology.degrees
    first = np.cumsum(degrees) - degrees

    def calls(key: Key, num_steps: int) -> Calls:
        turn = (choices(key, n, num_steps) * degrees[:, None]).astype(int)
        partner = topology.senders[first[:, None] + turn].ravel()
        caller, step = np.divmod(np.arange(n * num_steps), num_steps)
        return Calls(caller, step, partner, np.full(len(caller), 0.5), caller)

    return exchange(grad, optimizer, topology, calls)
