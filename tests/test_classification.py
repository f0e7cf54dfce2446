import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from relaysim.models import MLP
from relaysim.tasks.augment import crop_and_flip
from relaysim.tasks.classification import classification
from relaysim.tasks.datasets import digits
from relaysim.tasks.partition import dirichlet, iid
from relaysim.tasks.sampling import batch_indices

KEY = jax.random.key(0)
init = jax.jit(lambda task, key: task.init(key))
gradient = jax.jit(lambda task, key, step, params: task.grad(key, step, params))
measure = jax.jit(lambda task, params: task.measure(params))
class_accuracy = jax.jit(lambda task, params: task.class_accuracy(params))
DATA = digits()
MODEL = MLP((16,), 10)
SHARES = dirichlet(KEY, DATA.train_y, 6, 0.3, equal=False)


@pytest.fixture(scope="module")
def task():
    return classification(MODEL, DATA, SHARES, batch_size=8)


def scattered(task):
    """Models that differ between workers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), init(task, KEY))


@jax.jit
@jax.value_and_grad
def twin(params, x, y):
    """One worker's loss and gradient, without stacking."""
    logits = MODEL.apply({"params": params}, x)
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


def test_workers_start_alike(task):
    params = init(task, KEY)
    assert task.num_workers == 6
    for leaf in jax.tree.leaves(params):
        assert leaf.shape[0] == 6
        assert (leaf == leaf[:1]).all()
    assert measure(task, params)["consensus_distance"] < 1e-10


@pytest.mark.parametrize("step", [0, 1000])
def test_gradients_are_each_workers_own(task, step):
    params = scattered(task)
    losses, grads = gradient(task, KEY, step, params)
    sizes = np.array([len(share) for share in SHARES])
    places = np.asarray(batch_indices(jax.random.fold_in(KEY, 0), step, sizes, 8))
    for i, share in enumerate(SHARES):
        batch = share[places[i]]
        mine = jax.tree.map(lambda x: x[i], params)  # noqa: B023
        loss, grad = twin(mine, DATA.train_x[batch], DATA.train_y[batch])
        assert np.isclose(losses[i], loss, rtol=1e-5)
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(grad), strict=True):
            np.testing.assert_allclose(ours[i], theirs, atol=1e-6, rtol=1e-4)


def test_an_epoch_averages_to_the_gradient_of_the_share():
    shares = [share[:40] for share in SHARES]
    task = classification(MODEL, DATA, shares, batch_size=8)
    params = scattered(task)
    grads = [gradient(task, KEY, t, params)[1] for t in range(5, 10)]
    grads = jax.tree.map(lambda *leaves: sum(leaves) / 5, *grads)
    for i, share in enumerate(shares):
        mine = jax.tree.map(lambda x: x[i], params)  # noqa: B023
        _, whole = twin(mine, DATA.train_x[share], DATA.train_y[share])
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(ours[i], theirs, atol=1e-5)


def test_batches_depend_on_key_and_step(task):
    params = init(task, KEY)
    losses = [
        gradient(task, k, t, params)[0] for k, t in ((KEY, 0), (KEY, 0), (KEY, 1), (jax.random.key(1), 0))
    ]
    assert (losses[0] == losses[1]).all()
    assert (losses[0] != losses[2]).all()
    assert (losses[0] != losses[3]).all()


def test_measure(task):
    params = scattered(task)
    measured = measure(task, params)
    for i in range(6):
        logits = MODEL.apply({"params": jax.tree.map(lambda x: x[i], params)}, DATA.test_x)  # noqa: B023
        assert np.isclose(measured["accuracy"][i], np.mean(logits.argmax(1) == DATA.test_y))
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, DATA.test_y).mean()
        assert np.isclose(measured["test_loss"][i], loss, rtol=1e-5)
    mean = jax.tree.map(lambda x: x.mean(0), params)
    logits = MODEL.apply({"params": mean}, DATA.test_x)
    assert np.isclose(measured["mean_model_accuracy"], np.mean(logits.argmax(1) == DATA.test_y))
    distance = sum(x.var(0).sum() for x in jax.tree.leaves(params))
    assert np.isclose(measured["consensus_distance"], distance, rtol=1e-4)


@pytest.mark.parametrize("test_batch", [7, 120, 359])
def test_measured_in_pieces(task, test_batch):
    params = scattered(task)
    pieces = measure(classification(MODEL, DATA, SHARES, batch_size=8, test_batch=test_batch), params)
    whole = measure(task, params)
    assert len(DATA.test_y) <= task.test_batch
    for name in ("accuracy", "mean_model_accuracy"):
        assert (pieces[name] == whole[name]).all()
    np.testing.assert_allclose(pieces["test_loss"], whole["test_loss"], rtol=1e-6)


def test_class_accuracy():
    kept = np.flatnonzero(DATA.test_y != 3)
    without = DATA._replace(test_x=DATA.test_x[kept], test_y=DATA.test_y[kept])
    task = classification(MODEL, without, SHARES, batch_size=8, test_batch=100)
    params = scattered(task)
    accuracy = np.asarray(class_accuracy(task, params))
    assert accuracy.shape == (6, 10)
    for i in range(6):
        logits = MODEL.apply({"params": jax.tree.map(lambda x: x[i], params)}, without.test_x)  # noqa: B023
        right = np.asarray(logits).argmax(1) == without.test_y
        for label in range(10):
            if label == 3:
                assert np.isnan(accuracy[i, label])
            else:
                assert np.isclose(accuracy[i, label], right[without.test_y == label].mean(), rtol=1e-6)
    counts = np.bincount(without.test_y)
    overall = np.nansum(accuracy * counts, 1) / len(kept)
    np.testing.assert_allclose(overall, measure(task, params)["accuracy"], rtol=1e-6)


# Images as they are stored, of three channels
RNG = np.random.default_rng(0)
IMAGES = DATA._replace(
    train_x=RNG.integers(0, 256, (1437, 6, 5, 3)).astype(np.uint8),
    test_x=RNG.integers(0, 256, (360, 6, 5, 3)).astype(np.uint8),
    mean=np.array([100.0, 120.0, 140.0]),
    std=np.array([60.0, 70.0, 80.0]),
)


def by_numpy(x):
    return ((x - np.array([100.0, 120.0, 140.0])) / np.array([60.0, 70.0, 80.0])).astype(np.float32)


def test_inputs_are_scaled_where_they_are_used():
    stored = classification(MODEL, IMAGES, SHARES, batch_size=8)
    assert stored.x.dtype == stored.test_x.dtype == np.uint8
    scaled = IMAGES._replace(
        train_x=by_numpy(IMAGES.train_x), test_x=by_numpy(IMAGES.test_x), mean=0.0, std=1.0
    )
    scaled = classification(MODEL, scaled, SHARES, batch_size=8)
    params = scattered(scaled)
    for x, y in zip(jax.tree.leaves(init(stored, KEY)), jax.tree.leaves(init(scaled, KEY)), strict=True):
        assert (x == y).all()
    ours = gradient(stored, KEY, 3, params), measure(stored, params)
    theirs = gradient(scaled, KEY, 3, params), measure(scaled, params)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_one_scale_for_all_channels():
    each = IMAGES._replace(mean=np.full(3, 100.0), std=np.full(3, 50.0))
    tasks = [classification(MODEL, data, SHARES) for data in (each, each._replace(mean=100, std=50))]
    batches = [task._scaled(task.x[:9]) for task in tasks]
    assert (batches[0] == batches[1]).all()
    np.testing.assert_allclose(batches[0], (IMAGES.train_x[:9] - 100.0) / 50, rtol=1e-6)


@pytest.mark.slow
def test_training_batches_alone_are_augmented():
    augment = crop_and_flip(padding=2)
    task = classification(MODEL, IMAGES, SHARES, batch_size=8, augment=augment)
    plain = classification(MODEL, IMAGES, SHARES, batch_size=8)
    params = scattered(task)
    for ours, theirs in zip(measure(task, params).values(), measure(plain, params).values(), strict=True):
        assert (ours == theirs).all()

    losses, _ = gradient(task, KEY, 3, params)
    places = batch_indices(jax.random.fold_in(KEY, 0), 3, task.sizes, 8)
    for i, share in enumerate(SHARES):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, 1), 3), i)
        batch = share[np.asarray(places[i])]
        changed = augment(key, jnp.asarray(IMAGES.train_x[batch]))
        mine = jax.tree.map(lambda x: x[i], params)  # noqa: B023
        loss, _ = twin(mine, by_numpy(np.asarray(changed)), IMAGES.train_y[batch])
        assert np.isclose(losses[i], loss, rtol=1e-5)
    again, other = gradient(task, KEY, 3, params)[0], gradient(plain, KEY, 3, params)[0]
    assert (losses == again).all() and (losses != other).all()


@pytest.mark.slow
def test_augmented_tasks_run_as_one():
    keys = jax.random.split(KEY, 2)
    tasks = [
        classification(
            MODEL, IMAGES, iid(k, 1437, 6), batch_size=8, augment=crop_and_flip(padding=2), test_batch=100
        )
        for k in keys
    ]
    params = scattered(tasks[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    together = jax.jit(jax.vmap(lambda task, key: (task.grad(key, 3, params)[0], task.measure(params))))
    together = together(stacked, keys)
    for i, (one, key) in enumerate(zip(tasks, keys, strict=True)):
        alone = gradient(one, key, 3, params)[0], measure(one, params)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-4, atol=1e-5)


def test_all_reduce_sgd_learns_the_digits(task):
    @jax.jit
    def train(task, params):
        def step(params, t):
            _, grads = task.grad(KEY, t, params)
            return jax.tree.map(lambda x, g: x - 0.1 * g.mean(0, keepdims=True), params, grads), None

        return jax.lax.scan(step, params, jnp.arange(400))[0]

    measured = measure(task, train(task, init(task, KEY)))
    assert (measured["accuracy"] > 0.93).all()
    assert measured["mean_model_accuracy"] > 0.93


def test_tasks_of_several_partitions_run_as_one(task):
    keys = jax.random.split(KEY, 3)
    shares = [dirichlet(k, DATA.train_y, 6, 0.3, equal=False) for k in keys]
    tasks = [classification(MODEL, DATA, s, batch_size=8) for s in shares]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    assert stacked.num_workers == 6
    params = scattered(task)
    together = jax.jit(jax.vmap(lambda task, key: (task.grad(key, 3, params), task.measure(params))))
    together = together(stacked, keys)
    for i, (one, key) in enumerate(zip(tasks, keys, strict=True)):
        alone = gradient(one, key, 3, params), measure(one, params)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-4, atol=1e-5)


def test_equal_models_compile_once():
    traces = []

    @jax.jit
    def num_samples(task):
        traces.append(task)
        return task.sizes.sum()

    for seed in range(2):
        shares = iid(jax.random.key(seed), len(DATA.train_y), 4)
        assert num_samples(classification(MLP([16], num_classes=10), DATA, shares)) == len(DATA.train_y)
    assert len(traces) == 1


def test_x64(x64):
    for data in (DATA, IMAGES):
        task = classification(MODEL, data, SHARES, augment=crop_and_flip())
        params = jax.eval_shape(task.init, KEY)
        losses, grads = jax.eval_shape(task.grad, KEY, 0, params)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, losses, grads)))
        assert jax.eval_shape(task.measure, params)["test_loss"].dtype == jnp.float32


class WithStatistics(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.BatchNorm(use_running_average=True)(x.reshape(len(x), -1)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"model": MLP}, "model is .*expected an instance"),
        ({"model": MLP((16,), 9)}, r"model turns \(1, 8, 8, 1\) into \(1, 9\), expected \(1, 10\)"),
        ({"model": WithStatistics()}, r"model has variables \['batch_stats', 'params'\]"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"test_batch": 0}, "test_batch is 0"),
        ({"augment": "flip"}, "augment is 'flip', expected a function"),
        ({"augment": lambda key, x: x[:, 1:]}, r"augment turns .*\(1, 8, 8, 1\) into .*\(1, 7, 8, 1\)"),
        ({"augment": lambda key, x: x > 0}, "augment turns float32 .*into bool"),
        ({"dataset": DATA._replace(mean=np.zeros(3))}, r"mean is \[0. 0. 0.\], expected .*shape \(1,\)"),
        ({"dataset": DATA._replace(mean=np.nan)}, "mean is nan, expected a finite number"),
        ({"dataset": DATA._replace(std=0.0)}, "std is 0.0, expected numbers > 0"),
        ({"dataset": DATA._replace(test_x=DATA.test_x[:, 1:])}, r"test_x has samples of shape \(7, 8, 1\)"),
        ({"dataset": DATA._replace(train_x=DATA.train_x[:-1])}, "train_x has 1436 samples, expected 1437"),
        ({"dataset": DATA._replace(test_y=DATA.test_y[:0])}, "test_y is"),
        ({"dataset": DATA._replace(test_y=DATA.test_y + 1)}, "test_y spans 1 to 10"),
        ({"dataset": DATA._replace(train_y=DATA.train_y / 2)}, "train_y is float64"),
        ({"dataset": DATA._replace(num_classes=9)}, "train_y spans 0 to 9"),
        ({"shares": [*SHARES[:-1], SHARES[-1][:0]]}, r"shares\[5\], of worker 5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        classification(**{"model": MODEL, "dataset": DATA, "shares": SHARES, **arguments})


def test_params_of_another_number_of_workers(task):
    params = jax.tree.map(lambda x: x[:4], init(task, KEY))
    calls = (
        lambda: task.grad(KEY, 0, params),
        lambda: task.measure(params),
        lambda: task.class_accuracy(params),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"params.* has shape \(4, .*expected .*num_workers=6"):
            call()


def test_bad_widths():
    with pytest.raises(ValueError, match=r"hidden is \(0,\)"):
        MLP((0,), 10)
