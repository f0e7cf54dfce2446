"""DADAO (Nabli and Oyallon 2023, "DADAO: Decoupled accelerated decentralized asynchronous optimization",
Algorithm 1), in an order of events that is given."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.asynchronous.events import record_bounds, steps_taken
from relaysim.asynchronous.local import put, take
from relaysim.asynchronous.types import Coming, Events, GradAt, Horizon, Links, Method, Order
from relaysim.asynchronous.waves import NOBODY, grouped, in_rows, in_waves
from relaysim.checks import check_num_workers, check_number, shown
from relaysim.types import Array, Key, Stacked

X, XT, Y, YT, Z, ZT = range(6)


class DadaoState(NamedTuple):
    key: Key
    rows: Stacked
    """Leaves (n, 6, ...): each worker's x, x̃, y, ỹ, z, z̃, at its own last event."""


class Wave(NamedTuple):
    worker: Any
    """(a,) who takes a gradient"""
    step: Any
    """(a,) the number of it"""
    event: Any
    """(a,)"""
    flow: Any
    """(a, 6, 6) what time has done to its rows since its last event"""
    ends: Any
    """(2, b) who average"""
    flows: Any
    """(2, b, 6, 6)"""


def dadao(grad: GradAt, num_workers: int, *, mu: float, L: float, chi1: float) -> Method:
    """Accelerated: gradients and averages happen independently of each other, and time moves what is between.

    With ν = μ / 2 and r = √(ν / L), between its events a worker's rows obey

        x′ = r/8 (x̃ − x),     x̃′ = r/8 (x − x̃),     y′ = r/4 (ỹ − y),     ỹ′ = −(ν x̃ + y + z) / (2 r),
        z′ = r/4 (z̃ − z),     z̃′ = r/8 (z − z̃),

    all 0 at the start but x = x̃, the models. A gradient of worker i, and an average of workers i and j, are

        v = ∇f_i(x) − ν x − ỹ:     x ← x − v / (4 L),   x̃ ← x̃ − v / (4 √(L ν)),   ỹ ← ỹ + (1 + r/4) v
        D = (y + z)_i − (y + z)_j:    z_i ← z_i − D/2,   z̃_i ← z̃_i − 2 χ₁/r D,   and + for j.

    In `rs.asynchronous.simulate` the events take the place of the network: (E, 3) rows (time, i, j),
    ascending in time, j = −1 for a gradient of worker i. In theory both come as Poisson processes, with one
    gradient a worker and unit of time. `num_events` counts both, "steps" and "loss" are of gradients.

    >>> import numpy as np, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 2, 3)
    >>> method = rs.asynchronous.dadao(task.grad_at, 2, mu=0.25, L=1.0, chi1=0.5)
    >>> events, models = np.array([[0.1, 0, -1], [0.2, 0, 1], [0.5, 1, -1]]), task.init(jax.random.key(1))
    >>> rs.asynchronous.simulate(jax.random.key(2), method, events, models, num_events=3).seconds
    array([0.5])

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      num_workers: n.
      mu: μ > 0, strong convexity of every f_i.
      L: their smoothness.
      chi1: χ₁ = 1 / λ₂ of the Laplacian that is weighted with the rates of the edges.

    Raises:
      ValueError: where a number is out of its range, or events are not (E, 3) rows of these workers.
    """
    n = check_num_workers(num_workers, 2)
    mu, L = check_number("mu", mu, 0, ends="(]"), check_number("L", L, 0, ends="(]")
    chi1 = check_number("chi1", chi1, 0, ends="(]")
    nu = mu / 2
    r = np.sqrt(nu / L)
    rates = np.zeros((6, 6))
    rates[X, [X, XT]], rates[XT, [X, XT]] = [-r / 8, r / 8], [r / 8, -r / 8]
    rates[Y, [Y, YT]], rates[YT, [XT, Y, Z]] = [-r / 4, r / 4], np.array([nu, 1, 1]) / (-2 * r)
    rates[Z, [Z, ZT]], rates[ZT, [Z, ZT]] = [-r / 4, r / 4], [r / 8, -r / 8]

    def init(key: Key, params: Stacked, layout: Any) -> DadaoState:
        def start(x: Array) -> Array:
            return jnp.stack([x, x, *[jnp.zeros_like(x)] * 4], 1)

        return DadaoState(key, jax.tree.map(start, params))

    def moved(rows: Stacked, flow: Array) -> Stacked:
        return jax.tree.map(lambda v: jnp.einsum("kab,kb...->ka...", flow.astype(v.dtype), v), rows)

    def step(s: DadaoState, wave: Wave) -> tuple[DadaoState, Array]:
        rows = moved(take(s.rows, wave.worker), wave.flow)
        models = jax.tree.map(lambda v: v[:, X], rows)
        loss, g = grad(s.key, jnp.minimum(wave.worker, n - 1), wave.step, models)

        def descend(v: Array, g: Array) -> Array:
            v_ = g - nu * v[:, X] - v[:, YT]
            return (
                v.at[:, X]
                .add(-v_ / (4 * L))
                .at[:, XT]
                .add(-v_ / (4 * np.sqrt(L * nu)))
                .at[:, YT]
                .add((1 + r / 4) * v_)
            )

        all_rows = put(s.rows, wave.worker, jax.tree.map(descend, rows, g))
        left, right = (moved(take(all_rows, wave.ends[k]), wave.flows[k]) for k in (0, 1))

        def drawn(v: Array, other: Array) -> Array:
            D = v[:, Y] + v[:, Z] - other[:, Y] - other[:, Z]
            return v.at[:, Z].add(-D / 2).at[:, ZT].add(-2 * chi1 / r * D)

        both = jax.tree.map(drawn, left, right), jax.tree.map(drawn, right, left)
        for k in (0, 1):
            all_rows = put(all_rows, wave.ends[k], both[k])
        return DadaoState(s.key, all_rows), loss

    def models(s: DadaoState) -> Stacked:
        return jax.tree.map(lambda v: v[:, X], s.rows)

    def put_models(s: DadaoState, workers: Array, models: Stacked) -> DadaoState:
        return s._replace(rows=jax.tree.map(lambda v, x: v.at[workers, X].set(x), s.rows, models))

    return Method(n, init, step, models, partial(_lay_out, n, rates), put_models)


def _lay_out(
    n: int, rates: np.ndarray, key: Key, events: Any, size: float, horizon: Horizon, coming: Coming
) -> Order:
    if coming.presence is not None:
        raise ValueError("churn is given, expected none: for DADAO all events are given")
    time, i, j = _checked(events, n, horizon)
    number = np.arange(len(time))
    is_gradient = j < 0

    # what each worker was at before: pairs of events, and the time between
    who = np.concatenate([i, j[~is_gradient]])
    event = np.concatenate([number, number[~is_gradient]])
    order = np.lexsort((event, who))
    same = who[order][1:] == who[order][:-1]
    since = time[event].copy()
    since[order[1:][same]] -= time[event[order[:-1][same]]]
    from scipy.linalg import expm  # slow to import

    flow = expm(rates * since[:, None, None])
    bounds, seconds = record_bounds(time, number, horizon)
    kinds = np.where(is_gradient, 0, 1)
    waves = in_waves(kinds, event[order[:-1][same]], event[order[1:][same]], bounds)
    num_waves = int(waves.max(initial=-1)) + 1

    step = np.zeros(len(time), int)
    own = np.flatnonzero(is_gradient)
    own = own[grouped(i[own], n)]
    step[own] = np.arange(len(own)) - np.searchsorted(i[own], i[own])
    of_left = flow[: len(time)]
    of_right = np.zeros_like(of_left)
    of_right[~is_gradient] = flow[len(time) :]

    def table(kind: int, *columns: tuple[np.ndarray, Any]) -> list[np.ndarray]:
        here = np.flatnonzero(kinds == kind)
        here = here[grouped(waves[here], num_waves)]
        as_table, _ = in_rows(waves[here], num_waves)
        return [as_table(column[here], fill) for column, fill in columns]

    eye = np.eye(6)
    left, right, left_flow, right_flow = table(1, (i, NOBODY), (j, NOBODY), (of_left, eye), (of_right, eye))
    gradients = table(0, (i, NOBODY), (step, 0), (number, -1), (of_left, eye))
    wave = Wave._make([*gradients, np.stack([left, right], 1), np.stack([left_flow, right_flow], 1)])
    calls = np.flatnonzero(~is_gradient)
    links = Links(calls, j[calls], time[calls], time[calls])
    sent, taken = (np.append(0, np.cumsum(of_each))[bounds] for of_each in (2 * ~is_gradient, is_gradient))
    starts = np.append(0, np.maximum.accumulate(waves) + 1)[bounds]
    counts = steps_taken(i[is_gradient], taken, n)
    return Order(Events(time, i, step, links), wave, (), starts, counts, seconds, sent[1:])


def _checked(events: Any, n: int, horizon: Horizon) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, i and j of the events within the horizon."""
    rows = np.asarray(events) if isinstance(events, np.ndarray | jax.Array | list) else np.zeros(0)
    what = (
        f"events is {shown(events)}, expected (E, 3) rows (time, i, j) of workers 0..{n - 1}, j = -1 for none"
    )
    if rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise ValueError(what)
    time, i, j = rows[:, 0].astype(float), *rows[:, 1:].astype(int).T
    if not (np.array_equal(rows[:, 1:].T, [i, j]) and (i >= 0).all() and (j >= -1).all()):
        raise ValueError(what)
    if (np.maximum(i, j) >= n).any() or (i == j).any():
        raise ValueError(what)
    if (np.diff(time, prepend=0) < 0).any():
        raise ValueError("events go back in time, expected times of at least 0, ascending")
    last = len(time) if horizon.num_events is None else horizon.num_events
    if last > len(time):
        raise ValueError(f"num_events is {last}, expected at most the {len(time)} that events has")
    end = np.searchsorted(time, horizon.seconds, "right") if horizon.seconds is not None else last
    return time[:end], i[:end], j[:end]
