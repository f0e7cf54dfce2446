"""Methods whose workers do not wait for each other, in seconds of a network.

The order of events does not hang on the models. So it is laid out first, on the host, and then run in waves
of events that do not get in each other's way, in one compiled program.
"""

from relaysim.asynchronous.ad_psgd import ad_psgd
from relaysim.asynchronous.dadao import dadao
from relaysim.asynchronous.gossip import gossip
from relaysim.asynchronous.push_sum import push_sum
from relaysim.asynchronous.relaysgd import relaysgd, relaysgd_grad
from relaysim.asynchronous.simulate import Trace, lay_out, replay, simulate
from relaysim.asynchronous.swift import swift
from relaysim.asynchronous.types import Events, Links, Method, Order

__all__ = [
    "Events",
    "Links",
    "Method",
    "Order",
    "Trace",
    "ad_psgd",
    "dadao",
    "gossip",
    "lay_out",
    "push_sum",
    "relaysgd",
    "relaysgd_grad",
    "replay",
    "simulate",
    "swift",
]
