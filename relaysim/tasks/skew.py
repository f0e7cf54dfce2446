"""Workers that see the same things differently: changes to a data set that depend on who holds a sample."""

from collections.abc import Callable, Sequence

import numpy as np

from relaysim.checks import check_number
from relaysim.tasks.datasets import Dataset, check_dataset
from relaysim.tasks.partition import check_shares, rng_of
from relaysim.types import Key


def noise(
    key: Key,
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    variance: float,
    *,
    test_shares: Sequence[np.ndarray] | None = None,
) -> Dataset:
    """Gaussian noise on the inputs, of variance σ i / n for those of worker i = 1, …, n.

    Li et al. 2022, "Federated learning on non-IID data silos: an experimental study".

    >>> import jax
    >>> data = Dataset(np.zeros((4, 1)), np.zeros(4))
    >>> noise(jax.random.key(0), data, [np.arange(2), np.arange(2, 4)], 1.0).train_x.dtype
    dtype('float32')

    Args:
      key: a jax random key.
      dataset: with inputs (N, ...); they become float32.
      shares: n int arrays of indices into the training part.
      variance: σ ≥ 0, in units of the data set's `std`, squared.
      test_shares: n int arrays of indices into the test part, to be changed as well; the rest of it stays.
    """
    check_dataset(dataset)
    check_number("variance", variance, 0)
    rng, n = rng_of(key), len(shares)

    def change(x: np.ndarray, worker: int) -> np.ndarray:
        scale = np.sqrt(variance * (worker + 1) / n) * np.asarray(dataset.std)
        return x + scale * rng.normal(size=x.shape)

    return _changed(dataset, shares, test_shares, change)


def rotation(
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    degrees: float = 360.0,
    *,
    test_shares: Sequence[np.ndarray] | None = None,
) -> Dataset:
    """Images that are turned, worker i = 0, …, n − 1 holding them at the angle i / n · degrees.

    The rotated digits of Ghosh et al. 2020, "An efficient framework for clustered federated learning". Pixels
    are interpolated linearly, what comes in at the corners is the pixel nearest to it.

    >>> data = Dataset(np.arange(8.0).reshape(2, 2, 2, 1), np.zeros(2))
    >>> rotation(data, [np.arange(1), np.arange(1, 2)], 180).train_x[1, :, :, 0]
    array([[5., 7.],
           [4., 6.]], dtype=float32)

    Args:
      dataset: with images (N, H, W, C); they become float32.
      shares: n int arrays of indices into the training part.
      degrees: the whole range, counterclockwise.
      test_shares: n int arrays of indices into the test part, to be turned as well; the rest of it stays.
    """
    from scipy.ndimage import rotate  # slow to import

    check_number("degrees", degrees)
    if np.ndim(check_dataset(dataset).train_x) != 4:
        raise ValueError(f"dataset has inputs of shape {np.shape(dataset.train_x)}, expected (N, H, W, C)")

    def change(x: np.ndarray, worker: int) -> np.ndarray:
        angle = worker / len(shares) * degrees
        return rotate(x, angle, axes=(2, 1), reshape=False, order=1, mode="nearest")

    return _changed(dataset, shares, test_shares, change)


def _changed(
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    test_shares: Sequence[np.ndarray] | None,
    change: Callable[[np.ndarray, int], np.ndarray],
) -> Dataset:
    def part(x: np.ndarray, shares: Sequence[np.ndarray]) -> np.ndarray:
        x = np.array(x, np.float32)
        for worker, share in enumerate(shares):
            if len(share):
                x[share] = change(x[share], worker)
        return x

    check_shares(shares, len(dataset.train_x))
    changed = dataset._replace(train_x=part(dataset.train_x, shares))
    if test_shares is None:
        return changed
    if len(test_shares) != len(shares):
        raise ValueError(f"test_shares holds {len(test_shares)} shares, expected {len(shares)}")
    return changed._replace(test_x=part(dataset.test_x, test_shares))
