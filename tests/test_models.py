from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relaysim.models import CNN, MLP, VGG11, EvoNorm, ResNet, Transformer, resnet18, resnet20
from relaysim.models.vgg import max_pool

KEY = jax.random.key(0)
TRANSFORMER = Transformer(num_classes=3, vocabulary=11, max_length=6, width=8, heads=2, layers=1)


def count(variables):
    assert set(variables) == {"params"}
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def convolution(size, fan_in, fan_out, bias=False):
    return size * size * fan_in * fan_out + (fan_out if bias else 0)


def dense(fan_in, fan_out):
    return fan_in * fan_out + fan_out


def vgg11():
    widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    return sum(convolution(3, *pair, bias=True) for pair in pairwise(widths))


def residual(stem, blocks, channels, num_classes):
    """EvoNorm has three numbers for each channel, GroupNorm two."""
    total, fan_in = convolution(stem, 3, channels[0]) + 3 * channels[0], channels[0]
    for blocks_here, width in zip(blocks, channels, strict=True):
        for _ in range(blocks_here):
            total += convolution(3, fan_in, width) + 3 * width + convolution(3, width, width) + 2 * width
            total += convolution(1, fan_in, width) + 2 * width if fan_in != width else 0
            fan_in = width
    return total + dense(fan_in, num_classes)


@pytest.mark.parametrize(
    "model, shape, num_classes, size",
    [
        (MLP((), 10), (28, 28, 1), 10, dense(784, 10)),
        (
            CNN(10),
            (28, 28, 1),
            10,
            convolution(3, 1, 16, True) + convolution(3, 16, 32, True) + dense(7 * 7 * 32, 10),
        ),
        (
            CNN(10, (4, 8, 16), 3),
            (9, 7, 3),
            10,
            convolution(3, 3, 4, True)
            + convolution(3, 4, 8, True)
            + convolution(3, 8, 16, True)
            + dense(32, 10),
        ),
        (VGG11(10), (32, 32, 3), 10, vgg11() + dense(512, 10)),
        (VGG11(10, (512, 512)), (32, 32, 3), 10, vgg11() + 2 * dense(512, 512) + dense(512, 10)),
        (VGG11(7), (64, 32, 3), 7, vgg11() + dense(1024, 7)),
        (resnet20(), (32, 32, 3), 10, residual(3, (3, 3, 3), (16, 32, 64), 10)),
        (resnet18(), (224, 224, 3), 1000, residual(7, (2, 2, 2, 2), (64, 128, 256, 512), 1000)),
    ],
)
def test_shapes_and_parameters_by_hand(model, shape, num_classes, size):
    logits, variables = jax.eval_shape(model.init_with_output, KEY, jnp.ones((2, *shape)))
    assert logits.shape == (2, num_classes)
    assert count(variables) == size
    assert hash(model) == hash(model.clone())


def test_published_sizes():
    assert vgg11() == 9_220_480
    # torchvision's resnet18; here each of the 9 activations has one number more for each channel
    extra = 64 + 2 * (64 + 128 + 256 + 512)
    assert residual(7, (2, 2, 2, 2), (64, 128, 256, 512), 1000) == 11_689_512 + extra


def test_parameters_of_the_transformer_by_hand():
    d, h = 64, 256
    layer = 4 * dense(d, d) + dense(d, h) + dense(h, d) + 2 * 2 * d
    variables = jax.eval_shape(Transformer(2, 1000, 50).init, KEY, jnp.ones((2, 7), int))
    assert count(variables) == (1000 + 50) * d + 2 * layer + 2 * d + dense(d, 2)


def evonorm(x, gamma, beta, v, groups):
    """Sample by sample, group by group."""
    out = np.empty_like(x)
    channels = np.split(np.arange(x.shape[-1]), groups)
    for i, sample in enumerate(x):
        for group in channels:
            part = sample[..., group]
            std = np.sqrt(np.mean((part - part.mean()) ** 2) + 1e-5)
            act = part / (1 + np.exp(-v[group] * part))
            out[i][..., group] = act / std * gamma[group] + beta[group]
    return out


@pytest.mark.parametrize("channels, groups", [(6, 6), (32, 32), (96, 32)])
def test_evonorm(channels, groups, x64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 3, channels))
    params = {name: rng.normal(size=channels) for name in ("gamma", "beta", "v")}
    ours = EvoNorm().apply({"params": params}, x)
    np.testing.assert_allclose(ours, evonorm(x, **params, groups=groups), rtol=1e-12, atol=1e-12)
    start = EvoNorm().init(KEY, x)["params"]
    assert (start["gamma"] == 1).all() and (start["beta"] == 0).all() and (start["v"] == 1).all()


def test_max_pool():
    x = np.random.default_rng(0).permutation(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.float32)
    expected = np.empty((2, 2, 3, 3), np.float32)
    where = np.zeros_like(x)
    for b, i, j, c in np.ndindex(expected.shape):
        square = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        expected[b, i, j, c] = square.max()
        where[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c] = square == square.max()
    np.testing.assert_array_equal(max_pool(x), expected)
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x).sum())(x), where)


def test_samples_of_a_residual_network_know_nothing_of_each_other():
    model = ResNet(3, blocks=(1, 1), channels=(2, 4), wide_stem=False)
    x = jax.random.normal(KEY, (4, 8, 8, 1))
    apply = jax.jit(model.apply)
    shapes, rng = jax.eval_shape(model.init, KEY, x), np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    together = apply(variables, x)
    assert jnp.isfinite(together).all()
    np.testing.assert_allclose(apply(variables, x.at[1:].mul(2))[0], together[0], rtol=1e-5)
    assert not np.allclose(together[0], together[1], rtol=1e-2)


@pytest.fixture(scope="module")
def transformer():
    return jax.jit(TRANSFORMER.apply), jax.jit(TRANSFORMER.init)(KEY, jnp.ones((1, 6), int))


def test_padding_changes_nothing(transformer):
    apply, variables = transformer
    text = jnp.array([[3, 1, 4, 1], [5, 9, 0, 0]])
    longer = jnp.pad(text, ((0, 0), (0, 2)))
    np.testing.assert_allclose(apply(variables, longer), apply(variables, text), rtol=1e-5, atol=1e-6)
    alone = apply(variables, text[1:, :2])
    np.testing.assert_allclose(apply(variables, text)[1:], alone, rtol=1e-5, atol=1e-6)


def test_a_text_is_more_than_its_words(transformer):
    apply, variables = transformer
    logits = apply(variables, jnp.array([[3, 1, 4, 1], [1, 4, 1, 3], [3, 1, 4, 2], [0, 0, 0, 0]]))
    assert jnp.isfinite(logits).all()
    for other in (1, 2, 3):
        assert np.abs(logits[0] - logits[other]).max() > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CNN(0), "num_classes is 0, expected an integer of at least 1"),
        (lambda: CNN(10, channels=(16, 0)), r"channels is \(16, 0\)"),
        (lambda: CNN(10, kernel_size=2.5), "kernel_size is 2.5"),
        (lambda: VGG11(10, [-1]), r"hidden is \[-1\]"),
        (
            lambda: ResNet(10, (2,), (48,), False),
            r"channels is \(48,\), expected at most 32 or multiples of 32",
        ),
        (lambda: ResNet(10, (2, 2), (16,), False), r"blocks is \(2, 2\), channels is \(16,\)"),
        (lambda: ResNet(10, (), (), False), r"blocks is \(\)"),
        (lambda: Transformer(2, 10, 5, width=10, heads=4), "width is 10, expected a multiple of heads = 4"),
        (lambda: Transformer(2, 10, 0), "max_length is 0"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "model, x, message",
    [
        (VGG11(10), jnp.ones((1, 28, 28, 1)), r"x has shape \(1, 28, 28, 1\), expected .* multiples of 32"),
        (TRANSFORMER, jnp.ones((1, 7), int), r"tokens has shape \(1, 7\), expected \(B, T ≤ max_length=6\)"),
        (TRANSFORMER, jnp.ones((1, 6)), "tokens holds float32, expected integers"),
    ],
)
def test_bad_inputs(model, x, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, KEY, x)
