"""The published rows of Figure 2, a sample of them (tests/reference/README.md)."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from relaysim import cli
from relaysim.papers.relaysum import figure2

SAMPLE = Path(__file__).parent / "reference"


@pytest.fixture
def folder(tmp_path):
    for name in ("figure2_tuned.csv", "quadratics.npz"):
        shutil.copy(SAMPLE / name, tmp_path)
    return tmp_path


def change(folder, **columns):
    path = folder / "figure2_tuned.csv"
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)


def published(folder):
    return CliRunner().invoke(cli.app, ["figure", "2", "--published", str(folder)])


def test_every_published_row_of_the_sample_is_exact():
    result = published(SAMPLE)
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(SAMPLE / "figure2_tuned.csv")
    assert result.output.split("all ")[-1].split()[:2] == [str(len(rows)), str(len(rows))]
    assert set(rows.algorithm) == set(figure2.ENTRIES)


def test_a_row_that_differs_is_named_and_fails(folder):
    rows = pd.read_csv(folder / "figure2_tuned.csv").head(2)
    rows.loc[0, "steps"] += 1
    rows.to_csv(folder / "figure2_tuned.csv", index=False)
    result = published(folder)
    assert result.exit_code == 1
    assert "Rows that differ" in result.output


def drop_problem(folder):
    np.savez(folder / "quadratics.npz", nothing=np.zeros(1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "quadratics.npz").unlink(), "has no quadratics.npz"),
        (lambda folder: (folder / "figure2_tuned.csv").unlink(), "has no figure2_tuned.csv"),
        (lambda folder: (folder / "quadratics.npz").write_bytes(b"no archive"), "quadratics.npz"),
        (drop_problem, "quadratics.npz"),
        (lambda folder: change(folder, algorithm="Gosip"), "algorithm is 'Gosip', expected one of Gossip"),
        (lambda folder: change(folder, topology="circle"), "topology is 'circle'"),
        (lambda folder: change(folder, steps="many"), "not a number"),
        (lambda folder: change(folder, num_workers=5), "the rows need"),
        (lambda folder: change(folder, zeta2=-1), "zeta2 is -1.0"),
    ],
)
def test_bad_files_are_refused(folder, spoil, message):
    spoil(folder)
    result = published(folder)
    assert result.exit_code == 1 and message in result.output
