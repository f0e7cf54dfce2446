import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from relaysim.tasks.augment import crop_and_flip

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(1, 256, (2000, 5, 4, 2)).astype(np.uint8)


def twin(image, padding, flip):
    """All that can become of an image: (ways, H, W, C)."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    crops = [
        padded[top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return np.stack(crops + [crop[:, ::-1] for crop in crops] * flip)


@pytest.mark.parametrize("flip", [True, False])
def test_each_way_is_equally_likely(flip):
    changed = np.asarray(jax.jit(crop_and_flip(padding=2, flip=flip))(KEY, IMAGES))
    assert changed.dtype == np.uint8 and changed.shape == IMAGES.shape
    counts = np.zeros(25 * (1 + flip), int)
    for before, after in zip(IMAGES, changed, strict=True):
        (ways,) = np.nonzero((twin(before, 2, flip) == after).all((1, 2, 3)))
        assert len(ways) == 1
        counts[ways] += 1
    assert chisquare(counts).pvalue > 0.01


def test_the_key_decides():
    augment = jax.jit(crop_and_flip())
    first, again, other = (augment(jax.random.key(seed), IMAGES) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_nothing_to_change():
    assert (crop_and_flip(0, flip=False)(KEY, jnp.asarray(IMAGES)) == IMAGES).all()


def test_the_same_twice_is_equal():
    assert crop_and_flip(4) == crop_and_flip(padding=4)
    assert hash(crop_and_flip(4)) == hash(crop_and_flip(padding=4))
    assert crop_and_flip(4) != crop_and_flip(4, flip=False)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: crop_and_flip(-1), "padding is -1"),
        (lambda: crop_and_flip(1.5), "padding is 1.5"),
        (lambda: crop_and_flip()(KEY, jnp.zeros((8, 8, 3))), r"images has shape \(8, 8, 3\)"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
