"""The methods: each is a function of (grad, mixer, optimizer), in one short file."""

from relaysim.algorithms.allreduce import allreduce
from relaysim.algorithms.d2 import d2
from relaysim.algorithms.dpsgd import dpsgd
from relaysim.algorithms.gradient_tracking import gradient_tracking
from relaysim.algorithms.push_sum import push_sum
from relaysim.algorithms.quasi_global_momentum import quasi_global_momentum
from relaysim.algorithms.relaysgd import relaysgd, relaysgd_grad

__all__ = [
    "allreduce",
    "d2",
    "dpsgd",
    "gradient_tracking",
    "push_sum",
    "quasi_global_momentum",
    "relaysgd",
    "relaysgd_grad",
]
