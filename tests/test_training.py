import struct

import jax
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from relaysim import catalogue, tasks, topology, training
from relaysim.cli import app
from relaysim.models import MLP
from relaysim.tasks import augment
from relaysim.training import Settings, train

RNG = np.random.default_rng(0)
TRAIN, TEST = (
    (RNG.integers(0, 256, (m, 8, 8)).astype(np.uint8), np.arange(m).astype(np.uint8) % 10) for m in (24, 10)
)


@pytest.fixture
def folder(tmp_path):
    """24 images to train on and 10 to test, in MNIST's files."""
    for part, (x, y) in (("train", TRAIN), ("t10k", TEST)):
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (tmp_path / name).write_bytes(header + array.tobytes())
    return tmp_path


def test_epochs_of_a_network_on_files(folder):
    options = ["--dataset", "fashion-mnist", "--folder", folder, "--model", "logistic", "--augment"]
    options += ["--method", "allreduce", "--workers", 3, "--batch-size", 3, "--epochs", 2]
    result = CliRunner().invoke(app, ["train", *map(str, options), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    records = pd.read_csv(folder / "out" / "records.csv")
    assert set(records.step) == {3, 6}  # 8 samples a worker, 3 at a time


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_models_have_a_logit_for_each_class(name):
    x = np.ones((2, 9), int) if name == "transformer" else np.ones((2, 32, 32, 3))
    data = tasks.Dataset(x, np.zeros(2, int), x, np.zeros(2, int), 7, "ones")
    logits, _ = jax.eval_shape(catalogue.MODELS[name](data).init_with_output, jax.random.key(0), x)
    assert logits.shape == (2, 7)


def descent(x, y, params, rates, momentum, weight_decay):
    """Multinomial logistic regression by Nesterov's momentum, with all samples in each step."""
    velocity = [np.zeros_like(p) for p in params]
    for rate in rates:
        kernel, bias = params
        logits = x @ kernel + bias
        likely = np.exp(logits - logits.max(1, keepdims=True))
        error = (likely / likely.sum(1, keepdims=True) - np.eye(10)[y]) / len(x)
        grads = [g + weight_decay * p for g, p in zip((x.T @ error, error.sum(0)), params, strict=True)]
        velocity = [momentum * v + g for v, g in zip(velocity, grads, strict=True)]
        params = [p - rate * (g + momentum * v) for p, g, v in zip(params, grads, velocity, strict=True)]
    return params


def test_recipe_against_a_plain_descent(folder):
    rates = 0.1 * np.array([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    settings = Settings(
        dataset="mnist",
        folder=str(folder),
        partition="iid",
        workers=2,
        batch_size=12,  # a worker's whole share, so that an epoch is a step
        model="logistic",
        method="allreduce",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.05,
        epochs=8,
        warmup=2,
        milestones=(0.5, 0.75),
    )
    (trace,) = train(settings)
    found = trace.params["Dense_0"]
    assert list(trace.steps) == list(range(1, 9))

    data = tasks.datasets.mnist(folder)
    x = ((data.train_x - data.mean) / data.std).reshape(24, -1)
    key, _ = jax.random.split(jax.random.key(0))
    first = MLP((), 10).init(key, x[:1])["params"]["Dense_0"]
    start = [np.asarray(first[name], np.float64) for name in ("kernel", "bias")]
    expected = descent(x, data.train_y, start, rates, 0.9, 0.05)
    for name, value in zip(("kernel", "bias"), expected, strict=True):
        np.testing.assert_allclose(found[name][0], value, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found[name][0], found[name][1])


@pytest.mark.slow
def test_correction_multiplies_the_learning_rate(folder):
    common = dict(dataset="mnist", folder=str(folder), workers=3, batch_size=4, model="logistic", steps=10)
    (corrected,) = train(Settings(**common, topology="chain", corrected=True))
    (larger,) = train(Settings(**common, topology="chain", learning_rate=0.1 * 11 / 9))
    assert topology.learning_rate_correction(topology.chain(3)) == pytest.approx(11 / 9)
    jax.tree.map(np.testing.assert_array_equal, corrected.params, larger.params)


def test_correction_of_several_trees_is_their_mean():
    trees = topology.double_binary_trees(7)
    distances = [np.maximum(topology.distances(tree), 1) for tree in trees]
    assert training.correction(trees) == pytest.approx(np.mean(distances))


def test_lengths_by_default():
    default, epochs, fine = Settings(), Settings(epochs=3), Settings(epochs=3, every=5)
    assert (default.steps, default.every) == (200, 10)
    assert (epochs.steps, epochs.every) == (None, None)
    assert (fine.steps, fine.every) == (None, 5)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [("mnist", augment.crop_and_flip(flip=False)), ("fashion-mnist", augment.crop_and_flip())],
)
def test_digits_are_not_mirrored(folder, monkeypatch, dataset, changes):
    def stop(model, data, shares, **options):
        assert options == {"batch_size": 32, "augment": changes, "group": 2}
        raise Stop

    monkeypatch.setattr(training, "classification", stop)
    with pytest.raises(Stop):
        train(Settings(dataset=dataset, folder=str(folder), workers=2, augment=True, group=2))


@pytest.mark.slow
def test_a_training_run_on_a_network_has_dates_and_waits_for_lost_messages():
    common = {"steps": 2, "every": 1, "workers": 4, "network": "lan", "compute": 0.5}
    (plain,), (lossy,) = train(Settings(**common)), train(Settings(**common, drop=0.9, timeout=3.0))
    assert plain.metrics["seconds"].shape == (2, 4) and (plain.metrics["seconds"][-1] < 1.1).all()
    assert lossy.metrics["seconds"][-1].max() >= 4.0
