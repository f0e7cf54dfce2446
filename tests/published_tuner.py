"""The published learning-rate searches, in plain Python and NumPy: one row, one run and one step at a time.

The slow, obvious twin of `relaysim.tuning`, for tests and benchmarks (tests/reference/README.md says where
the rules come from).
"""

import math

import numpy as np


def points(max_steps):
    return {int(s) for s in np.round(np.logspace(0, math.log2(max_steps), 1000, base=2))}


def events(run, rate, tolerance, max_steps):
    """Yields (event, step, error) in the published order; "recorded" comes first at every point."""
    watched, errors = points(max_steps), []
    for step, error in zip(range(1, max_steps + 1), run(rate), strict=False):
        if step not in watched:
            continue
        errors.append(error)
        yield "recorded", step, error
        if math.isnan(error) or error > errors[0]:
            yield "diverged", step, error
            return
        if len(errors) >= 2 and error > errors[-2]:
            yield "going up", step, error
        if len(errors) >= 3:
            mean = sum(errors[-3:]) / 3
            if all(abs(e - mean) < tolerance for e in errors[-3:]):
                yield "plateau", step, mean
    yield "max steps", step, error


def fastest(run, *, target, start, max_steps=20_000):
    """(steps, rate, runs). `run(rate)` yields the errors after 1, 2, ... steps."""
    lower, upper, rate, best, best_rate, runs = None, 2 * start, 2 * start, math.inf, math.nan, 0
    while runs < 30 and (lower is None or upper - lower > 1e-4):
        runs += 1
        if lower is not None:
            rate = (lower + upper) / 2
        for event, step, error in events(run, rate, target / 10, max_steps):
            if event == "diverged" or (event == "going up" and error > target):
                upper = rate if lower is None else max(lower, rate)
                rate /= 2
                break
            if error < target and step < best:
                rate /= 2
                best, best_rate = step, rate
                break
            if error < target:
                lower, upper = min(rate, upper), min(4 * rate, upper)
                break
            if event == "plateau":
                upper = rate if lower is None else max(lower, rate)
                rate /= 2
                break
            if event == "max steps" or (event == "recorded" and step > 10 * best):
                lower = min(rate, upper)
                break
    return best, best_rate, runs


def plateau(run, *, target, start, max_steps=20_000):
    """(steps, rate, runs). `run(rate)` yields the errors after 1, 2, ... steps."""
    lower, upper, best, best_rate, runs = None, 2 * start, math.inf, math.nan, 0
    while runs < 30 and (lower is None or upper - lower > 1e-6):
        runs += 1
        rate = upper / 2 if lower is None else (lower + upper) / 2
        for event, step, error in events(run, rate, target / 100, max_steps):
            if event == "diverged" or (event == "going up" and error > target):
                upper = rate if lower is None else max(lower, rate)
                break
            if event == "plateau":
                if error < target and step < best:
                    best, best_rate = step, rate
                if target / 1.1 < error < target:
                    return best, best_rate, runs
                if error > target:
                    upper = rate
                else:
                    lower = rate
                break
            if event == "max steps" or (event == "recorded" and step > 10 * best):
                lower = min(rate, upper)
                break
    return best, best_rate, runs


def edges_of(name, n):
    """The undirected edges of a named graph."""
    return {
        "ring": [(i, (i + 1) % n) for i in range(n)],
        "chain": [(i, i + 1) for i in range(n - 1)],
        "tree": [(i // 2, i) for i in range(1, n)],
        "exponential": [],
    }[name]


def metropolis(name, n):
    W = np.zeros((n, n))
    for i, j in edges_of(name, n):
        W[i, j] = W[j, i] = 1
    degree = W.sum(1)
    W = W / (1 + np.maximum(degree[:, None], degree))
    return W + np.diag(1 - W.sum(1))


def delays(name, n):
    """max(dist − 1, 0), by Floyd and Warshall."""
    dist = np.where(np.eye(n) > 0, 0, np.inf)
    for i, j in edges_of(name, n):
        dist[i, j] = dist[j, i] = 1
    for k in range(n):
        dist = np.minimum(dist, dist[:, [k]] + dist[[k]])
    return np.maximum(dist - 1, 0).astype(int)


def models(algorithm, topology, A, b, rate):
    """Yields x (n, d) after 1, 2, ... steps from 0."""
    n = len(b)
    x, c = np.zeros_like(b), np.zeros_like(b)
    W = delay = past = None
    if topology in ("ring", "tree", "chain"):
        W, delay = metropolis(topology, n), delays(topology, n)
        past = np.zeros((delay.max() + 1, *b.shape))  # what every worker put in, the latest first
    k, period = 0, int(math.log2(n - 1)) + 1

    def relayed(own):
        nonlocal past
        past = np.roll(past, 1, 0)
        past[0] = own
        return past[delay, np.arange(n)].mean(1)

    while True:
        g = np.einsum("nji,nj->ni", A, np.einsum("nij,nj->ni", A, x) - b)
        if algorithm == "All-reduce":
            x = np.tile((x - rate * g).mean(0), (n, 1))
        elif algorithm == "Gossip":
            x = W @ (x - rate * g)
        elif algorithm == "D2":
            new = W @ (x - rate * g + c)
            c, x = new - x + rate * g, new
        elif algorithm == "Gradient tracking":
            x, c = W @ (x - rate * (g - c)), W @ (c - g) + g
        elif algorithm == "RelaySum/Model":
            x = relayed(x - rate * g)
        elif algorithm == "RelaySum/Grad":
            x = x + relayed(-rate * g)
        elif algorithm == "SGP":
            x = x - rate * g
            for _ in range(2):
                x = (x + np.roll(x, 2 ** (k % period), axis=0)) / 2
                k += 1
        yield x


def tune(row, A, b, x_star):
    """The published tuner on a row of figure2_tuned.csv: (steps, rate, runs)."""

    def mean_error(x):
        return np.mean(np.sum((A @ x - b) ** 2, 1))

    def run(rate):
        for x in models(row.algorithm, row.topology, A, b, rate):
            yield mean_error(x.mean(0)) - mean_error(x_star)

    by_plateau = row.algorithm in ("Gossip", "RelaySum/Grad") and row.zeta2 > 0
    start = 100 if row.algorithm in ("Gossip", "RelaySum/Grad") else 10
    with np.errstate(all="ignore"):
        return (plateau if by_plateau else fastest)(run, target=row.target, start=start)
