"""The tables on deep learning, small."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib import pyplot as plt

from relaysim import cli
from relaysim.experiments import deep, tables
from relaysim.experiments.recipe import schedule
from relaysim.models import MLP
from relaysim.tasks import datasets

METHODS = ["all-reduce + momentum", "RelaySGD, chain"]
TABLE = tables.Table(
    "Two methods",
    METHODS,
    alphas=(1.0, 0.01),
    paper={(METHODS[0], 1.0, 0.0): 90.2, (METHODS[1], 0.01, 0.0): "diverges"},
)
SETTING = deep.Setting(datasets.digits(), MLP((), 10), workers=4, epochs=2)


@pytest.fixture(scope="module")
def runs():
    rates = {(method, alpha): 0.25 for method in METHODS for alpha in TABLE.alphas}
    rates[METHODS[1], 1.0] = 1e30
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


def test_search_tries_both_neighbours_of_the_best():
    tried = deep.search(SETTING, METHODS[:1], [0.1], progress=False)
    best = tried.learning_rate[tried.accuracy.idxmax()]
    assert {best / 2, best, 2 * best} <= set(tried.learning_rate)
    assert (np.log2(tried.learning_rate).diff().dropna() == 1).all()
    assert deep.best_rates(tried)[METHODS[0], 0.1] <= best


def test_the_smallest_rate_that_is_good_enough_is_taken():
    rows = [("a", 1.0, 0.5, 0.8), ("a", 1.0, 1.0, 0.896), ("a", 1.0, 2.0, 0.9), ("a", 0.1, 1.0, 0.3)]
    rows += [("b", 1.0, 1.0, 0.0), ("b", 1.0, 0.5, 0.5)]
    tried = pd.DataFrame(rows, columns=["method", "alpha", "learning_rate", "accuracy"])
    assert deep.best_rates(tried) == {("a", 1.0): 1.0, ("a", 0.1): 1.0, ("b", 1.0): 0.5}
    assert deep.best_rates(tried, margin=0.001)["a", 1.0] == 2.0


def test_the_search_does_not_look_at_the_test_images():
    held = SETTING.held_back(100)
    together = {x.tobytes() for x in held.data.train_x} | {x.tobytes() for x in held.data.test_x}
    assert together == {x.tobytes() for x in SETTING.data.train_x}
    assert len(held.data.test_y) == 100


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


def test_the_command(tmp_path, monkeypatch):
    small = TABLE._replace(methods=METHODS[:1], alphas=(0.1,))
    monkeypatch.setitem(tables.TABLES, "2", small)
    args = ["table", "2", "--data", "digits", "--epochs", "1", "--workers", "4", "--seeds", "1", "--search"]
    result = CliRunner().invoke(cli.app, [*args, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "table2.csv")) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"table2.csv", "table2.png", "table2_search.csv"}
