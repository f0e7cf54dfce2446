import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from relaysim.tasks.sampling import batch_indices, in_one_row

KEY = jax.random.key(0)
draw = jax.jit(batch_indices, static_argnames="batch_size")


@partial(jax.jit, static_argnums=(2, 3))
def _batches(key, sizes, batch_size, num_steps):
    return jax.vmap(lambda t: batch_indices(key, t, sizes, batch_size))(jnp.arange(num_steps))


def streams(key, sizes, batch_size, num_steps):
    """(n, num_steps * batch_size)"""
    batches = np.asarray(_batches(key, jnp.asarray(sizes), batch_size, num_steps))
    return batches.transpose(1, 0, 2).reshape(len(sizes), -1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), sizes=st.lists(st.integers(1, 100), min_size=4, max_size=4))
def test_every_epoch_is_a_permutation(seed, sizes):
    for size, stream in zip(sizes, streams(jax.random.key(seed), sizes, 16, 20), strict=True):
        for epoch in range(320 // size):
            assert np.array_equal(np.sort(stream[epoch * size : (epoch + 1) * size]), np.arange(size))
        rest = stream[320 // size * size :]
        assert len(np.unique(rest)) == len(rest)


def test_the_batch_size_only_cuts_the_stream():
    sizes = [3, 17, 100]
    assert np.array_equal(streams(KEY, sizes, 4, 30), streams(KEY, sizes, 24, 5))


def test_a_worker_draws_alike_whoever_else_there_is():
    assert np.array_equal(streams(KEY, [5, 30, 8], 16, 12)[1], streams(KEY, [7, 30, 1], 16, 12)[1])


def test_workers_epochs_and_keys_differ():
    a, b = streams(KEY, [64, 64], 64, 2).reshape(2, 2, 64)
    c = streams(jax.random.key(1), [64], 64, 1)[0]
    for x, y in ((a[0], a[1]), (a[0], b[0]), (a[0], c), (a[1], b[0])):
        assert (x == y).sum() < 10


def test_random_access():
    sizes = jnp.array([50, 7, 1])
    eager = batch_indices(KEY, 11, sizes, 16)
    assert eager.shape == (3, 16) and eager.dtype == jnp.int32
    assert np.array_equal(eager, draw(KEY, 11, sizes, batch_size=16))
    assert np.array_equal(eager, draw(KEY, jnp.int32(11), np.asarray(sizes), batch_size=16))
    assert np.array_equal(eager, streams(KEY, sizes, 16, 12)[:, -16:])


def test_large_steps_and_sizes_do_not_overflow():
    size, batch_size, step = 10**6, 32, 2**31 - 1
    first = step * batch_size % size  # in its epoch
    steps = step - first // batch_size + np.arange(size // batch_size)
    epoch = jax.vmap(lambda t: batch_indices(KEY, t, jnp.array([size]), batch_size)[0])(jnp.asarray(steps))
    offset = int(steps[0]) * batch_size % size
    same = np.asarray(epoch).ravel()[: size - offset]
    assert same.min() >= 0 and same.max() < size
    assert len(np.unique(same)) == len(same)
    assert draw(KEY, 5, jnp.array([2**30]), batch_size=1).max() < 2**30


def chi_square(observed):
    expected = observed.sum() / observed.size
    return ((observed - expected) ** 2).sum() / expected


@pytest.mark.parametrize(
    "size, epochs",
    [(2, 50_000), pytest.param(3, 100_000, marks=pytest.mark.slow), (5, 100_000), (17, 40_000), (90, 20_000)],
)
def test_permutations_are_uniform(size, epochs):
    workers = 4  # whose permutations are as good as more epochs
    batches = _batches(jax.random.key(size), jnp.full(workers, size), size, epochs // workers)
    perms = np.asarray(batches).reshape(-1, size)

    # Every sample at every position. The counts' rows and columns sum to the epochs: (size - 1)^2 degrees of
    # freedom, and a variance larger by size / (size - 1) than a multinomial's.
    counts = np.stack([np.bincount(column, minlength=size) for column in perms.T])
    assert stats.chi2.sf(chi_square(counts) * (size - 1) / size, (size - 1) ** 2) > 1e-4

    # Every pair of samples at a pair of positions; and across the border of two epochs.
    off_diagonal = ~np.eye(size, dtype=bool)
    for i, j in {(0, 1), (0, size - 1), (size // 2, 0)}:
        counts = np.bincount(perms[:, i] * size + perms[:, j], minlength=size**2).reshape(size, size)
        assert (np.diag(counts) == 0).all()
        assert stats.chi2.sf(chi_square(counts[off_diagonal]), size * (size - 1) - 1) > 1e-4
    border = np.bincount(perms[:-workers, -1] * size + perms[workers:, 0], minlength=size**2)
    assert stats.chi2.sf(chi_square(border), size**2 - 1) > 1e-4

    # Every permutation, where they can be counted.
    if size <= 5:
        _, counts = np.unique(perms, axis=0, return_counts=True)
        assert len(counts) == math.factorial(size)
        assert stats.chi2.sf(chi_square(counts), len(counts) - 1) > 1e-4


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_numbers_in_one_row_are_the_same(impl):
    key = jax.random.key(3, impl=impl)
    for split in (lambda k: k, lambda k: jax.random.fold_in(k, 7), lambda k: jax.random.split(k)[1]):
        plain, in_row = (jax.random.normal(split(k), (2, 3)) for k in (key, in_one_row(key)))
        assert np.array_equal(plain, in_row)


def test_x64(x64):
    sizes = np.array([5, 40])
    wide = batch_indices(KEY, jnp.int64(3), sizes, 8)
    assert wide.dtype == jnp.int32
    with jax.enable_x64(False):
        assert np.array_equal(wide, batch_indices(KEY, 3, sizes, 8))


@pytest.mark.parametrize(
    "sizes, batch_size, message",
    [
        ([3, 4], 0, "batch_size is 0"),
        ([3, 4], 2.0, "batch_size is 2.0"),
        ([3.0, 4.0], 2, "sizes is float"),
        (3, 2, r"sizes is int32 of shape \(\)"),
        ([3, 0], 2, "sizes spans 0 to 3"),
        ([3, 2**30], 2, "sizes spans 3 to 1073741824"),
    ],
)
def test_bad_arguments(sizes, batch_size, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(KEY, 0, jnp.array(sizes), batch_size)
