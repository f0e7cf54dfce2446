"""Teleportation (Takezawa and Stich 2025, "Scalable decentralized learning with teleportation", Algorithm
1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relaysim.checks import check_draw, check_mixer, check_num_workers
from relaysim.compress.compressors import Draw
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Calls, Grad, Info, Key, Messages, Mixer, Stacked, rows


class TeleportState(NamedTuple):
    params: Stacked
    """Leaves (n, ...): the model that each worker had when it was active last."""
    active: Array
    """(k,) who has the models that are passed on."""
    local: LocalState
    mix: Any


def teleportation(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    num_workers: int,
    draw: Draw | None = None,
) -> Algorithm:
    """k active workers out of n, drawn anew each step: they take over the k models, step, and average among
    themselves:

        z_j = the model of the j-th active worker of the step before,    z ← W (z + u),

    where W is over k workers, so that it mixes well however many workers there are. What is sent is counted
    for active workers that take turns: k models passed on and what `mixer` sends.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 16, 5, zeta2=1.0)
    >>> mixer = rs.gossip(rs.topology.ring(4))
    >>> method = rs.teleportation(task.grad, mixer, optax.sgd(0.1), num_workers=16)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`. All workers' are computed,
        those of the active ones at the models that they took over count.
      mixer: W of the k active workers, such as `gossip(ring(k))`.
      optimizer: makes u from g, for each worker apart; its state moves on where a worker is active.
      num_workers: n, at least k.
      draw: (key, step, (n,)) -> an order (n,) of the workers, whose first k are active, in place of a
        random one.

    Raises:
      ValueError: where `num_workers` is less than k, or an argument is none of these.
    """
    k = check_mixer(mixer).num_workers
    n = check_num_workers(num_workers, k)
    order = check_draw(draw, lambda key, step, shape: jax.random.permutation(key, n))
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> TeleportState:
        first = jax.tree.map(lambda x: x[:k], params)
        return TeleportState(params, jnp.arange(k), local.init(key, params), mixer.init(first))

    def step(key: Key, t: Array, s: TeleportState) -> tuple[TeleportState, Info]:
        active = order(jax.random.fold_in(key, 1), t, (n,))[:k].astype(s.active.dtype)
        passed_on = jax.tree.map(lambda x: x[s.active], s.params)
        is_active = jnp.zeros(n, bool).at[active].set(True)

        def place(x: Stacked, models: Stacked) -> Stacked:
            return jax.tree.map(lambda x, z: x.at[active].set(z), x, models)

        def if_active(before: Array, after: Array) -> Array:
            return jnp.where(rows(is_active, after), after, before) if jnp.shape(after)[:1] == (n,) else after

        local_state, u, info = local.update(t, s.local, place(s.params, passed_on))
        kept = jax.tree.map(if_active, s.local._replace(key=()), local_state._replace(key=()))
        moved = jax.tree.map(lambda z, u: z + u[active], passed_on, u)
        mix, mixed = mixer.mix(key, t, s.mix, moved)
        return TeleportState(place(s.params, mixed), active, kept._replace(key=s.local.key), mix), info

    def messages(models: Any) -> Calls:
        """The active ones are k in a row, going around."""
        calls, among = [], mixer.messages()
        for t in range(int(np.lcm(n // np.gcd(n, k), len(among)))):
            now = (np.arange(k) + t * k) % n
            passed = Messages((now - k) % n, now)
            calls.append(
                [passed]
                + [
                    m._replace(senders=now[m.senders], receivers=now[m.receivers])
                    for m in among[t % len(among)]
                ]
            )
        return calls

    return Algorithm(n, init, step, lambda s: s.params, messages)
