"""relaysim: decentralized learning of many workers, simulated in one jitted program."""

from typing import TYPE_CHECKING

from relaysim import (
    attack,
    catalogue,
    faults,
    io,
    metrics,
    models,
    sharding,
    tasks,
    theory,
    timing,
    topology,
    tuning,
)
from relaysim.algorithms import (
    allreduce,
    d2,
    dpsgd,
    gradient_tracking,
    push_sum,
    quasi_global_momentum,
    relaysgd,
    relaysgd_grad,
)
from relaysim.algorithms.base import State, method
from relaysim.checkpoint import Checkpoint
from relaysim.compare import Comparison, compare, search
from relaysim.local import local_steps, local_update, per_worker
from relaysim.memory import Memory
from relaysim.mixing import (
    all_reduce,
    deal,
    gossip,
    one_peer_exponential,
    push,
    relay_sum,
    robust,
    time_varying,
)
from relaysim.simulate import Divergence, RunState, Trace, estimate_memory, simulate
from relaysim.sweep import best, sweep
from relaysim.topology import Topology
from relaysim.types import Algorithm, Info, Messages, Mixer

if TYPE_CHECKING:
    from relaysim import plot

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "Checkpoint",
    "Comparison",
    "Divergence",
    "Info",
    "Memory",
    "Messages",
    "Mixer",
    "RunState",
    "State",
    "Topology",
    "Trace",
    "all_reduce",
    "allreduce",
    "attack",
    "best",
    "catalogue",
    "compare",
    "d2",
    "deal",
    "dpsgd",
    "estimate_memory",
    "faults",
    "gossip",
    "gradient_tracking",
    "io",
    "local_steps",
    "local_update",
    "method",
    "metrics",
    "models",
    "one_peer_exponential",
    "per_worker",
    "plot",
    "push",
    "push_sum",
    "quasi_global_momentum",
    "relay_sum",
    "relaysgd",
    "relaysgd_grad",
    "robust",
    "search",
    "sharding",
    "simulate",
    "sweep",
    "tasks",
    "theory",
    "time_varying",
    "timing",
    "topology",
    "tuning",
]


def __getattr__(name: str) -> object:
    """Pictures come at their first use, since what draws them is slow to import."""
    if name == "plot":
        from importlib import import_module

        return import_module("relaysim.plot")
    raise AttributeError(f"module 'relaysim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
