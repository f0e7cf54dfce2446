"""Who holds which data, and who learnt what."""

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from relaysim.checks import check_numbers
from relaysim.plot.axes import axes_for


def partition(counts: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Who holds which labels: a disc for each worker and class, its area the number of samples.

    >>> partition(np.array([[5, 0], [1, 4]])).get_ylabel()
    'class'

    Args:
      counts: (n, classes), from `rs.tasks.partition.label_counts(shares, labels)`.
      ax: where to draw; new axes by default.

    Raises:
      ValueError: where `counts` are no such numbers.
    """
    counts = check_numbers("counts", counts, "n", "classes")
    if not counts.min() >= 0 or not 0 < counts.max() < np.inf:
        raise ValueError(f"counts spans {counts.min()} to {counts.max()}, expected numbers of samples")
    ax = axes_for(ax)
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
    values = check_numbers("values", values, "n", "classes")
    if (values < 0).any() or (values > 1).any():
        raise ValueError(f"values spans {np.nanmin(values)} to {np.nanmax(values)}, expected 0 to 1")
    ax = axes_for(ax)
    image = ax.imshow(values.T, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="accuracy")
    ax.set(xlabel="worker", ylabel="class")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=ax, left=True, bottom=True)
    return ax
