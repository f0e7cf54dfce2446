"""Who holds which data, and who learnt what."""

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator


def partition(counts: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Who holds which labels: a disc for each worker and class, its area the number of samples.

    >>> partition(np.array([[5, 0], [1, 4]])).get_ylabel()
    'class'

    Args:
      counts: (n, classes), from `rs.tasks.partition.label_counts(shares, labels)`.
      ax: where to draw; new axes by default.
    """
    ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
    worker, label = np.nonzero(counts)
    area = 120 * counts[worker, label] / counts.max()
    ax.scatter(
        worker, label, s=area, c=label, cmap="tab10" if counts.shape[1] <= 10 else "turbo", linewidths=0
    )
    ax.set(xlabel="worker", ylabel="class", xlim=(-1, counts.shape[0]), ylim=(-1, counts.shape[1]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax)
    return ax


def class_accuracy(values: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Who forgot which class: each worker's accuracy on each class as a colour, blank where it is NaN.

    >>> class_accuracy(np.array([[0.9, 0.1], [0.2, 0.8]])).get_xlabel()
    'worker'

    Args:
      values: (n, classes), from 0 to 1, from `task.class_accuracy(params)`.
      ax: where to draw; new axes by default.

    Raises:
      ValueError: where `values` has another shape or range.
    """
    values = np.asarray(values)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values has shape {values.shape}, expected (n, classes)")
    if (values < 0).any() or (values > 1).any():
        raise ValueError(f"values spans {np.nanmin(values)} to {np.nanmax(values)}, expected 0 to 1")
    ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
    image = ax.imshow(values.T, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="accuracy")
    ax.set(xlabel="worker", ylabel="class")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax, left=True, bottom=True)
    return ax
