"""Events per second of methods without barriers, against a plain queue of events: the slow NumPy twins of the
tests.

The problem is f_i(x) = ½ ‖x − b_i‖², as in `loops`. Times are those of a compiled program; "laid out and run"
lays the order of the events out anew each time, which has to be done once for however many runs.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from matplotlib.figure import Figure

import relaysim as rs
from benchmarks.drawing import bars
from benchmarks.timing import Row, interleaved, row, table
from relaysim import asynchronous, timing
from tests import asynchronous_twins as twins

GAMMA, D = 0.05, 100
RUN, ALL, TWIN = "run", "laid out and run", "NumPy queue of events"
TARGET = 50
"""Times the queue of events, at n = 1000."""
NETWORK = timing.Network(compute=timing.lognormal(0.1, 0.3), latency=0.01)


class Case(NamedTuple):
    name: str
    make: Callable
    graph: rs.Topology
    twin: Callable
    """(key, b, neighbours, events) -> the models after so many events."""


def cases(n: int) -> list[Case]:
    ring, tree = rs.topology.ring(n), rs.topology.binary_tree(n)

    def averages(key: Any, b: np.ndarray, neighbours: list, events: int) -> np.ndarray:
        calls = twins.random_partners(key, neighbours, 64)
        problem = np.zeros(b.shape), lambda i, x: x - b[i], GAMMA, calls
        made = twins.exchange(*problem, key, NETWORK, 64, events, 4 * D, copy=False)
        return next(itertools.islice(made, events - 1, None))[-1].copy()

    def one_way(make: Callable) -> Callable:
        def twin(key: Any, b: np.ndarray, neighbours: list, events: int) -> np.ndarray:
            worker = make(np.zeros(b.shape), lambda i, x: x - b[i], GAMMA, neighbours)
            for _ in twins.one_way(worker, key, NETWORK, neighbours, 64, events, 4 * D):
                pass
            return worker.models()

        return twin

    return [
        Case("AD-PSGD, ring", asynchronous.ad_psgd, ring, averages),
        Case("push-sum, ring", asynchronous.push_sum, ring, one_way(twins.PushSum)),
        Case("SWIFT, ring", asynchronous.swift, ring, one_way(twins.Swift)),
        Case("RelaySGD, binary tree", asynchronous.relaysgd, tree, one_way(twins.RelaySGD)),
        Case("RelaySGD/Grad, binary tree", asynchronous.relaysgd_grad, tree, one_way(twins.RelaySGDGrad)),
    ]


def compare(case: Case, events: int, twin_events: int, rounds: int) -> list[Row]:
    n = case.graph.num_workers
    b, key = jax.random.normal(jax.random.key(0), (n, D)), jax.random.key(1)
    exact, start = np.asarray(b, np.float64), jnp.zeros((n, D))

    def grad(key: Any, workers: Any, steps: Any, x: Any) -> Any:
        return jnp.zeros(len(workers)), x - b[workers]

    method = case.make(grad, case.graph, optax.sgd(GAMMA))
    neighbours = [sorted(case.graph.receivers[case.graph.senders == i].tolist()) for i in range(n)]

    def laid_out(events: int = events) -> Any:
        return asynchronous.lay_out(key, method, NETWORK, start, num_events=events)

    def twin() -> np.ndarray:
        return case.twin(key, exact, neighbours, twin_events)

    order = laid_out()
    found = asynchronous.replay(key, method, laid_out(twin_events), start).params
    np.testing.assert_allclose(twin(), found, atol=1e-4, err_msg=case.name)
    runs: dict[str, Callable[[], Any]] = {
        RUN: lambda: asynchronous.replay(key, method, order, start).params,
        ALL: lambda: asynchronous.replay(key, method, laid_out(), start).params,
        TWIN: twin,
    }
    times = interleaved(runs, rounds)
    rates = {
        name: (twin_events if name == TWIN else events) / np.array(values) for name, values in times.items()
    }
    rows = [row(case.name, n, D, f"events/s, {name}", rate, "higher") for name, rate in rates.items()]
    for name in (RUN, ALL):
        rows.append(row(case.name, n, D, f"times the twin, {name}", rates[name] / rates[TWIN], "higher"))
    return rows


def run(smoke: bool = False) -> pd.DataFrame:
    """Events per second, and how many times as many as the twin's."""
    n, events, twin_events, rounds = (20, 200, 100, 1) if smoke else (1000, 50_000, 2000, 5)
    return table("asynchronous", [r for case in cases(n) for r in compare(case, events, twin_events, rounds)])


def picture(measured: pd.DataFrame) -> Figure:
    """Bars of how many times as fast."""
    return bars(measured, f"times the twin, {ALL}", target=TARGET)
