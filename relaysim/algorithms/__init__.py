"""The methods: each is a function of (grad, mixer, optimizer), in one short file."""

from relaysim.algorithms.allreduce import allreduce
from relaysim.algorithms.btpp import btpp
from relaysim.algorithms.ceca import ceca
from relaysim.algorithms.choco_sgd import choco_sgd
from relaysim.algorithms.d2 import d2
from relaysim.algorithms.decentlam import decentlam
from relaysim.algorithms.decoupled_momentum import decoupled_momentum
from relaysim.algorithms.destress import destress
from relaysim.algorithms.diloco import diloco
from relaysim.algorithms.dpsgd import dpsgd
from relaysim.algorithms.exact_diffusion import exact_diffusion
from relaysim.algorithms.extra import extra
from relaysim.algorithms.gradient_tracking import gradient_tracking
from relaysim.algorithms.gt_hsgd import gt_hsgd
from relaysim.algorithms.gta import gta
from relaysim.algorithms.k_gt import k_gt
from relaysim.algorithms.led import led
from relaysim.algorithms.momentum_tracking import momentum_tracking
from relaysim.algorithms.moniqua import moniqua
from relaysim.algorithms.motef import beer, motef
from relaysim.algorithms.nids import nids
from relaysim.algorithms.noloco import noloco
from relaysim.algorithms.prox_skip import prox_skip
from relaysim.algorithms.push_sum import push_sum
from relaysim.algorithms.quasi_global_momentum import quasi_global_momentum
from relaysim.algorithms.relaysgd import relaysgd, relaysgd_grad
from relaysim.algorithms.teleportation import teleportation

__all__ = [
    "allreduce",
    "beer",
    "btpp",
    "ceca",
    "choco_sgd",
    "d2",
    "decentlam",
    "decoupled_momentum",
    "destress",
    "diloco",
    "dpsgd",
    "exact_diffusion",
    "extra",
    "gradient_tracking",
    "gt_hsgd",
    "gta",
    "k_gt",
    "led",
    "momentum_tracking",
    "moniqua",
    "motef",
    "nids",
    "noloco",
    "prox_skip",
    "push_sum",
    "quasi_global_momentum",
    "relaysgd",
    "relaysgd_grad",
    "teleportation",
]
