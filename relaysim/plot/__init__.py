"""Pictures: curves of runs, graphs, who holds and who learnt what. Each draws on axes and returns them."""

from relaysim.plot.curves import comparison, curves, panels
from relaysim.plot.data import class_accuracy, partition
from relaysim.plot.files import save
from relaysim.plot.graphs import animation, topology

__all__ = ["animation", "class_accuracy", "comparison", "curves", "panels", "partition", "save", "topology"]
