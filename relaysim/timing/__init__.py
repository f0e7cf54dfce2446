"""Time: how long a run would take on a network, whatever its models do.

A network says how long a gradient takes, and a message. Seconds are real ones, latencies are one way. Times
are float64, whatever jax is set to.
"""

from relaysim.timing.clock import Traffic, dates, seconds, traffic
from relaysim.timing.distributions import (
    Distribution,
    constant,
    lognormal,
    of_worker,
    shifted_exponential,
    stragglers,
)
from relaysim.timing.network import Between, Network, check_network, in_float64
from relaysim.timing.ready import datacenter, home, lan, regions, round_trips, wan

__all__ = [
    "Between",
    "Distribution",
    "Network",
    "Traffic",
    "check_network",
    "constant",
    "datacenter",
    "dates",
    "home",
    "in_float64",
    "lan",
    "lognormal",
    "of_worker",
    "regions",
    "round_trips",
    "seconds",
    "shifted_exponential",
    "stragglers",
    "traffic",
    "wan",
]
