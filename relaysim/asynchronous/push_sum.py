"""Asynchronous push-sum (as in Assran et al. 2019, "Stochastic gradient push for distributed deep learning",
Algorithm 2, overlap SGP, whose workers also stop waiting for messages that are late)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from relaysim.asynchronous.graphs import check_connected
from relaysim.asynchronous.one_way import Step, one_way
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology
from relaysim.types import Array, Stacked, rows


def push_sum(grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation) -> Method:
    """A worker that is done adds up what has come, and shares it evenly with all that it sends to:

        x ← x + Σ x_read,    w ← w + Σ w_read,    x ← x + w u,    (x, w) ← (x, w) / (1 + out)

    for itself and each of them, with models z = x / w. Averages keep Σ x and Σ w, what is under way included.

    The update is weighed with w, so that z moves by u. (With x + u, as with barriers, z would move by u / w,
    and w gets small for a fast worker between slow ones: it diverges.) A worker has the less weight the more
    often it gives of it away, so that steps of fast and slow workers count as much in all: what passes
    through each is the same, up to a factor 1 + out where edges go both ways. It goes to the minimum of
    Σ (1 + out_i) f_i, up to a distance of O(γ): of Σ f_i, where all have as many neighbours.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.asynchronous.push_sum(task.grad_at, rs.topology.exponential(8), optax.sgd(0.3))

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      topology: a directed (strongly connected) or undirected graph.
      optimizer: makes u from g, for each worker apart.

    Raises:
      ValueError: where the graph is not connected, or an argument is none of these.
    """
    topology = check_connected(topology)
    shares = 1 / (1 + topology.out_degrees)

    def start(params: Stacked) -> tuple[Any, Any, Any]:
        own = params, jnp.ones(topology.num_workers)
        return own, own, ()

    def models(own: tuple[Stacked, Array], _: Any) -> Stacked:
        x, w = own
        return jax.tree.map(lambda v: v / rows(w, v).astype(v.dtype), x)

    def step(workers: Array, own: Any, u: Stacked, heard: Any, _: Any) -> tuple[Any, Any]:
        share = jnp.asarray(shares).at[workers].get(mode="clip")
        x, w = jax.tree.map(jnp.add, own, heard)
        x = jax.tree.map(lambda v, u: v + rows(w, v).astype(v.dtype) * u, x, u)
        kept = jax.tree.map(lambda v: rows(share, v).astype(v.dtype) * v, (x, w))
        return kept, kept

    def keep(own: Any, models: Stacked, _: Any) -> Any:
        _, w = own
        return jax.tree.map(lambda v: v * rows(w, v).astype(v.dtype), models), w

    return one_way(grad, optimizer, topology, Step(start, models, step, keep), latest=False)
