"""relaysim: decentralized learning of many workers, simulated in one jitted program."""

from relaysim import (
    asynchronous,
    catalogue,
    faults,
    io,
    metrics,
    models,
    plot,
    sharding,
    tasks,
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
from relaysim.mixing import all_reduce, deal, gossip, one_peer_exponential, push, relay_sum
from relaysim.simulate import Divergence, RunState, Trace, estimate_memory, simulate
from relaysim.sweep import best, sweep
from relaysim.topology import Topology
from relaysim.types import Algorithm, Info, Messages, Mixer

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
    "asynchronous",
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
    "search",
    "sharding",
    "simulate",
    "sweep",
    "tasks",
    "timing",
    "topology",
    "tuning",
]
