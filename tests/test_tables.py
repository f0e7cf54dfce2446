"""The tables on deep learning, small."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib import pyplot as plt

from relaysim import cli, training
from relaysim.papers.relaysum import tables
from relaysim.recipe import schedule

METHODS = ["all-reduce + momentum", "RelaySGD, chain"]
TABLE = tables.Table(
    "Two methods",
    METHODS,
    alphas=(1.0, 0.01),
    paper={(METHODS[0], 1.0, 0.0): 90.2, (METHODS[1], 0.01, 0.0): "diverges"},
)
SETTING = tables.small("digits", epochs=2, workers=4, model="logistic")
RATES = {(method, alpha): 2.0**-i for i, method in enumerate(METHODS) for alpha in TABLE.alphas}


@pytest.fixture(scope="module")
def runs():
    rates = {(method, alpha): 0.25 for method in METHODS for alpha in TABLE.alphas}
    rates[METHODS[1], 1.0] = 1e30
    with pytest.warns(
        UserWarning, match="2 of 8 runs diverged, the first RelaySGD, chain on α = 1 with seed 0"
    ):
        return tables.run(TABLE, SETTING, seeds=2, rates=rates, progress=False)


def test_every_cell_is_trained(runs):
    assert len(runs) == 8 and not runs.duplicated(["method", "alpha", "seed"]).any()
    learned = runs[runs.learning_rate < 1]
    assert (learned.accuracy > 60).all() and (learned.worst <= learned.accuracy).all()
    assert (learned.diverged == -1).all()
    broken = runs[runs.learning_rate > 1]
    assert broken.accuracy.isna().all() and (broken.diverged >= 0).all()


def test_summary_puts_the_paper_beside(runs):
    summary = tables.summary(TABLE, runs)
    assert list(summary.columns) == ["α = 1", "paper, α = 1", "α = 0.01", "paper, α = 0.01"]
    assert summary.loc[METHODS[0], "paper, α = 1"] == "90.2"
    assert summary.loc[METHODS[1], "α = 1"] == "2 of 2 diverge"
    ours = runs[(runs.method == METHODS[0]) & (runs.alpha == 0.01)].accuracy
    assert summary.loc[METHODS[0], "α = 0.01"] == f"{ours.mean():.1f} ± {np.std(ours):.1f}"


def test_picture_has_a_panel_for_each_alpha(runs):
    figure = tables.picture(TABLE, runs)
    assert [ax.get_title() for ax in figure.axes] == ["α = 1", "α = 0.01"]
    plt.close(figure)


@pytest.mark.slow
def test_train_repeats_a_cell(tmp_path):
    """The command, with the settings of a cell, ends at the cell's accuracy, also where messages are lost."""
    table = TABLE._replace(
        methods=["SGP + local momentum, time-varying exponential"], alphas=(0.1,), drops=(0.1,)
    )
    rates = {(table.methods[0], 0.1): 0.125}
    runs = tables.run(table, SETTING, seeds=2, rates=rates, progress=False)
    settings = tables.cell(SETTING, table.methods[0], alpha=0.1, drop=0.1, learning_rate=0.125, seeds=2)
    traces = training.train(settings)
    for found, accuracy, worst in zip(traces, runs.accuracy, runs.worst, strict=True):
        assert 100 * found.metrics["accuracy"][-1].mean() == pytest.approx(accuracy, abs=1e-4)
        assert 100 * found.metrics["accuracy"][-1].min() == pytest.approx(worst, abs=1e-4)


@pytest.mark.slow
def test_an_interrupted_table_goes_on_and_refuses_other_settings(tmp_path):
    one = TABLE._replace(methods=METHODS[:1], alphas=(1.0,))
    whole = tables.run(one, SETTING, seeds=2, rates=RATES, out=tmp_path, progress=False)
    (lines,) = tmp_path.glob("*/runs.jsonl")
    written = lines.read_bytes()
    lines.write_bytes(written[: len(written) * 3 // 4])  # in the middle of the second run
    again = tables.run(one, SETTING, seeds=2, rates=RATES, out=tmp_path, progress=False)
    pd.testing.assert_frame_equal(again, whole)
    assert lines.read_bytes() == written
    for setting, rates, message in (
        (replace(SETTING, epochs=3), RATES, "has epochs 2, expected 3"),
        (SETTING, {**RATES, (METHODS[0], 1.0): 0.1}, r"has rates .*, expected .*0\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.run(one, setting, seeds=2, rates=rates, out=tmp_path, progress=False)
    assert lines.read_bytes() == written


def test_the_searches_start_where_the_optimizer_asks():
    start = tables.searched(tables.TABLES["4"]._replace(methods=[*METHODS, "Relay-Adam, chain"])).start
    assert start == {METHODS[0]: 2**-5, METHODS[1]: 2**-3, "Relay-Adam, chain": 2**-9}


def test_there_is_a_rate_for_every_cell():
    for table in tables.TABLES.values():
        for method in table.methods:
            for alpha in table.alphas:
                assert tables.RATES[method, alpha] > 0


def test_a_missing_rate_is_named():
    with pytest.raises(ValueError, match="rates lacks the learning rate of"):
        tables.run(TABLE, SETTING, rates={})


def test_the_learning_rate_goes_up_and_down():
    rate = schedule(1.0, steps_per_epoch=7, epochs=20, warmup=2)
    expected = [min((t + 1) / 14, 1) * 0.1 ** ((t >= 105) + (t >= 126)) for t in range(140)]
    np.testing.assert_allclose([float(rate(t)) for t in range(140)], expected, rtol=1e-5)


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(tables.TABLES, "2", TABLE._replace(methods=METHODS[:1]))
    monkeypatch.setattr(tables, "small", lambda *args: replace(SETTING, epochs=1))
    arguments = [
        "table",
        "2",
        "--workers",
        "4",
        "--seeds",
        "1",
        "--alpha",
        "0.1",
        "--search",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert list(pd.read_csv(tmp_path / "table2.csv").alpha) == [0.1]
    assert {path.name for path in tmp_path.iterdir()} == {"table2", "table2.csv", "table2.png"}
