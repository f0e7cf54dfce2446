"""One colour for a method in all figures, whatever else its label says."""

from collections.abc import Iterable

COLOURS: dict[str, str] = {}
"""label of a method -> colour, from the catalogue."""
OTHERS = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc"),
    *("#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9"),
)
"""seaborn's palette "colorblind"."""


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: that of the method that it names, else one that is not taken.

    A label names the method whose own label it begins with or holds, the longest of them. Several labels of
    one method have the same colour.

    >>> found = colours(["RelaySGD, chain", "RelaySGD, star", "mine"])
    >>> found["RelaySGD, chain"] == found["RelaySGD, star"] != found["mine"]
    True
    """
    labels = list(labels)
    found = {label: method_colour(label) for label in labels}
    free = [colour for colour in OTHERS if colour not in found.values()] or list(OTHERS)
    unknown = [label for label in labels if not found[label]]
    return {label: found[label] or free[unknown.index(label) % len(free)] for label in labels}


def method_colour(label: str) -> str:
    """The colour of the method that a label names, "" where it names none."""
    names = [
        name for name in COLOURS if label == name or label.startswith((f"{name} ", f"{name},", f"{name}:"))
    ]
    return COLOURS[max(names, key=len)] if names else ""
