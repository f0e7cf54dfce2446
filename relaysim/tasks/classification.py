"""Classification: every worker trains the same network on its own share of a data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relaysim.tasks.augment import Augment
from relaysim.tasks.datasets import Dataset, check_dataset
from relaysim.tasks.losses import accuracy, cross_entropy
from relaysim.tasks.supervised import Supervised, supervised


def classification(
    model: Any,
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    *,
    batch_size: int = 32,
    augment: Augment | None = None,
    test_batch: int = 500,
    group: int | None = None,
    patches: bool | None = None,
) -> Supervised:
    """Train one network on a data set that is divided among workers: `supervised` with the cross-entropy.

    Weight decay is left to the optimizer.

    >>> import jax, relaysim as rs
    >>> data = rs.tasks.datasets.digits()
    >>> shares = rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), 4)
    >>> classification(rs.models.MLP((), 10), data, shares).sizes
    Array([360, 359, 359, 359], dtype=int32)

    Args:
      model: a flax module from inputs (B, ...) to logits (B, dataset.num_classes), with parameters alone, or
        any other model that `supervised` takes.
      dataset: the training part is the workers', the test part, which may be None, is for `measure`.
      shares: n int arrays, each worker's indices into the training part (see `partition`).
      batch_size: B, of each worker. Drawn without replacement, epoch by epoch (see `sampling`).
      augment: changes the training images of every batch at random, as they are stored, before they are
        scaled (see `augment`).
      test_batch: at most so many test samples at a time go through all n models in `measure`: more of them
        take more memory, and change nothing else.
      group: how many workers are computed at once, the others waiting: fewer take less memory. By default,
        where convolutions are computed as products, 1 on CPUs and up to 64 on GPUs, n otherwise: the fastest,
        as measured.
      patches: compute convolutions as products of matrices (see `stacked`); by default on CPUs and GPUs.

    Raises:
      ValueError: for anything that does not fit together.
    """
    _check_labels("train", check_dataset(dataset).train_y, dataset.num_classes)
    if dataset.test_y is not None:
        _check_labels("test", dataset.test_y, dataset.num_classes)
    task = supervised(
        model,
        dataset,
        shares,
        loss=cross_entropy,
        metrics={"accuracy": accuracy},
        batch_size=batch_size,
        augment=augment,
        test_batch=test_batch,
        group=group,
        patches=patches,
    )
    shape, expected = task.shape_of_outputs(), (1, dataset.num_classes)
    if shape != expected:
        raise ValueError(f"model turns {(1, *np.shape(task.x)[1:])} into {shape}, expected {expected}")
    return task


def _check_labels(part: str, y: Any, num_classes: int) -> None:
    y = np.asarray(y)
    if y.ndim != 1 or not len(y) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{part}_y is {y.dtype} of shape {y.shape}, expected one integer or more")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"{part}_y spans {y.min()} to {y.max()}, expected 0 to num_classes - 1 = {num_classes - 1}"
        )
