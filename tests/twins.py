"""Slow, obvious twins of the mixers and the methods: NumPy, with loops over workers and messages.

Models are arrays (n, d), one row per worker; what worker i sends to worker j is kept under (i, j).

A mixer's twin is a function (key, x) -> mixed x that remembers by itself what it has to. A method's twin is a
generator of the models after each step, made from a mixer's twin, a gradient (t, x) -> g, a learning rate,
the first models and one key for each step.

Random numbers are the only thing that is not done anew: which messages get lost is drawn by the same calls
with the same keys as in `relaysim.mixing` and `relaysim.faults`, in the functions of the first section.
There `drop` is a probability or a function (key, number of the call, links) -> [whether it is lost].
"""

import functools
import itertools
import math

import jax
import numpy as np

from relaysim import topology

# Lost messages


def lost_in_tree(key, call, tree, drop):
    """Drawn for each worker's message to its parent, and with another key for its parent's to it."""
    n, parent = tree.num_workers, topology.rooted(tree).parent.tolist()
    up_key, down_key = jax.random.split(key)
    up, down = [(i, parent[i]) for i in range(n)], [(parent[i], i) for i in range(n)]
    return lost_of(up_key, call, up, drop) | lost_of(down_key, call, down, drop)


def lost_on_edges(key, call, edges, drop):
    """Drawn for each edge (sender, receiver), sorted by receiver, then by sender."""
    return lost_of(key, call, sorted(edges, key=lambda edge: (edge[1], edge[0])), drop)


def lost_of(key, call, links, drop):
    if callable(drop):
        lost = drop(key, call, links)
    else:
        lost = jax.random.bernoulli(key, drop, (len(links),)).tolist() if drop else [False] * len(links)
    return {link for link, is_lost in zip(links, lost, strict=True) if is_lost}


def bursts(probability, length):
    """Each link remembers whether it lost the last message."""
    lost_last = {}

    def drop(key, call, links):
        uniform = jax.random.uniform(key, (len(links),)).tolist()
        for link, u in zip(links, uniform, strict=True):
            if link not in lost_last:
                chance = probability
            elif lost_last[link]:
                chance = 1 - 1 / length
            else:
                chance = probability / (length * (1 - probability))
            lost_last[link] = u < chance
        return [lost_last[link] for link in links]

    return drop


def outage(workers, first, last):
    def drop(key, call, links):
        return [first <= call < last and (i in workers or j in workers) for i, j in links]

    return drop


def together(drops):
    def drop(key, call, links):
        keys = jax.random.split(key, len(drops))
        lost = [lost_of(k, call, links, d) for k, d in zip(keys, drops, strict=True)]
        return [any(link in each for each in lost) for link in links]

    return drop


# Mixers


def relay_sum(tree, x0, *, drop=0.0, fill="initial"):
    """m[i→j] = x_i + Σ_{k ∈ N(i)∖j} m_last[k→i], each with the count of what is in it."""
    n = tree.num_workers
    neighbours = {i: tree.neighbours(i).tolist() for i in range(n)}
    links = [(i, j) for i in range(n) for j in neighbours[i]]
    messages, counts = {link: np.zeros_like(x0) for link in links}, dict.fromkeys(links, 0)
    calls, last = itertools.count(), np.stack([x0] * n)

    def mix(key, x):
        nonlocal messages, counts, last
        lost = lost_in_tree(key, next(calls), tree, drop)
        new_messages, new_counts = {}, {}
        for i, j in links:
            others = [k for k in neighbours[i] if k != j]
            new_messages[i, j] = x[i] + sum(messages[k, i] for k in others)
            new_counts[i, j] = 1 + sum(counts[k, i] for k in others)
            if (i, j) in lost:
                new_messages[i, j] = np.zeros_like(x0)
                new_counts[i, j] = 0
        messages, counts = new_messages, new_counts

        mixed = np.zeros_like(x)
        for i in range(n):
            total = x[i] + sum(messages[j, i] for j in neighbours[i])
            count = 1 + sum(counts[j, i] for j in neighbours[i])
            if fill == "initial":
                mixed[i] = (total + (n - count) * x0) / n
            elif fill == "last":
                mixed[i] = (total + (n - count) * last[i]) / n
            elif fill == "local":
                mixed[i] = (total + (n - count) * x[i]) / n
            else:
                mixed[i] = total / count
        last = mixed
        return mixed

    return mix


def metropolis(graph, *, lazy=False):
    """W_ij = 1 / (1 + max(deg_i, deg_j)) for neighbours, the rest for oneself."""
    n = graph.num_workers
    neighbours = {i: graph.neighbours(i).tolist() for i in range(n)}
    w = np.zeros((n, n))
    for i in range(n):
        for j in neighbours[i]:
            w[i, j] = 1 / (1 + max(len(neighbours[i]), len(neighbours[j])))
        w[i, i] = 1 - sum(w[i, j] for j in neighbours[i])
    return (w + np.eye(n)) / 2 if lazy else w


def gossip(weights, *, drop=0.0):
    """x_i ← Σ_j W_ij x_j, over those that arrived, divided by the sum of their weights."""
    n = len(weights)
    neighbours = {i: [j for j in range(n) if i != j and weights[i, j] != 0] for i in range(n)}
    edges = [(j, i) for i in range(n) for j in neighbours[i]]
    calls = itertools.count()

    def mix(key, x):
        lost = lost_on_edges(key, next(calls), edges, drop)
        mixed = x.copy()
        for i in range(n):
            heard = [i] + [j for j in neighbours[i] if (j, i) not in lost]
            total = sum(weights[i, j] for j in heard)
            if total > 0:
                mixed[i] = sum(weights[i, j] * x[j] for j in heard) / total
        return mixed

    return mix


def push(graph, *, drop=0.0):
    """Worker i halves x_i with one that it sends to, splits it in three with two, and so on."""
    n = graph.num_workers
    edges = [(j, i) for i in range(n) for j in graph.neighbours(i).tolist()]
    calls = itertools.count()

    def mix(key, x):
        lost = lost_on_edges(key, next(calls), edges, drop)
        mixed = np.zeros_like(x)
        for i in range(n):
            receivers = [j for sender, j in edges if sender == i]
            share = x[i] / (1 + len(receivers))
            mixed[i] += share
            for j in receivers:
                mixed[i if (i, j) in lost else j] += share
        return mixed

    return mix


def one_peer_exponential(n, *, rounds=1, drop=0.0):
    """x_i ← ½ (x_i + x_{(i − 2^(k mod D)) mod n}) in round k, D = ⌊log₂(n − 1)⌋ + 1."""
    k = 0

    def mix(key, x):
        nonlocal k
        if n == 1:
            return x
        period = math.floor(math.log2(n - 1)) + 1
        call = k // rounds
        for r in range(rounds):
            hop = 2 ** (k % period)
            links = [((i - hop) % n, i) for i in range(n)]
            lost = lost_of(jax.random.fold_in(key, r), call, links, drop)
            mixed = x / 2
            for j, i in links:
                mixed[j if (j, i) in lost else i] += x[j] / 2
            x = mixed
            k += 1
        return x

    return mix


def time_varying(mixers):
    """The mixers take turns."""
    turn = itertools.count()
    return lambda key, x: mixers[next(turn) % len(mixers)](key, x)


def all_reduce(n):
    def mix(key, x):
        mean = sum(x[i] for i in range(n)) / n
        return np.stack([mean] * n)

    return mix


def deal(mixers):
    """Column j is mixed by mixer j mod k."""
    k = len(mixers)

    def mix(key, x):
        keys, mixed = jax.random.split(key, k), np.zeros_like(x)
        for j in range(k):
            mixed[:, j::k] = mixers[j](keys[j], x[:, j::k])
        return mixed

    return mix


def relay_sum_over(trees, x0, **options):
    k = len(trees)
    return deal([relay_sum(tree, x0[j::k], **options) for j, tree in enumerate(trees)])


# Methods


def nobody(t):
    return ()


def keep(workers, before, after):
    """`after`, but for the rows of these workers, which are as before."""
    return np.stack([before[i] if i in workers else after[i] for i in range(len(after))])


def dpsgd(mix, grad, lr, x, keys, *, down=nobody):
    for t, key in enumerate(keys):
        x = keep(down(t), x, mix(key, x - lr * grad(t, x)))
        yield x


def d2(mix, grad, lr, x, keys, *, down=nobody):
    """x_{t+1} = W (2 x_t − x_{t−1} − γ (g_t − g_{t−1})) and x_1 = W (x_0 − γ g_0), as in the paper."""
    last_x, last_g = x, np.zeros_like(x)
    for t, key in enumerate(keys):
        g = grad(t, x)
        mixed = mix(key, 2 * x - last_x - lr * (g - last_g))
        last_x, last_g = keep(down(t), last_x, x), keep(down(t), last_g, g)
        x = keep(down(t), x, mixed)
        yield x


def gradient_tracking(mix, grad, lr, x, keys, *, down=nobody):
    """x' = W (x − γ y) and y' = W y + g' − g, where y, an estimate of the mean, is g at first."""
    mixed_y = last_g = np.zeros_like(x)
    for t, key in enumerate(keys):
        g = grad(t, x)
        y = mixed_y + g - last_g
        new_x, new_y = np.hsplit(mix(key, np.hstack([x - lr * y, y])), 2)
        x, mixed_y, last_g = (keep(down(t), *pair) for pair in [(x, new_x), (mixed_y, new_y), (last_g, g)])
        yield x


def quasi_global_momentum(mix, grad, lr, x, keys, *, beta, nesterov=False, down=nobody):
    """The published steps, with m in units of gradients."""
    m = np.zeros_like(x)
    for t, key in enumerate(keys):
        g = grad(t, x)
        b = beta * m + g
        direction = g + beta * b if nesterov else b / (1 + beta)
        new_x = mix(key, x - lr * direction)
        m = keep(down(t), m, beta * m + (1 - beta) * (x - new_x) / lr)
        x = keep(down(t), x, new_x)
        yield x


def relaysgd_grad(mix, grad, lr, x, keys, *, down=nobody):
    for t, key in enumerate(keys):
        x = keep(down(t), x, x + mix(key, -lr * grad(t, x)))
        yield x


def push_sum(mix, grad, lr, x, keys, *, down=nobody):
    w = np.ones((len(x), 1))
    for t, key in enumerate(keys):
        mixed = mix(key, np.hstack([x - lr * grad(t, x / w), w]))
        x, w = keep(down(t), x, mixed[:, :-1]), keep(down(t), w, mixed[:, -1:])
        yield x / w


def allreduce(mix, grad, lr, x, keys, *, down=nobody):
    x = np.stack([x.mean(0)] * len(x))
    for t, key in enumerate(keys):
        x = keep(down(t), x, x - lr * mix(key, grad(t, x)))
        yield x


def sgd(grad, lr, x, keys):
    """Everybody alone."""
    for t in range(len(keys)):
        x = x - lr * grad(t, x)
        yield x


# Runs


def quadratics(A, b):
    """x -> g, g_i = A_iᵀ (A_i x_i − b_i)."""
    return lambda x: np.stack([A[i].T @ (A[i] @ x[i] - b[i]) for i in range(len(b))])


def simulate(key, method, grad, lr, x, num_steps):
    """The models after each step, (num_steps, n, d). Here `grad` takes a key, the same at every step."""
    start_key, run_key = jax.random.split(key)
    keys = [jax.random.fold_in(run_key, t) for t in range(num_steps)]
    return np.stack(list(method(functools.partial(grad, start_key), lr, x, keys)))
