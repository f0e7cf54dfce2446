"""The table of methods that `test_methods` goes through: how each is built, and its slow twin."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import newer_twins as newer
import twins

import relaysim as rs
from relaysim import topology


def directed(n):
    """A directed ring where worker 0 speaks to everybody, so that its mass goes away faster."""
    edges = {(i, (i + 1) % n) for i in range(n)} | {(0, i) for i in range(n)}
    return topology.from_edges(n, [(i, j) for i, j in edges if i != j], directed=True)


def changing(n):
    return [topology.ring(n), topology.star(n), topology.chain(n)]


ring, random_tree = topology.ring, functools.partial(topology.random_tree, seed=1)
outage = rs.faults.Outage([0], 3, 6)


class Row(NamedTuple):
    name: str
    build: Callable
    """(grad, optimizer, n) -> Algorithm"""
    twin: Callable
    """(n, the mean of the first models, *what every method's twin takes) -> a generator of models"""
    is_sgd: bool = True
    """Whether a single worker does plain SGD."""
    tells_loss: bool = True
    """Whether the loss is that of the models, one gradient in a step."""
    often: bool = True
    """Whether it goes through all tests every time, not the slow ones alone: one of each kind does."""


def gossip(n):
    return rs.gossip(ring(n))


def w(n):
    return twins.metropolis(ring(n))


def mixed(n):
    return twins.gossip(w(n))


top = rs.compress.top_k(3)


ROWS = [
    Row(
        "dpsgd",
        lambda grad, opt, n: rs.dpsgd(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "d2",
        lambda grad, opt, n: rs.d2(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.d2(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "exact_diffusion",
        lambda grad, opt, n: rs.exact_diffusion(grad, gossip(n), opt),
        lambda n, x0, *run: newer.exact_diffusion(mixed(n), *run),
        often=False,
    ),
    Row(
        "gradient_tracking",
        lambda grad, opt, n: rs.gradient_tracking(grad, rs.gossip(ring(n)), opt),
        lambda n, x0, *run: twins.gradient_tracking(twins.gossip(twins.metropolis(ring(n))), *run),
    ),
    Row(
        "quasi_global_momentum",
        lambda grad, opt, n: rs.quasi_global_momentum(grad, rs.gossip(ring(n)), opt, beta=0.8),
        lambda n, x0, *run: twins.quasi_global_momentum(
            twins.gossip(twins.metropolis(ring(n))), *run, beta=0.8
        ),
        is_sgd=False,
        often=False,
    ),
    Row(
        "quasi_global_momentum_nesterov",
        lambda grad, opt, n: rs.quasi_global_momentum(
            grad, rs.gossip(ring(n)), opt, beta=0.8, variant="nesterov"
        ),
        lambda n, x0, *run: twins.quasi_global_momentum(
            twins.gossip(twins.metropolis(ring(n))), *run, beta=0.8, nesterov=True
        ),
        is_sgd=False,
        often=False,
    ),
    Row(
        "relaysgd",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(random_tree(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum(random_tree(n), x0), *run),
    ),
    Row(
        "relaysgd_double_trees",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(topology.double_binary_trees(n)), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum_over(topology.double_binary_trees(n), x0), *run),
        often=False,
    ),
    Row(
        "relaysgd_drops",
        lambda grad, opt, n: rs.relaysgd(grad, rs.relay_sum(random_tree(n), drop=0.3, fill="local"), opt),
        lambda n, x0, *run: twins.dpsgd(twins.relay_sum(random_tree(n), x0, drop=0.3, fill="local"), *run),
    ),
    Row(
        "relaysgd_outage",
        lambda grad, opt, n: rs.faults.pause(
            rs.relaysgd(
                grad,
                rs.relay_sum(random_tree(n), drop=[rs.faults.bursts(0.2, 3.0), outage], fill="local"),
                opt,
            ),
            outage,
        ),
        lambda n, x0, *run: twins.dpsgd(
            twins.relay_sum(
                random_tree(n),
                x0,
                drop=twins.together([twins.bursts(0.2, 3.0), twins.outage([0], 3, 6)]),
                fill="local",
            ),
            *run,
            down=lambda t: [0] * (3 <= t < 6),
        ),
        is_sgd=False,
        often=False,
    ),
    Row(
        "relaysgd_grad",
        lambda grad, opt, n: rs.relaysgd_grad(grad, rs.relay_sum(random_tree(n)), opt),
        lambda n, x0, *run: twins.relaysgd_grad(twins.relay_sum(random_tree(n), 0 * x0), *run),
        often=False,
    ),
    Row(
        "push_sum_one_peer",
        lambda grad, opt, n: rs.push_sum(grad, rs.one_peer_exponential(n, rounds=2), opt),
        lambda n, x0, *run: twins.push_sum(twins.one_peer_exponential(n, rounds=2), *run),
        often=False,
    ),
    Row(
        "push_sum_directed_drops",
        lambda grad, opt, n: rs.push_sum(grad, rs.push(directed(n), drop=0.2), opt),
        lambda n, x0, *run: twins.push_sum(twins.push(directed(n), drop=0.2), *run),
    ),
    Row(
        "d2_time_varying",
        lambda grad, opt, n: rs.d2(grad, rs.time_varying(topology.simple_base(n, 2)), opt),
        lambda n, x0, *run: twins.d2(
            twins.time_varying([twins.gossip(w.toarray()) for w in topology.simple_base(n, 2)]), *run
        ),
        often=False,
    ),
    Row(
        "gradient_tracking_time_varying",
        lambda grad, opt, n: rs.gradient_tracking(grad, rs.time_varying(changing(n), drop=0.3), opt),
        lambda n, x0, *run: twins.gradient_tracking(
            twins.time_varying([twins.gossip(twins.metropolis(g), drop=0.3) for g in changing(n)]), *run
        ),
        often=False,
    ),
    Row(
        "push_sum_time_varying",
        lambda grad, opt, n: rs.push_sum(
            grad, rs.time_varying([directed(n), ring(n)], push=True, drop=0.2), opt
        ),
        lambda n, x0, *run: twins.push_sum(
            twins.time_varying([twins.push(g, drop=0.2) for g in (directed(n), ring(n))]), *run
        ),
    ),
    Row(
        "allreduce",
        lambda grad, opt, n: rs.allreduce(grad, rs.all_reduce(n), opt),
        lambda n, x0, *run: twins.allreduce(twins.all_reduce(n), *run),
        often=False,
    ),
    Row(
        "beer",
        lambda grad, opt, n: rs.beer(grad, gossip(n), opt, compressor=top, gamma=0.4),
        lambda n, x0, *run: newer.motef(mixed(n), *run, compress=newer.top_k(3), gamma=0.4, momentum=1),
        often=False,
    ),
    Row(
        "btpp",
        lambda grad, opt, n: rs.btpp(grad, n, opt, branching=2),
        lambda n, x0, *run: newer.btpp(*run, branching=2),
        often=False,
    ),
    Row(
        "ceca",
        lambda grad, opt, n: rs.ceca(grad, n, opt, peers=2),
        lambda n, x0, *run: newer.ceca(*run, peers=2),
        tells_loss=False,
        often=False,
    ),
    Row(
        "choco_sgd",
        lambda grad, opt, n: rs.choco_sgd(grad, gossip(n), opt, compressor=top, gamma=0.4),
        lambda n, x0, *run: newer.choco_sgd(
            mixed(n), *run, compress=newer.top_k(3), gamma=0.4, order="gradient_first"
        ),
        often=False,
    ),
    Row(
        "choco_sgd_together",
        lambda grad, opt, n: rs.choco_sgd(
            grad, gossip(n), opt, compressor=rs.compress.random_k(4), gamma=0.4, order="together"
        ),
        lambda n, x0, *run: newer.choco_sgd(
            mixed(n), *run, compress=newer.random_k(4), gamma=0.4, order="together"
        ),
    ),
    Row(
        "compressed_relay",
        lambda grad, opt, n: rs.relaysgd_grad(
            grad, rs.compress.relay_sum(random_tree(n), rs.compress.top_k(8), of="updates"), opt
        ),
        lambda n, x0, *run: twins.relaysgd_grad(
            newer.compressed_relay_sum(random_tree(n), 0 * x0, newer.top_k(8)), *run
        ),
        often=False,
    ),
    Row(
        "decentlam",
        lambda grad, opt, n: rs.decentlam(grad, gossip(n), opt, beta=0.8),
        lambda n, x0, *run: newer.decentlam(mixed(n), *run, beta=0.8),
        is_sgd=False,
        often=False,
    ),
    Row(
        "decoupled_momentum",
        lambda grad, opt, n: rs.decoupled_momentum(
            grad, rs.all_reduce(n), opt, compressor=rs.compress.quantize(4), beta=0.8
        ),
        lambda n, x0, *run: newer.decoupled_momentum(
            twins.all_reduce(n), *run, compress=newer.quantize(4), beta=0.8
        ),
        is_sgd=False,
        often=False,
    ),
    Row(
        "destress",
        lambda grad, opt, n: rs.destress(
            grad, gossip(n), opt, inner_steps=2, inner_mixings=2, outer_mixings=3
        ),
        lambda n, x0, *run: newer.destress(w(n), *run, inner=2, k_in=2, k_out=3),
        is_sgd=False,
        often=False,
    ),
    Row(
        "diloco",
        lambda grad, opt, n: rs.diloco(grad, gossip(n), opt, local_steps=2),
        lambda n, x0, *run: newer.diloco(mixed(n), *run, steps=2, rate=0.7, momentum=0.9),
        is_sgd=False,
        tells_loss=False,
        often=False,
    ),
    Row(
        "epidemic",
        lambda grad, opt, n: rs.dpsgd(grad, rs.epidemic(n, peers=2), opt),
        lambda n, x0, *run: twins.dpsgd(newer.epidemic(n, 2), *run),
        often=False,
    ),
    Row(
        "extra",
        lambda grad, opt, n: rs.extra(grad, gossip(n), opt),
        lambda n, x0, *run: newer.extra(mixed(n), *run),
        often=False,
    ),
    Row(
        "gt_hsgd",
        lambda grad, opt, n: rs.gt_hsgd(grad, gossip(n), opt, beta=0.3),
        lambda n, x0, *run: newer.gt_hsgd(mixed(n), *run, beta=0.3),
        is_sgd=False,
        often=False,
    ),
    Row(
        "gta",
        lambda grad, opt, n: rs.gta(grad, gossip(n), opt, variant=3, mixings=2, local_steps=3),
        lambda n, x0, *run: newer.gta(w(n), *run, variant=3, mixings=2, local_steps=3),
        is_sgd=False,
        tells_loss=False,
        often=False,
    ),
    Row(
        "k_gt",
        lambda grad, opt, n: rs.k_gt(grad, gossip(n), opt, local_steps=2, server_rate=0.9),
        lambda n, x0, *run: newer.k_gt(mixed(n), *run, steps=2, rate=0.9),
        is_sgd=False,
        tells_loss=False,
        often=False,
    ),
    Row(
        "led",
        lambda grad, opt, n: rs.led(grad, gossip(n), opt, local_steps=2),
        lambda n, x0, *run: newer.led(mixed(n), *run, steps=2, beta=0.5),
        is_sgd=False,
        tells_loss=False,
        often=False,
    ),
    Row(
        "momentum_tracking",
        lambda grad, opt, n: rs.momentum_tracking(grad, gossip(n), opt, beta=0.8),
        lambda n, x0, *run: newer.momentum_tracking(mixed(n), *run, beta=0.8),
        is_sgd=False,
        often=False,
    ),
    Row(
        "moniqua",
        lambda grad, opt, n: rs.moniqua(grad, gossip(n), opt, theta=2.0, gamma=0.1),
        lambda n, x0, *run: newer.moniqua(w(n), *run, theta=2.0, gamma=0.1),
        often=False,
    ),
    Row(
        "motef",
        lambda grad, opt, n: rs.motef(grad, gossip(n), opt, compressor=top, gamma=0.4, momentum=0.5),
        lambda n, x0, *run: newer.motef(mixed(n), *run, compress=newer.top_k(3), gamma=0.4, momentum=0.5),
        is_sgd=False,
        often=False,
    ),
    Row(
        "nids",
        lambda grad, opt, n: rs.nids(grad, gossip(n), opt),
        lambda n, x0, *run: newer.exact_diffusion(mixed(n), *run, first_is_mixed=False),
        often=False,
    ),
    Row(
        "noloco",
        lambda grad, opt, n: rs.noloco(grad, rs.random_matching(n), opt, local_steps=2),
        lambda n, x0, *run: newer.noloco(newer.random_matching(n), *run, steps=2, rate=0.7, momentum=0.5),
        is_sgd=False,
        tells_loss=False,
        often=False,
    ),
    Row(
        "prox_skip",
        lambda grad, opt, n: rs.prox_skip(grad, gossip(n), opt, probability=0.4, relaxation=0.6),
        lambda n, x0, *run: newer.prox_skip(mixed(n), *run, probability=0.4, relaxation=0.6),
        often=False,
    ),
    Row(
        "teleportation",
        lambda grad, opt, n: rs.teleportation(grad, gossip(min(n, 3)), opt, num_workers=n),
        lambda n, x0, *run: newer.teleportation(mixed(min(n, 3)), min(n, 3), *run),
        tells_loss=False,
    ),
]
