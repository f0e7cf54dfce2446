"""Dates of steps against an event queue; networks, their distributions and what runs make of them."""

import heapq

import jax
import numpy as np
import pytest

import relaysim as rs
from relaysim import topology
from relaysim.timing import Network, seconds

KEY = jax.random.key(0)


def grad(key, step, x):
    return (x**2).sum(1), x


def twin(calls, n, num_bytes, num_steps, compute, latency=None, upload=np.inf, download=np.inf):
    """The same by an event queue: compute (num_steps, n), latency (n, n). -> (num_steps, n)"""
    latency = np.zeros((n, n)) if latency is None else latency
    upload, download = np.broadcast_to(upload, n), np.broadcast_to(download, n)
    done, out = np.zeros(n), []
    for t in range(num_steps):
        done = done + compute[t]
        for r in calls[t % len(calls)]:
            sizes = np.broadcast_to(r.vectors, len(r.senders)) * num_bytes
            out_free, in_free, queue = done.copy(), np.full(n, -np.inf), []
            for receiver, sender, size in sorted(
                zip(r.receivers.tolist(), r.senders.tolist(), sizes, strict=True)
            ):
                out_free[sender] += size / upload[sender]
                heapq.heappush(queue, (out_free[sender] + latency[sender, receiver], receiver, size))
            done = done.copy()
            while queue:
                arrives, receiver, size = heapq.heappop(queue)
                in_free[receiver] = max(in_free[receiver], arrives) + size / download[receiver]
                done[receiver] = max(done[receiver], in_free[receiver])
        out.append(done)
    return np.stack(out)


def sequence(mixers):
    """A call of each in turn."""
    return mixers[0]._replace(messages=lambda: [m.messages()[0] for m in mixers])


def mixers(n):
    ring, tree = topology.ring(n), topology.random_tree(n, seed=1)
    return {
        "binary tree": rs.relay_sum(topology.binary_tree(n)),
        "star": rs.relay_sum(topology.star(n)),
        "two trees": rs.relay_sum(topology.double_binary_trees(n)),
        "random graph": rs.gossip(topology.erdos_renyi(n, 0.4, seed=0)),
        "exponential graph": rs.push(topology.exponential(n)),
        "rounds of peers": rs.one_peer_exponential(n, rounds=2),
        "ring all-reduce": rs.all_reduce(n),
        "tree all-reduce": rs.all_reduce(n, schedule="tree"),
        "halving": rs.all_reduce(n, schedule="halving"),
        "in turn": sequence([rs.gossip(ring), rs.all_reduce(n, schedule="tree"), rs.relay_sum(tree)]),
    }


def of(mixer, vectors=1.0):
    return rs.method(mixer, lambda key, x: x, lambda key, t, s: (s, rs.Info(s[:, 0])), vectors=vectors)


@pytest.mark.parametrize("name", mixers(11))
def test_dates_are_those_of_an_event_queue(name):
    n, T, random = 11, 9, np.random.default_rng(len(name))
    mixer, models = mixers(n)[name], np.zeros((n, 25), np.float32)
    compute, latency = random.uniform(0.5, 2, n), random.uniform(0, 0.5, (n, n))
    upload, download = random.uniform(100, 1000, (2, n))
    network = Network(compute=compute, latency=latency, upload=upload, download=download)
    found = seconds(KEY, network, of(mixer, 2), models, num_steps=T, every=[1, 2, 5, T])
    computes = np.broadcast_to(compute, (T, n))
    expected = twin(mixer.messages(), n, 200, T, computes, latency, upload, download)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected[[0, 1, 4, T - 1]], rtol=0, atol=1e-10)
