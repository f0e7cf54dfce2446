"""B-ary tree push-pull (You and Pu 2024, "B-ary tree push-pull method is provably efficient for distributed
learning on heterogeneous data", Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from optax import tree

from relaysim.local import LocalState, local_update
from relaysim.mixing.halo import links_over
from relaysim.mixing.links import links
from relaysim.topology import b_ary_tree
from relaysim.types import Algorithm, Array, Calls, Grad, Info, Key, Messages, Stacked, rows


class BtppState(NamedTuple):
    params: Stacked
    tracker: Stacked
    """y, before what u changed since is added: at the root the sum of all workers' u in the end."""
    last: Stacked
    """The last u."""
    local: LocalState
    mix: tuple = ()


def btpp(
    grad: Grad,
    num_workers: int,
    optimizer: optax.GradientTransformation,
    *,
    branching: int = 2,
    mesh: Mesh | None = None,
) -> Algorithm:
    """Models go down a tree, gradients up, and the root alone takes steps that count:

        x' = R (x + y / n),    y' = C y + u' − u,    y = u at first.

    R gives each worker the model of its parent, C = Rᵀ each parent the sum of its children's y; the root
    keeps its own. So the root steps along the sum of all u, divided by n, and the others follow, late by
    their depth: the model to use is worker 0's. A worker sends its model to each child and y to its parent.
    No message can be lost: it would take the gradients of a whole branch with it, for good.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.btpp(task.grad, 8, optax.sgd(0.5), branching=2)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      num_workers: n.
      optimizer: makes u from g, for each worker apart; the division by n is the method's.
      branching: B: worker i > 0 hangs on worker (i − 1) div B.
      mesh: devices that the workers lie over (see `sharding`): only rows that cross between them are sent.

    Raises:
      ValueError: where `num_workers` or `branching` is below 1, or `mesh` does not divide the workers.
    """
    graph = b_ary_tree(num_workers, branching)
    n, is_root = graph.num_workers, np.arange(graph.num_workers) == 0
    from_parent, from_children = links(graph) if mesh is None else links_over(mesh, graph)
    local = local_update(grad, optimizer)

    def pull(x: Array) -> Array:
        return jax.numpy.where(rows(is_root, x), x, from_parent(x))

    def push(y: Array) -> Array:
        to_parents = jax.numpy.where(rows(is_root, y), 0, y)  # the root has no parent
        return from_children(to_parents) + (y - to_parents)

    def init(key: Key, params: Stacked) -> BtppState:
        zeros = tree.zeros_like(params)
        return BtppState(params, zeros, zeros, local.init(key, params))

    def step(key: Key, t: Array, s: BtppState) -> tuple[BtppState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        y = tree.add(s.tracker, tree.sub(u, s.last))
        x = jax.tree.map(pull, tree.add_scale(s.params, 1 / n, y))
        return BtppState(x, jax.tree.map(push, y), u, local_state), info

    def messages(models: Any) -> Calls:
        return [[Messages(graph.senders, graph.receivers)]]

    return Algorithm(n, init, step, lambda s: s.params, messages)
