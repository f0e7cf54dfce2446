"""Workers that take no steps for a while."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.faults.losses import Outage, check_workers
from relaysim.types import Algorithm, Array, Info, Key, Stacked, rows


def pause(method: Algorithm, outages: Outage | Sequence[Outage]) -> Algorithm:
    """Workers that are down take no steps, and come back as they went.

    While a worker is down its rows of all that the method keeps (model, optimizer, D²'s and tracking's
    corrections, momentum, push-sum's numerator and weight) stay as they are. For a whole outage the mixer has
    to lose the messages meanwhile, so it takes the same outage as its `drop`:

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> down = rs.faults.Outage([3], first=10, last=30)
    >>> mixer = rs.relay_sum(rs.topology.chain(8), drop=down, fill="local")
    >>> method = rs.faults.pause(rs.relaysgd(task.grad, mixer, optax.sgd(0.1)), down)

    What the mixer keeps goes on: a relay that comes back has heard nothing yet, and its neighbours nothing
    of it. The losses that are reported for a worker that is down are those at its model, and the batches
    of these steps are skipped: the data go by the number of the step. `sent` counts as if nobody were down.

    What an outage leaves behind, by method:

    - D-PSGD, RelaySGD, quasi-global momentum: an old model, which averaging draws in.
    - Push-sum: nothing is lost. A share that is not delivered stays with its sender, in numerator and weight
      alike, so their sums stay what they were, and the worker comes back with the model and the weight that
      it had.
    - D² and gradient tracking: their corrections no longer sum to zero over the workers, as after any lost
      message, and nothing brings that back: the bias stays.
    - RelaySGD/Grad: updates missed on either side are missed for good.
    - All-reduce has no messages to lose: the gradient of a paused worker counts on, its model stays behind.

    Args:
      method: what `rs.relaysgd(...)` and its like return: its state is a named tuple whose field `mix` is the
        mixer's, and elsewhere whatever has a leading axis of n is the workers'.
      outages: one or several.

    Raises:
      ValueError: where there is no outage, one is about workers that there are not, or the state is no such
        named tuple.
    """
    if not isinstance(method, Algorithm):
        raise ValueError(f"method is {method!r}, expected one such as rs.relaysgd(grad, mixer, optimizer)")
    if not isinstance(outages, Outage | Sequence) or not outages:
        raise ValueError(f"outages is {outages!r}, expected one rs.faults.Outage or more")
    outages = [outages] if isinstance(outages, Outage) else list(outages)
    n = method.num_workers
    for outage in outages:
        if not isinstance(outage, Outage):
            raise ValueError(f"outages holds {outage!r}, expected rs.faults.Outage")
        check_workers(outage, n)

    def init(key: Key, params: Stacked) -> Any:
        state = method.init(key, params)
        if not hasattr(state, "_replace") or not hasattr(state, "mix"):
            raise ValueError(
                f"the method's state is a {type(state).__name__}, expected a named tuple with a mix"
            )
        return state

    def step(key: Key, t: Array, state: Any) -> tuple[Any, Info]:
        is_down = jnp.stack([outage.is_down(np.arange(n), t) for outage in outages]).any(0)

        def keep(before: Array, after: Array) -> Array:
            return jnp.where(rows(is_down, after), before, after) if jnp.shape(after)[:1] == (n,) else after

        after, info = method.step(key, t, state)
        kept = jax.tree.map(keep, state._replace(mix=()), after._replace(mix=()))
        return kept._replace(mix=after.mix), info

    return method._replace(init=init, step=step)
