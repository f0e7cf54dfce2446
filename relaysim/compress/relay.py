"""RelaySum with compressed messages."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from optax import tree

from relaysim.checks import check_choice
from relaysim.compress.compressors import Compressor, check_compressor
from relaysim.compress.feedback import Of
from relaysim.mixing.links import links
from relaysim.topology import Topology, as_topology
from relaysim.types import Array, Key, Messages, Mixer, Stacked, rows


class Direction(NamedTuple):
    """The messages from each worker to its parent, or from it."""

    heard: Stacked
    """What has come in, the last message."""
    left: Stacked
    """Of updates, what compression left out."""
    compressor: Any


class CompressedRelayState(NamedTuple):
    origin: Stacked
    """Leaves (1, ...): the common initial model."""
    up: Direction
    down: Direction


def relay_sum(trees: Topology, compressor: Compressor, *, of: Of = "models") -> Mixer:
    """RelaySum whose messages are compressed hop by hop, each with a memory on its link.

    The messages are those of `rs.relay_sum`, m[i→j] = x_i + Σ_{k ∈ N(i)∖j} m̂_last[k→i], where m̂ is what
    came in.

    Of models, both ends of a link keep the last m̂ and a message holds the compressed difference:

        m̂ ← m̂ + C(m − m̂),

    so that an error is passed on, and each hop adds its own. Of updates (`relaysgd_grad`), what was left
    out of a message goes with the next one, so that every update gets everywhere once, if late:

        m̂ = C(m + e),    e ← m + e − m̂.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> mixer = rs.compress.relay_sum(rs.topology.chain(8), rs.compress.top_k(0.4), of="updates")
    >>> method = rs.relaysgd_grad(task.grad, mixer, optax.sgd(0.02))

    Args:
      trees: a tree (of networkx, too).
      compressor: C, such as `rs.compress.top_k(0.1)`.
      of: what is relayed, "models" or "updates".

    Raises:
      ValueError: where `trees` is no tree, or an argument is none of these.
    """
    graph = as_topology("trees", trees)
    from_parent, from_children = links(graph)
    check_compressor(compressor)
    check_choice("of", of, get_args(Of))
    n, is_root = graph.num_workers, np.arange(graph.num_workers) == 0

    def over_edges(m: Stacked) -> Stacked:
        return jax.tree.map(lambda v: jnp.where(rows(is_root, v), 0, v), m)  # the root has no parent

    def send(key: Key, step: Array, s: Direction, message: Stacked) -> Direction:
        message = over_edges(message)
        if of == "models":
            state, heard = compressor.follow(key, step, s.compressor, s.heard, message)
            return Direction(over_edges(heard), s.left, state)
        whole = tree.add(message, s.left)
        state, heard = compressor.compress(key, step, s.compressor, whole)
        return Direction(over_edges(heard), tree.sub(whole, heard), state)

    def init(x: Stacked) -> CompressedRelayState:
        origin = jax.tree.map(lambda v: v.mean(0, keepdims=True), x)
        silence = tree.zeros_like(x)
        nothing = Direction(silence, silence if of == "updates" else (), compressor.init(x))
        return CompressedRelayState(origin, nothing, nothing)

    def mix(key: Key, step: Array, s: CompressedRelayState, x: Stacked) -> tuple[Any, Stacked]:
        own = tree.sub(x, s.origin)
        below = jax.tree.map(from_children, s.up.heard)
        to_nobody = tree.add(tree.add(own, below), s.down.heard)
        up_key, down_key = jax.random.split(jax.random.fold_in(key, 1))
        down_message = tree.sub(jax.tree.map(from_parent, to_nobody), s.up.heard)
        up = send(up_key, step, s.up, tree.add(own, below))
        down = send(down_key, step, s.down, down_message)
        heard = tree.add(jax.tree.map(from_children, up.heard), down.heard)
        mean = jax.tree.map(lambda o, x, h: o + (x + h) / n, s.origin, own, heard)
        return CompressedRelayState(s.origin, up, down), mean

    edges, name = Messages(graph.senders, graph.receivers), f"compressed relay_sum on {graph.name}"
    return Mixer(n, init, mix, lambda: [[edges]], lambda x: compressor.share(x), name)
