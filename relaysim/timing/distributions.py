"""How long something takes where that is random: a worker's own factors times those of each of its steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_number, shown
from relaysim.types import Array, Key


@partial(jax.tree_util.register_dataclass, data_fields=["parameters"], meta_fields=["quantile"])
@dataclass(frozen=True)
class Factor:
    """A distribution by its quantiles."""

    quantile: Callable[..., Array]
    """(u, *parameters) -> values like u, which is uniform on (0, 1)"""
    parameters: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.quantile.__name__.strip('_')}({', '.join(map(str, self.parameters))})"


@partial(jax.tree_util.register_dataclass, data_fields=["of_worker", "of_step"], meta_fields=[])
@dataclass(frozen=True)
class Distribution:
    """A product of factors: some drawn once for each worker (or link), some for each step of a worker.

    Made by `constant`, `lognormal`, `shifted_exponential` and `stragglers`; `*` multiplies them with each
    other and with numbers, `of_worker` draws all of it once.

    >>> 0.1 * lognormal(1.0, 0.3) * stragglers(0.1, 4.0) * of_worker(lognormal(1.0, 0.6))
    constant(0.1) · stragglers(0.1, 4.0) · lognormal(1.0, 0.6) · lognormal(1.0, 0.3)
    """

    of_worker: tuple[Factor, ...] = ()
    of_step: tuple[Factor, ...] = field(default=())

    __array_ufunc__ = None  # a NumPy array times this is ours

    def __mul__(self, other: Any) -> "Distribution":
        other = other if isinstance(other, Distribution) else constant(other)
        return Distribution(self.of_worker + other.of_worker, self.of_step + other.of_step)

    def __rmul__(self, other: Any) -> "Distribution":
        return constant(other) * self

    def __repr__(self) -> str:
        return " · ".join(map(repr, self.of_worker + self.of_step))


def constant(value: Any) -> Distribution:
    """The same at every step: a number, or (n,) numbers, one for each worker.

    >>> compute = constant([0.1, 0.1, 0.2])

    Raises:
      ValueError: where a number is negative or not finite.
    """
    return Distribution(of_worker=(Factor(_constant, (check_seconds("value", value, "(n,)"),)),))


def lognormal(mean: float | Array, sigma: float | Array) -> Distribution:
    """mean · exp(σ Z − σ² / 2) with a standard normal Z at each step, so that `mean` is the mean.

    >>> compute = 0.1 * lognormal(1.0, 0.3)

    Args:
      mean: in seconds, or without a unit where it is a factor; at least 0.
      sigma: σ, the deviation of the logarithm, at least 0.

    Raises:
      ValueError: where a number is out of its range.
    """
    return _of_step(_lognormal, check_number("mean", mean, 0), check_number("sigma", sigma, 0))


def shifted_exponential(shift: float | Array, mean: float | Array) -> Distribution:
    """shift + an exponential number of the given mean, at each step: the mean of both is shift + mean.

    >>> compute = shifted_exponential(0.1, 0.02)

    Raises:
      ValueError: where a number is negative.
    """
    return _of_step(_shifted_exponential, check_number("shift", shift, 0), check_number("mean", mean, 0))


def stragglers(share: float | Array, factor: float | Array) -> Distribution:
    """A share of the workers is `factor` times as slow as the others, at all steps: they have `factor`, the
    others 1.

    That are share · n workers, and where this is no whole number the next one up or down at random.

    >>> compute = 0.1 * stragglers(0.1, 4.0)

    Args:
      share: in [0, 1].
      factor: at least 0.

    Raises:
      ValueError: where a number is out of its range.
    """
    numbers = check_number("share", share, 0, 1), check_number("factor", factor, 0)
    return Distribution(of_worker=(Factor(_stragglers, numbers),))


def of_worker(distribution: Distribution) -> Distribution:
    """The same distribution, drawn once for each worker and then the same at all its steps.

    >>> compute = 0.1 * of_worker(lognormal(1.0, 0.6))

    Raises:
      ValueError: where it is no distribution.
    """
    if not isinstance(distribution, Distribution):
        raise ValueError(f"distribution is {shown(distribution)}, expected one such as lognormal(1.0, 0.6)")
    return Distribution(of_worker=distribution.of_worker + distribution.of_step)


def spread(key: Key, number: int) -> Array:
    """(number,) in random order, uniform on (0, 1) and one in each of so many equal parts of it.

    So shares of workers are as asked for, and not only on average.
    """
    order_key, key = jax.random.split(key)
    return (jax.random.permutation(order_key, number) + uniform(key, number)) / number


def uniform(key: Key, number: int) -> Array:
    """(number,) on (0, 1), float64 with the 23 bits of single precision: the same whatever the precision."""
    return jax.random.uniform(key, (number,), jnp.float32).astype(float) + 2**-24


def check_seconds(name: str, value: Any, *shapes: str) -> Any:
    """The value as a float or an array of them, finite and not negative, of shape () or one like "(n,)"."""
    if isinstance(value, jax.core.Tracer):
        return value
    array = np.asarray(value) if isinstance(value, np.ndarray | jax.Array | list | tuple) else None
    if array is None or array.ndim == 0:
        try:
            return check_number(name, value, 0)
        except ValueError as error:
            raise ValueError(f"{name} is {shown(value)}, expected a number of at least 0") from error
    right = array.ndim in [shape.count(",") + (shape != "(n,)") for shape in shapes]
    right = right and array.dtype.kind in "fiu" and array.size > 0
    if not right or not (np.isfinite(array) & (array >= 0)).all():
        smallest = f" with {array.min()}" if right else ""
        expected = f"finite numbers of at least 0, one alone or {' or '.join(shapes)}"
        raise ValueError(f"{name} is {shown(value)}{smallest}, expected {expected}")
    return array.astype(np.float64)


def _of_step(quantile: Callable[..., Array], *parameters: Any) -> Distribution:
    return Distribution(of_step=(Factor(quantile, parameters),))


def _constant(u: Array, value: Any) -> Array:
    return jnp.broadcast_to(value, u.shape)


def _lognormal(u: Array, mean: Any, sigma: Any) -> Array:
    return mean * jnp.exp(sigma * jax.scipy.special.ndtri(u) - sigma**2 / 2)


def _shifted_exponential(u: Array, shift: Any, mean: Any) -> Array:
    return shift - mean * jnp.log1p(-u)


def _stragglers(u: Array, share: Any, factor: Any) -> Array:
    return jnp.where(u > 1 - share, factor, 1.0)
