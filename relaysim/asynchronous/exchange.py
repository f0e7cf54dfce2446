"""Averages of two that both take part in: the frame of AD-PSGD and of gossip of whole neighbourhoods."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import tree

from relaysim.asynchronous.exchange_order import Calls, Wave, lay_out
from relaysim.asynchronous.local import LocalState, add, local_update, put, take
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology
from relaysim.types import Array, Key, Stacked, made_by, rows


class ExchangeState(NamedTuple):
    params: Stacked
    begin: Stacked
    """The models that the workers had when they began with their gradients."""
    offer: Stacked
    """What each worker sent last."""
    answer: Stacked
    """Leaves (slots, ...): the answers under way."""
    local: LocalState


def exchange(
    grad: GradAt,
    optimizer: optax.GradientTransformation,
    topology: Topology,
    calls: Callable[[Key, int], Calls],
) -> Method:
    """A method whose workers, done with a gradient, average with others, which answer at once:

        i is done with its gradient:   offer = x_i to each partner j,   x_i ← x_i + u_i
        the offer is with j:           δ = w_ij (offer − x_j),   x_j ← x_j + δ,   answer δ
        the answer is with i:          x_i ← x_i − δ

    so that Σ x is kept by averages, whatever happens meanwhile. A worker begins with the next gradient at
    once, at the model that it has then, answers included that take no time. It is done with it when it is
    computed and all answers are there.

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      optimizer: makes u from g, for each worker apart.
      topology: of n workers, who is a neighbour of whom.
      calls: (key, K) -> whom the workers call after each of their first K steps.
    """
    local = local_update(grad, optimizer, topology.num_workers)

    def init(key: Key, params: Stacked, slots: np.ndarray) -> ExchangeState:
        answer = jax.tree.map(lambda x: jnp.zeros((len(slots), *x.shape[1:]), x.dtype), params)
        return ExchangeState(params, params, params, answer, local.init(key, params))

    def step(s: ExchangeState, wave: Wave) -> tuple[ExchangeState, Array]:
        x, begin, offer, answer, local_state = s

        i, offered = wave.worker, take(x, wave.worker)
        local_state, u, loss = local.update(local_state, i, wave.step, take(begin, i))
        moved = tree.add(offered, u)
        x, begin, offer = put(x, i, moved), put(begin, i, moved), put(offer, i, offered)

        apart = tree.sub(take(offer, wave.guest), take(x, wave.host))
        delta = jax.tree.map(lambda v: rows(wave.weight, v).astype(v.dtype) * v, apart)
        x, answer = add(x, wave.host, delta), put(answer, wave.slot, delta)

        back = tree.scale(-1, take(answer, wave.taken))
        x, begin = add(x, wave.back, back), add(begin, wave.at_once, back)
        return ExchangeState(x, begin, offer, answer, local_state), loss

    def put_models(s: ExchangeState, workers: Array, models: Stacked) -> ExchangeState:
        return s._replace(params=put(s.params, workers, models), begin=put(s.begin, workers, models))

    order = partial(lay_out, topology, calls)
    return Method(topology.num_workers, init, step, lambda s: s.params, order, put_models, made_by(calls))
