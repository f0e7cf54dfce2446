"""The mixers against loops over messages, and against what their matrices and equations say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import twins
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import relaysim as rs
from relaysim import topology
from relaysim.mixing.links import links

few = settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixture turns float64 on, for all examples alike
trees = st.builds(topology.random_tree, st.sampled_from([1, 2, 3, 7]), st.integers(0, 2**16))
random = np.random.default_rng


def calls(mixer, xs, x0=None):
    """(T, n, d) what comes out where xs[t] goes in at call t; x0 is common knowledge before."""
    state, mixed = mixer.init(jnp.asarray(xs[0] if x0 is None else np.broadcast_to(x0, xs[0].shape))), []
    for t, x in enumerate(xs):
        state, out = mixer.mix(jax.random.key(t), t, state, jnp.asarray(x))
        mixed.append(np.asarray(out))
    return np.stack(mixed)


def twin_calls(twin, xs):
    return np.stack([twin(jax.random.key(t), x) for t, x in enumerate(xs)])


def assert_same(x, y):
    np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


# RelaySum


@few
@given(trees)
def test_relay_sum_is_the_delayed_average(x64, tree):
    n, num_calls = tree.num_workers, 10
    xs, x0 = random(0).normal(size=(num_calls, n, 2)), random(1).normal(size=2)
    mixed = calls(rs.relay_sum(tree), xs, x0)
    for t in range(num_calls):
        for i in range(n):
            sent_at = [t - max(hops - 1, 0) for hops in topology.distances(tree)[i]]
            assert_same(mixed[t, i], sum(xs[s, j] if s >= 0 else x0 for j, s in enumerate(sent_at)) / n)


@few
@given(trees, st.data())
def test_relay_sum_brings_an_impulse_to_everybody_with_exactly_one_nth(x64, tree, data):
    n, sender = tree.num_workers, data.draw(st.integers(0, tree.num_workers - 1))
    xs = np.zeros((max(topology.diameter(tree), 1) + 3, n, 1))
    xs[0, sender] = 1
    heard = calls(rs.relay_sum(tree), xs, np.zeros(1))
    in_time, later = heard[:-3], heard[-3:]
    np.testing.assert_array_equal(in_time.sum(0), np.full((n, 1), 1 / n))
    np.testing.assert_array_equal(later, 0)


FILLS = [
    "initial",
    pytest.param("last", marks=pytest.mark.slow),
    pytest.param("local", marks=pytest.mark.slow),
    "count",
]


@pytest.mark.parametrize("fill", FILLS)
@few
@given(trees, st.sampled_from([0.0, 0.3, 0.9]))
def test_relay_sum_equals_a_loop_over_messages_and_counts(x64, fill, tree, drop):
    xs, x0 = random(2).normal(size=(6, tree.num_workers, 2)), random(3).normal(size=2)
    fast = calls(rs.relay_sum(tree, drop=drop, fill=fill), xs, x0)
    assert_same(fast, twin_calls(twins.relay_sum(tree, x0, drop=drop, fill=fill), xs))


@pytest.mark.parametrize("fill", FILLS)
def test_relay_sum_over_several_trees_deals_the_columns_out(fill, x64):
    both = topology.double_binary_trees(6)
    xs, x0 = random(4).normal(size=(6, 6, 5)), random(5).normal(size=5)
    fast = calls(rs.relay_sum(both, drop=0.2, fill=fill), xs, x0)
    assert_same(fast, twin_calls(twins.relay_sum_over(both, x0, drop=0.2, fill=fill), xs))


def test_relay_sum_loses_each_message_with_probability_drop(x64):
    n, drop = 2000, 0.3
    x = jnp.ones((n, 1))
    _, mixed = (mixer := rs.relay_sum(topology.chain(n), drop=drop)).mix(
        jax.random.key(0), 0, mixer.init(0 * x), x
    )
    arrived = (float(mixed.sum()) * n - n) / (2 * n - 2)
    assert abs(arrived - (1 - drop)) < 4 * np.sqrt(drop * (1 - drop) / (2 * n))


# Gossip and push


def doubly_stochastic(graph):
    """I − 0.7 L, L being the Laplacian: on a ring, some of these weights are negative."""
    adjacency = graph.adjacency().toarray()
    return np.eye(graph.num_workers) - 0.7 * (np.diag(adjacency.sum(1)) - adjacency)


GOSSIPS = [
    pytest.param(topology.ring(6), {}, id="ring"),
    pytest.param(topology.star(5), {"lazy": True}, id="lazy"),
    pytest.param(topology.ring(6), {"drop": 0.4}, id="drops"),
    pytest.param(topology.star(5), {"drop": 0.4, "lazy": True}, id="lazy with drops"),
    pytest.param(topology.exponential(6), {}, id="directed"),
]


@pytest.mark.parametrize(("graph", "options"), GOSSIPS)
def test_gossip_equals_a_loop_over_messages(graph, options, x64):
    weights = twins.metropolis(graph, lazy=options.get("lazy", False))
    xs = random(0).normal(size=(4, graph.num_workers, 2))
    twin = twins.gossip(weights, drop=options.get("drop", 0.0))
    assert_same(calls(rs.gossip(graph, **options), xs), twin_calls(twin, xs))


@pytest.mark.parametrize("lazy", [False, True])
def test_gossip_uses_the_given_weights(lazy, x64):
    graph = topology.ring(5)
    weights = doubly_stochastic(graph)
    (mixed,) = calls(rs.gossip(graph, weights, lazy=lazy), np.eye(5)[None])
    assert_same(mixed, (weights + np.eye(5)) / 2 if lazy else weights)


@pytest.mark.parametrize("graph", [topology.ring(6), topology.star(5), topology.exponential(6)], ids=str)
def test_gossip_keeps_the_mean_and_a_consensus(graph, x64):
    n = graph.num_workers
    (mixed,) = calls(rs.gossip(graph), np.eye(n)[None])
    assert_same(mixed.sum(0), np.ones(n))
    assert_same(mixed.sum(1), np.ones(n))


def test_gossip_over_several_graphs_deals_the_columns_out(x64):
    graphs = [topology.ring(6), topology.star(6)]
    xs = random(1).normal(size=(3, 6, 5))
    twin = twins.deal([twins.gossip(twins.metropolis(graph), drop=0.3) for graph in graphs])
    assert_same(calls(rs.gossip(graphs, drop=0.3), xs), twin_calls(twin, xs))


lopsided = topology.from_edges(4, [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (0, 3)], directed=True)


@pytest.mark.parametrize("drop", [0.0, 0.4])
@pytest.mark.parametrize("graph", [lopsided, topology.star(5), topology.exponential(6)], ids=str)
def test_push_equals_a_loop_over_messages(graph, drop, x64):
    xs = random(2).normal(size=(4, graph.num_workers, 2))
    assert_same(calls(rs.push(graph, drop=drop), xs), twin_calls(twins.push(graph, drop=drop), xs))


def test_push_keeps_the_sum_but_no_consensus_on_a_lopsided_graph(x64):
    (mixed,) = calls(rs.push(lopsided), np.eye(4)[None])
    assert_same(mixed.sum(0), np.ones(4))
    assert abs(mixed.sum(1) - 1).max() > 0.1


# Graphs that change


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_time_varying_gossip_equals_a_loop_over_messages(drop, x64):
    phases = topology.base(7, degree=1)
    xs = random(9).normal(size=(2 * len(phases), 7, 2))
    twin = twins.time_varying([twins.gossip(w.toarray(), drop=drop) for w in phases])
    assert_same(calls(rs.time_varying(phases, drop=drop), xs), twin_calls(twin, xs))


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_time_varying_push_equals_a_loop_over_messages(drop, x64):
    graphs = [lopsided, topology.star(4), lopsided]
    xs = random(9).normal(size=(7, 4, 2))
    first, second = (twins.push(graph, drop=drop) for graph in graphs[:2])
    twin = twins.time_varying([first, second, first])
    assert_same(calls(rs.time_varying(graphs, push=True, drop=drop), xs), twin_calls(twin, xs))


def test_time_varying_over_a_base_graph_finds_the_mean_in_one_pass(x64):
    phases = topology.base(11, degree=2)
    x, mixer = jnp.asarray(random(10).normal(size=(11, 3))), rs.time_varying(phases)
    mixed = x
    for t in range(len(phases)):
        _, mixed = mixer.mix(jax.random.key(0), 5 * len(phases) + t, mixer.init(x), mixed)
    assert_same(mixed, np.broadcast_to(x.mean(0), x.shape))


# One peer at a time, and all


@pytest.mark.parametrize("options", [{}, {"rounds": 2}, {"rounds": 2, "drop": 0.3}], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_one_peer_exponential_equals_a_loop_over_workers(n, options, x64):
    xs = random(3).normal(size=(4, n, 2))
    twin = twins.one_peer_exponential(n, **options)
    assert_same(calls(rs.one_peer_exponential(n, **options), xs), twin_calls(twin, xs))


@pytest.mark.parametrize(("n", "rounds"), [(2, 1), (4, 2), (8, 3)])
def test_one_peer_exponential_finds_the_mean_of_a_power_of_two(n, rounds, x64):
    x = random(4).normal(size=(n, 2))
    (mixed,) = calls(rs.one_peer_exponential(n, rounds=rounds), x[None])
    assert_same(mixed, np.broadcast_to(x.mean(0), x.shape))


def test_one_peer_exponential_goes_on_counting_rounds_from_step_to_step(x64):
    x = one_by_one = jnp.asarray(random(5).normal(size=(8, 2)))
    mixer = rs.one_peer_exponential(8)
    state = mixer.init(x)
    for t in range(3):
        state, one_by_one = mixer.mix(jax.random.key(0), t, state, one_by_one)
    (at_once,) = calls(rs.one_peer_exponential(8, rounds=3), np.asarray(x)[None])
    assert_same(one_by_one, at_once)


def test_all_reduce_is_the_mean(x64):
    xs = random(6).normal(size=(2, 5, 3))
    assert_same(calls(rs.all_reduce(5), xs), twin_calls(twins.all_reduce(5), xs))


# Dealing elements out


@few
@given(
    shapes=st.lists(st.sampled_from([(), (1,), (2,), (5,), (3, 2), (0,)]), min_size=1, max_size=4),
    graphs=st.lists(st.sampled_from([topology.chain(4), topology.star(4)]), min_size=1, max_size=3),
)
def test_deal_gives_each_mixer_its_own_elements(x64, shapes, graphs):
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = random(7).normal(size=(4, sum(sizes)))
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    pytree = [part.reshape(4, *shape) for part, shape in zip(parts, shapes, strict=True)]
    dealt = rs.deal([rs.relay_sum(graph) for graph in graphs])

    @jax.jit
    def mixed(pytree):
        return dealt.mix(jax.random.key(0), 0, dealt.init(jax.tree.map(jnp.zeros_like, pytree)), pytree)[1]

    leaves = mixed(pytree)
    assert [leaf.shape for leaf in leaves] == [(4, *shape) for shape in shapes]
    expected = twins.relay_sum_over(graphs, np.zeros(sum(sizes)))(jax.random.key(0), flat)
    assert_same(np.concatenate([np.reshape(leaf, (4, -1)) for leaf in leaves], axis=1), expected)


# Losing everything, losing nothing

x = random(8).normal(size=(4, 2))
x0 = np.array([1.0, -2.0])
swap = np.eye(4)[[1, 0, 3, 2]]


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        pytest.param(rs.relay_sum(topology.chain(4), drop=1.0), (x + 3 * x0) / 4, id="relay_sum"),
        pytest.param(
            rs.relay_sum(topology.chain(4), drop=1.0, fill="last"), (x + 3 * x0) / 4, id="relay_sum last"
        ),
        pytest.param(rs.relay_sum(topology.chain(4), drop=1.0, fill="local"), x, id="relay_sum local"),
        pytest.param(rs.relay_sum(topology.chain(4), drop=1.0, fill="count"), x, id="relay_sum count"),
        pytest.param(rs.gossip(topology.ring(4), drop=1.0), x, id="gossip"),
        pytest.param(rs.gossip(topology.ring(4), swap, drop=1.0), x, id="gossip without own weight"),
        pytest.param(rs.push(topology.star(4), drop=1.0), x, id="push"),
        pytest.param(rs.time_varying([topology.ring(4)], drop=1.0), x, id="time_varying"),
        pytest.param(rs.time_varying([topology.star(4)], push=True, drop=1.0), x, id="time_varying push"),
        pytest.param(rs.one_peer_exponential(4, rounds=2, drop=1.0), x, id="one_peer_exponential"),
    ],
)
def test_where_all_messages_are_lost(mixer, expected, x64):
    assert_same(calls(mixer, np.stack([x, x]), x0)[0], expected)


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(rs.relay_sum, topology.random_tree(4, 0)),
        functools.partial(rs.relay_sum, topology.random_tree(4, 0), fill="local"),
        functools.partial(rs.relay_sum, topology.double_binary_trees(4), fill="initial"),
        functools.partial(rs.gossip, topology.ring(4)),
        functools.partial(rs.push, lopsided),
        functools.partial(rs.one_peer_exponential, 4),
        functools.partial(rs.time_varying, topology.base(4, 1)),
    ],
    ids=lambda build: f"{build.func.__name__} {build.keywords}",
)
def test_a_traced_drop_of_zero_loses_nothing(build, x64):
    def mixed(drop):
        mixer = build(drop=drop)
        return mixer.mix(jax.random.key(0), 0, mixer.init(jnp.asarray(x)), jnp.asarray(x))[1]

    assert_same(jax.jit(mixed)(0.0), mixed(0.0))


@few
@given(st.sampled_from([0.1, 0.5, 0.9]), st.integers(0, 2**16))
def test_what_is_not_delivered_stays_with_its_sender(x64, drop, seed):
    xs = random(seed).normal(size=(1, 8, 2))
    for mixer in (
        rs.push(topology.exponential(8), drop=drop),
        rs.one_peer_exponential(8, rounds=4, drop=drop),
    ):
        assert_same(calls(mixer, xs)[0].sum(0), xs[0].sum(0))


# What a call costs


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        pytest.param(rs.relay_sum(topology.chain(4)), [1, 2, 2, 1], id="relay_sum"),
        pytest.param(rs.relay_sum(topology.star(4)), [3, 1, 1, 1], id="relay_sum star"),
        # of 4 workers: 0 - 1, 1 - 2, 1 - 3 and its mirror image 3 - 2, 2 - 1, 2 - 0
        pytest.param(rs.relay_sum(topology.double_binary_trees(4)), [1, 2, 2, 1], id="double trees"),
        pytest.param(rs.gossip(topology.star(4), lazy=True), [3, 1, 1, 1], id="gossip"),
        pytest.param(rs.gossip(topology.ring(4), swap), [1, 1, 1, 1], id="gossip where weights are 0"),
        pytest.param(rs.push(lopsided), [3, 1, 1, 1], id="push"),
        pytest.param(
            rs.time_varying([topology.star(4), topology.ring(4)]), [2.5, 1.5, 1.5, 1.5], id="time_varying"
        ),
        pytest.param(rs.one_peer_exponential(4, rounds=3), [3, 3, 3, 3], id="one_peer_exponential"),
        pytest.param(rs.one_peer_exponential(1, rounds=3), [0], id="one_peer_exponential alone"),
        pytest.param(rs.all_reduce(4), [1.5, 1.5, 1.5, 1.5], id="all_reduce"),
        pytest.param(rs.all_reduce(1), [0], id="all_reduce alone"),
        pytest.param(
            rs.deal([rs.all_reduce(2), rs.one_peer_exponential(2, rounds=4)]), [2.5, 2.5], id="deal"
        ),
    ],
)
def test_vectors_sent(mixer, expected):
    np.testing.assert_array_equal(mixer.sent(), expected)


SHAPES = {
    "chain": topology.chain,
    "star": topology.star,
    "heap": topology.binary_tree,
    "mirrored heap": lambda n: topology.double_binary_trees(n)[1],
    "random": lambda n: topology.random_tree(n, 0),
    "with hubs": lambda n: topology.from_edges(n, [(0, 1)] + [(1, i) for i in range(2, n)]),
}


@pytest.mark.parametrize("n", [2, 4, 7, 600])
@pytest.mark.parametrize("shape", SHAPES)
def test_links_add_up_along_the_edges(shape, n, x64):
    tree = SHAPES[shape](n)
    parent, x = topology.rooted(tree).parent, np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    from_parent, from_children = links(tree)
    expected = np.zeros((n, 3))
    for i in range(1, n):
        expected[parent[i]] += x[i]
    up, down = jax.jit(lambda x: (from_children(x), from_parent(x)))(x)
    np.testing.assert_allclose(up, expected, atol=1e-5)
    counts = jax.eval_shape(from_children, jax.ShapeDtypeStruct((n,), jnp.int32))
    assert counts.dtype == jnp.int32
    others = np.arange(n) > 0
    np.testing.assert_array_equal(down[others], x[parent][others])


def test_a_hub_sums_a_hundred_thousand_messages_to_seven_digits():
    n = 100_000
    x = np.random.default_rng(0).uniform(size=(n, 1)).astype(np.float32)
    x[0] = 0
    for shape in ("star", "with hubs"):
        tree = SHAPES[shape](n)
        total = np.asarray(links(tree).from_children(jnp.asarray(x))).sum()
        np.testing.assert_allclose(total, x.astype(np.float64).sum(), rtol=3e-6)
