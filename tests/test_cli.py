import json
import shutil

import pandas as pd
import pytest
from click.testing import CliRunner

from relaysim.cli import app
from relaysim.experiments import demo, training


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_train_writes_settings_records_and_picture(tmp_path):
    options = ["--method", "dpsgd", "--workers", 4, "--steps", 4, "--every", 2, "--seeds", 2, "--drop", 0.5]
    result = invoke("train", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "seed 1: test accuracy" in result.output
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["method"] == "dpsgd" and settings["topology"] == "ring" and settings["drop"] == 0.5
    records = pd.read_csv(tmp_path / "records.csv")
    assert list(records.columns) == ["seed", "step", "metric", "worker", "value"]
    accuracy = records[records.metric == "accuracy"]
    assert len(accuracy) == 2 * 2 * 4
    assert set(accuracy.step) == {2, 4} and set(accuracy.worker) == {0, 1, 2, 3}
    assert records[records.metric == "consensus_distance"].worker.isna().all()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "records.csv", "curves.png"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--method", "relay", "'relaysgd', 'relaysgd-grad', 'dpsgd'"),
        ("--topology", "circle", "'chain', 'ring', 'star'"),
        ("--dataset", "imagenet", "'digits', 'fashion-mnist', 'mnist', 'cifar10'"),
        ("--model", "gpt", "'mlp', 'cnn', 'vgg11', 'resnet20', 'logistic'"),
        ("--optimizer", "lion", "'sgd', 'adam'"),
        ("--partition", "even", "'dirichlet', 'dirichlet-unequal', 'iid', 'label-shards'"),
        ("--topology", "ring", "has 16 edges, a tree on 16 workers has 15"),
        ("--steps", 15, "expected a multiple of every"),
        ("--drop", 1.5, "expected a probability"),
        ("--learning-rate", -1, "learning_rate is -1.0"),
        ("--momentum", 1, "momentum is 1.0"),
        ("--workers", 0, "must be an integer >= 1"),
        ("--seeds", 0, "seeds is 0"),
        ("--steps", 0, "steps is 0"),
        ("--epochs", 0, "epochs is 0"),
        ("--every", 0, "every is 0"),
        ("--steps=20", "--epochs=2", "steps is 20 and epochs is 2, expected one of them"),
        ("--weight-decay", "nan", "weight_decay is nan"),
        ("--warmup", -1, "warmup is -1.0"),
        ("--milestones", 1, "milestones is (1.0,), expected fractions"),
        ("--corrected", "--method=dpsgd", "corrected is for relaysgd, but method is 'dpsgd'"),
        ("--corrected", "--topology=ring", "has 16 edges, a tree on 16 workers has 15"),
        ("--folder", "there", "folder is 'there', but digits come with scikit-learn"),
        ("--dataset=mnist", "--folder=there", "there are no IDX files in there"),
        ("--model", "vgg11", "multiples of 32"),
        ("--group", 0, "group is 0"),
        ("--burst", 3, "burst is 3.0, expected a drop above 0"),
        ("--down", "3:5", "down is '3:5', expected worker:first:last"),
        ("--down", "3:5:5", "expected a step after first = 5"),
        ("--down", "16:0:5", "there are 16 workers"),
        ("--resume", "--every=1", "--resume needs --checkpoint-every"),
    ],
)
def test_train_says_what_is_wrong_and_writes_nothing(tmp_path, option, value, message):
    result = invoke("train", option, value, "--out", tmp_path / "out")
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_train_says_when_there_is_no_room(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise MemoryError("the run needs at least 1 TB")

    monkeypatch.setattr(training, "simulate", refuse)
    result = invoke("train", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "Error: the run needs at least 1 TB" in result.output


def test_train_goes_on_from_its_checkpoints(tmp_path):
    options = ["--method", "sgp", "--workers", 4, "--steps", 6, "--every", 2, "--seeds", 2, "--out", tmp_path]
    options += ["--drop", 0.2, "--burst", 3, "--down", "1:0:2", "--down", "2:3:5", "--checkpoint-every", 2]
    first = invoke("train", *options)
    assert first.exit_code == 0, first.output
    records, folder = tmp_path / "records.csv", tmp_path / "checkpoints"
    written = records.read_bytes()
    assert {path.name for path in (folder / "seed1").iterdir()} == {"4", "6"}

    again = invoke("train", *options)
    assert again.exit_code != 0 and "holds checkpoints" in again.output
    other = invoke("train", *options, "--resume", "--learning-rate", 0.2)
    assert other.exit_code != 0 and "learning_rate is 0.2 but was 0.1" in other.output

    records.unlink()
    shutil.rmtree(folder / "seed1" / "6")
    resumed = invoke("train", *options, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert records.read_bytes() == written


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["train", "--help"]])
def test_help(arguments):
    assert "Options:" in invoke(*arguments).output


def test_demo_compares_all_methods(monkeypatch):
    monkeypatch.setattr(demo, "ENTRIES", demo.ENTRIES[:2])
    traces = demo.run((0, 1), num_steps=4, progress=False)
    assert list(traces) == [entry.name for entry in demo.ENTRIES]
    table = demo.table(traces)
    assert list(table.index) == list(traces) and "±" in table["worst worker"].iloc[0]
    assert len(demo.picture(traces).axes) == 8


def test_demo_search_measures_every_rate(monkeypatch):
    monkeypatch.setattr(demo, "ENTRIES", demo.ENTRIES[:1])
    found = demo.search([0.1, 0.2], num_steps=2, progress=False)
    assert list(found.learning_rate) == [0.1, 0.2] and found.accuracy.between(0, 1).all()
