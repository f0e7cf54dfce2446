"""The scripts of docs/examples run as they stand."""

import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "examples"


def run(name, folder, monkeypatch):
    """What the script leaves in its namespace, run in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", [name])
    try:
        with jax.numpy_rank_promotion("allow"):  # as it is by default
            return runpy.run_path(str(FOLDER / f"{name}.py"))
    finally:
        jax.config.update("jax_enable_x64", False)


def test_all_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in FOLDER.glob("*.py")}
    assert len(lengths) >= 4 and max(lengths.values()) <= 25


@pytest.mark.slow
def test_logistic_regression(tmp_path, monkeypatch):
    left = run("logistic_regression", tmp_path, monkeypatch)
    means = left["found"].summary.set_index("method")["mean"]
    assert means["gradient tracking"] < means["D-PSGD"] < 0.1 and 0 <= means["RelaySGD"] < 1e-8
    assert (tmp_path / "logistic_regression.png").stat().st_size > 1000


@pytest.mark.slow
def test_nnx_with_dropout(tmp_path, monkeypatch):
    accuracy = run("nnx_dropout", tmp_path, monkeypatch)["trace"].metrics["accuracy"]
    assert accuracy[-1].min() > 0.8


@pytest.mark.slow
def test_regression(tmp_path, monkeypatch):
    left = run("regression", tmp_path, monkeypatch)
    losses, data = left["trace"].metrics["test_loss"], left["data"]
    assert losses[-1].max() < np.mean(left["huber"](0 * data.test_y[:, None], data.test_y))
    assert left["task"].predict(left["trace"].params, data.test_x[:2]).shape == (8, 2, 1)


@pytest.mark.slow
def test_language_model(tmp_path, monkeypatch):
    left = run("language_model", tmp_path, monkeypatch)
    assert left["trace"].metrics["test_loss"][-1].max() < np.log(len(left["corpus"].vocabulary)) / 1.5
