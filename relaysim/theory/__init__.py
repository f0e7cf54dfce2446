"""Theory beside practice: what spectra say of graphs and of methods, to be held beside measured curves."""

from relaysim.theory.graphs import (
    Mixing,
    Resistance,
    effective_neighbours,
    effective_resistance,
    mixing,
    relaying,
    resistance,
)
from relaysim.theory.methods import eigenvalues, largest_stable, operator, rate

__all__ = [
    "Mixing",
    "Resistance",
    "effective_neighbours",
    "effective_resistance",
    "eigenvalues",
    "largest_stable",
    "mixing",
    "operator",
    "rate",
    "relaying",
    "resistance",
]
