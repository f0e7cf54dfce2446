"""Data sets in memory, split into a training and a test part."""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """A labelled data set, on the host."""

    train_x: np.ndarray
    """(N, ...)"""
    train_y: np.ndarray
    """(N,) int, in 0, ..., num_classes - 1"""
    test_x: np.ndarray
    """(M, ...)"""
    test_y: np.ndarray
    """(M,) int"""
    num_classes: int
    name: str


def digits(test_fraction: float = 0.2) -> Dataset:
    """The 1797 handwritten digits of scikit-learn (UCI), as images (N, 8, 8, 1) float32.

    The split is stratified and always the same. One mean and one standard deviation, of all pixels of the
    training part, scale both parts.

    >>> digits().train_x.shape
    (1437, 8, 8, 1)

    Args:
      test_fraction: of the images, between 0.01 and 0.99.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed here alone
    from sklearn.model_selection import train_test_split

    if not 0.01 <= test_fraction <= 0.99:
        raise ValueError(f"test_fraction is {test_fraction}, expected 0.01 to 0.99")
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images.reshape(-1, 8, 8, 1), labels, test_size=test_fraction, stratify=labels, random_state=0
    )
    mean, std = train_x.mean(), train_x.std()

    def scale(x: np.ndarray) -> np.ndarray:
        return ((x - mean) / std).astype(np.float32)

    return Dataset(
        scale(train_x), train_y.astype(np.int32), scale(test_x), test_y.astype(np.int32), 10, "digits"
    )
