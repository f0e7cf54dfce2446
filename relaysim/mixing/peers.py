"""One peer at a time: graphs that change from round to round."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from relaysim.checks import check_count, check_num_workers
from relaysim.columns import by_platform
from relaysim.faults import Drop, loss_of
from relaysim.mixing.halo import shift_over
from relaysim.sharding import check_mesh
from relaysim.types import Array, Calls, Key, Messages, Mixer, Stacked, rows


def one_peer_exponential(
    num_workers: int, *, rounds: int = 1, drop: Drop = 0.0, mesh: Mesh | None = None
) -> Mixer:
    """The time-varying exponential graph (Assran et al. 2019): one peer a round, 2^k workers away.

    Round k averages x_i ← ½ (x_i + x_{(i − 2^(k mod D)) mod n}) with D = ⌊log₂(n − 1)⌋ + 1; k goes
    on counting from step to step. For n a power of two, D rounds make the exact average.

    >>> [call[0].senders[:2].tolist() for call in one_peer_exponential(8).messages()]  # to workers 0 and 1
    [[7, 0], [6, 7], [4, 5]]

    Args:
      num_workers: n.
      rounds: averaging rounds in each call.
      drop: the half in a lost message stays with its sender, to whom nobody has acknowledged it. The average
        is then tilted, for which `push_sum` corrects.
      mesh: devices that the workers lie over (see `sharding`): each sends its rows to one or two others.

    Raises:
      ValueError: where `num_workers` or `rounds` is below 1, `drop` does not fit or `mesh` does not divide
        the workers.
    """
    n = check_num_workers(num_workers)
    check_count("rounds", rounds)
    period = max((n - 1).bit_length(), 1)
    if mesh is not None:
        check_mesh(mesh, n)
    moved = [shift_over(mesh, 2**k, n) for k in range(period)]
    loss, worker = loss_of(drop, n), np.arange(n)

    def init(x: Stacked) -> Any:
        of_hop = loss.init(n) if loss else ()
        return jax.tree.map(lambda v: jnp.broadcast_to(v, (period, *v.shape)), of_hop)

    def with_peers(hop: Array, both: Callable[[Array, Array], Array], x: Stacked) -> Stacked:
        """both(x, what comes from the peers); on a TPU in one pass with what moves it."""

        def switched(of_hop: Callable) -> Callable[[Stacked], Stacked]:
            return lambda x: jax.lax.switch(hop, [partial(of_hop, move) for move in moved], x)

        def of_move(move: Callable[[Array], Array], x: Stacked) -> Stacked:
            return jax.tree.map(lambda v: both(v, move(v)), x)

        def gathered(x: Stacked) -> Stacked:
            return of_move(lambda v: v[(worker - 2**hop) % n], x)

        if mesh is not None:
            return jax.tree.map(both, x, switched(jax.tree.map)(x))
        return by_platform(x, tpu=switched(of_move), default=gathered)

    def one_round(key: Key, step: Array, hop: Array, losses: Any, x: Stacked) -> tuple[Any, Stacked]:
        if not loss:
            return losses, with_peers(hop, lambda v, m: (v + m) / 2, x)
        of_hop = jax.tree.map(lambda v: v[hop], losses)
        of_hop, lost = loss.lost(key, step, of_hop, (worker - 2**hop) % n, worker)
        losses = jax.tree.map(lambda v, new: v.at[hop].set(new), losses, of_hop)
        returned = lost[(worker + 2**hop) % n]

        def average(v: Array, m: Array) -> Array:
            arrived = jnp.where(rows(lost, v), 0, m) + jnp.where(rows(returned, v), v, 0)
            return (v + arrived) / 2

        return losses, with_peers(hop, average, x)

    def mix(key: Key, step: Array, losses: Any, x: Stacked) -> tuple[Any, Stacked]:
        for r in range(0 if n == 1 else rounds):
            hop = (step * rounds + r) % period
            losses, x = one_round(jax.random.fold_in(key, r), step, hop, losses, x)
        return losses, x

    def messages() -> Calls:
        if n == 1:
            return [[]]
        hops = [Messages((worker - 2**k) % n, worker) for k in range(period)]
        calls = period // math.gcd(period, rounds)
        return [[hops[(c * rounds + r) % period] for r in range(rounds)] for c in range(calls)]

    return Mixer(n, init, mix, messages)
