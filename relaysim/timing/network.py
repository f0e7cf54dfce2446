"""What a network is: how long gradients take, and messages."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_number, shown
from relaysim.faults import Drop, Loss, loss_of
from relaysim.timing.distributions import Distribution, check_seconds, spread, uniform
from relaysim.types import Array, Key

_COMPUTE, _LATENCY, _LOSS = 0x7101, 0x7102, 0x7103
"""The streams of a key; none of those that `jax.random.split` makes."""


def in_float64(function: Callable) -> Callable:
    """The same function of arrays, in double precision whatever the settings: times add up over a run.

    What it returns are NumPy's arrays, under vmap and jit jax's.

    >>> in_float64(lambda x: x + 1)(np.zeros(2)).dtype
    dtype('float64')
    """

    def on_host(leaf: Any) -> Any:
        return leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf)

    @functools.wraps(function)
    def exact(*args: Any, **options: Any) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(on_host, function(*args, **options))

    return exact


class Between(NamedTuple):
    """Latencies between places that workers are at."""

    seconds: Any
    """(k, k) one way, from place to place."""
    places: Any
    """(n,) int, the place of each worker."""


@dataclass(frozen=True, eq=False)
class _Losses:
    """What loses messages, the same only as itself: compiled programs are kept by it."""

    drop: Drop
    process: Loss | None


_NONE = _Losses(0.0, None)


@dataclass(frozen=True, eq=False)
class Network:
    """How long gradients and messages take. What is not given takes no time.

    >>> import relaysim as rs
    >>> compute = 0.1 * rs.timing.lognormal(1.0, 0.3) * rs.timing.stragglers(0.1, 4.0)
    >>> network = Network(compute=compute, latency=0.02, upload=1e9 / 8, download=np.full(16, 1e9 / 8))
    >>> network.compute_times(jax.random.key(0), np.arange(100), 16).shape
    (100, 16)

    Args:
      compute: seconds a gradient: a number, (n,) numbers, (T, n) as they were measured, a row a step and
        then from the first on again, or a `Distribution`. A gradient by `local_steps` counts once, with all
        its steps.
      latency: seconds one way (half a round trip): a number, (n, n) numbers, from sender [i] to receiver [j],
        a `Between`, or a distribution, drawn once for each link (i, j), the same both ways.
      upload: bytes a second that a worker sends, a number or (n,) numbers. Its messages leave one after the
        other, by ascending number of the receiver.
      download: bytes a second that it receives, likewise. Messages come in one after the other, by time of
        arrival.
      drop: which messages get lost, as in mixers (`rs.faults`): a process of the same kind as the mixer's,
        with random numbers of its own; outages are the same.
      timeout: seconds that a worker waits for a lost message, from when it was ready itself.

    Raises:
      ValueError: where a time is negative, a bandwidth not above 0, an array of the wrong shape, `drop` does
        not fit or lacks a `timeout`.
    """

    compute: Any = 0.0
    latency: Any = 0.0
    upload: Any = np.inf
    download: Any = np.inf
    drop: Drop = 0.0
    timeout: Any = None
    losses: _Losses = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.compute, Distribution):
            object.__setattr__(self, "compute", check_seconds("compute", self.compute, "(n,)", "(T, n)"))
        if isinstance(self.latency, Between):
            object.__setattr__(self, "latency", _check_between(self.latency))
        elif not isinstance(self.latency, Distribution):
            latency = check_seconds("latency", self.latency, "(n, n)")
            if np.ndim(latency) == 2 and latency.shape[0] != latency.shape[1]:
                raise ValueError(f"latency has shape {latency.shape}, expected a number or (n, n)")
            object.__setattr__(self, "latency", latency)
        for name in ("upload", "download"):
            object.__setattr__(self, name, _check_bandwidth(name, getattr(self, name)))
        if self.timeout is not None:
            object.__setattr__(self, "timeout", check_number("timeout", self.timeout, 0))
        process = loss_of(self.drop, None)
        object.__setattr__(self, "losses", _Losses(self.drop, process) if process else _NONE)
        if self.losses.process and self.timeout is None:
            raise ValueError("timeout is None, expected the seconds that a lost message is waited for")

    @in_float64
    def compute_times(self, key: Key, steps: Any, num_workers: int) -> Array:
        """The seconds that the gradients of some steps take each worker: steps (T,) -> (T, n) float64."""
        return _compute_times(self, key, jnp.asarray(steps), num_workers)

    def draw_compute(self, key: Key, num_workers: int) -> tuple[Array, Callable[[Array], Array]]:
        """(n,) what is a worker's own, and a function step () -> (n,) of what is a step's, to be multiplied.

        To be called in double precision.
        """
        n, key = num_workers, jax.random.fold_in(key, _COMPUTE)
        if not isinstance(self.compute, Distribution):
            table = jnp.atleast_2d(jnp.asarray(self.compute, float))
            return jnp.ones(n), lambda t: jnp.broadcast_to(table[t % len(table)], (n,))
        worker_key, step_key = jax.random.split(key)
        own = _product(self.compute.of_worker, lambda k: spread(jax.random.fold_in(worker_key, k), n), n)

        def of_step(t: Array) -> Array:
            now = jax.random.fold_in(step_key, t)
            return _product(self.compute.of_step, lambda k: uniform(jax.random.fold_in(now, k), n), n)

        return own, of_step

    @in_float64
    def latencies(self, key: Key, senders: Any, receivers: Any) -> Array:
        """The seconds one way on links (...,) -> (...,) float64. A link has its own, in whatever graph."""
        return _latencies(self, key, jnp.asarray(senders), jnp.asarray(receivers))

    def loss_key(self, key: Key) -> Key:
        """Of the losses of messages."""
        return jax.random.fold_in(key, _LOSS)


_NUMBERS = ("compute", "latency", "upload", "download", "timeout")


def _flatten(network: Network) -> tuple[tuple, _Losses]:
    return tuple(getattr(network, name) for name in _NUMBERS), network.losses


def _unflatten(losses: _Losses, numbers: Any) -> Network:
    network = object.__new__(Network)  # unchecked, since a transformation may put anything into it
    for name, value in zip(_NUMBERS, numbers, strict=True):
        object.__setattr__(network, name, value)
    object.__setattr__(network, "drop", losses.drop)
    object.__setattr__(network, "losses", losses)
    return network


jax.tree_util.register_pytree_node(Network, _flatten, _unflatten)


def check_network(network: Any, num_workers: int) -> None:
    """Raise a ValueError where this is no network, or an array or `drop` in it is not for so many workers.

    >>> check_network(Network(compute=[1.0, 2.0]), 2)
    """
    if not isinstance(network, Network):
        raise ValueError(f"network is {shown(network)}, expected one such as rs.timing.wan()")
    n = num_workers
    given = {name: getattr(network, name) for name in ("compute", "latency", "upload", "download")}
    for name, value in given.items():
        if isinstance(value, Between):
            shapes = [np.shape(value.places)]
        elif isinstance(value, Distribution):
            shapes = [np.shape(p) for factor in value.of_worker for p in factor.parameters]
        else:
            shapes = [np.shape(value)]
        for shape in shapes:
            if shape[-1:] not in ((), (n,)) or (name == "latency" and shape[:-1] not in ((), (n,))):
                raise ValueError(f"{name} has shape {shape}, expected numbers for {n} workers")
    loss_of(network.drop, n)


@functools.partial(jax.jit, static_argnums=3)
def _compute_times(network: Network, key: Key, steps: Array, num_workers: int) -> Array:
    own, of_step = network.draw_compute(key, num_workers)
    return jax.vmap(lambda t: own * of_step(t))(steps)


@jax.jit
def _latencies(network: Network, key: Key, senders: Array, receivers: Array) -> Array:
    if isinstance(network.latency, Between):
        places = jnp.asarray(network.latency.places)
        return jnp.asarray(network.latency.seconds)[places[senders], places[receivers]].astype(float)
    if not isinstance(network.latency, Distribution):
        latency = jnp.asarray(network.latency, float)
        return latency[senders, receivers] if latency.ndim else jnp.full(senders.shape, latency)
    factors, key = network.latency.of_worker + network.latency.of_step, jax.random.fold_in(key, _LATENCY)

    def of_link(low: Array, high: Array) -> Array:
        link = jax.random.fold_in(jax.random.fold_in(key, low), high)
        return _product(factors, lambda k: uniform(jax.random.fold_in(link, k), 1), 1)[0]

    ends = jnp.minimum(senders, receivers).ravel(), jnp.maximum(senders, receivers).ravel()
    return jax.vmap(of_link)(*ends).reshape(senders.shape)


def _product(factors: tuple, uniforms: Callable[[int], Array], number: int) -> Array:
    values = jnp.ones(number)
    for k, factor in enumerate(factors):
        values = values * factor.quantile(uniforms(k), *factor.parameters)
    return values


def _check_bandwidth(name: str, value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):
        return value
    is_number = isinstance(value, int | float | np.generic | np.ndarray | jax.Array | list | tuple)
    array = np.asarray(value if is_number and not isinstance(value, bool) else "none")
    right = array.dtype.kind in "fiu" and array.ndim <= 1 and array.size > 0
    if not right or not (array > 0).all():
        smallest = f" with {array.min()}" if right and array.ndim else ""
        raise ValueError(
            f"{name} is {shown(value)}{smallest}, expected bytes a second above 0, one number or (n,)"
        )
    return array.astype(np.float64) if array.ndim else float(array)


def _check_between(latency: Between) -> Between:
    seconds, places = check_seconds("latency.seconds", latency.seconds, "(k, k)"), np.asarray(latency.places)
    k = len(seconds) if np.ndim(seconds) else 0
    if np.shape(seconds) != (k, k) or not k:
        raise ValueError(f"latency.seconds has shape {np.shape(seconds)}, expected (k, k)")
    if places.ndim != 1 or places.dtype.kind not in "iu" or not ((places >= 0) & (places < k)).all():
        raise ValueError(f"latency.places is {shown(latency.places)}, expected (n,) integers in 0..{k - 1}")
    return Between(seconds, places)
