"""Checks of arguments that many functions share: each raises a ValueError, or returns the value."""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.types import Algorithm, Mixer

MOST = 2**31 - 1
"""Steps, workers and directed edges: they are counted in int32."""


def check_count(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """The value as an int: an integer, NumPy's too but no truth value, from `least` to `most`."""
    if not _is_integer(value, least, most):
        limit = f" and at most {most}" if most < math.inf else ""
        raise ValueError(f"{name} is {shown(value)}, expected an integer of at least {least}{limit}")
    return int(value)


def check_num_workers(num_workers: Any, least: int = 1) -> int:
    """The number of workers as an int."""
    return check_count("num_workers", num_workers, least, MOST)


def check_counts(name: str, values: Any) -> tuple[int, ...]:
    """The values as a tuple of ints: a sequence of integers of at least 1."""
    sequence = np.iterable(values) and not isinstance(values, str | Mapping)
    counts = tuple(int(entry) if _is_integer(entry, 1) else 0 for entry in values) if sequence else (0,)
    if not all(counts):
        raise ValueError(f"{name} is {shown(values)}, expected a sequence of integers of at least 1")
    return counts


def check_bool(name: str, value: Any) -> bool:
    """The value as a bool: True or False, NumPy's too."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {shown(value)}, expected True or False")
    return bool(value)


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, ends: str = "[]"
) -> Any:
    """The value as a float: a real, finite number, Python's, NumPy's or jax's, between `low` and `high`.

    Each end of the range belongs to it or not, as its bracket in `ends` says: "[)" leaves `high` out. What
    jax traces has no value yet, and is returned as it came.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    number = _real(value)
    left, right = ends[0] if low > -math.inf else "(", ends[1] if high < math.inf else ")"
    above = low < number if left == "(" else low <= number
    below = number < high if right == ")" else number <= high
    if not (above and below):
        between = f"{left}{low}, {high}{right}"
        raise ValueError(f"{name} is {shown(value)}, expected a finite number in {between}")
    return number


def check_numbers(name: str, values: Any, *shape: int | str) -> np.ndarray:
    """The values as an array of real numbers, of this shape; a letter in it stands for any length above 0."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # keys, and rows of different lengths
        array = np.array(None)
    fits = array.ndim == len(shape) and all(
        length > 0 if isinstance(expected, str) else length == expected
        for length, expected in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind not in "biuf" or not fits:
        of_shape = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} is {shown(values)}, expected real numbers of shape {of_shape}")
    return array


def check_choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """The value: one of these names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {shown(value)}, expected one of {', '.join(map(repr, choices))}")
    return value


def check_function(name: str, value: Any, what: str) -> Any:
    """The value: a function."""
    if not callable(value):
        raise ValueError(f"{name} is {shown(value)}, expected a function {what}")
    return value


def check_path(name: str, value: Any) -> Path:
    """The value as a path."""
    if not isinstance(value, str | PathLike):
        raise ValueError(f"{name} is {shown(value)}, expected a path")
    return Path(value)


def check_key(name: str, key: Any) -> jax.Array:
    """The key: one of jax's, typed and of shape (), traced ones too."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ValueError(f"{name} is {shown(key)}, expected a jax random key such as jax.random.key(0)")
    return key


def check_mixer(mixer: Any) -> Mixer:
    """The mixer."""
    if not isinstance(mixer, Mixer):
        raise ValueError(f"mixer is {shown(mixer)}, expected a way to communicate such as rs.relay_sum(tree)")
    return mixer


def check_method(method: Any, name: str = "method") -> Algorithm:
    """The method."""
    if not isinstance(method, Algorithm):
        such = "a method such as rs.relaysgd(grad, mixer, optimizer)"
        raise ValueError(f"{name} is {shown(method)}, expected {such}")
    return method


def check_draw(draw: Any, default: Callable) -> Callable:
    """What draws random numbers, (key, step, shape) -> array: `draw`, or where it is None the default."""
    return default if draw is None else check_function("draw", draw, "(key, step, shape) -> array")


def check_gaps(num_steps: Any, every: Any) -> np.ndarray:
    """(R,) the steps before each record, where these are taken every so many steps, or at given ones."""
    num_steps = check_count("num_steps", num_steps, most=MOST)
    if np.ndim(every) == 0:
        every = check_count("every", every)
        if num_steps % every:
            raise ValueError(f"num_steps is {num_steps}, expected a multiple of every = {every}")
        return np.broadcast_to(np.int64(every), num_steps // every)  # takes no memory, however many they are
    gaps = np.diff(np.asarray(every), prepend=0)
    if gaps.ndim != 1 or gaps.dtype.kind not in "iu" or not (gaps > 0).all() or gaps.sum() != num_steps:
        raise ValueError(
            f"every is {shown(every)}, expected ascending steps of which the last is num_steps = {num_steps}"
        )
    return gaps


def check_alike(name: str, value: Any, like: Any) -> Any:
    """The pytree: one with the leaves of `like` and their shapes.

    >>> check_alike("gradients", {"w": jnp.zeros((4, 3))}, {"w": jnp.ones((4, 2))})
    Traceback (most recent call last):
    ValueError: gradients is {w: float32[4,3]}, expected {w: float32[4,2]}
    """
    import chex  # slow to import

    try:
        chex.assert_trees_all_equal_shapes(value, like)
    except (AssertionError, AttributeError, TypeError, ValueError):  # chex tells at length
        raise ValueError(f"{name} is {kinds(value)}, expected {kinds(like)}") from None
    return value


def kinds(pytree: Any) -> str:
    """A pytree in a message: the types and shapes of its leaves, in at most 150 signs.

    >>> kinds({"b": 0.5, "w": jnp.zeros((4, 2))})
    '{b: float, w: float32[4,2]}'
    """

    def kind(leaf: Any) -> str:
        return jax.typeof(leaf).str_short() if hasattr(leaf, "shape") else type(leaf).__name__

    told = str(jax.tree.map(kind, pytree)).replace("'", "")
    return told if len(told) <= 150 else f"{told[:147]}…"


def _is_integer(value: Any, least: int, most: float = math.inf) -> bool:
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return integer and bool(least <= value <= most)


def _real(value: Any) -> float:
    """A real, finite number as a float, and NaN for all else."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        return float(value) if real and value.ndim == 0 else math.nan
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if real and abs(value) <= sys.float_info.max else math.nan


def shown(value: Any) -> str:
    """A value in a message, in one line of at most 150 signs; an array by its kind."""
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        return f"{value.dtype} of shape {value.shape}"
    told = " ".join(repr(value).split())
    return told if len(told) <= 150 else f"{told[:149]}…"
