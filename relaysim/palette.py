"""One colour for a method in all figures, whatever else its label says."""

from collections.abc import Iterable
from typing import Any

COLOURS: dict[str, str] = {}
"""label of a method -> colour, from the catalogue."""
OTHERS = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
)
"""seaborn's palette "colorblind"."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP*X<>"


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: that of the method that it names, else one that is not taken.

    A label names the method whose own label it begins with, the longest of them, "asynchronous" before it or
    not. Several labels of one method have the same colour.

    >>> found = colours(["RelaySGD, chain", "RelaySGD, star", "mine"])
    >>> found["RelaySGD, chain"] == found["RelaySGD, star"] != found["mine"]
    True
    """
    labels = list(labels)
    found = {label: method_colour(label) for label in labels}
    free = [colour for colour in OTHERS if colour not in found.values()] or list(OTHERS)
    unknown = [label for label in labels if not found[label]]
    return {label: found[label] or free[unknown.index(label) % len(free)] for label in labels}


def styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What tells lines apart: colours, and dashes and markers for those who see no colours, and where
    several labels name one method. Arguments of matplotlib's `plot`.

    >>> found = styles(["RelaySGD, chain", "RelaySGD, star"])
    >>> [style["marker"] for style in found.values()]
    ['o', 's']
    """
    return {
        label: {"color": colour, "linestyle": DASHES[i % len(DASHES)], "marker": MARKERS[i % len(MARKERS)]}
        for i, (label, colour) in enumerate(colours(labels).items())
    }


def method_colour(label: str) -> str:
    """The colour of the method that a label names, "" where it names none."""
    label = label.removeprefix("asynchronous ")
    names = [
        name for name in COLOURS if label == name or label.startswith((f"{name} ", f"{name},", f"{name}:"))
    ]
    return COLOURS[max(names, key=len)] if names else ""
