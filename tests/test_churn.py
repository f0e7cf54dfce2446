"""Workers that come and go: who is there, what they come back with, and trees that mend themselves."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from relaysim import topology
from relaysim.faults import Churn, pause
from relaysim.mixing.hung import Trees, hung_in
from relaysim.mixing.relay import relay

KEY, N, CHANGES = jax.random.key(0), 7, 4


# Who is there


def test_sessions_say_who_is_there():
    churn = Churn(3, [(2, 1.5, np.inf), (0, 0, 4), (0, 6, 8), (0, 8, 9)])
    there = [[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1]]
    times = [0, 1, 2, 4, 5, 6, 8, 9]
    np.testing.assert_array_equal(churn.present(times), np.array(there, bool))
    np.testing.assert_array_equal(churn.steps, [0, 2, 4, 6, 9])  # at 8 nothing changes
    for time, row in zip(times, there, strict=True):
        np.testing.assert_array_equal(churn.is_down(np.arange(3), time), 1 - np.array(row))


def test_random_churn_has_its_shares_and_lengths():
    churn = Churn.random(KEY, 500, 1000, present=60, absent=20)
    there = churn.present(np.arange(0, 1000, 50))
    assert abs(there.mean(1) - 0.75).max() < 4 * np.sqrt(0.75 * 0.25 / 500)
    lengths = np.diff(churn.sessions[:, 1:])[np.isfinite(churn.sessions[:, 2]) & (churn.sessions[:, 1] > 0)]
    assert 45 < lengths.mean() < 60  # cut short at the end
    np.testing.assert_array_equal(churn.present([1000]), churn.present([10**6]))
    again = Churn.random(KEY, 500, 1000, present=60, absent=20)
    np.testing.assert_array_equal(churn.sessions, again.sessions)


def test_a_diurnal_pattern_repeats_itself_every_day():
    churn = Churn.diurnal(KEY, 200, 96, period=24, share=0.4)
    there = churn.present(np.arange(96)).reshape(4, 24, 200)
    assert (there == there[0]).all() and abs(there.mean() - 0.4) < 0.02
    assert there[0].mean(1).min() > 0.2 and there[0].mean(1).max() < 0.6
    together = Churn.diurnal(KEY, 5, 96, period=24, share=0.5, spread=0).present(np.arange(96))
    assert set(together.sum(1)) == {0, 5} and together[:12].all()


# What they come back with


def test_what_workers_start_from_that_come_back():
    ring = topology.ring(6)
    churn = Churn(6, [(i, 0, np.inf) for i in (0, 2, 4, 5)] + [(1, 0, 1), (1, 3, 9), (3, 0, 2), (3, 3, 9)])
    x = jnp.arange(6.0)[:, None]
    alone = rs.dpsgd(lambda key, step, x: (0 * x[:, 0], 0 * x), rs.gossip(ring, drop=1.0), optax.sgd(1.0))
    moved = {"own": [0, 1, 2, 3, 4, 5], "neighbour": [0, 0, 2, 2, 4, 5], "mean": [0, 1, 2, 3, 4, 5]}
    for start, expected in moved.items():
        method = pause(alone, churn, start=start, topology=ring)
        found = rs.simulate(KEY, method, x, num_steps=5).params
        np.testing.assert_array_equal(found[:, 0], expected)
    uneven = x.at[2].set(8.0)
    found = rs.simulate(KEY, pause(alone, churn, start="mean", topology=ring), uneven, num_steps=5).params
    np.testing.assert_array_equal(found[:, 0], [0, 4, 8, 6, 4, 5])  # (0 + 8) / 2 and (8 + 4) / 2


@pytest.mark.parametrize(
    "mixer",
    [lambda drop: rs.push(topology.exponential(8), drop=drop), lambda d: rs.one_peer_exponential(8, drop=d)],
    ids=["exponential graph", "one peer"],
)
def test_push_sum_keeps_its_mass(mixer, x64):
    churn = Churn.random(KEY, 8, 60, present=10, absent=5)
    method = rs.push_sum(lambda key, step, x: (0 * x[:, 0], 0 * x), mixer(churn), optax.sgd(1.0))
    x = jax.random.normal(KEY, (8, 3))
    for start in ("own", "mean"):
        runs = pause(method, churn, start=start, topology=topology.ring(8))
        state = rs.simulate(KEY, runs, x, num_steps=80).state.method
        assert state.weight.sum() == pytest.approx(8)
        if start == "own":
            np.testing.assert_allclose(state.numerator.sum(0), x.sum(0))


def test_gossip_goes_on_among_those_that_are_there():
    churn = Churn(6, [(i, 0, np.inf) for i in range(4)])  # a chain of 4 is left of the ring
    method = pause(rs.dpsgd(lambda k, t, x: (0 * x[:, 0], 0 * x), rs.gossip(topology.ring(6), drop=churn),
                            optax.sgd(1.0)), churn)  # fmt: skip
    x = jnp.arange(6.0)[:, None]
    found = rs.simulate(KEY, method, x, num_steps=300).params[:, 0]
    np.testing.assert_array_equal(found[4:], [4, 5])
    np.testing.assert_allclose(found[:4], found[0], rtol=1e-4)
    assert 0 < found[0] < 3


# Trees that mend themselves


def test_grandparents_adopt():
    tree = topology.binary_tree(8)  # 0 - 1, 1 - 2, 3; 2 - 4, 5; 3 - 6, 7
    away = lambda *workers: ~np.isin(np.arange(8), workers)  # noqa: E731
    assert topology.adopted(tree, away()).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert topology.adopted(tree, away(2)).tolist() == [0, 0, 2, 1, 1, 1, 3, 3]
    assert topology.adopted(tree, away(1, 2)).tolist() == [0, 1, 2, 0, 0, 0, 3, 3]
    assert topology.adopted(tree, away(0, 1)).tolist() == [0, 1, 2, 2, 2, 2, 3, 3]
    assert topology.adopted(tree, ~away(6)).tolist() == list(range(8))


def test_a_spanning_tree_is_kept_as_far_as_it_can_be():
    ring, everybody = topology.ring(6), np.ones(6, bool)
    first = topology.spanning_forest(ring, everybody)
    assert first.tolist() == [0, 0, 1, 2, 5, 0]  # without the edge 3 - 4
    without = np.arange(6) != 1
    second = topology.spanning_forest(ring, without, first)
    assert second.tolist() == [0, 1, 3, 4, 5, 0]
    third = topology.spanning_forest(ring, everybody, second)
    assert third.tolist() == [0, 0, 3, 4, 5, 0]  # 3 - 4 stays
    parts = topology.spanning_forest(ring, np.isin(np.arange(6), [1, 2, 4]), third)
    assert parts.tolist() == [0, 1, 1, 3, 4, 5]


@jax.jit
def relayed(parents, steps, xs, ends):
    """RelaySum with counts over trees (E, n) from steps (E,) on, x (n, d) the same in all calls."""
    mixer = relay(Trees(N, hung_in(parents, steps), lambda: [[]], "random trees"), None, "count")

    def call(state, step):
        state, mixed = mixer.mix(KEY, step, state, xs)
        return state, (mixed, state.below[1] + state.down[1] + 1)

    _, (mixed, counts) = jax.lax.scan(call, mixer.init(xs), jnp.arange(4 * CHANGES + N))
    return mixed[ends], counts


@given(
    st.lists(st.integers(0, N - 1), min_size=N - 1, max_size=N - 1),
    st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=CHANGES, max_size=CHANGES),
    st.lists(st.integers(1, 4), min_size=CHANGES, max_size=CHANGES),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_sums_are_exact_a_diameter_after_the_last_change(above, present, gaps, more_edges):
    """Random trees or graphs, random departures and returns: nobody is missing and nobody counted twice."""
    edges = [(min(p, i), i + 1) for i, p in enumerate(above)]
    edges += [(i, (i + 3) % N) for i in range(N)] if more_edges else []
    graph, present = topology.from_edges(N, edges), np.array(present)
    parents, steps = topology.forests([graph] * CHANGES, present), np.cumsum(gaps) - gaps[0]
    last = topology.from_edges(N, [(i, p) for i, p in enumerate(parents[-1]) if i != p])
    hops = np.full((N, N), np.inf)
    hops[np.diag_indices(N)] = 0
    for a, b in last.edges:
        hops[a, b] = hops[b, a] = 1
    for k in range(N):
        hops = np.minimum(hops, hops[:, [k]] + hops[[k]])
    diameter = max(int(hops[np.isfinite(hops)].max()), 1)
    reaches = np.isfinite(hops)
    assert not reaches[np.ix_(~present[-1], present[-1])].any()
    if graph.is_tree and present[-1].any():
        assert reaches[np.ix_(present[-1], present[-1])].all()

    x = np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32)
    mixed, counts = relayed(parents, steps, x, steps[-1] + diameter - 1)
    late = np.array(counts)[steps[-1] + diameter - 1 :]
    np.testing.assert_array_equal(late, np.broadcast_to(reaches.sum(1), late.shape))
    np.testing.assert_allclose(mixed, (reaches @ x) / reaches.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


def slow_relay(parents, x, fill):
    """Messages and counts by hand, over the tree of each call; what came over links that are gone is not."""
    n, came, out, last = len(x), {}, [], x
    for parent in parents:
        near = {i: [j for j in range(n) if i != j and (parent[i] == j or parent[j] == i)] for i in range(n)}
        sent = {}
        for i in range(n):
            for j in near[i]:
                others = [came.get((k, i), (0 * x[0], 0)) for k in near[i] if k != j]
                sent[i, j] = x[i] + sum(m for m, _ in others), 1 + sum(c for _, c in others)
        came, mixed = sent, []
        for i in range(n):
            total, count = x[i] + sum(sent[j, i][0] for j in near[i]), 1 + sum(sent[j, i][1] for j in near[i])
            stand_in = {"count": total / count, "local": x[i], "last": last[i]}[fill]
            mixed.append((total + (n - count) * stand_in) / n)
        last = np.stack(mixed)
        out.append(last)
    return np.stack(out)


@pytest.mark.parametrize("fill", ["count", "local", "last"])
def test_relaying_over_trees_that_change_equals_a_loop_over_messages(fill, x64):
    churn = Churn.random(KEY, 9, 30, present=9, absent=4)
    graph = topology.binary_tree(9) if fill == "last" else topology.grid(3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixer = rs.relay_sum(graph, churn=churn, fill=fill)
    x = np.random.default_rng(0).normal(size=(9, 2))
    steps = np.arange(35)
    parents = topology.forests([graph] * len(churn.steps), churn.present(churn.steps))
    parents = parents[np.searchsorted(churn.steps, steps, side="right") - 1]
    _, found = jax.lax.scan(lambda s, t: mixer.mix(KEY, t, s, x), mixer.init(x), jnp.arange(35))
    np.testing.assert_allclose(found, slow_relay(parents, x, fill), rtol=0, atol=1e-12)
    sends = mixer.messages()
    for step in (0, 7, len(sends) - 1):
        of_step = {(i, p) for i, p in enumerate(parents[step].tolist()) if i != p}
        pairs = set(zip(sends[step][0].senders.tolist(), sends[step][0].receivers.tolist(), strict=True))
        assert pairs == of_step | {(p, i) for i, p in of_step}


def test_trees_in_turn(x64):
    trees, starts = [topology.chain(5), topology.star(5), topology.random_tree(5, seed=3)], [0, 7, 12]
    mixer = rs.relay_sum(trees, starts=starts, fill="count")
    x = np.random.default_rng(0).normal(size=(5, 2))
    _, found = jax.lax.scan(lambda s, t: mixer.mix(KEY, t, s, x), mixer.init(x), jnp.arange(20))
    parents = [topology.rooted(trees[sum(t >= start for start in starts) - 1]).parent for t in range(20)]
    np.testing.assert_allclose(found, slow_relay(parents, x, "count"), rtol=0, atol=1e-12)
    for end, tree in zip((7, 12, 20), trees, strict=True):
        np.testing.assert_allclose(found[end - 1], np.broadcast_to(x.mean(0), x.shape), atol=1e-12)
        assert topology.diameter(tree) <= 7


def test_a_graph_that_falls_apart_is_told():
    churn = Churn(6, [(i, 0, 4 if i in (1, 4) else np.inf) for i in range(6)])
    with pytest.warns(UserWarning, match="from step 4 on those that are there are 2 parts"):
        rs.relay_sum(topology.ring(6), churn=churn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rs.relay_sum(topology.chain(6), churn=churn)  # a tree: grandparents adopt


def test_relaysgd_goes_on_through_churn():
    """It gets to the optimum when all are back, past many departures and returns."""
    task = rs.tasks.random_quadratics(jax.random.key(1), 8, 4, zeta2=1.0)
    churn = Churn.random(KEY, 8, 300, present=40, absent=10)
    while not churn.present([301]).all():
        churn = Churn(
            8, [(i, a, min(b, 300)) for i, a, b in churn.sessions] + [(i, 300, np.inf) for i in range(8)]
        )
    mixer = rs.relay_sum(topology.binary_tree(8), churn=churn, fill="last")
    method = pause(
        rs.relaysgd(task.grad, mixer, optax.sgd(0.2)), churn, start="mean", topology=topology.ring(8)
    )
    x = task.init(KEY)
    trace = rs.simulate(KEY, method, x, num_steps=900, every=300, measure=task.measure)
    assert trace.metrics["suboptimality"][-1] < 1e-6 < trace.metrics["suboptimality"][0]


@pytest.mark.slow
def test_the_study_of_churn_runs():
    from relaysim.studies import churn

    table = churn.run(smoke=True)
    assert len(table) == 8 and table.accuracy.between(0.1, 1).all()
    everybody = table[table.present == 1].set_index("method").accuracy
    assert everybody["RelaySGD"] == pytest.approx(everybody["RelaySGD, mended"], abs=0.01)
    assert churn.picture(table).axes[0].get_xlabel() == "share of the workers that are there"
