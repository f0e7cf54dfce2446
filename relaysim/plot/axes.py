"""Where to draw."""

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from relaysim.checks import shown


def axes_for(ax: Any, width: float = 6) -> Axes:
    """The axes, or new ones where they are None."""
    if ax is None:
        return plt.subplots(figsize=(width, 4), layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise ValueError(f"ax is {shown(ax)}, expected axes of matplotlib")
    return ax
