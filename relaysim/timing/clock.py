"""When each worker is done with each step: a recursion over who waits for whom, whatever the models do."""

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_gaps, check_key, check_method
from relaysim.timing.network import Network, check_network, in_float64
from relaysim.types import Algorithm, Array, Calls, Key, Lasting, Messages, Stacked

PAIRWISE = 32  # messages of a worker, up to which each is compared with each other one instead of sorted


def seconds(
    key: Key, network: Network, method: Algorithm, params: Stacked, *, num_steps: int, every: Any = 1
) -> Array:
    """When each worker is done with the step of each record, were it run on a network.

    Step t of a worker starts when it is done with step t − 1. It computes its gradient, sends its messages,
    and is done when those to it have come in: with B bytes a message,

        ready_i    = done_i(t − 1) + compute_i(t)
        leaves_e   = ready of its sender + (messages that it has sent, e with them) · B / upload
        arrives_e  = leaves_e + latency_e
        done_i(t)  = max over its messages k of arrives_k + (messages from k on) · B / download, and ready_i

    where a worker's messages leave by ascending number of the receiver, and "from k on" goes by the time of
    arrival. Where a call has several rounds, as those of an all-reduce, the last three lines are repeated,
    with done in place of ready. A message has as many bytes as its vectors (`method.messages`) of the size of
    a model. A worker that gets nothing in a round does not wait in it. Where the network loses a message, its
    receiver waits until `timeout` seconds after it was ready.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> network = rs.timing.Network(compute=[1.0, 1.0, 1.0, 4.0], latency=0.5)
    >>> seconds(jax.random.key(0), network, method, np.ones((4, 8)), num_steps=2)
    array([[4.5, 1.5, 4.5, 4. ],
           [8.5, 6. , 8.5, 8. ]])

    Args:
      key: of what is drawn at random in the network. With the key of `simulate` the times are those that
        `simulate(..., network=network)` records.
      network: computing and sending.
      method: who sends what to whom.
      params: the models, or their shapes.
      num_steps: T, a multiple of `every`.
      every: steps between records, or at which of the steps 1..T, as in `simulate`.

    Returns:
      (R, n) float64, seconds since the start. Can be called under vmap and jit.

    Raises:
      ValueError: where sizes do not fit.
    """
    gaps = check_gaps(num_steps, every)
    check_key("key", key)
    return dates(key, network, traffic(check_method(method), params), np.cumsum(gaps))[0]


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Traffic:
    """What a method sends."""

    calls: Calls
    num_workers: int
    model_bytes: int

    @functools.cached_property
    def plan(self) -> "Plan":
        return _plan(self.calls, self.num_workers)

    def __eq__(self, other: Any) -> bool:
        if self is other or not isinstance(other, Traffic):
            return self is other
        same = (self.num_workers, self.model_bytes) == (other.num_workers, other.model_bytes)
        mine, others = _told(self.calls), _told(other.calls)
        return same and len(mine) == len(others) and all(map(np.array_equal, mine, others))

    def __hash__(self) -> int:
        return hash((self.num_workers, self.model_bytes, len(self.calls)))

    def __repr__(self) -> str:
        told = f"{self.num_workers} workers, models of {self.model_bytes} bytes"
        return f"Traffic({told}, a period of {len(self.calls)} steps)"


def traffic(method: Algorithm, params: Stacked) -> Traffic:
    """What a method sends for models, or their shapes.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> traffic(method, np.ones((4, 8), np.float32)).model_bytes
    32
    """
    size = sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    return Traffic(method.messages(params), method.num_workers, size)


@in_float64
def dates(key: Key, network: Network, sends: Traffic, steps: Any) -> tuple[Array, Array]:
    """When each worker is done with steps (R,), ascending numbers of steps taken, and the share of that time
    in which it did not compute: (R, n) each.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> sends = traffic(method, np.ones((4, 8)))
    >>> done, _ = dates(jax.random.key(0), Network(compute=1.0, latency=0.5), sends, np.array([1, 2]))
    >>> done
    array([[1.5, 1.5, 1.5, 1.5],
           [3. , 3. , 3. , 3. ]])

    Raises:
      ValueError: where the network is no network, or one for another number of workers.
    """
    check_network(network, sends.num_workers)
    download = network.download
    limited = isinstance(download, jax.core.Tracer) or bool(np.isfinite(download).any())
    if not isinstance(key, jax.core.Tracer):  # many small steps one after the other: nothing for a GPU
        key = jax.device_put(key, jax.local_devices(backend="cpu")[0])
    gaps = jnp.diff(steps, prepend=0) if isinstance(steps, jax.core.Tracer) else np.diff(steps, prepend=0)
    return _dates(key, network, sends.plan, gaps, float(sends.model_bytes), limited)


class Plan(NamedTuple):
    """The rounds of a period as arrays, all D different ones alike."""

    first: np.ndarray
    """(P + 1,) where the rounds of each call begin in `order`"""
    lasts: np.ndarray
    """() bool, whether all calls after the last are like it, instead of beginning with the first again"""
    order: np.ndarray
    """(L,) which of the D rounds are played, one after the other"""
    senders: np.ndarray
    """(D, M + 1) int32; message M is none, and so are those that fill up shorter rounds"""
    receivers: np.ndarray
    """(D, M + 1) int32"""
    vectors: np.ndarray
    """(D, M + 1) the size of a message"""
    ahead: np.ndarray
    """(D, M + 1) what its sender has sent when it has left; −∞ where there is no message"""
    slots: list[np.ndarray]
    """The messages by receivers: (D, rows, K) for those that get up to K of them, M where there are fewer;
    K = 1, 2, 4, …"""
    place: np.ndarray
    """(D, n) which of the rows is a worker's, counted through; 0 where it gets no message"""


def _plan(calls: Calls, n: int) -> Plan:
    rounds = {id(r): r for call in calls for r in call} or {0: Messages(np.zeros(0, int), np.zeros(0, int))}
    number = {i: k for k, i in enumerate(rounds)}
    first = np.cumsum([0, *map(len, calls)])
    order = np.array([number[id(r)] for call in calls for r in call] or [0], np.int32)
    D, M = len(rounds), max(len(r.senders) for r in rounds.values())
    senders, receivers = np.zeros((2, D, M + 1), np.int32)
    vectors, ahead = np.zeros((D, M + 1)), np.full((D, M + 1), -np.inf)
    degree = np.zeros((D, n), int)
    for k, r in enumerate(rounds.values()):
        m = len(r.senders)
        senders[k, :m], receivers[k, :m], vectors[k, :m] = r
        by_sender = np.lexsort((r.receivers, r.senders))
        ahead[k, by_sender] = _within(senders[k, by_sender], vectors[k, by_sender])
        degree[k] = np.bincount(r.receivers, minlength=n)
    width = np.where(degree > 0, 2 ** np.ceil(np.log2(np.maximum(degree, 1))).astype(int), 0)
    place, slots, before = np.zeros((D, n), np.int32), [], 1
    for K in np.unique(width[width > 0]):
        of_width = width == K
        laid = np.full((D, of_width.sum(1).max(), K), M, np.int32)
        row = np.cumsum(of_width, axis=1) - 1
        for k, r in enumerate(rounds.values()):
            message = np.flatnonzero(of_width[k, r.receivers])
            message = message[np.argsort(r.receivers[message], kind="stable")]
            to = r.receivers[message]
            laid[k, row[k, to], _within(to, np.ones(len(to), int)) - 1] = message
        place[of_width] = before + row[of_width]
        before += laid.shape[1]
        slots.append(laid)
    return Plan(
        first, np.array(isinstance(calls, Lasting)), order, senders, receivers, vectors, ahead, slots, place
    )


def _within(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sums of the values so far within each group of equal neighbours."""
    total = np.cumsum(values)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    before = (total - values)[starts]
    return total - np.repeat(before, np.diff(starts, append=len(groups)))


@functools.partial(jax.jit, static_argnames="limited")
def _dates(
    key: Key, network: Network, plan: Plan, gaps: Array, model_bytes: Any, limited: bool
) -> tuple[Array, Array]:
    n, M = plan.place.shape[1], plan.senders.shape[1] - 1
    plan = jax.tree.map(jnp.asarray, plan)
    own, of_step = network.draw_compute(key, n)
    loss, loss_key = network.losses.process, network.loss_key(key)
    upload, download = (jnp.broadcast_to(v, (n,)).astype(float) for v in (network.upload, network.download))
    latency = network.latencies(key, plan.senders, plan.receivers)
    there = plan.ahead >= 0
    delay = jnp.where(there, plan.ahead * model_bytes / upload[plan.senders] + latency, -jnp.inf)
    work = plan.vectors * model_bytes / download[plan.receivers]

    def of_slots(values: Any, slots: Any) -> Array:
        return jax.vmap(lambda v, s: v[s])(values, slots)

    tables = [
        (slots, of_slots(plan.senders, slots), of_slots(delay, slots), of_slots(work, slots))
        for slots in plan.slots
    ]

    def play(k: Array, ready: Array, lost: Array | None) -> Array:
        """Round k of the D."""
        ends, waits = [jnp.full(1, -jnp.inf)], [jnp.zeros(1, bool)]
        for slots, senders, delay, work in tables:
            arrives, w = ready[senders[k]] + delay[k], work[k]
            if lost is not None:
                gone = lost[slots[k]]
                arrives, w = jnp.where(gone, -jnp.inf, arrives), jnp.where(gone, 0, w)
                waits.append(gone.any(1))
            ends.append(_last(arrives, w) if limited else arrives.max(1))
        done = jnp.maximum(ready, jnp.concatenate(ends)[plan.place[k]])
        if lost is None:
            return done
        waits_too = jnp.concatenate(waits)[plan.place[k]]
        return jnp.where(waits_too, jnp.maximum(done, ready + network.timeout), done)

    def step(t: Array, carry: tuple) -> tuple:
        done, busy, states = carry
        compute = own * of_step(t)
        period = len(plan.first) - 1
        call = jnp.where(plan.lasts, jnp.minimum(t, period - 1), t % period)

        def one_round(at: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            ready, states = carry
            k, lost = plan.order[at], None
            if loss:
                now = jax.random.fold_in(jax.random.fold_in(loss_key, t), at)
                state = jax.tree.map(lambda v: v[k], states)
                state, lost = loss.lost(now, t, state, plan.senders[k], plan.receivers[k])
                states = jax.tree.map(lambda v, new: v.at[k].set(new), states, state)
                lost = lost & there[k]
            return play(k, ready, lost), states

        done, states = jax.lax.fori_loop(
            plan.first[call], plan.first[call + 1], one_round, (done + compute, states)
        )
        return done, busy + compute, states

    def record(carry: tuple, gap: Array) -> tuple:
        t, rest = carry
        rest = jax.lax.fori_loop(t, t + gap, step, rest)
        return (t + gap, rest), rest[:2]

    of_round = loss.init(M + 1) if loss else ()
    states = jax.tree.map(lambda v: jnp.broadcast_to(v, (len(plan.place), *v.shape)), of_round)
    gaps = jnp.asarray(gaps)
    start = jnp.zeros((), gaps.dtype), (jnp.zeros(n), jnp.zeros(n), states)
    done: Array
    busy: Array
    _, (done, busy) = jax.lax.scan(record, start, gaps)
    return done, jnp.where(done > 0, 1 - busy / jnp.where(done > 0, done, 1), 0)


def _last(arrives: Array, work: Array) -> Array:
    """(rows, K), (rows, K) -> (rows,): when messages have come in one after the other.

    The last one is there when those from some message on have followed it without a gap.
    """
    K = arrives.shape[1]
    if K <= PAIRWISE:
        behind = arrives[:, None, :] >= arrives[:, :, None]
        return (arrives + jnp.where(behind, work[:, None, :], 0).sum(2)).max(1)
    arrives, work = jax.lax.sort((arrives, work), dimension=1, num_keys=1)
    return (arrives + jax.lax.cumsum(work, axis=1, reverse=True)).max(1)


def _told(calls: Calls) -> list:
    """All that tells calls apart, as arrays."""
    rounds = {id(r): r for call in calls for r in call}
    number = {i: k for k, i in enumerate(rounds)}
    order = np.array([number[id(r)] for call in calls for r in call])
    lengths = np.array([len(call) for call in calls])
    return [order, lengths, isinstance(calls, Lasting), *(part for r in rounds.values() for part in r)]
