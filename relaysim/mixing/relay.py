"""RelaySum: sums relayed over a tree, so that every contribution reaches every worker exactly once."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from optax import tree

from relaysim.checks import check_choice
from relaysim.columns import settled
from relaysim.faults import Churn, Drop, Loss, loss_of
from relaysim.mixing.deal import deal
from relaysim.mixing.hung import Hung, Trees, changing, fixed
from relaysim.mixing.links import lose
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Mixer, Stacked, narrowed, rows, widened

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
    parent: Any = ()
    """Where the tree changes, (n,) each worker's parent in the last call."""


def relay_sum(
    trees: Topology | Sequence[Topology],
    *,
    drop: Drop = 0.0,
    fill: Fill = "initial",
    mesh: Mesh | None = None,
    churn: Churn | None = None,
    starts: Sequence[int] | None = None,
) -> Mixer:
    """RelaySum (Vogels et al. 2021, Algorithm 1): every contribution reaches every worker exactly once.

    In each call worker i sends to each neighbour j its own x_i plus all that it heard last from its other
    neighbours, and averages what it hears in the same call with its own:

        m[i→j] = x_i + Σ_{k ∈ N(i)∖j} m_last[k→i],    x̂_i = (x_i + Σ_{j ∈ N(i)} m[j→i] + missing) / n.

    So worker j's contribution reaches worker i after max(dist(i, j) − 1, 0) calls. The messages carry a
    count of the contributions in them; (n − count) are missing, at the start or where messages were lost.
    Messages of models in half precision (bfloat16) are as short, and sums are taken in float32.

    >>> import relaysim as rs
    >>> mixer = relay_sum(rs.topology.chain(3))
    >>> start, x = jnp.zeros((3, 1)), jnp.array([[3.0], [0.0], [0.0]])
    >>> state, once = mixer.mix(jax.random.key(0), 0, mixer.init(start), x)
    >>> state, twice = mixer.mix(jax.random.key(0), 1, state, x)
    >>> once.ravel().tolist(), twice.ravel().tolist()
    ([1.0, 1.0, 0.0], [1.0, 1.0, 1.0])

    A tree can change during a run: around workers that come and go (`churn`), or as told (`starts`). What
    came in last over links that stay is kept, also where these now lead downwards instead of up; new ones
    have brought nothing yet. Counts tell what is missing, or for the moment there twice. As many calls after
    the last change as the new tree is long, all is as if it had always been so. RelaySGD/Grad is not for
    that: each of its updates is under way once only.

    >>> churn = rs.faults.Churn.random(jax.random.key(0), 16, 1000, present=90, absent=10)
    >>> mixer = relay_sum(rs.topology.binary_tree(16), churn=churn, fill="last")

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
        For trees that do not change.
      churn: who is there when. Children of those that are away are adopted by their grandparents. Instead of
        a tree this may be any graph: a spanning tree of those that are there is then kept as far as it can
        be. Where their graph falls apart a warning says when; the parts go on by themselves, as does each
        worker that is away. `messages` are those of the steps up to the last change, the last of which
        go on; what is counted as sent is the mean over these steps.
      starts: the steps, ascending from 0, from which on each of the trees (or graphs, which then have
        spanning trees) is used, instead of all at the same time.

    Raises:
      ValueError: where a graph is no tree (a cycle, not connected, directed), trees have different numbers of
        workers, `drop`, `churn` or `starts` do not fit, `fill` is none of the four or `mesh` does not divide
        the workers.
    """
    check_choice("fill", fill, get_args(Fill))
    if starts is None and isinstance(trees, list | tuple):
        return deal([relay_sum(t, drop=drop, fill=fill, mesh=mesh, churn=churn) for t in trees])
    if churn is None and starts is None:
        over = fixed(as_topology("trees", trees), mesh)
    else:
        over = changing(trees, churn, starts, mesh)
    return relay(over, loss_of(drop, over.num_workers), fill)


def relay(trees: Trees, loss: Loss | None, fill: Fill) -> Mixer:
    """`relay_sum` over trees that are hung up."""
    n = trees.num_workers

    def relayed(x: Stacked) -> Stacked:
        return x if fill == "initial" else (x, jnp.ones(n, jnp.int32))  # the count travels as x does

    def init(x: Stacked) -> RelayState:
        silence = tree.zeros_like(relayed(x))
        origin = jax.tree.map(lambda v: v.mean(0, keepdims=True), x)
        last = widened(tree.sub(x, origin)) if fill == "last" else ()
        parent = jnp.asarray(trees.at(0).parent) if trees.change else ()
        losses = (loss.init(n),) * 2 if loss else ()
        return RelayState(origin, silence, silence, widened(silence), last, losses, parent)

    def mix(key: Key, step: Array, s: RelayState, x: Stacked) -> tuple[RelayState, Stacked]:
        parent, is_root, (from_parent, from_children) = hung = trees.at(step)
        s = _moved(s, hung) if trees.change else s

        def over_edges(m: Stacked) -> Stacked:
            return jax.tree.map(lambda v: jnp.where(rows(is_root, v), 0, v), m)  # a root has no parent

        origin, own = widened(s.origin), relayed(tree.sub(widened(x), widened(s.origin)))
        losses, to_nobody = s.loss, settled(tree.add(tree.add(own, s.below), widened(s.down)))
        down = over_edges(tree.sub(jax.tree.map(from_parent, to_nobody), widened(s.up)))
        down, below = settled((narrowed(down, s.down), s.below))  # before `up` takes the place of s.up
        up = narrowed(over_edges(tree.add(own, below)), s.up)
        if loss:
            worker = np.arange(n)
            up_key, down_key = jax.random.split(key)
            of_up, up = lose(up_key, step, loss, s.loss[0], worker, parent, up)
            of_down, down = lose(down_key, step, loss, s.loss[1], parent, worker, down)
            losses = of_up, of_down
        up = settled(up)
        below = settled(jax.tree.map(from_children, widened(up)))
        heard = jax.tree.map(lambda *terms: sum(terms), own, below, widened(down))
        mixed = average(own, heard, s.last)
        last = mixed if fill == "last" else ()
        parent = parent if trees.change else ()
        state = RelayState(s.origin, up, down, below, last, losses, parent)
        return state, narrowed(tree.add(origin, mixed), x)

    def average(own: Stacked, heard: Stacked, last: Stacked) -> Stacked:
        if fill == "initial":
            return jax.tree.map(lambda h: h / n, heard)
        (own, _), (total, count) = own, heard
        if fill == "count":
            return jax.tree.map(lambda h: h / rows(count, h), total)
        stand_in = own if fill == "local" else last
        return jax.tree.map(lambda x, h: (h + rows(n - count, x) * x) / n, stand_in, total)

    return Mixer(n, init, mix, trees.messages, name=f"relay_sum on {trees.name}")


def _moved(s: RelayState, hung: Hung) -> RelayState:
    """The state where the tree may have changed since the last call: what came in last over links that are
    still there, whichever of their ends is now the parent."""
    worker = np.arange(len(s.parent))
    stays = hung.parent == s.parent
    turned = (s.parent[hung.parent] == worker) & ~hung.is_root & ~stays

    def of_leaf(same: Array, other: Array) -> Array:
        kept = jnp.where(rows(stays, same), same, 0)
        return jnp.where(rows(turned, same), other[hung.parent], kept)

    def move() -> tuple[Stacked, Stacked, Stacked]:
        up, down = jax.tree.map(of_leaf, s.up, s.down), jax.tree.map(of_leaf, s.down, s.up)
        return up, down, jax.tree.map(hung.links.from_children, widened(up))

    up, down, below = jax.lax.cond(stays.all(), lambda: (s.up, s.down, s.below), move)
    return s._replace(up=up, down=down, below=below)
