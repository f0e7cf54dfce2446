import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner

from relaysim import training
from relaysim.cli import app
from relaysim.studies import demo


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
        ("--dataset", "imagenet", "'digits', 'fashion-mnist', 'mnist', 'cifar10', 'topics'"),
        ("--model", "gpt", "'mlp', 'cnn', 'small-cnn', 'vgg11', 'resnet20', 'logistic', 'transformer'"),
        ("--optimizer", "lion", "'sgd', 'adam', 'rms'"),
        ("--partition", "even", "'dirichlet', 'dirichlet-unequal', 'iid', 'label-shards'"),
        ("--topology", "ring", "has 16 edges, a tree on 16 workers has 15"),
        ("--steps", 15, "expected a multiple of every"),
        ("--drop", 1.5, "expected a probability"),
        ("--learning-rate", -1, "learning_rate is -1.0"),
        ("--momentum", 1, "momentum is 1.0"),
        ("--workers", 0, "expected an integer of at least 1"),
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
        ("--method=quasi-global-momentum", "--momentum=0.9", "quasi-global-momentum is a momentum already"),
        ("--epochs", 10**12, "epochs is 1000000000000, expected at least 1 and below 2³¹"),
        ("--warmup", 1e300, "warmup is 1e+300, expected a number from 0 to 1e9"),
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
    options += [
        "--model",
        "logistic",
        "--drop",
        0.2,
        "--burst",
        3,
        "--down",
        "1:0:2",
        "--down",
        "2:3:5",
        "--checkpoint-every",
        2,
    ]
    first = invoke("train", *options)
    assert first.exit_code == 0, first.output
    records, folder = tmp_path / "records.csv", tmp_path / "checkpoints"
    written = records.read_bytes()
    assert {path.name for path in (folder / "seed1").iterdir()} == {"4", "6"}

    again = invoke("train", *options)
    assert again.exit_code != 0 and "holds a run already" in again.output and "--resume" in again.output
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


@pytest.mark.slow
def test_demo_compares_all_methods(monkeypatch):
    monkeypatch.setattr(demo, "ENTRIES", dict(list(demo.ENTRIES.items())[:2]))
    found = demo.run(2, num_steps=4, progress=False)
    table = demo.table(found)
    assert list(table.index) == list(demo.ENTRIES) and "±" in table["worst worker"].iloc[0]
    assert len(demo.picture(found).axes) == 8


@pytest.mark.slow
def test_demo_search_measures_every_rate(monkeypatch):
    monkeypatch.setattr(demo, "ENTRIES", dict(list(demo.ENTRIES.items())[:1]))
    found = demo.search([0.1, 0.2], num_steps=2, progress=False)
    assert list(found.learning_rate) == [0.1, 0.2] and found.accuracy.between(0, 1).all()


@pytest.mark.slow
def test_demo_search_finds_the_recorded_rates():
    found = demo.search(progress=False)
    best = found.loc[found.groupby("method").accuracy.idxmax()].set_index("method").learning_rate
    assert best.to_dict() == {name: entry.learning_rate for name, entry in demo.ENTRIES.items()}


def test_compare_writes_tables_and_a_picture_and_goes_on(tmp_path):
    options = [
        "--method",
        "relaysgd",
        "--method",
        "dpsgd",
        "--topology",
        "chain",
        "--workers",
        4,
        "--seeds",
        1,
    ]
    options += ["--steps", 4, "--alpha", 1, "--out", tmp_path]
    first = invoke("compare", *options)
    assert first.exit_code == 0, first.output
    names = {"table.csv", "summary.csv", "curves.csv", "comparison.png", "runs.jsonl", "settings.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    written = (tmp_path / "table.csv").read_bytes()
    assert invoke("compare", *options).exit_code == 0
    assert (tmp_path / "table.csv").read_bytes() == written
    other = invoke("compare", *options, "--batch-size", 16)
    assert other.exit_code == 1 and "has batch_size 32, expected 16: choose another folder" in other.output


@pytest.mark.parametrize(
    "command", [["train"], ["demo"], ["figure", "6"], ["table", "2"], ["compare", "--method", "d2"]]
)
def test_a_folder_that_cannot_be_written_to_is_said_so_at_once(tmp_path, command):
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "below", "Not a directory"),
    ):
        result = invoke(*command, "--out", out)
        assert result.exit_code == 2 and f"{out} cannot be written to: {message}" in result.output
    result = invoke(*command, "--out", tmp_path / ("long" * 100))
    assert result.exit_code == 2 and "cannot be written to: File name too long" in result.output


def test_train_does_not_overwrite_another_run(tmp_path):
    options = ["--workers", 2, "--steps", 2, "--every", 2, "--method", "allreduce", "--model", "logistic"]
    options += ["--out", tmp_path]
    assert invoke("train", *options).exit_code == 0
    written = (tmp_path / "records.csv").read_bytes()
    again = invoke("train", *options, "--learning-rate", 0.2)
    assert again.exit_code == 1 and "holds a run already" in again.output
    assert (tmp_path / "records.csv").read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2", "--paper", "--data", "digits"], "--paper fixes the data"),
        (["2", "--paper", "--epochs", 2], "--paper fixes the epochs"),
        (["2", "--paper", "--workers", 8], "--paper fixes the workers"),
        (["4", "--paper", "--search"], "--paper is for images"),
        (["2", "--data", "imagenet"], "dataset is 'imagenet', expected one of 'digits'"),
    ],
)
def test_table_refuses_what_does_not_go_together(tmp_path, arguments, message):
    result = invoke("table", *arguments, "--out", tmp_path / "out")
    assert result.exit_code != 0 and message in result.output
    assert not (tmp_path / "out").exists()


def test_a_command_that_is_stopped_says_so_in_one_line(tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", stop)
    result = invoke("train", "--out", tmp_path / "out")
    assert result.exit_code == 130 and result.output == "Stopped: interrupted\n"


def test_the_module_runs_as_a_program():
    told = subprocess.run(
        [sys.executable, "-m", "relaysim", "--help"], capture_output=True, text=True, check=True
    )
    assert "compare" in told.stdout
