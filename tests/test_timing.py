"""Dates of steps against an event queue; networks, their distributions and what runs make of them."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import relaysim as rs
from relaysim import topology
from relaysim.mixing.deal import at_once, deal
from relaysim.timing import Network, seconds
from relaysim.types import Lasting, Messages

KEY = jax.random.key(0)


def grad(key, step, x):
    return (x**2).sum(1), x


def twin(calls, num_bytes, compute, latency, upload=np.inf, download=np.inf, down=(), timeout=0.0):
    """The same by an event queue: compute (num_steps, n), latency (n, n). -> (num_steps, n)

    Those in `down` send and get nothing.
    """
    num_steps, n = compute.shape
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
                heapq.heappush(queue, (out_free[sender] + latency[sender, receiver], receiver, size, sender))
            lost = [to for at, to in zip(r.senders, r.receivers, strict=True) if {at, to} & set(down)]
            queue = [event for event in queue if event[3] not in down and event[1] not in down]
            heapq.heapify(queue)
            ready, done = done, done.copy()
            done[lost] = ready[lost] + timeout
            while queue:
                arrives, receiver, size, _ = heapq.heappop(queue)
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


def random_network(n, seed, **more):
    """Numbers of a network, as the twin takes them too."""
    random = np.random.default_rng(seed)
    latency, (upload, download) = random.uniform(0, 0.5, (n, n)), random.uniform(100, 1000, (2, n))
    return {"latency": latency, "upload": upload, "download": download, **more}, random.uniform(0.5, 2, n)


@pytest.mark.parametrize("name", mixers(11))
def test_dates_are_those_of_an_event_queue(name):
    n, T, mixer = 11, 9, mixers(11)[name]
    numbers, compute = random_network(n, seed=len(name))
    network, models = Network(compute=compute, **numbers), np.zeros((n, 25), np.float32)
    found = seconds(KEY, network, of(mixer, 2), models, num_steps=T, every=[1, 2, 5, T])
    expected = twin(mixer.messages(), 200, np.broadcast_to(compute, (T, n)), **numbers)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected[[0, 1, 4, T - 1]], rtol=0, atol=1e-11)


def test_what_is_drawn_and_many_messages_at_once():
    """Compute times and latencies that are drawn, and more messages than are compared pairwise."""
    n, T, mixer = 40, 4, rs.gossip(topology.star(40))
    network = Network(
        compute=rs.timing.lognormal(0.5, 1), latency=rs.timing.shifted_exponential(0.1, 0.2), download=50
    )
    i, j = np.meshgrid(range(n), range(n), indexing="ij")
    latency, compute = network.latencies(KEY, i, j), network.compute_times(KEY, np.arange(T), n)
    np.testing.assert_array_equal(latency, latency.T)
    assert len(np.unique(latency)) == n * (n + 1) // 2 and len(np.unique(compute)) == n * T
    found = seconds(KEY, network, of(mixer), np.zeros((n, 2), np.float32), num_steps=T)
    expected = twin(mixer.messages(), 8, compute, latency, download=50)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    with jax.enable_x64(True):
        same = seconds(KEY, network, of(mixer), np.zeros((n, 2), np.float32), num_steps=T)
    np.testing.assert_array_equal(found, same)


def test_measured_compute_times():
    n, T, mixer = 6, 7, rs.gossip(topology.ring(6))
    numbers, _ = random_network(n, seed=0)
    table = np.random.default_rng(1).uniform(0.5, 2, (5, n))
    found = seconds(KEY, Network(table, **numbers), of(mixer), np.zeros((n, 5), np.float32), num_steps=T)
    expected = twin(mixer.messages(), 20, table[np.arange(T) % 5], **numbers)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_trees_that_change_are_dated_as_they_are_then():
    n, T, chain, star, tree = 7, 8, topology.chain(7), topology.star(7), topology.binary_tree(7)
    numbers, compute = random_network(n, seed=0)
    models = np.zeros((n, 4), np.float32)

    def then_star(first):
        return [[Messages(t.senders, t.receivers)] for t in [first] * 3 + [star] * (T - 3)]

    two = [rs.relay_sum([first, star], starts=[0, 3]) for first in (chain, tree)]
    halves = at_once([then_star(chain), then_star(tree)])
    for mixer, calls, size in ((two[0], then_star(chain), 16), (deal(two), halves, 8)):
        found = seconds(KEY, Network(compute, **numbers), of(mixer), models, num_steps=T)
        expected = twin(calls, size, np.broadcast_to(compute, (T, n)), **numbers)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)

    churn = rs.faults.Churn(n, [(i, 0, 5 if i == 6 else np.inf) for i in range(n)])
    alone = Network(np.where(np.arange(n) == 6, 9.0, 1.0))  # 6 is slow, and nobody waits when it has left
    found = seconds(KEY, alone, of(rs.relay_sum(star, churn=churn)), models, num_steps=T)
    assert found[4:, 0].tolist() == [45.0, 46.0, 47.0, 48.0]


def test_calls_go_round_beside_others_that_last():
    calls = [[Messages(np.array([i]), np.array([9]))] for i in range(5)]
    together = at_once([Lasting(calls[:3]), calls[3:]])
    assert isinstance(together, Lasting)
    assert [call[0].senders.tolist() for call in together] == [[0, 3], [1, 4], [2, 3]]


def test_a_lost_message_is_waited_for():
    n, T, mixer = 8, 5, rs.gossip(topology.ring(8))
    numbers, compute = random_network(n, seed=0)
    network = Network(compute=compute, drop=rs.faults.Outage([2, 3], 0, T), timeout=3.0, **numbers)
    found = seconds(KEY, network, of(mixer), np.zeros((n, 5), np.float32), num_steps=T)
    expected = twin(
        mixer.messages(), 20, np.broadcast_to(compute, (T, n)), **numbers, down=(2, 3), timeout=3.0
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_as_many_messages_are_lost_as_the_network_says():
    n, T, mixer = 64, 100, rs.one_peer_exponential(64)
    network = Network(drop=0.2, timeout=1.0)  # all start together, and then one more second at each loss
    found = seconds(KEY, network, of(mixer), np.zeros((n, 5), np.float32), num_steps=1)
    many = jax.vmap(lambda key: seconds(key, network, of(mixer), np.zeros((n, 5), np.float32), num_steps=1))
    lost = np.asarray(many(jax.random.split(KEY, T)))
    assert set(np.unique(lost)) == set(np.unique(found)) == {0.0, 1.0}
    assert abs(lost.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / lost.size)


# Distributions and networks


@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"),
    [
        (rs.timing.lognormal(2.0, 0.5), 2.0, 2.0 * np.sqrt(np.exp(0.25) - 1)),
        (rs.timing.shifted_exponential(1.0, 0.5), 1.5, 0.5),
        (0.1 * rs.timing.stragglers(0.25, 4.0), 0.175, 0.1 * 3 * np.sqrt(0.25 * 0.75)),
        (rs.timing.of_worker(rs.timing.shifted_exponential(1.0, 0.5)), 1.5, 0.5),
        (np.full(4000, 0.1) * rs.timing.constant(2.0), 0.2, 0.0),
    ],
    ids=["lognormal", "shifted exponential", "stragglers", "of workers", "constant"],
)
def test_moments_of_distributions(distribution, mean, deviation):
    n = 4000
    times = Network(compute=distribution).compute_times(KEY, np.arange(3), n)
    assert abs(times.mean() - mean) < 4 * deviation / np.sqrt(3 * n) + 1e-12
    assert times.std() == pytest.approx(deviation, rel=0.1, abs=1e-12)
    fixed = not distribution.of_step
    assert (times[0] == times[1]).all() == fixed


def test_a_share_of_the_workers_are_stragglers():
    for n, counts in ((20, {2}), (16, {1, 2})):
        network = Network(compute=rs.timing.stragglers(0.1, 4.0))
        times = [network.compute_times(jax.random.key(seed), np.arange(1), n) for seed in range(50)]
        assert set((np.stack(times) == 4).sum((1, 2))) == counts


def test_regions_have_half_of_the_measured_round_trips_one_way():
    for cloud, count in (("gcp", 20), ("aws", 19)):
        names, trips = rs.timing.round_trips(cloud)
        assert len(names) == count and trips.shape == (count, count) and (trips > 0).all()
        network = rs.timing.regions(cloud, count + 1)
        i, j = np.meshgrid(range(count), range(count), indexing="ij")
        np.testing.assert_allclose(network.latencies(KEY, i, j), trips / 2, rtol=1e-15)
        np.testing.assert_allclose(network.latencies(KEY, [count], [1]), trips[0, 1] / 2, rtol=1e-15)
    names, trips = rs.timing.round_trips("gcp")
    assert (
        trips[names.index("asia-east1"), names.index("asia-east2")] == 18.908e-3
    )  # in the table's second row


def test_ready_made_networks_are_as_fast_as_their_names():
    made = [
        rs.timing.datacenter(),
        rs.timing.lan(),
        rs.timing.wan(),
        rs.timing.home(),
        rs.timing.regions("aws", 8),
    ]
    method, models = of(rs.relay_sum(topology.binary_tree(8))), np.zeros((8, 10**5), np.float32)
    ends = [seconds(KEY, network, method, models, num_steps=10, every=10).max() for network in made]
    assert 1 < ends[0] < ends[1] < ends[2] < ends[3] and ends[1] < ends[4]


# Runs


def tiny(n=6):
    task = rs.tasks.random_quadratics(jax.random.key(0), n, 3)
    return task, lambda: rs.dpsgd(task.grad, rs.gossip(topology.ring(n)), optax.sgd(0.1))


def test_a_run_on_a_network_is_the_run_with_dates():
    (task, make), network = tiny(), rs.timing.home(0.1 * rs.timing.stragglers(0.2, 3.0))
    method, params = make(), task.init(KEY)
    plain = rs.simulate(KEY, method, params, num_steps=20, every=5)
    trace = rs.simulate(KEY, method, params, num_steps=20, every=5, network=network)
    found, waited = trace.metrics["seconds"], trace.metrics["waited"]
    np.testing.assert_array_equal(trace.params, plain.params)
    np.testing.assert_array_equal(found, seconds(KEY, network, method, params, num_steps=20, every=5))
    np.testing.assert_array_equal(found, plain.dated(network, KEY).metrics["seconds"])
    compute = network.compute_times(KEY, np.arange(20), 6)
    np.testing.assert_allclose((1 - waited) * found, np.cumsum(compute, axis=0)[4::5], rtol=1e-12)

    first = rs.simulate(KEY, method, params, num_steps=10, every=5)
    rest = rs.simulate(KEY, method, state=first.state, num_steps=10, every=5, network=network)
    np.testing.assert_array_equal(rest.metrics["seconds"], found[2:])
    assert jax.tree.structure(trace) == jax.tree.structure(plain.dated(network, KEY))
    assert set(rs.io.tidy(trace).metric) >= {"seconds", "waited"}


@pytest.mark.slow
def test_many_runs_and_many_networks_at_once():
    (task, make), network = tiny(), rs.timing.lan(rs.timing.lognormal(0.1, 0.5))
    method, params, keys = make(), task.init(KEY), jax.random.split(KEY, 3)

    def run(key):
        return rs.simulate(key, make(), params, num_steps=4, every=2, network=network)

    each = np.stack([seconds(key, network, method, params, num_steps=4, every=2) for key in keys])
    traces = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(traces.metrics["seconds"], each, rtol=1e-14)
    dated = jax.vmap(lambda trace, key: trace.dated(network, key).metrics["seconds"])(traces, keys)
    np.testing.assert_allclose(dated, each, rtol=1e-14)

    of_latency = jax.vmap(lambda v: seconds(KEY, Network(1.0, v, download=v), method, params, num_steps=3))
    one = [seconds(KEY, Network(1.0, v, download=v), method, params, num_steps=3) for v in (0.5, 2.0)]
    np.testing.assert_allclose(of_latency(jnp.array([0.5, 2.0])), one, rtol=1e-14)


def test_a_hundred_thousand_workers():
    n = 10**5
    found = seconds(
        KEY,
        rs.timing.wan(rs.timing.lognormal(0.1, 0.3)),
        of(rs.relay_sum(topology.binary_tree(n))),
        jax.ShapeDtypeStruct((n, 100), jnp.float32),
        num_steps=3,
        every=3,
    )
    assert found.shape == (1, n) and np.isfinite(found).all() and (found > 0.2).all()


def test_curves_go_along_seconds():
    task, make = tiny()
    traces = [rs.simulate(jax.random.key(seed), make(), task.init(KEY), num_steps=6, every=2,
                          measure=task.measure, network=rs.timing.wan()) for seed in (1, 2)]  # fmt: skip
    ax = rs.plot.curves({"D-PSGD": traces}, "loss", x="seconds", band="lines")
    along = np.concatenate([trace.metrics["seconds"] for trace in traces], 1)
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), along.mean(1))
    np.testing.assert_allclose(ax.lines[9].get_xdata(), along[:, 9])
    assert ax.get_xlabel() == "seconds"


def test_comparisons_are_dated_too():
    task, _ = tiny()
    found = rs.compare(
        {"D-PSGD": lambda task, rate: rs.dpsgd(task.grad, rs.gossip(topology.ring(6)), optax.sgd(rate))},
        {"quadratics": task}, num_steps=6, every=2, seeds=2, rates=0.1, metric="suboptimality", mode="min",
        network=rs.timing.wan(), progress=False,
    )  # fmt: skip
    ends = found.curves.query("metric == 'seconds' and step == 6").value.to_numpy()
    assert len(ends) == 2 and ends[0] != ends[1] and (ends > 0.6).all()
    line = found.plot(x="seconds").axes[0].lines[0]
    assert line.get_xdata()[-1] == pytest.approx(
        ends.mean()
    ) and found.table.seconds.tolist() == pytest.approx(ends)


def test_a_slow_step_travels_a_hop_a_step(tmp_path):
    from click.testing import CliRunner

    from relaysim import cli

    done = CliRunner().invoke(cli.app, ["study", "stragglers", "--smoke", "--out", str(tmp_path)])
    assert done.exit_code == 0 and (tmp_path / "stragglers.png").exists()
    table = pd.read_csv(tmp_path / "stragglers.csv")
    even = table[table.times == "every step takes 1 s"]
    waited = even.pivot_table(index="graph", columns=["worker", "step"], values="waited")
    ring, all_reduce = (waited.loc[graph].to_numpy().reshape(16, -1) for graph in ("ring", "all-reduce"))
    hops = np.minimum(abs(np.arange(16) - 8), 16 - abs(np.arange(16) - 8))
    expected = np.zeros_like(ring)
    expected[np.arange(16), 5 + np.maximum(hops - 1, 0)] = 5.0 * (hops > 0)
    np.testing.assert_allclose(ring, expected, atol=1e-9)
    np.testing.assert_allclose(all_reduce[:, 5], 5.0 * (hops > 0), atol=1e-9)
