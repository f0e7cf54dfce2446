from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relaysim.columns import compiling_for
from relaysim.models import CNN, MLP
from relaysim.tasks import classification, datasets, partition
from relaysim.tasks.grouped import apply, convolve_patches, default_group, has_images, stacked

KEY = jax.random.key(0)
MODEL = CNN(num_classes=3, channels=(2, 3), kernel_size=3)
DIGITS = datasets.digits()


class ConvolutionsOfAllKinds(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=(2, 1), padding=((0, 2), (1, 0)), use_bias=False)(x)
        x = nn.Conv(4, (3, 3), feature_group_count=2)(x)
        x = nn.Conv(4, (3, 3), kernel_dilation=2)(x)
        x = nn.Conv(3, (2, 3), padding="CIRCULAR")(x)
        return nn.Conv(3, (3,))(x.mean(1))


def test_stacked_is_a_loop_over_workers():
    x, y = np.arange(10.0).reshape(5, 2), {"a": np.arange(5.0)}
    for group in (1, 2, 3, 5, 9):
        total, scaled = stacked(lambda x, y: (x.sum() + y["a"], {"b": 2 * x}), group)(x, y)
        np.testing.assert_array_equal(total, x.sum(1) + y["a"])
        np.testing.assert_array_equal(scaled["b"], 2 * x)


def test_fewer_workers_at_a_time():
    for group in (1, 2, 4):
        traced = str(jax.make_jaxpr(stacked(jnp.sin, group))(jnp.ones((4, 7))))
        assert f"f32[{'' if group == 1 else f'{group},'}7] = sin" in traced


def convolution(x, kernel, strides, padding):
    """One output pixel after another."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = kernel.shape[:2]
    rows = range(0, x.shape[1] - height + 1, strides[0])
    columns = range(0, x.shape[2] - width + 1, strides[1])
    return np.stack(
        [
            np.stack([np.tensordot(x[:, i : i + height, j : j + width], kernel, 3) for j in columns], 1)
            for i in rows
        ],
        1,
    )


@pytest.mark.parametrize(
    "size, strides, padding, pads",
    [
        ((3, 3), (1, 1), "SAME", ((1, 1), (1, 1))),
        ((5, 3), (2, 2), "SAME", ((2, 2), (0, 1))),
        ((2, 3), (1, 3), "VALID", ((0, 0), (0, 0))),
        ((1, 1), (2, 2), ((0, 0), (0, 0)), ((0, 0), (0, 0))),
        ((3, 2), (2, 1), ((1, 0), (0, 2)), ((1, 0), (0, 2))),
    ],
)
def test_patches_against_a_plain_loop(size, strides, padding, pads, x64):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(*size, 3, 4))
    ours = convolve_patches(x, kernel, strides, padding)
    np.testing.assert_allclose(ours, convolution(x, kernel, strides, pads), rtol=1e-12, atol=1e-12)


def test_convolutions_of_all_kinds_by_patches(x64):
    model, rng = ConvolutionsOfAllKinds(), np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5, 4))
    shapes = jax.eval_shape(model.init, KEY, x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    theirs, ours = (jax.jit(partial(apply, model, patches=how))(params, x) for how in (False, True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_convolution_is_left():
    params = jax.eval_shape(MODEL.init, KEY, jnp.ones((2, 8, 8, 1)))["params"]
    for patches in (False, True):
        traced = jax.make_jaxpr(partial(apply, MODEL, patches=patches))
        assert ("conv_general_dilated" in str(traced(params, jnp.ones((2, 8, 8, 1))))) is not patches


@pytest.fixture(scope="module")
def workers():
    """Models, batches and each worker's own gradients, in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(3, 2, 8, 8, 1)), rng.normal(size=(3, 2, 3))
        shapes = jax.eval_shape(MODEL.init, KEY, x[0])["params"]
        params = jax.tree.map(lambda leaf: rng.normal(size=(3, *leaf.shape)), shapes)

        @jax.jit
        @jax.value_and_grad
        def alone(p, x, y):
            return jnp.sum(MODEL.apply({"params": p}, x) * y)

        rows = [jax.tree.map(lambda leaf, i=i: leaf[i], (params, x, y)) for i in range(3)]
        results = [alone(*row) for row in rows]
        return (params, x, y), jax.tree.map(lambda *leaves: np.stack(leaves), *results)


@pytest.mark.parametrize("group", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
@pytest.mark.parametrize("patches", [False, True])
def test_gradients_are_those_of_each_model_alone(workers, group, patches, x64):
    def loss(p, x, y):
        return jnp.sum(apply(MODEL, p, x, patches=patches) * y)

    args, expected = workers
    ours = jax.jit(stacked(jax.value_and_grad(loss), group))(*args)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_the_default_group():
    images, vectors = jnp.ones((3, 3, 1, 2)), jnp.ones((3, 2, 2))
    assert has_images({"a": images, "b": vectors}) and not has_images([vectors])
    assert default_group(True, 5, patches=True) == 1
    assert default_group(True, 5, patches=False) == 5
    assert default_group(False, 5, patches=True) == 5


def test_the_default_is_that_of_the_platform_that_is_compiled_for():
    model, shares = CNN(10, channels=(2,), kernel_size=3), partition.iid(KEY, 60, 3)
    task = classification(model, DIGITS, shares, batch_size=4)
    found = {}
    for name in ("cpu", "gpu", "tpu"):
        with compiling_for(name):
            text = str(jax.make_jaxpr(task.grad)(KEY, 0, jax.eval_shape(task.init, KEY)))
            found[name] = task.group, task.patches, "conv_general_dilated" in text
    assert found == {"cpu": (1, True, False), "gpu": (3, True, False), "tpu": (3, False, True)}


@pytest.mark.slow
def test_tasks_agree_whatever_the_way():
    shares = partition.iid(KEY, 60, 3)
    data = DIGITS._replace(
        train_x=DIGITS.train_x[:60],
        train_y=DIGITS.train_y[:60],
        test_x=DIGITS.test_x[:20],
        test_y=DIGITS.test_y[:20],
    )
    model = CNN(10, channels=(2,), kernel_size=3)

    def results(**how):
        task = classification(model, data, shares, batch_size=4, **how)
        params = task.init(KEY)
        return task, jax.tree.leaves(jax.jit(lambda t, p: (t.grad(KEY, 0, p), t.measure(p)))(task, params))

    default, expected = results()
    assert (default.group, default.patches) == (1, True)
    task, ours = results(group=2, patches=False)
    assert (task.group, task.patches) == (2, False)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert classification(MLP((), 10), data, shares, batch_size=4).group == 3


@pytest.mark.parametrize("group", [0, -1, 1.5])
def test_bad_group(group):
    with pytest.raises(ValueError, match=f"group is {group}, expected an integer of at least 1"):
        classification(MLP((), 10), DIGITS, partition.iid(KEY, 60, 3), group=group)
