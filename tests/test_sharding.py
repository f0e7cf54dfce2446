"""Workers over devices: the same results as on one, and few rows between them."""

import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from benchmarks.devices import collectives, cut_edges
from relaysim import topology
from relaysim.mixing.halo import _halo
from relaysim.sharding import depth_first, fetch, place, renumber

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "devices.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
N, D, S = 16, 3, 4
key = jax.random.key(0)
mesh = rs.sharding.mesh()


def noisy_grad(key, step, x):
    """Of ½ ‖x − i‖² at worker i, with noise."""
    away = x - jnp.arange(len(x), dtype=x.dtype)[:, None]
    places = x.shape[1] * jnp.arange(len(x))[:, None] + jnp.arange(x.shape[1])[None]
    noise = jnp.cos(step + jax.random.key_data(key)[-1] % 100 + places).astype(x.dtype)  # cheap to compile
    return jnp.sum(away**2, 1) / 2, away + noise


def run(algorithm, params, **options):
    return rs.simulate(key, algorithm, params, num_steps=6, every=3, **options)


def relay(tree, **options):
    return lambda mesh: rs.relaysgd(
        noisy_grad, rs.relay_sum(tree, mesh=mesh, **options), optax.sgd(0.1, momentum=0.9)
    )


random_tree = topology.random_tree(N, 0)
METHODS = {
    "one peer": lambda mesh: rs.push_sum(
        noisy_grad, rs.one_peer_exponential(N, rounds=3, drop=0.3, mesh=mesh), optax.sgd(0.1)
    ),
    "relay_sum": relay(random_tree),
    "relay_sum, lost, local": relay(random_tree, drop=0.3, fill="local"),
    "relay_sum, lost, count": relay(topology.star(N), drop=0.3, fill="count"),
    "relay_sum, two trees": relay(topology.double_binary_trees(N), drop=0.3),
    "gossip, lost": lambda mesh: rs.gradient_tracking(
        noisy_grad, rs.gossip(topology.grid(4, 4), drop=0.3, mesh=mesh), optax.sgd(0.1)
    ),
    "time-varying, lost": lambda mesh: rs.d2(
        noisy_grad, rs.time_varying(topology.base(N, 2), drop=0.3, mesh=mesh), optax.sgd(0.1)
    ),
    "push, lost": lambda mesh: rs.push_sum(
        noisy_grad, rs.push(topology.exponential(N), drop=0.3, mesh=mesh), optax.adam(0.1)
    ),
}


SELDOM = ["relay_sum, lost, local", "relay_sum, two trees", "gossip, lost"]  # of two like them, one is enough


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in METHODS]
)
def test_workers_over_devices_learn_the_same(name, x64):
    start = np.random.default_rng(0).normal(size=(N, D))
    plain = run(METHODS[name](None), start)
    spread = run(METHODS[name](mesh), place(start, mesh))
    for expected, leaf in zip(jax.tree.leaves(plain.state), jax.tree.leaves(spread.state), strict=True):
        if leaf.shape[:1] == (N,):
            assert leaf.sharding.shard_shape(leaf.shape)[0] == N // S
            np.testing.assert_allclose(leaf, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(spread.metrics["loss"], plain.metrics["loss"], rtol=1e-12)


def test_parameters_can_lie_over_a_second_axis(x64):
    both = jax.make_mesh((2, 2), ("workers", "params"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    start = np.random.default_rng(0).normal(size=(N, 4))
    plain = run(relay(random_tree)(None), start)
    spread = jax.device_put(start, jax.NamedSharding(both, jax.P("workers", "params")))
    trace = run(relay(random_tree)(both), spread)
    np.testing.assert_allclose(trace.params, plain.params, rtol=1e-12)
    assert trace.state.method.mix.up.sharding.shard_shape((N, 4)) == (N // 2, 2)


in_order = renumber(random := topology.random_tree(512, 0), depth_first(random))
grid = topology.grid(16, 32)


@pytest.mark.parametrize(
    ("graph", "mixer"),
    [
        pytest.param(in_order, rs.relay_sum(in_order, mesh=mesh), id="relay_sum"),
        pytest.param(grid, rs.gossip(grid, drop=0.1, mesh=mesh), id="gossip"),
    ],
)
def test_only_rows_that_cross_are_sent(graph, mixer):
    n, dim = graph.num_workers, 50
    algorithm = rs.dpsgd(noisy_grad, mixer, optax.sgd(0.1))

    def measure(x):
        return {"consensus_distance": rs.metrics.consensus_distance(x)}

    params = place(np.zeros((n, dim), np.float32), mesh)
    whole = jax.jit(lambda key, params: run(algorithm, params, measure=measure))
    sent = 0
    for name, elements, pairs in collectives(whole.lower(key, params).compile().as_text()):
        if name == "collective-permute":
            sent += pairs * elements
        else:  # a mean over all workers, or the steps (n,) when they broke: not a step's business
            assert elements <= max(n, dim + 1)
    assert 0 < sent <= 2 * cut_edges(graph, S) * dim


@pytest.mark.parametrize("over", [None, mesh], ids=["one device", "mesh"])
@pytest.mark.parametrize("mixer", [rs.relay_sum, rs.gossip])
def test_a_broken_worker_breaks_its_neighbours_alone(mixer, over):
    x = jnp.ones((8, 1))
    mix = mixer(topology.spanning_tree(topology.grid(2, 4)), mesh=over)
    mixed = jax.jit(lambda x: mix.mix(key, 0, mix.init(jnp.ones_like(x)), x)[1])(x.at[0].set(jnp.nan))
    np.testing.assert_array_equal(
        np.isnan(mixed[:, 0]), [True, True, False, False, True, False, False, False]
    )


graphs = st.builds(
    lambda n, pairs: topology.from_edges(n, [(a, b) for a, b in pairs if a < n and b < n and a != b], True),
    st.sampled_from([4, 8, 20]),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=60),
)


@settings(deadline=None, max_examples=50)
@given(graphs, st.sampled_from([1, 2, 4]), st.sampled_from([0, 8]))
def test_each_device_gets_each_row_that_it_needs_once(graph, devices, wide):
    n, senders, receivers = graph.num_workers, graph.senders, graph.receivers
    size = n // devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relaysim.mixing.halo.WIDE", wide)
        halo = _halo(senders, receivers, n, rs.sharding.mesh(jax.devices()[:devices]))
    own, send = np.arange(n).reshape(devices, size), halo.send.reshape(devices, -1)
    held = np.concatenate([own, np.full((devices, halo.width), -1)], axis=1)
    sent = 0
    for pairs, at in halo.rounds:
        assert all(len(set(ends)) == len(pairs) for ends in zip(*pairs, strict=True))
        for here, there in pairs:
            places = np.arange(halo.width)[at]
            held[there, size + places] = own[here, send[here, places]]
            sent += len(places)
    np.testing.assert_array_equal(held[receivers // size, halo.senders], senders)
    needed = {(s, r // size) for s, r in zip(senders, receivers, strict=True) if s // size != r // size}
    assert sent == len(needed)


def test_a_halo_has_room_for_what_comes_in_not_for_all_distances():
    devices, size = 64, 4
    mesh = SimpleNamespace(devices=np.arange(devices), axis_names=("workers",))  # none of which is needed
    senders = np.arange(devices * size)
    receivers = size * (devices - 1 - senders // size)  # the first worker of the opposite device
    halo = _halo(senders, receivers, devices * size, mesh)
    assert halo.width == size and len(halo.rounds) == 1


# The order of the workers


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([1, 2, 3, 30, 200]), st.integers(0, 2**16))
def test_depth_first_cuts_at_most_log_n_parents_off(n, seed):
    for tree in (topology.random_tree(n, seed), topology.random_recursive_tree(n, seed)):
        order = depth_first(tree)
        parent = topology.rooted(renumber(tree, order)).parent
        assert order[0] == 0
        assert (parent <= np.arange(n)).all()
        for k in range(1, n):
            assert len(np.unique(parent[k:][parent[k:] < k])) <= math.log2(n)


def test_a_run_in_another_order_is_the_same_run(x64):
    order = depth_first(random_tree)
    A, b = np.random.default_rng(0).normal(size=(N, D, D)), np.random.default_rng(1).normal(size=(N, D))
    trace = run(rs.relaysgd(rs.tasks.quadratics(A, b).grad, rs.relay_sum(random_tree), optax.sgd(0.1)), 0 * b)
    task, tree = rs.tasks.quadratics(A[order], b[order]), renumber(random_tree, order)
    moved = run(rs.relaysgd(task.grad, rs.relay_sum(tree, mesh=mesh), optax.sgd(0.1)), place(0 * b, mesh))
    np.testing.assert_allclose(moved.params, trace.params[order], rtol=1e-12)


def test_renumber_keeps_directions():
    graph = renumber(topology.from_edges(3, [(0, 1), (1, 2)], directed=True), np.array([2, 0, 1]))
    assert sorted(graph.edges.tolist()) == [[1, 2], [2, 0]]


# Sweeps


def test_runs_over_devices_are_the_same():
    def one(learning_rate, key):
        method = rs.dpsgd(noisy_grad, rs.gossip(topology.ring(4)), optax.sgd(learning_rate))
        return rs.simulate(key, method, jnp.ones((4, D)), num_steps=4, every=2)

    axes = {"learning_rate": [0.1, 0.2, 0.4], "key": jax.random.split(key, 2)}
    spread = rs.sweep(one, together=3, mesh=mesh, **axes)
    pd.testing.assert_frame_equal(spread, rs.sweep(one, **axes), rtol=1e-6)


def test_runs_are_dealt_out_to_all_devices():
    table = rs.sweep(lambda x: {"device": jax.lax.axis_index("workers")}, mesh=mesh, x=np.arange(7.0))
    assert table.device.tolist() == [0, 0, 1, 1, 2, 2, 3]


# Several processes


def started(script, k, cwd):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={S // k}"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, address, str(k)]
    return [subprocess.Popen([*command, str(i)], cwd=cwd, env=env) for i in range(k)]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path, monkeypatch):
    (script,) = [block for block in BLOCKS if block.startswith("# run.py")]
    whole = "assert models.shape == (16, 10) and trace.params.is_fully_addressable == (processes == 1)"
    two = started(script + whole, 2, tmp_path)
    try:
        monkeypatch.chdir(tmp_path)
        exec(script.split("process)\n")[-1] + whole, {"jax": jax, "processes": 1, "process": 0})
        assert [process.wait(timeout=200) for process in two] == [0, 0]
    finally:
        for process in two:
            process.kill()
    one, two = (pd.read_csv(tmp_path / f"{k}.csv") for k in (1, 2))
    assert {"suboptimality", "loss"} < set(one.metric)
    pd.testing.assert_frame_equal(two, one, rtol=1e-6)


def test_the_rest_of_the_guide_runs():
    names = {}
    for block in BLOCKS:
        if not block.startswith("# run.py"):
            exec(block, names)
    np.testing.assert_allclose(names["former"][names["order"]], names["trace"].params)


def test_fetch_gives_numpy():
    fetched = fetch({"x": place(np.arange(8.0), mesh), "y": jnp.ones(2)})
    assert {type(leaf) for leaf in jax.tree.leaves(fetched)} == {np.ndarray}
    np.testing.assert_array_equal(fetched["x"], np.arange(8.0))


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rs.relay_sum(topology.chain(6), mesh=mesh),
            "mesh has 4 devices, expected a divisor of the 6",
        ),
        (lambda: rs.gossip(topology.ring(6), mesh=mesh), "mesh has 4 devices, expected a divisor of the 6"),
        (lambda: place(np.ones((6, 2)), mesh), "mesh has 4 devices, expected a divisor of the 6"),
        (
            lambda: rs.relay_sum(topology.chain(8), mesh=jax.make_mesh((4,), ("w",))),
            "expected one of AxisType",
        ),
        (lambda: rs.sweep(lambda x: {"x": x}, x=[1.0], mesh=4), "mesh is 4, expected one of AxisType.Auto"),
        (lambda: renumber(topology.chain(3), np.array([0, 1, 1])), "order must be a permutation of the 3"),
        (lambda: depth_first(topology.ring(4)), "tree 'ring' has 4 edges"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
