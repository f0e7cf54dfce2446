import numpy as np
import pytest

from relaysim.tasks.datasets import digits


def test_digits():
    data = digits()
    assert data.num_classes == 10 and data.name == "digits"
    assert data.train_x.shape == (1437, 8, 8, 1) and data.test_x.shape == (360, 8, 8, 1)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert np.isclose(data.train_x.mean(), 0, atol=1e-5) and np.isclose(data.train_x.std(), 1, atol=1e-5)
    assert abs(data.test_x.mean()) < 0.05


def test_digits_split_is_stratified_and_fixed():
    data, again = digits(0.5), digits(0.5)
    assert np.array_equal(data.test_x, again.test_x)
    assert np.abs(np.bincount(data.train_y) - np.bincount(data.test_y)).max() <= 1
    both = np.concatenate([data.train_x, data.test_x]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797  # no image of the test part is in the training part


@pytest.mark.parametrize("fraction", [0.0, 1.0, np.nan])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match="test_fraction is"):
        digits(fraction)
