"""A step of every method over its parts: its gradients and its mixings, each measured alone.

The models have d parameters on quadratics with full matrices, so that a gradient reads d times what a
message has. Each ratio is of the least times that were taken in interleaved rounds: what else the machine
does makes a step slower, never faster.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
import pandas as pd
from matplotlib.figure import Figure

import relaysim as rs
from benchmarks.drawing import bars
from benchmarks.timing import Row, interleaved, row, table
from relaysim import compress, topology
from relaysim.algorithms.base import method

N, D, STEPS, ROUNDS = 64, 256, 25, 15
TOP = compress.top_k(0.1)
METHODS: dict[str, tuple[Callable[..., rs.Algorithm], int, int]] = {
    "D-PSGD": (rs.dpsgd, 1, 1),
    "D²": (rs.d2, 1, 1),
    "exact diffusion": (rs.exact_diffusion, 1, 1),
    "NIDS": (rs.nids, 1, 1),
    "EXTRA": (rs.extra, 1, 1),
    "DecentLaM": (rs.decentlam, 1, 1),
    "quasi-global momentum": (rs.quasi_global_momentum, 1, 1),
    "gradient tracking": (rs.gradient_tracking, 1, 2),
    "momentum tracking": (rs.momentum_tracking, 1, 2),
    "GT-HSGD": (rs.gt_hsgd, 2, 2),
    "GTA-3": (lambda *a: rs.gta(*a, variant=3), 1, 2),
    "GTA-1, 3 gradients, 2 mixings": (lambda *a: rs.gta(*a, mixings=2, local_steps=3), 3, 4),
    "DESTRESS, 2 inner steps": (lambda *a: rs.destress(*a, inner_steps=2), 5, 5),
    "K-GT, 4 local steps": (lambda *a: rs.k_gt(*a, local_steps=4), 4, 2),
    "LED, 4 local steps": (lambda *a: rs.led(*a, local_steps=4), 4, 1),
    "ProxSkip": (lambda *a: rs.prox_skip(*a, probability=0.5), 1, 1),
    "CHOCO-SGD, largest tenth": (lambda *a: rs.choco_sgd(*a, compressor=TOP, gamma=0.3), 1, 1),
    "CHOCO-SGD, signs": (lambda *a: rs.choco_sgd(*a, compressor=compress.sign(), gamma=0.3), 1, 1),
    "BEER, signs": (lambda *a: rs.beer(*a, compressor=compress.sign(), gamma=0.3), 1, 2),
    "Moniqua": (lambda *a: rs.moniqua(*a, theta=2.0, gamma=0.1), 1, 3),
    "DiLoCo, 4 local steps": (lambda *a: rs.diloco(*a, local_steps=4), 4, 1),
    "NoLoCo, 4 local steps": (lambda *a: rs.noloco(*a, local_steps=4), 4, 2),
    "BTPP": (lambda grad, mixer, opt: rs.btpp(grad, mixer.num_workers, opt), 1, 2),
    "CECA": (lambda grad, mixer, opt: rs.ceca(grad, mixer.num_workers, opt), 1, 1),
}
"""(grad, mixer, optimizer) -> method, its gradients and its mixings in a step."""


def run(smoke: bool = False) -> pd.DataFrame:
    """Ratios of a step to the sum of its parts over a ring, and its microseconds."""
    n, d, steps = (8, 4, 2) if smoke else (N, D, STEPS)
    task = rs.tasks.random_quadratics(jax.random.key(0), n, d, zeta2=1.0)
    mixer, start = rs.gossip(topology.ring(n)), task.init(jax.random.key(1))

    def timed(algorithm: rs.Algorithm) -> Callable[[], Any]:
        return lambda: rs.simulate(jax.random.key(2), algorithm, start, num_steps=steps, every=steps).params

    alone = rs.Mixer(n, lambda x: (), lambda key, t, s, x: (s, x), lambda: [[]])
    runs = {name: timed(build(task.grad, mixer, optax.sgd(0.01))) for name, (build, _, _) in METHODS.items()}
    runs["one gradient"] = timed(rs.dpsgd(task.grad, alone, optax.sgd(0.01)))
    runs["one mixing"] = timed(only_mixing(mixer))
    times = interleaved(runs, rounds=1 if smoke else ROUNDS)
    least = {name: min(taken) for name, taken in times.items()}
    rows: list[Row] = []
    for name, taken in times.items():
        rows.append(row(name, n, d, "µs a step", [1e6 * t / steps for t in taken]))
        if name in METHODS:
            _, gradients, mixings = METHODS[name]
            parts = gradients * least["one gradient"] + mixings * least["one mixing"]
            rows.append(row(name, n, d, "over its parts", least[name] / parts))
    return table("methods", rows)


def only_mixing(mixer: rs.Mixer) -> rs.Algorithm:
    def step(key: Any, t: Any, s: Any) -> Any:
        x, mix = s
        mix, x = mixer.mix(key, t, mix, x)
        return (x, mix), rs.Info(jax.numpy.zeros(mixer.num_workers))

    return method(mixer, lambda key, x: (x, mixer.init(x)), step, params=lambda s: s[0])


def picture(found: pd.DataFrame) -> Figure:
    """How many times its parts a step takes; the line is what it should stay below."""
    return bars(found, "over its parts", target=1.5)
