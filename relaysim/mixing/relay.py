"""RelaySum: sums relayed over a tree, so that every contribution reaches every worker exactly once."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from optax import tree

from relaysim import topology as topologies
from relaysim.columns import settled
from relaysim.faults import Drop, loss_of
from relaysim.mixing.deal import deal
from relaysim.mixing.halo import links_over
from relaysim.mixing.links import links, lose
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Messages, Mixer, Stacked, rows

Fill = Literal["initial", "last", "local", "count"]


class RelayState(NamedTuple):
    origin: Stacked
    """Leaves (1, ...): the common initial model x⁰. What is relayed is relative to it."""
    up: Stacked
    """The messages that came in last from each worker to its parent."""
    down: Stacked
    """The messages that came in last from each worker's parent."""
    below: Stacked
    """The sum of `up` over each worker's children."""
    last: Stacked
    """With fill="last" what came out of the last call, relative to x⁰ as well."""
    loss: Any
    """Of the process that loses messages, for those to parents and those from them."""


def relay_sum(
    trees: Topology | Sequence[Topology],
    *,
    drop: Drop = 0.0,
    fill: Fill = "initial",
    mesh: Mesh | None = None,
) -> Mixer:
    """RelaySum (Vogels et al. 2021, Algorithm 1): every contribution reaches every worker exactly once.

    In each call worker i sends to each neighbour j its own x_i plus all that it heard last from its other
    neighbours, and averages what it hears in the same call with its own:

        m[i→j] = x_i + Σ_{k ∈ N(i)∖j} m_last[k→i],    x̂_i = (x_i + Σ_{j ∈ N(i)} m[j→i] + missing) / n.

    So worker j's contribution reaches worker i after max(dist(i, j) − 1, 0) calls. The messages carry a
    count of the contributions in them; (n − count) are missing, at the start or where messages were lost.

    >>> import relaysim as rs
    >>> mixer = relay_sum(rs.topology.chain(3))
    >>> start, x = jnp.zeros((3, 1)), jnp.array([[3.0], [0.0], [0.0]])
    >>> state, once = mixer.mix(jax.random.key(0), 0, mixer.init(start), x)
    >>> state, twice = mixer.mix(jax.random.key(0), 1, state, x)
    >>> once.ravel().tolist(), twice.ravel().tolist()
    ([1.0, 1.0, 0.0], [1.0, 1.0, 1.0])

    Args:
      trees: a tree (of networkx, too), or a list of several on the same workers: the parameters are then
        dealt out evenly to the trees, every k-th element to each, which shares the load at the volume of one
        tree.
      drop: the receiver of a lost message takes it, and its count, as 0.
      fill: what stands in for a missing contribution: "initial" the common initial model, "last" what the
        worker got out of its last call, "local" its own x_i; with "count" the sum is divided by the count
        instead of n. Where messages are lost, "last" suits RelaySGD, as in the paper's runs: with "local" and
        "count" a worker's own step, which x_i is after, also stands in for the steps that it misses.
      mesh: devices that the workers lie over (see `sharding`): only rows that cross between them are sent.

    Raises:
      ValueError: where a tree is none (a cycle, not connected, directed), trees have different numbers of
        workers, `drop` does not fit, `fill` is none of the four or `mesh` does not divide the workers.
    """
    if fill not in get_args(Fill):
        raise ValueError(f"fill is {fill!r}, expected one of {', '.join(map(repr, get_args(Fill)))}")
    if isinstance(trees, list | tuple):
        return deal([relay_sum(t, drop=drop, fill=fill, mesh=mesh) for t in trees])
    trees = as_topology("trees", trees)
    n = trees.num_workers
    from_parent, from_children = links(trees) if mesh is None else links_over(mesh, trees)
    is_root = np.arange(n) == 0
    loss, worker, parent = loss_of(drop, n), np.arange(n), topologies.rooted(trees).parent

    def over_edges(m: Stacked) -> Stacked:
        return jax.tree.map(lambda v: jnp.where(rows(is_root, v), 0, v), m)  # the root has no parent

    def relayed(x: Stacked) -> Stacked:
        return x if fill == "initial" else (x, jnp.ones(n, jnp.int32))  # the count travels as x does

    def init(x: Stacked) -> RelayState:
        silence = tree.zeros_like(relayed(x))
        origin = jax.tree.map(lambda v: v.mean(0, keepdims=True), x)
        last = tree.sub(x, origin) if fill == "last" else ()
        return RelayState(origin, silence, silence, silence, last, (loss.init(n),) * 2 if loss else ())

    def mix(key: Key, step: Array, s: RelayState, x: Stacked) -> tuple[RelayState, Stacked]:
        own, losses = relayed(tree.sub(x, s.origin)), s.loss
        to_nobody = settled(tree.add(tree.add(own, s.below), s.down))
        down = over_edges(tree.sub(jax.tree.map(from_parent, to_nobody), s.up))
        down, below = settled((down, s.below))  # before `up` takes the place of s.up
        up = over_edges(tree.add(own, below))
        if loss:
            up_key, down_key = jax.random.split(key)
            of_up, up = lose(up_key, step, loss, s.loss[0], worker, parent, up)
            of_down, down = lose(down_key, step, loss, s.loss[1], parent, worker, down)
            losses = of_up, of_down
        up = settled(up)
        below = settled(jax.tree.map(from_children, up))
        heard = jax.tree.map(lambda *terms: sum(terms), own, below, down)
        mixed = average(own, heard, s.last)
        last = mixed if fill == "last" else ()
        return RelayState(s.origin, up, down, below, last, losses), tree.add(s.origin, mixed)

    def average(own: Stacked, heard: Stacked, last: Stacked) -> Stacked:
        if fill == "initial":
            return jax.tree.map(lambda h: h / n, heard)
        (own, _), (total, count) = own, heard
        if fill == "count":
            return jax.tree.map(lambda h: h / rows(count, h), total)
        stand_in = own if fill == "local" else last
        return jax.tree.map(lambda x, h: (h + rows(n - count, x) * x) / n, stand_in, total)

    return Mixer(
        n,
        init,
        mix,
        messages=lambda: [[Messages(trees.senders, trees.receivers)]],
        name=f"relay_sum on {trees.name}",
    )
