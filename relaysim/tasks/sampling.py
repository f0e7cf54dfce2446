"""Batches without replacement, epoch by epoch, as a pure function of the step.

There is no queue to carry: which sample stands at a position of an epoch is computed from the position alone,
by a keyed permutation.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry2x32_p, threefry_prng_impl

from relaysim.checks import check_count
from relaysim.types import Array, Key

_ROUNDS = 24
"""Each halves the distance to uniform: a sample is at a position with chance 1/N, up to a factor of
about 1 + N / 2^24."""


def batch_indices(
    key: Key,
    step: Array | int,
    sizes: Array | np.ndarray,
    batch_size: int,
    workers: Array | None = None,
    taken: Array | None = None,
) -> Array:
    """The batch of every worker at a step, drawn without replacement.

    Worker i's stream is one permutation of range(sizes[i]) after another, each determined by (key, i, epoch).
    The batch of step t is its part [t B, (t + 1) B), for any t, in any order. So a batch may end one epoch
    and begin the next, workers of unequal size have epochs of their own, and a share may be smaller than a
    batch. The cost is O(n B), whatever the sizes.

    Args:
      key: a jax random key, the same throughout a run.
      step: int >= 0, below 2^31, () or each worker's own (n,). May be traced.
      sizes: (n,) int >= 1, how many samples each worker holds; sizes * B must stay below 2^31. May be
        traced, then unchecked.
      batch_size: B.
      workers: (n,) int, which workers these are; by default 0, 1, ….
      taken: (n,) int, from 1 to B, how many each worker takes in a step where that is not B. What its row
        holds beyond them comes in the next step.

    Returns:
      (n, B) int32, positions within each worker's share.

    Raises:
      ValueError: if sizes is not a vector of positive integers, if batch_size < 1, or if either is too large.
    """
    check_sizes(sizes, batch_size)
    workers = jnp.arange(len(sizes)) if workers is None else workers
    steps = jnp.broadcast_to(step, workers.shape)
    return _batch_indices(key, steps, jnp.asarray(sizes), batch_size, workers, taken)


@partial(jax.jit, static_argnames="batch_size")
def _batch_indices(
    key: Key, steps: Array, sizes: Array, batch_size: int, workers: Array, taken: Array | None
) -> Array:
    step, size = (values.astype(jnp.uint32)[:, None] for values in (steps, sizes))
    each = batch_size if taken is None else taken.astype(jnp.uint32)[:, None]
    # t B + b, divided by size with rest, but without the product t B, which would overflow.
    place = step % size * each + jnp.arange(batch_size, dtype=jnp.uint32)[None]
    epoch = step // size * each + place // size

    def keys(worker: Array, epochs: Array) -> Array:
        worker_key = jax.random.fold_in(key, worker)
        return jax.vmap(lambda e: jax.random.key_data(jax.random.fold_in(worker_key, e)))(epochs)

    return _permute(jax.vmap(keys)(workers.astype(jnp.uint32), epoch), place % size, size).astype(jnp.int32)


def _permute(keys: Array, x: Array, size: Array) -> Array:
    """The image of x under a random permutation of range(size) that a key determines, all elementwise.

    The swap-or-not shuffle of Hoang, Morris & Rogaway 2012, "An enciphering scheme based on a card shuffle":
    each round pairs x with pivot - x (mod size) and swaps the pair or not, by a bit that hangs on the pair.
    Unlike a Feistel network it takes any size as it is, and is as uniform for small ones.

    Args:
      keys: (..., 2 or more) uint32, random bits.
      x: (...) uint32, below size.
      size: uint32, at most 2^31, of a shape that broadcasts to x's.
    """

    def swap_or_not(i: Array, x: Array) -> Array:
        round_key = _hash(keys[..., 0] + i.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
        pivot = round_key % size
        partner = jnp.where(pivot < x, pivot + size, pivot) - x
        pair = jnp.maximum(x, partner)
        return jnp.where(_hash((keys[..., 1] + pair) ^ round_key) >> 31 == 0, x, partner)

    return jax.lax.fori_loop(0, _ROUNDS, swap_or_not, x)


def _hash(x: Array) -> Array:
    """MurmurHash3's finalizer: every bit of the uint32 in turns about half of those out."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


_threefry = threefry_prng_impl
_in_one_row = define_prng_impl(
    key_shape=_threefry.key_shape,
    seed=_threefry.seed,
    split=_threefry.split,
    fold_in=_threefry.fold_in,
    random_bits=lambda key, bits, shape: _threefry.random_bits(key, bits, (math.prod(shape),)).reshape(shape),
    name="threefry2x32 in one row",
    tag="row",
)


def in_one_row(key: Key) -> Key:
    """A key of the same numbers, which are drawn in one row and then take their shape.

    Shapes such as (200, 10) make XLA's compiler for CPUs unroll the generator, which takes it seconds.
    """
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_in_one_row)


def normal_rows(key: Key, steps: Array, rows: Array, num_rows: int, width: int, dtype: Any) -> Array:
    """Of a normal array (num_rows, width) for each step, drawn `in_one_row` from `fold_in(key, step)`, one
    row each.

    Args:
      key: a jax random key.
      steps: (k,) int.
      rows: (k,) int, which row of the array of steps[i]; num_rows * width must stay below 2^32.
      num_rows: of each array.
      width: of a row.
      dtype: of the numbers.

    Returns:
      (k, width), row i at a cost of O(width) where keys are those of jax by default.
    """

    def row(step: Array, i: Array) -> Array:
        whole = jax.random.fold_in(key, step)
        if not _is_threefry(key):
            return jax.random.normal(whole, (num_rows, width), dtype)[i]
        numbers = jnp.append(jax.random.key_data(whole), i.astype(jnp.uint32) * jnp.uint32(width))
        return jax.random.normal(jax.random.wrap_key_data(numbers, impl=_from_place), (width,), dtype)

    return jax.vmap(row)(steps, rows)


def _bits_from_place(key: Array, bits: int, shape: tuple[int, ...]) -> Array:
    """What threefry draws for a longer row, from a place in it on; the key is (2,) and the place."""
    places = key[2] + jnp.arange(math.prod(shape), dtype=jnp.uint32)
    high, low = threefry2x32_p.bind(*jnp.broadcast_arrays(key[0], key[1], jnp.zeros_like(places), places))
    dtype = jnp.dtype(f"uint{bits}")
    drawn = high.astype(dtype) << 32 | low.astype(dtype) if bits == 64 else (high ^ low).astype(dtype)
    return drawn.reshape(shape)


_from_place = define_prng_impl(
    key_shape=(3,),
    seed=_threefry.seed,
    split=_threefry.split,
    fold_in=_threefry.fold_in,
    random_bits=_bits_from_place,
    name="threefry2x32 from a place on",
    tag="place",
)


def _is_threefry(key: Key) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32" and getattr(
        jax.config, "jax_threefry_partitionable", True
    )


def check_sizes(sizes: Array | np.ndarray, batch_size: int) -> None:
    """Check that batches can be drawn, as far as is known yet (sizes may be traced).

    Raises:
      ValueError: see `batch_indices`.
    """
    check_count("batch_size", batch_size)
    dtype, shape = jnp.result_type(sizes), jnp.shape(sizes)
    if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"sizes is {dtype} of shape {shape}, expected integers of shape (n,)")
    if isinstance(sizes, jax.core.Tracer) or shape == (0,):
        return
    low, high = int(np.asarray(sizes).min()), int(np.asarray(sizes).max())  # on the host, even under jit
    if low < 1 or high * batch_size >= 2**31:
        raise ValueError(f"sizes spans {low} to {high}, expected 1 to (2^31 - 1) / batch_size={batch_size}")
