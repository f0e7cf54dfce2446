"""One colour for a method, in all figures."""

import re
from pathlib import Path

import pytest

from relaysim import catalogue, palette
from relaysim.studies import adversaries, btpp, churn, rates, seconds

ROOT = Path(__file__).parent.parent / "relaysim"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("RelaySGD", "relaysgd"),
        ("RelaySGD, chain", "relaysgd"),
        ("asynchronous RelaySGD, chain", "relaysgd"),
        ("RelaySGD, end of a chain", "relaysgd"),
        ("RelaySGD/Grad, chain", "relaysgd-grad"),
        ("D-PSGD + quasi-global momentum, ring", "quasi-global-momentum"),
        ("DSGD, ring", "dpsgd"),
        ("gossip, ring", "dpsgd"),
        ("DSGT, ring", "gradient-tracking"),
        ("BTPP, B = 2", "btpp"),
    ],
)
def test_a_label_has_the_colour_of_its_method(label, name):
    assert palette.method_colour(label) == catalogue.METHODS[name].colour


@pytest.mark.parametrize("label", ["AD-PSGD, ring", "clipped gossip, ring", "RelaySGDs", "mine"])
def test_other_labels_have_another(label):
    assert palette.method_colour(label) == ""
    assert len(set(palette.colours([label, "RelaySGD", "D-PSGD"]).values())) == 3


@pytest.mark.parametrize(
    "labels", [adversaries.MIXERS, btpp.METHODS, churn.METHODS, rates.METHODS, seconds.ENTRIES]
)
def test_styles_tell_all_lines_of_a_study_apart(labels):
    looks = palette.styles(labels)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(labels)


def test_nobody_brings_colours_of_methods_along():
    """Named colours are those of the catalogue, or of other things than methods."""
    with_colours = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if re.search(r'"(tab:\w+|tab20|#[0-9a-f]{6})"|sns\.color_palette', path.read_text())
    }
    others = {"papers/relaysum/figure6.py", "papers/relaysum/tables.py", "studies/compressed.py"}
    assert with_colours == {"catalogue.py", "palette.py"} | others
