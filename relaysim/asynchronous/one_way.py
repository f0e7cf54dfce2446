"""Workers that send, go on, and read what is there when they are done: the frame of asynchronous push-sum,
SWIFT and RelaySGD."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import tree

from relaysim.asynchronous.local import LocalState, local_update, put, take
from relaysim.asynchronous.one_way_order import Wave, lay_out
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology
from relaysim.types import Array, Key, Stacked, made_by, rows


class OneWayState(NamedTuple):
    own: Any
    """What the workers keep, leaves (n, ...)."""
    messages: Any
    """Those that are still to be read, leaves (slots, ...)."""
    shared: Any
    local: LocalState


class Step(NamedTuple):
    """What a method makes of a step."""

    start: Callable[[Stacked], tuple[Any, Any, Any]]
    """models (n, ...) -> (what workers keep, what each sends before its first step, what all share)."""
    models: Callable[[Any, Any], Stacked]
    """(what workers keep, what all share) -> their models."""
    step: Callable[[Array, Any, Stacked, Any, Any], tuple[Any, Any]]
    """(workers (k,), what they keep, their updates u, the sum of what they read, what all share) -> (what
    they keep then, what they send)."""
    keep: Callable[[Any, Stacked, Any], Any]
    """(what workers keep, other models, what all share) -> what they keep with these models."""


def one_way(
    grad: GradAt,
    optimizer: optax.GradientTransformation,
    topology: Topology,
    equations: Step,
    *,
    latest: bool,
    relays: bool = False,
    weights: np.ndarray | None = None,
) -> Method:
    """A method whose workers, done with a gradient, read what has arrived, update, send, and begin anew.

    Nobody else changes a worker's model, so that gradients are those of the models that it still has.

    Args:
      latest: whether to read what came last from each neighbour, again if nothing else came, or everything
        that came since the last step.
      relays: whether a neighbour is sent what is sent to all, less what was read from itself.
      weights: (m,) of what is read over each edge; by default 1.
    """
    local = local_update(grad, optimizer, topology.num_workers)

    def init(key: Key, params: Stacked, slots: np.ndarray) -> OneWayState:
        own, message, shared = equations.start(params)
        return OneWayState(own, jax.tree.map(lambda v: v[slots], message), shared, local.init(key, params))

    def step(s: OneWayState, wave: Wave) -> tuple[OneWayState, Array]:
        own = take(s.own, wave.worker)
        local_state, u, loss = local.update(s.local, wave.worker, wave.step, equations.models(own, s.shared))
        read = take(s.messages, wave.read)
        if weights is not None:
            share = jnp.asarray(weights)[wave.edge]
            read = jax.tree.map(lambda v: rows(share, v).astype(v.dtype) * v, read)
        heard = _sums(read, wave.reader, len(wave.worker))
        kept, sent = equations.step(wave.worker, own, u, heard, s.shared)
        sent = take(sent, wave.writer)
        if relays:
            sent = tree.sub(sent, _sums(read, wave.back, len(wave.writer)))
        own, messages = put(s.own, wave.worker, kept), put(s.messages, wave.write, sent)
        return OneWayState(own, messages, s.shared, local_state), loss

    def models(s: OneWayState) -> Stacked:
        return equations.models(s.own, s.shared)

    def put_models(s: OneWayState, workers: Array, models: Stacked) -> OneWayState:
        kept = equations.keep(take(s.own, workers), models, s.shared)
        return s._replace(own=put(s.own, workers, kept))

    order, name = partial(lay_out, topology, latest, relays), f"{made_by(equations.step)} on {topology.name}"
    return Method(topology.num_workers, init, step, models, order, put_models, name)


def _sums(leaves: Any, into: Array, size: int) -> Any:
    """Leaves (b, ...) -> (size, ...), each row added to the one that it goes into, if there is one."""
    return jax.tree.map(
        lambda v: jnp.zeros((size, *v.shape[1:]), v.dtype).at[into].add(v, mode="drop"), leaves
    )
