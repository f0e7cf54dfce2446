"""What other platforms than CPUs are given: the same sums and steps, checked on a CPU; devices described."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import relaysim as rs
from benchmarks import compare, hlo
from benchmarks.timing import row, table
from relaysim import cli, programs, topology
from relaysim.columns import by_platform, compiling_for, repeated
from relaysim.mixing import gathers
from relaysim.mixing.gathers import gathered_sum
from relaysim.mixing.links import links
from relaysim.mixing.shifts import shifted_sum, transposed_sum
from relaysim.platforms import NotInstalled, described

random = np.random.default_rng(0)
GRAPHS = {
    "chain": topology.chain(9),
    "ring": topology.ring(8),
    "torus": topology.torus(3, 4),
    "hypercube": topology.hypercube(8),
    "exponential": topology.exponential(9),
    "star": topology.star(700),  # in blocks
    "random recursive tree": topology.random_recursive_tree(60, 0),
    "random graph": topology.erdos_renyi(30, 0.3, seed=1),
}
SUMS = {"gathered": gathered_sum, "shifted": shifted_sum, "transposed": transposed_sum}


def slow(senders, receivers, n, weights, x):
    out = np.zeros_like(x)
    for e in range(len(senders)):
        out[receivers[e]] += (1 if weights is None else weights[e]) * x[senders[e]]
    return out


def sorted_edges(graph):
    order = np.lexsort((graph.senders, graph.receivers))
    return graph.senders[order], graph.receivers[order]


@pytest.mark.parametrize("dim", [3, 40])  # short rows and long ones
@pytest.mark.parametrize("name", GRAPHS)
def test_sums_are_those_of_a_loop_over_edges(name, dim):
    n, (senders, receivers) = GRAPHS[name].num_workers, sorted_edges(GRAPHS[name])
    x, weights = random.normal(size=(n, dim)).astype(np.float32), random.normal(size=len(senders))
    made = [sums(senders, receivers, n) for sums in SUMS.values()]
    assert made[1] is not None or name == "star"  # which is no shift
    several = [None, weights, jnp.asarray(weights, jnp.float32)]
    found = jax.jit(lambda x: [[sums(w, x) for w in several] for sums in made if sums])(x)
    for w, *sums in zip(several, *found, strict=True):
        for of_one in sums:
            np.testing.assert_allclose(of_one, slow(senders, receivers, n, w, x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["chain", "ring", "torus", "hypercube", "exponential"])
def test_the_same_messages_are_lost_everywhere(name):
    """Weights by shifts, picked by slices, or of single edges; of what arrives and of what stays."""
    graph, n = GRAPHS[name], GRAPHS[name].num_workers
    x = jnp.asarray(random.normal(size=(n, 3)), jnp.float32)
    for mixer in (rs.gossip(graph, drop=0.3), rs.push(graph, drop=0.3), rs.one_peer_exponential(n, drop=0.3)):
        mixed = {}
        for platform in ("cpu", "gpu", "tpu"):
            with compiling_for(platform):
                mixed[platform] = jax.jit(mixer.mix)(jax.random.key(1), 2, mixer.init(x), x)[1]
        np.testing.assert_allclose(mixed["gpu"], mixed["cpu"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mixed["tpu"], mixed["cpu"], rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=60))
def test_gathers_add_up_any_edges(pairs):
    """Also where there are several of a pair, in blocks of 5."""
    edges = np.array(sorted(pairs, key=lambda edge: edge[1]))
    before, gathers.BLOCK = gathers.BLOCK, 5
    try:
        x = random.normal(size=(6, 2))
        found = gathered_sum(edges[:, 0], edges[:, 1], 7)(None, jnp.asarray(x))
    finally:
        gathers.BLOCK = before
    expected = np.zeros((7, 2))
    np.add.at(expected, edges[:, 1], x[edges[:, 0]])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("name", ["chain", "star", "random recursive tree"])
def test_links_are_the_same_everywhere(name, platform):
    tree = GRAPHS[name]
    x = jnp.asarray(random.normal(size=(tree.num_workers, 3)), jnp.float32)
    with compiling_for("cpu"):
        here = [f(x) for f in links(tree)]
    with compiling_for(platform):
        there = [f(x) for f in links(tree)]
    np.testing.assert_array_equal(there[0][1:], here[0][1:])  # the root's means nothing
    np.testing.assert_allclose(there[1], here[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("times", [0, 1, 2, 7, jnp.asarray(6), jnp.asarray(7)])
def test_two_at_a_time_are_as_many(times):
    with compiling_for("gpu"):
        assert repeated(lambda x: x * 2 + 1, times, jnp.asarray(0)) == 2 ** int(times) - 1


def test_a_run_on_gpus_has_the_same_text_on_a_cpu():
    """A program that is traced for GPUs computes the same, step by step, as one for CPUs."""
    n = 40
    method = rs.relaysgd(
        lambda key, step, x: ((x**2).sum(1), x),
        rs.relay_sum(topology.random_recursive_tree(n, 0)),
        optax.sgd(0.1),
    )
    start = jnp.asarray(random.normal(size=(n, 3)), jnp.float32)
    here = rs.simulate(jax.random.key(0), method, start, num_steps=7, every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_platform", lambda leaves: "gpu")
        there = rs.simulate(jax.random.key(0), method, start, num_steps=7, every=1)
    np.testing.assert_allclose(there.params, here.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there.metrics["loss"], here.metrics["loss"], rtol=1e-5)


def test_the_platform_is_chosen_when_it_is_known():
    assert by_platform(1, cpu=lambda x: x + 1, default=lambda x: x + 2) == 2
    with compiling_for("tpu"):
        assert by_platform(1, cpu=lambda x: x + 1, default=lambda x: x + 2) == 3


@pytest.mark.parametrize("name", ["h200", "v5e", "", None])
def test_devices_that_nobody_knows(name):
    with pytest.raises(ValueError, match=r"expected cpu, h100 or a grid of TPUs such as v5e:2x2"):
        described(name)


@pytest.mark.parametrize(
    ("name", "extra", "module"), [("h100", "cuda12", "jax_plugins"), ("v5e:2x2", "tpu", "libtpu")]
)
def test_what_to_install(name, extra, module):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(NotInstalled, match=rf"install the extra {extra}: pip install"):
        described(name)


def test_an_estimate_for_a_described_cpu_is_that_for_this_one():
    method = rs.dpsgd(lambda k, t, x: ((x**2).sum(1), x), rs.gossip(topology.ring(8)), optax.sgd(0.1))
    models = jax.ShapeDtypeStruct((8, 5), jnp.float32)
    assert rs.estimate_memory(method, models, on="cpu").parts == rs.estimate_memory(method, models).parts


@pytest.mark.slow
def test_the_command_line_estimates_without_files():
    found = CliRunner().invoke(cli.app, ["memory", "--workers", "4", "--batch-size", "4", "--on", "cpu"])
    assert found.exit_code == 0, found.output
    assert "temporaries" in found.output and "total" in found.output
    wrong = CliRunner().invoke(cli.app, ["memory", "--on", "abacus"])
    assert wrong.exit_code == 1 and wrong.output.startswith("Error: on is 'abacus', expected cpu")


TEXT = """HloModule run

%fused_slice (p: f32[8,4]) -> f32[1,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %slice.1 = f32[1,4]{1,0} slice(%p), slice={[0:1], [0:4]}
}

%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0:T(8,128)}, /*index=2*/f32[2]{0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%arg), index=1
  %row = f32[1,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_slice
  %copy.1 = f32[8,4]{1,0} copy(%x)
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%i, %copy.1)
}

%condition (arg: (s32[], f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %w = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body
}
"""


def test_what_a_compiled_text_says():
    parts = hlo.computations(TEXT)
    assert set(parts) == {"fused_slice", "body", "condition", "ENTRY"}
    assert list(hlo.loops(TEXT)) == [("body", 5)]
    assert list(hlo.launched("body", parts)) == [("fusion", 16 + 16), ("copy", 128 + 128)]
    assert hlo.moved(TEXT) == 5 * (32 + 256)


def test_what_is_counted_has_no_noise():
    def counted(value, metric="arrays moved a step"):
        return table("compiled", [row("h100: chain", 8, 1, metric, value)])

    assert len(compare.worse(counted(8.0), counted(8.1)))
    assert not len(compare.worse(counted(8.0), counted(8.05)))
    assert not len(compare.worse(counted(8.0, "s to compile"), counted(9.0, "s to compile")))


@pytest.mark.parametrize("make", [rs.gossip, rs.relay_sum])
def test_half_precision_is_added_up_in_float32(make):
    """Messages are rounded to bfloat16, sums are not: as if it were float32, but for what is rounded."""
    mixer = make(topology.star(200))
    x = jnp.asarray(random.normal(1, 1, size=(200, 2)), jnp.bfloat16)
    state, mixed = mixer.mix(jax.random.key(0), 0, mixer.init(0 * x), x)
    wide = x.astype(jnp.float32)
    _, expected = mixer.mix(jax.random.key(0), 0, mixer.init(0 * wide), wide)
    assert mixed.dtype == jnp.bfloat16
    assert (
        all(leaf.dtype == jnp.bfloat16 for leaf in (state.up, state.down)) if make is rs.relay_sum else True
    )
    np.testing.assert_allclose(mixed.astype(jnp.float32), expected, rtol=2**-8)
