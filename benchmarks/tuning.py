"""The published search on 20 problems at once, against its plain NumPy twin, side by side in one run.

python -m benchmarks.tuning
"""

import os
import platform
import time

import jax
import numpy as np
import optax

import relaysim as rs
from tests import published_tuner

N, SEEDS, TARGET, START = 24, 20, 1e-6, 10.0


def compare(name, topology, make, tasks):
    start = time.perf_counter()
    tuned = rs.tuning.fastest(make, tasks, target=TARGET, start=START)
    first = time.perf_counter() - start
    start = time.perf_counter()
    rs.tuning.fastest(make, tasks, target=TARGET, start=START)
    second = time.perf_counter() - start
    steps = []
    start = time.perf_counter()
    for A, b, x_star in zip(*map(np.asarray, (tasks.A, tasks.b, tasks.x_star)), strict=True):

        def run(rate, A=A, b=b, x_star=x_star):
            for x in published_tuner.models(name, topology, A, b, rate):
                yield np.mean(np.sum((A @ (x.mean(0) - x_star)) ** 2, 1))

        with np.errstate(all="ignore"):
            steps.append(published_tuner.fastest(run, target=TARGET, start=START)[0])
    twin = time.perf_counter() - start
    alike = int((tuned.steps == steps).sum())
    print(
        f"{name:18s} {topology:6s} n={N} {alike}/{len(steps)} rows alike; {first:6.1f} s with compilation, "
        f"{second:6.1f} s without; twin {twin:6.1f} s: {twin / first:.1f}x, {twin / second:.1f}x"
    )


def main():
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    chain, ring = rs.relay_sum(rs.topology.chain(N)), rs.gossip(rs.topology.ring(N))
    methods = (
        ("RelaySum/Model", "chain", rs.relaysgd, chain),
        ("D2", "ring", rs.d2, ring),
        ("Gradient tracking", "ring", rs.gradient_tracking, ring),
    )
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), SEEDS)
        tasks = rs.tuning.stack([rs.tasks.random_quadratics(k, N, 10, zeta2=1.0, r0=100.0) for k in keys])
        for name, topology, method, mixer in methods:

            def make(task, rate, method=method, mixer=mixer):
                return method(task.grad, mixer, optax.sgd(rate))

            compare(name, topology, make, tasks)


if __name__ == "__main__":
    main()
