import matplotlib.pyplot as plt
import numpy as np
import pytest

from relaysim import plot

plt.switch_backend("agg")
ACCURACY = np.array([[0.0, 0.5, 1.0], [0.25, np.nan, 0.75]])


def test_class_accuracy():
    ax = plot.class_accuracy(ACCURACY)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), ACCURACY.T)
    assert image.get_clim() == (0, 1)
    assert image.origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("worker", "class")
    assert image.colorbar.ax.get_ylabel() == "accuracy"
    plt.close("all")


def test_class_accuracy_on_given_axes():
    figure, axes = plt.subplots(1, 2)
    assert plot.class_accuracy(ACCURACY, ax=axes[1]) is axes[1]
    assert len(figure.axes) == 3 and not axes[0].images
    plt.close("all")


@pytest.mark.parametrize(
    "values, message",
    [
        (ACCURACY[0], r"values has shape \(3,\), expected \(n, classes\)"),
        (ACCURACY[:0], r"values has shape \(0, 3\)"),
        (100 * ACCURACY, "values spans 0.0 to 100.0, expected 0 to 1"),
        (ACCURACY - 1, "values spans -1.0 to 0.0"),
    ],
)
def test_bad_class_accuracy(values, message):
    with pytest.raises(ValueError, match=message):
        plot.class_accuracy(values)
