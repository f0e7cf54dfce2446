import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import relaysim as rs
from relaysim import palette, plot
from relaysim.catalogue import METHODS
from relaysim.plot.graphs import layout

plt.switch_backend("agg")
ACCURACY = np.array([[0.0, 0.5, 1.0], [0.25, np.nan, 0.75]])


def test_class_accuracy():
    ax = plot.class_accuracy(ACCURACY)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), ACCURACY.T)
    assert image.get_clim() == (0, 1)
    assert image.origin == "lower"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("worker", "class")
    assert image.colorbar.ax.get_ylabel() == "accuracy"
    plt.close("all")


def test_class_accuracy_on_given_axes():
    figure, axes = plt.subplots(1, 2)
    assert plot.class_accuracy(ACCURACY, ax=axes[1]) is axes[1]
    assert len(figure.axes) == 3 and not axes[0].images
    plt.close("all")


@pytest.mark.parametrize(
    "values, message",
    [
        (ACCURACY[0], r"values is float64 of shape \(3,\), expected .*\(n, classes\)"),
        (ACCURACY[:0], r"values is float64 of shape \(0, 3\)"),
        (100 * ACCURACY, "values spans 0.0 to 100.0, expected 0 to 1"),
        (ACCURACY - 1, "values spans -1.0 to 0.0"),
    ],
)
def test_bad_class_accuracy(values, message):
    with pytest.raises(ValueError, match=message):
        plot.class_accuracy(values)


def trace(values, steps=(1, 2, 3), **metrics):
    """Of two workers; only what pictures look at."""
    metrics = {"error": np.asarray(values, float), **metrics}
    return rs.Trace(np.array(steps), metrics, np.zeros((2, 1)), None, rs.Divergence(-1, -1), steps[-1])


ONE, OTHER = trace([[1, 3], [2, 4], [3, 5]], bytes_sent=np.array([10, 20, 30])), trace([5, 6, 7])


def test_curves_are_the_mean_and_a_band():
    ax = plot.curves({"RelaySGD": [ONE, trace([[3, 5], [4, 6], [5, 7]])], "mine": OTHER}, "error")
    mean, single = ax.lines
    np.testing.assert_array_equal(mean.get_xydata(), [[1, 3], [2, 4], [3, 5]])
    np.testing.assert_array_equal(single.get_ydata(), [5, 6, 7])
    (band,) = ax.collections  # a single line has none
    around = band.get_paths()[0].vertices[:, 1]
    assert (around.min(), around.max()) == (1, 7)
    assert (mean.get_linestyle(), mean.get_marker()) != (single.get_linestyle(), single.get_marker())
    assert mean.get_color() == METHODS["relaysgd"].colour != single.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["RelaySGD", "mine"]
    plt.close("all")


def test_what_goes_along_the_axis():
    data = [
        plot.curves({"a": ONE}, "error", **options).lines[-1].get_xdata()
        for options in ({}, {"x": "bytes_sent"}, {"x": "error"}, {"x": "epoch", "steps_per_epoch": 2})
    ]
    np.testing.assert_array_equal(data, [[1, 2, 3], [10, 20, 30], [2, 3, 4], [0.5, 1, 1.5]])
    assert plot.curves({"a": ONE}, "error", log_x=True).get_xscale() == "log"
    assert plot.curves({"a": trace([1, 5, 1000])}, "error").get_yscale() == "log"
    assert plot.curves({"a": ONE}, "error", log=True).get_yscale() == "log"
    assert len(plot.curves({"a": ONE}, "error", band="lines").lines) == 3
    assert not plot.curves({"a": ONE}, "error", band="none").collections
    plt.close("all")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric": "accuracy"}, "metric is 'accuracy', expected one of .*error"),
        ({"x": "seconds"}, "x is 'seconds', expected one of"),
        ({"x": "epoch"}, "steps_per_epoch is None"),
        ({"steps_per_epoch": 3}, "steps_per_epoch is 3"),
        ({"band": "some"}, "band is 'some'"),
    ],
)
def test_bad_curves(options, message):
    with pytest.raises(ValueError, match=message):
        plot.curves({"a": ONE}, **{"metric": "error", **options})
    plt.close("all")


def test_panels_share_a_scale_and_a_legend():
    figure = plot.panels({"left": {"D²": ONE}, "right": {"D²": ONE, "mine": OTHER}}, "error")
    assert [ax.get_title() for ax in figure.axes] == ["left", "right"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["D²", "mine"]
    plt.close("all")


def test_one_colour_for_a_method():
    labels = ["D-PSGD", "D-PSGD + quasi-global momentum", "RelaySGD, chain", "RelaySGD/Grad", "mine", "yours"]
    found = palette.colours(labels)
    names = ["dpsgd", "quasi-global-momentum", "relaysgd", "relaysgd-grad"]
    assert [found[label] for label in labels[:4]] == [METHODS[name].colour for name in names]
    assert len(set(found.values())) == 6
    assert len({method.colour for method in METHODS.values()}) == len(METHODS)


def test_lattices_are_drawn_as_lattices():
    for graph in (rs.topology.grid(3, 4), rs.topology.torus(3, 4)):
        assert [layout(graph)[i] for i in (0, 3, 4, 11)] == [(0, 0), (3, 0), (0, -1), (3, -2)]
    ax = plot.topology(rs.topology.ring(5), values=[3, 1, 4, 1, 5], name="accuracy")
    np.testing.assert_array_equal(ax.collections[-1].get_array(), [3, 1, 4, 1, 5])
    assert ax.get_aspect() == 1 and len(ax.patches) == 5
    with pytest.raises(ValueError, match=r"values is \[1, 2\], expected .*\(5,\)"):
        plot.topology(rs.topology.ring(5), values=[1, 2])
    with pytest.raises(ValueError, match="graph is"):
        plot.topology(np.eye(3))
    plt.close("all")


def test_an_animation_is_a_file(tmp_path):
    ring, chain = rs.topology.ring(4), rs.topology.chain(4)
    values = {"a": np.arange(12.0).reshape(3, 4), "b": np.ones((3, 4))}
    moving = plot.animation({"a": ring, "b": chain}, values, steps=[0, 5, 9], log=True)
    gif = Image.open(plot.save(moving, tmp_path / "moving.gif"))
    first = np.asarray(gif.convert("RGB"))
    gif.seek(2)
    assert gif.n_frames == 3 and (np.asarray(gif.convert("RGB")) != first).any()
    assert "<img" in plot.save(moving, tmp_path / "moving.html").read_text()
    with pytest.raises(ValueError, match=r"path is .*moving.mp4, expected an ending out of .gif, .html"):
        plot.save(moving, tmp_path / "moving.mp4")
    with pytest.raises(ValueError, match=r"values\['a'\] is .*\(3, 4\), expected .*\(3, 5\)"):
        plot.animation({"a": rs.topology.ring(5)}, {"a": values["a"]})
    with pytest.raises(ValueError, match=r"values is .*expected some of each"):
        plot.animation({"a": ring}, values)


@pytest.mark.parametrize("ending", ["csv", "md", "parquet", "tex"])
def test_tables_as_files(tmp_path, ending):
    table = pd.DataFrame({"method": ["D²", "a_b"], "steps": [3, 4], "value": [0.5, 1 / 3]})
    path = rs.io.save_table(table, tmp_path / f"table.{ending}")
    if ending == "parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(path), table, check_dtype=False)
    elif ending == "csv":
        pd.testing.assert_frame_equal(pd.read_csv(path), table, check_dtype=False)
    else:
        text = path.read_text()
        assert {"md": "| a_b ", "tex": r"a\_b & 4 & 0.3333 \\"}[ending] in text and "D²" in text
    assert len(list(tmp_path.iterdir())) == 1
