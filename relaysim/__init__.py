"""relaysim: decentralized learning of many workers, simulated in one jitted program."""

from typing import TYPE_CHECKING

from relaysim import (
    asynchronous,
    attack,
    catalogue,
    compress,
    faults,
    io,
    metrics,
    models,
    robust,
    sharding,
    tasks,
    timing,
    topology,
    tuning,
)
from relaysim.algorithms import (
    allreduce,
    beer,
    btpp,
    ceca,
    choco_sgd,
    d2,
    decentlam,
    decoupled_momentum,
    destress,
    diloco,
    dpsgd,
    exact_diffusion,
    extra,
    gradient_tracking,
    gt_hsgd,
    gta,
    k_gt,
    led,
    momentum_tracking,
    moniqua,
    motef,
    nids,
    noloco,
    prox_skip,
    push_sum,
    quasi_global_momentum,
    relaysgd,
    relaysgd_grad,
    teleportation,
)
from relaysim.algorithms.base import State, method
from relaysim.checkpoint import Checkpoint
from relaysim.compare import Comparison, compare, search
from relaysim.local import local_steps, local_update, per_worker
from relaysim.memory import Memory
from relaysim.mixing import (
    all_reduce,
    deal,
    epidemic,
    gossip,
    keep_local,
    one_peer_exponential,
    push,
    random_matching,
    relay_sum,
    time_varying,
)
from relaysim.simulate import Divergence, RunState, Trace, estimate_memory, simulate
from relaysim.sweep import best, sweep
from relaysim.topology import Topology
from relaysim.types import Algorithm, Info, Messages, Mixer

if TYPE_CHECKING:
    from relaysim import plot, theory

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
    "attack",
    "beer",
    "best",
    "btpp",
    "catalogue",
    "ceca",
    "choco_sgd",
    "compare",
    "compress",
    "d2",
    "deal",
    "decentlam",
    "decoupled_momentum",
    "destress",
    "diloco",
    "dpsgd",
    "epidemic",
    "estimate_memory",
    "exact_diffusion",
    "extra",
    "faults",
    "gossip",
    "gradient_tracking",
    "gt_hsgd",
    "gta",
    "io",
    "k_gt",
    "keep_local",
    "led",
    "local_steps",
    "local_update",
    "method",
    "metrics",
    "models",
    "momentum_tracking",
    "moniqua",
    "motef",
    "nids",
    "noloco",
    "one_peer_exponential",
    "per_worker",
    "plot",
    "prox_skip",
    "push",
    "push_sum",
    "quasi_global_momentum",
    "random_matching",
    "relay_sum",
    "relaysgd",
    "relaysgd_grad",
    "robust",
    "search",
    "sharding",
    "simulate",
    "sweep",
    "tasks",
    "teleportation",
    "theory",
    "time_varying",
    "timing",
    "topology",
    "tuning",
]


def __getattr__(name: str) -> object:
    """Pictures and spectra come at their first use, since what they need is slow to import."""
    if name in ("plot", "theory"):
        from importlib import import_module

        return import_module(f"relaysim.{name}")
    raise AttributeError(f"module 'relaysim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
