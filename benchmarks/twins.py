"""Steps per second against the slow NumPy twins of the tests, side by side in one run.

python -m benchmarks.twins
"""

import platform
import statistics
import time

import jax
import numpy as np
import optax

import relaysim as rs
from tests import twins

ROUNDS = 5
GAMMA = 0.01


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name, method, twin, task, *, fast_steps, slow_steps):
    """Medians of interleaved rounds, after one round that compiles and is not counted."""
    start = task.init(jax.random.key(0))
    key = jax.random.key(1)
    x0, keys = np.asarray(start, np.float64), list(jax.random.split(key, slow_steps))

    def fast():
        jax.block_until_ready(rs.simulate(key, method, start, num_steps=fast_steps, every=fast_steps).params)

    def slow():
        for _ in twin(x0, keys):
            pass

    fast()
    rounds = [(fast_steps / seconds(fast), slow_steps / seconds(slow)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in rounds]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    n, d = start.shape
    spread = f"{min(ratios):.0f} to {max(ratios):.0f}"
    print(f"{name:22s} n={n:5d} d={d:4d} {ours:10.0f} {theirs:10.1f} {statistics.median(ratios):8.0f}x  ({spread})")


def main():
    print(f"{platform.processor() or platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    print(f"{'':22s} {'':14s} {'steps/s':>10s} {'twin':>10s} {'ratio':>9s}  medians of {ROUNDS} rounds (spread)")
    for n, d, fast_steps, slow_steps in ((32, 10, 20_000, 20), (1024, 100, 500, 2)):
        task = rs.tasks.random_quadratics(jax.random.key(0), n, d, zeta2=1.0)
        A, b = np.asarray(task.A, np.float64), np.asarray(task.b, np.float64)

        def grad(t, x, A=A, b=b):
            return np.stack([A[i].T @ (A[i] @ x[i] - b[i]) for i in range(len(x))])

        tree, graph, sgd = rs.topology.binary_tree(n), rs.topology.ring(n), optax.sgd(GAMMA)
        steps = {"fast_steps": fast_steps, "slow_steps": slow_steps}
        compare(
            "RelaySGD, binary tree",
            rs.relaysgd(task.grad, rs.relay_sum(tree), sgd),
            lambda x, keys, t=tree, g=grad: twins.dpsgd(twins.relay_sum(t, x[0]), g, GAMMA, x, keys),
            task,
            **steps,
        )
        weights = twins.metropolis(graph)
        compare(
            "D-PSGD, ring",
            rs.dpsgd(task.grad, rs.gossip(graph), sgd),
            lambda x, keys, w=weights, g=grad: twins.dpsgd(twins.gossip(w), g, GAMMA, x, keys),
            task,
            **steps,
        )


if __name__ == "__main__":
    main()
