"""Who sends what to whom, in each round of each call, against plain lists."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import topology

N = 6


def plain(calls):
    """[{(sender, receiver): vectors} of each round] of each call."""
    told = []
    for call in calls:
        told.append([])
        for r in call:
            sizes = np.broadcast_to(r.vectors, r.senders.shape)
            sizes_of = Counter()
            for sender, receiver, size in zip(r.senders.tolist(), r.receivers.tolist(), sizes, strict=True):
                sizes_of[sender, receiver] += size
            told[-1].append(dict(sizes_of))
    return told


def both_ways(pairs, vectors=1.0):
    return {pair: vectors for i, j in pairs for pair in ((i, j), (j, i))}


chain = [(i, i + 1) for i in range(N - 1)]
circle = [(i, (i + 1) % N) for i in range(N)]
heap = [(0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]
mirrored = [(5 - i, 5 - j) for i, j in heap]


def of_two_trees():
    sizes = Counter()
    for tree in (heap, mirrored):
        for pair in both_ways(tree):
            sizes[pair] += 0.5
    return dict(sizes)


def peers(hop):
    return {((i - hop) % N, i): 1.0 for i in range(N)}


def halving(n):
    """Of a power of two: partners at distances n/2, n/4, …, 1, with 1/2, 1/4, … of the vector; and back."""
    rounds, distance, size = [], n // 2, 0.5
    while distance:
        rounds.append({(i, i ^ distance): size for i in range(n)})
        distance, size = distance // 2, size / 2
    return rounds + rounds[::-1]


TABLE = {
    "relay_sum": (rs.relay_sum(topology.chain(N), fill="last"), [[both_ways(chain)]]),
    "several trees": (rs.relay_sum(topology.double_binary_trees(N)), [[of_two_trees()]]),
    "gossip": (rs.gossip(topology.ring(N), drop=0.3), [[both_ways(circle)]]),
    "push": (rs.push(topology.from_edges(N, circle, directed=True)), [[dict.fromkeys(circle, 1.0)]]),
    "time-varying": (
        rs.time_varying([topology.ring(N), np.eye(N), topology.chain(N)]),
        [[both_ways(circle)], [{}], [both_ways(chain)]],
    ),
    "one peer": (rs.one_peer_exponential(N), [[peers(1)], [peers(2)], [peers(4)]]),
    "two rounds of peers": (
        rs.one_peer_exponential(N, rounds=2),
        [[peers(1), peers(2)], [peers(4), peers(1)], [peers(2), peers(4)]],
    ),
    "three rounds of peers": (rs.one_peer_exponential(N, rounds=3), [[peers(1), peers(2), peers(4)]]),
    "ring all-reduce": (rs.all_reduce(N), [[dict.fromkeys(circle, 1 / N)] * 10]),
    "tree all-reduce": (
        rs.all_reduce(N, schedule="tree"),
        [
            [
                *({(1, 0): 1, (3, 2): 1, (5, 4): 1}, {(2, 0): 1}, {(4, 0): 1}),
                *({(0, 4): 1}, {(0, 2): 1}, {(0, 1): 1, (2, 3): 1, (4, 5): 1}),
            ]
        ],
    ),
    "halving, of a power of two": (rs.all_reduce(8, schedule="halving"), [halving(8)]),
    "halving": (
        rs.all_reduce(N, schedule="halving"),
        [[{(4, 0): 1, (5, 1): 1}, *halving(4), {(0, 4): 1, (1, 5): 1}]],
    ),
    "dealt": (
        rs.deal([rs.one_peer_exponential(N, rounds=3), rs.gossip(topology.star(N))]),
        [
            [
                dict(
                    Counter({p: 0.5 for p in peers(1)})
                    + Counter(both_ways([(0, i) for i in range(1, N)], 0.5))
                ),
                {p: 0.5 for p in peers(2)},
                {p: 0.5 for p in peers(4)},
            ]
        ],
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_messages(name):
    mixer, expected = TABLE[name]
    assert plain(mixer.messages()) == expected


@pytest.mark.parametrize("name", TABLE)
def test_what_is_sent_follows_from_the_messages(name):
    mixer, expected = TABLE[name]
    vectors = np.zeros(mixer.num_workers)
    for call in expected:
        for sizes in call:
            for (sender, _), size in sizes.items():
                vectors[sender] += size / len(expected)
    np.testing.assert_allclose(mixer.sent(), vectors, rtol=1e-12)


@pytest.mark.parametrize("schedule", ["ring", "tree", "halving"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
def test_a_schedule_of_all_reduce_computes_the_sum(schedule, n):
    """Every worker hears from everybody; rounds and volume are as the schedule says."""
    (rounds,) = rs.all_reduce(n, schedule=schedule).messages()
    heard = np.eye(n, dtype=bool)
    for r in rounds:
        heard[r.receivers] |= heard[r.senders]
    assert heard.all()
    log, whole = math.ceil(math.log2(n)), math.floor(math.log2(n))
    extra = 2 * (n > 2**whole)
    assert len(rounds) == {"ring": 2 * (n - 1), "tree": 2 * log, "halving": 2 * whole + extra}[schedule]
    volume = sum(np.sum(np.broadcast_to(r.vectors, r.senders.shape)) for r in rounds)
    powers = {"ring": n, "tree": n, "halving": 2**whole}[schedule]
    assert volume == pytest.approx(2 * (powers - 1) + (2 * (n - powers)))
    assert rs.all_reduce(n, schedule=schedule).sent().sum() == pytest.approx(volume)


def test_a_million_workers_are_told_quickly():
    assert rs.all_reduce(10**6).sent().max() == pytest.approx(2, rel=1e-5)


def grad(key, step, x):
    return jnp.zeros(len(x)), x


@pytest.mark.parametrize(
    ("method", "vectors", "messages"),
    [
        (rs.dpsgd(grad, rs.gossip(topology.ring(N)), optax.sgd(0.1)), 2, 2),
        (rs.gradient_tracking(grad, rs.gossip(topology.ring(N)), optax.sgd(0.1)), 4, 2),
        (rs.allreduce(grad, rs.all_reduce(N), optax.sgd(0.1)), 10 / 6, 10),
    ],
    ids=["one vector", "a pair in one message", "all-reduce"],
)
def test_a_trace_counts_vectors_and_messages(method, vectors, messages):
    metrics = rs.simulate(jax.random.key(0), method, jnp.ones((N, 3)), num_steps=4, every=2).metrics
    np.testing.assert_allclose(metrics["vectors_sent"], np.array([2, 4]) * vectors)
    np.testing.assert_allclose(metrics["messages_sent"], np.array([2, 4]) * messages)
