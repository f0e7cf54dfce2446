"""Steps per second against the slow NumPy twins of the tests, side by side in one run.

The problem is f_i(x) = ½ ‖x − b_i‖², whose gradient costs next to nothing: what is timed is the method and
its communication. (Dense quadratics at n = 1024, d = 100 read 40 MB of A in each step, whoever does it.)

python -m benchmarks.twins
"""

import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
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


def compare(name, method, twin, start, *, fast_steps, slow_steps):
    """Medians of interleaved rounds, after one round that compiles and is not counted."""
    x0, keys = np.asarray(start, np.float64), list(jax.random.split(jax.random.key(1), slow_steps))

    def fast():
        run = rs.simulate(jax.random.key(1), method, start, num_steps=fast_steps, every=fast_steps)
        jax.block_until_ready(run.params)

    def slow():
        for _ in twin(x0, keys):
            pass

    fast()
    rounds = [(fast_steps / seconds(fast), slow_steps / seconds(slow)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in rounds]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    n, d = start.shape
    spread = f"{min(ratios):.0f} to {max(ratios):.0f}"
    print(
        f"{name:22s} n={n:5d} d={d:4d} {ours:10.0f} {theirs:10.1f} "
        f"{statistics.median(ratios):8.0f}x  ({spread})"
    )


def main():
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    print(f"{'':37s} {'steps/s':>10s} {'twin':>10s} {'ratio':>9s}  medians of {ROUNDS} rounds (spread)")
    for n, d, fast_steps, slow_steps in ((32, 10, 50_000, 200), (1024, 100, 2_000, 5)):
        b = jax.random.normal(jax.random.key(0), (n, d))
        tree, graph, sgd = rs.topology.binary_tree(n), rs.topology.ring(n), optax.sgd(GAMMA)

        c, mix = np.asarray(b, np.float64), twins.gossip(twins.metropolis(graph))

        def grad(key, step, x, b=b):
            return jnp.sum((x - b) ** 2, 1) / 2, x - b

        def slow_grad(t, x, c=c):
            return np.stack([x[i] - c[i] for i in range(len(c))])

        def slow_relaysgd(x, keys, tree=tree, grad=slow_grad):
            return twins.dpsgd(twins.relay_sum(tree, x[0]), grad, GAMMA, x, keys)

        def slow_dpsgd(x, keys, mix=mix, grad=slow_grad):
            return twins.dpsgd(mix, grad, GAMMA, x, keys)

        for name, method, twin in (
            ("RelaySGD, binary tree", rs.relaysgd(grad, rs.relay_sum(tree), sgd), slow_relaysgd),
            ("D-PSGD, ring", rs.dpsgd(grad, rs.gossip(graph), sgd), slow_dpsgd),
        ):
            compare(name, method, twin, jnp.zeros((n, d)), fast_steps=fast_steps, slow_steps=slow_steps)


if __name__ == "__main__":
    main()
