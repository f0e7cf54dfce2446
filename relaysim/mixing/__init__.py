"""Communication: relaying sums over trees, gossip over graphs, and their rivals.

Each function returns a `Mixer`, which works on any pytree with leaves (n, ...). In every mixer that can
lose messages, `drop` is the probability with which each message is lost, independently of the others, or
another way to lose them, from `relaysim.faults`.
"""

from relaysim.mixing.deal import deal
from relaysim.mixing.gossip import gossip, push
from relaysim.mixing.keep import keep_local
from relaysim.mixing.peers import one_peer_exponential
from relaysim.mixing.random_peers import epidemic, random_matching
from relaysim.mixing.reduce import all_reduce
from relaysim.mixing.relay import relay_sum
from relaysim.mixing.time_varying import time_varying

__all__ = [
    "all_reduce",
    "deal",
    "epidemic",
    "gossip",
    "keep_local",
    "one_peer_exponential",
    "push",
    "random_matching",
    "relay_sum",
    "time_varying",
]
