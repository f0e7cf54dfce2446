"""Workers that take no steps for a while, and what they start from when they are back."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_choice, check_method, shown
from relaysim.faults.losses import Absence
from relaysim.topology import Topology, as_topology
from relaysim.types import Algorithm, Array, Info, Key, Stacked, rows

Start = Literal["own", "neighbour", "mean"]


def pause(
    method: Algorithm,
    outages: Absence | Sequence[Absence],
    *,
    start: Start = "own",
    topology: Topology | None = None,
) -> Algorithm:
    """Workers that are down take no steps, and come back as they went, or with the models of neighbours.

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
      message, and nothing brings that back: the bias stays. Each further outage, and so churn, adds to it.
    - RelaySGD/Grad: updates missed on either side are missed for good.
    - All-reduce has no messages to lose: the gradient of a paused worker counts on, its model stays behind.

    Args:
      method: what `rs.relaysgd(...)` and its like return: its state is a named tuple whose field `mix` is the
        mixer's, and elsewhere whatever has a leading axis of n is the workers'.
      outages: one or several, an `Outage` or `Churn`.
      start: what a worker starts from that comes back: "own", the model that it had; "neighbour", that of its
        first neighbour that was there all along; "mean", the mean of those of all such neighbours. Where it
        has none it starts from its own. What else it keeps, such as momentum, is its own. Push-sum's weight
        stays, and its numerator becomes the model times that: the sum of the weights is kept, while with a
        new model that of the numerators is not.
      topology: who is a neighbour of whom, where these matter.

    Raises:
      ValueError: where there is no outage, one is about workers that there are not, the state is no such
        named tuple, or there is no such start, or no topology for it.
    """
    check_method(method)
    if not isinstance(outages, Absence | Sequence) or not outages:
        raise ValueError(
            f"outages is {shown(outages)}, expected one rs.faults.Outage or more, or rs.faults.Churn"
        )
    outages = [outages] if isinstance(outages, Absence) else list(outages)
    n = method.num_workers
    for outage in outages:
        if not isinstance(outage, Absence):
            raise ValueError(f"outages holds {shown(outage)}, expected rs.faults.Outage or rs.faults.Churn")
        outage.check_workers(n)
    check_choice("start", start, get_args(Start))
    graph = None if start == "own" else as_topology("topology", topology)
    if graph is not None and graph.num_workers != n:
        raise ValueError(f"topology is for {graph.num_workers} workers, expected {n}")

    def init(key: Key, params: Stacked) -> Any:
        state = method.init(key, params)
        if not hasattr(state, "_replace") or not hasattr(state, "mix"):
            raise ValueError(
                f"the method's state is a {type(state).__name__}, expected a named tuple with a mix"
            )
        if graph is not None:
            with_models(state, params)  # or it is told now that it cannot be
        return state

    def down_at(t: Array) -> Array:
        return jnp.stack([outage.is_down(np.arange(n), t) for outage in outages]).any(0)

    def started(graph: Topology, state: Any, shares: Array) -> Stacked:
        """The models, those of workers that come back made from shares (m,) of their neighbours'."""
        new = jax.ops.segment_max(shares, graph.receivers, n, indices_are_sorted=True) > 0

        def of_leaf(x: Array) -> Array:
            sent = rows(shares, x).astype(x.dtype) * x[graph.senders]
            mean = jax.ops.segment_sum(sent, graph.receivers, n, indices_are_sorted=True)
            return jnp.where(rows(new, x), mean, x)

        return jax.tree.map(of_leaf, method.params(state))

    def step(key: Key, t: Array, state: Any) -> tuple[Any, Info]:
        is_down = down_at(t)
        if graph is not None:
            was_down = down_at(t - 1)
            shares = _shares(graph, is_down | was_down, ~is_down & was_down & (t > 0), start)
            state = jax.lax.cond(
                (shares > 0).any(), lambda: with_models(state, started(graph, state, shares)), lambda: state
            )

        def keep(before: Array, after: Array) -> Array:
            return jnp.where(rows(is_down, after), before, after) if jnp.shape(after)[:1] == (n,) else after

        after, info = method.step(key, t, state)
        kept = jax.tree.map(keep, state._replace(mix=()), after._replace(mix=()))
        return kept._replace(mix=after.mix), info

    return method._replace(init=init, step=step)


def with_models(state: Any, models: Stacked) -> Any:
    """The state of a method with other models.

    Raises:
      ValueError: where the state has neither `params` nor push-sum's `numerator` and `weight`.
    """
    if hasattr(state, "params"):
        return state._replace(params=models)
    if hasattr(state, "numerator") and hasattr(state, "weight"):
        weighed = jax.tree.map(lambda z: z * rows(state.weight, z).astype(z.dtype), models)
        return state._replace(numerator=weighed)
    raise ValueError(f"the method's state is a {type(state).__name__}, expected a field params")


def _shares(graph: Topology, away: Array, back: Array, start: Start) -> Array:
    """(m,) the weight on each edge to workers that are back, from those that were there all along."""
    senders, receivers, n = graph.senders, graph.receivers, graph.num_workers
    usable = back[receivers] & ~away[senders]
    if start == "neighbour":
        place = jnp.where(usable, np.arange(len(senders)), len(senders))
        first = jax.ops.segment_min(place, receivers, n, indices_are_sorted=True)
        return (usable & (place == first[receivers])).astype(float)
    count = jax.ops.segment_sum(usable.astype(float), receivers, n, indices_are_sorted=True)
    return usable / jnp.maximum(count, 1)[receivers]
