"""The gradient-tracking framework of Berahas, Bollapragada and Gupta ("Balancing communication and
computation in gradient tracking algorithms for decentralized optimization", 2024, Algorithm 1, GTA-1 to
GTA-3)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_count
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class GtaState(NamedTuple):
    params: Stacked
    tracker: Stacked
    """y, before what the gradient changed since is added."""
    last: Stacked
    """The last u."""
    local: LocalState
    mix: Any
    """Of the mixer for models, and of that for trackers."""


def gta(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    variant: int = 1,
    mixings: int = 1,
    local_steps: int = 1,
) -> Algorithm:
    """Gradient tracking with P = W^mixings and more gradients than messages. A step is one mixing iteration,

        variant 1    x' = P x + y,      y' = P y + u' − u
        variant 2    x' = P (x + y),    y' = P y + u' − u
        variant 3    x' = P (x + y),    y' = P (y + u' − u)

    and then local_steps − 1 local ones, x' = x + y, y' = y + u' − u. y = u at first; with variants 2 and 3
    the models are mixed once at the start.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.gta(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), variant=3, local_steps=2)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t it is asked for the steps
        t local_steps, …, t local_steps + local_steps − 1. The loss that is recorded is the mean over these.
      mixer: W, such as `gossip(topology)`. Models and trackers are sent one after the other. Messages that it
        loses leave a bias for good: trackers no longer sum to what the workers' u sum to.
      optimizer: makes u from g, for each worker apart.
      variant: 1, 2 or 3.
      mixings: messages of each kind in a step, at least 1.
      local_steps: gradients in a step, at least 1.

    Raises:
      ValueError: where an argument is none of these.
    """
    check_count("variant", variant, 1, 3)
    check_count("mixings", mixings)
    check_count("local_steps", local_steps)
    local = local_update(grad, optimizer)

    def mixed(key: Key, t: Array, state: Any, x: Stacked) -> tuple[Any, Stacked]:
        for k in range(mixings):
            state, x = mixer.mix(jax.random.fold_in(key, k), t, state, x)
        return state, x

    def init(key: Key, params: Stacked) -> GtaState:
        mix, zeros = mixer.init(params), tree.zeros_like(params)
        if variant > 1:
            mix, params = mixed(key, jnp.zeros((), jnp.int32), mix, params)
        return GtaState(params, zeros, zeros, local.init(key, params), (mix, mixer.init(zeros)))

    def track(t: Array, s: GtaState) -> tuple[GtaState, Array]:
        local_state, u, info = local.update(t, s.local, s.params)
        y = tree.add(s.tracker, tree.sub(u, s.last))
        return s._replace(tracker=y, last=u, local=local_state), info.loss

    def mix_tracker(key: Key, t: Array, s: GtaState) -> GtaState:
        state, y = mixed(jax.random.fold_in(key, mixings), t, s.mix[1], s.tracker)
        return s._replace(tracker=y, mix=(s.mix[0], state))

    def move(s: GtaState) -> GtaState:
        return s._replace(params=tree.add(s.params, s.tracker))

    def step(key: Key, t: Array, s: GtaState) -> tuple[GtaState, Info]:
        s, loss = track(t * local_steps, s)
        if variant == 3 and local_steps == 1:  # after the mixing iteration of the last step
            s = tree.where(jnp.equal(t, 0), s, mix_tracker(key, t, s))
        before = s.params if variant == 1 else move(s).params
        state, x = mixed(key, t, s.mix[0], before)
        x = tree.add(x, s.tracker) if variant == 1 else x
        s = s._replace(params=x, mix=(state, s.mix[1]))
        if variant < 3:
            s = mix_tracker(key, t, s)
        if local_steps == 1:
            return s, Info(loss)
        s, second = track(t * local_steps + 1, s)
        s = move(mix_tracker(key, t, s) if variant == 3 else s)

        def one(s: GtaState, k: Array) -> tuple[GtaState, Array]:
            s, loss = track(t * local_steps + k, s)
            return move(s), loss

        s, others = jax.lax.scan(one, s, jnp.arange(2, local_steps))
        return s, Info((loss + second + others.sum(0)) / local_steps)

    return method(mixer, init, step, calls=2 * mixings)
