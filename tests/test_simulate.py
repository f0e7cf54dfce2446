import gc
import sys
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import topology

N, D = 4, 3
key = jax.random.key(0)


def grad(key, step, params):
    """Of ½ ‖x‖², with losses from which step and worker can be told."""
    return 100.0 * step + jnp.arange(N), params


def ring_dpsgd(grad=grad, learning_rate=0.5):
    return rs.dpsgd(grad, rs.gossip(topology.ring(N)), optax.sgd(learning_rate))


def poisoned(at_step, worker):
    """A gradient whose loss is not a number at one worker, from one step on."""

    def grad(key, step, params):
        is_bad = (step >= at_step) & (jnp.arange(N) == worker)
        return jnp.where(is_bad, jnp.nan, 1.0), params

    return grad


def ones():
    return jnp.ones((N, D))


@pytest.fixture(scope="module")
def trace():
    """12 steps of halving, with 3 records, of a model in two leaves."""
    return rs.simulate(
        key,
        ring_dpsgd(),
        {"w": jnp.ones((N, 2, D)), "b": jnp.ones(N)},
        num_steps=12,
        every=4,
        measure=lambda params: {"norm": jnp.sum(params["w"] ** 2), "b": params["b"]},
    )


def test_a_record_every_so_many_steps(trace):
    np.testing.assert_array_equal(trace.steps, [4, 8, 12])
    assert {name: np.shape(values) for name, values in trace.metrics.items()} == {
        "norm": (3,),
        "b": (3, N),
        "loss": (3, N),
        "vectors_sent": (3,),
        "bytes_sent": (3,),
        "busiest_vectors_sent": (3,),
        "busiest_bytes_sent": (3,),
        "messages_sent": (3,),
    }


def test_records_are_taken_after_the_steps(trace):
    halves = 0.5 ** np.array([4, 8, 12])
    np.testing.assert_allclose(trace.metrics["b"], np.tile(halves[:, None], (1, N)), rtol=1e-6)
    np.testing.assert_allclose(trace.metrics["norm"], N * 2 * D * halves**2, rtol=1e-6)
    np.testing.assert_allclose(trace.params["b"], np.full(N, halves[-1]), rtol=1e-6)


def test_loss_is_the_mean_over_the_steps_since_the_last_record(trace):
    np.testing.assert_allclose(trace.metrics["loss"], np.add.outer([150, 550, 950], np.arange(N)))


def test_the_state_at_the_end_is_there(trace):
    assert int(trace.state.step) == 12


def test_a_run_that_stays_finite_did_not_diverge(trace):
    assert not trace.divergence
    assert trace.divergence == (-1, -1)


@pytest.mark.parametrize(
    ("algorithm", "vectors", "busiest"),
    [
        pytest.param(rs.relaysgd(grad, rs.relay_sum(topology.star(N)), optax.sgd(0.5)), 1.5, 3, id="star"),
        pytest.param(
            rs.gradient_tracking(grad, rs.gossip(topology.star(N)), optax.sgd(0.5)), 3, 6, id="two vectors"
        ),
        pytest.param(rs.allreduce(grad, rs.all_reduce(N), optax.sgd(0.5)), 1.5, 1.5, id="allreduce"),
    ],
)
def test_what_was_sent_so_far(algorithm, vectors, busiest):
    metrics = rs.simulate(key, algorithm, ones(), num_steps=4, every=2).metrics
    steps, model_bytes = np.array([2, 4]), 4 * D
    np.testing.assert_array_equal(metrics["vectors_sent"], steps * vectors)
    np.testing.assert_array_equal(metrics["bytes_sent"], steps * vectors * model_bytes)
    np.testing.assert_array_equal(metrics["busiest_vectors_sent"], steps * busiest)
    np.testing.assert_array_equal(metrics["busiest_bytes_sent"], steps * busiest * model_bytes)


@pytest.mark.parametrize("every", [1, 8])
def test_divergence_names_step_and_worker(every):
    with pytest.warns(UserWarning, match="worker 2 is not finite after step 5"):
        trace = rs.simulate(key, ring_dpsgd(poisoned(5, 2)), ones(), num_steps=8, every=every)
    assert trace.divergence
    assert trace.divergence == (5, 2)


def test_too_large_a_learning_rate_diverges():
    diverging = rs.dpsgd(
        lambda key, step, x: (jnp.sum(x**2, axis=1), x), rs.gossip(topology.ring(N)), optax.sgd(1e10)
    )
    # the loss, x² = 10^(20 t), overflows at t = 2, since the largest number is 3e38
    with pytest.warns(UserWarning, match="worker 0 is not finite after step 2"):
        trace = rs.simulate(key, diverging, ones(), num_steps=6, every=3)
    assert trace.divergence == (2, 0)


def test_models_that_are_not_finite_at_the_end_are_noticed():
    def grad(key, step, x):
        return jnp.zeros(N), x.at[3].set(jnp.where(step == 3, jnp.inf, 0.0))

    alone = rs.dpsgd(grad, rs.gossip(topology.ring(N), np.eye(N)), optax.sgd(1.0))
    with pytest.warns(UserWarning, match="worker 3 is not finite after step 4"):
        assert rs.simulate(key, alone, ones(), num_steps=4).divergence == (4, 3)


def test_many_learning_rates_at_once_with_the_method_built_inside():
    def run(learning_rate):
        return rs.simulate(key, ring_dpsgd(learning_rate=learning_rate), ones(), num_steps=3)

    learning_rates = jnp.array([0.0, 0.25, 0.5])
    traces = jax.vmap(run)(learning_rates)
    np.testing.assert_allclose(traces.params[:, 0, 0], (1 - learning_rates) ** 3, rtol=1e-6)
    assert traces.metrics["loss"].shape == (3, 3, N)


def test_under_vmap_each_run_tells_its_own_divergence():
    def run(worker):
        return rs.simulate(key, ring_dpsgd(poisoned(2, worker)), ones(), num_steps=4).divergence

    with warnings.catch_warnings(action="error"):
        divergence = jax.vmap(run)(jnp.array([1, 3, 99]))
    np.testing.assert_array_equal(divergence.worker, [1, 3, -1])
    np.testing.assert_array_equal(divergence.step, [2, 2, -1])


def test_under_jit_the_run_is_the_same():
    algorithm = ring_dpsgd()

    def run(key, params):
        return rs.simulate(key, algorithm, params, num_steps=3)

    jitted, plain = jax.jit(run)(key, ones()), run(key, ones())
    np.testing.assert_array_equal(jitted.params, plain.params)
    np.testing.assert_array_equal(jitted.metrics["loss"], plain.metrics["loss"])


def test_the_given_models_can_be_used_again():
    params, algorithm = ones(), ring_dpsgd()
    first = rs.simulate(key, algorithm, params, num_steps=2)
    second = rs.simulate(key, algorithm, params, num_steps=2)
    np.testing.assert_array_equal(params, np.ones((N, D)))
    np.testing.assert_array_equal(first.params, second.params)


def test_the_models_of_a_run_can_start_the_next():
    algorithm = ring_dpsgd()
    first = rs.simulate(key, algorithm, ones(), num_steps=2)
    second = rs.simulate(key, algorithm, first.params, num_steps=2)
    np.testing.assert_allclose(first.params, np.full((N, D), 0.25))
    np.testing.assert_allclose(second.params, np.full((N, D), 0.0625))


class Target:
    """Holds an array that a gradient closes over."""

    def __init__(self, array):
        self.array = array

    def grad(self, key, step, params):
        return jnp.zeros(N), params - self.array


def test_a_changed_method_is_not_run_as_the_old_one():
    algorithm = ring_dpsgd()
    doubled = algorithm._replace(params=lambda state: 2 * state.params)
    measure = {"x": lambda params: {"x": params}}["x"]
    plain = rs.simulate(key, algorithm, ones(), num_steps=2, measure=measure)
    twice = rs.simulate(key, doubled, ones(), num_steps=2, measure=measure)
    np.testing.assert_array_equal(twice.metrics["x"], 2 * plain.metrics["x"])


def test_programs_and_the_data_in_them_are_freed_with_the_method():
    target = Target(jnp.ones((N, D)))
    algorithm = ring_dpsgd(target.grad)
    rs.simulate(key, algorithm, ones(), num_steps=2)
    alive = weakref.ref(target.array), weakref.ref(algorithm.step)
    assert all(ref() is not None for ref in alive)
    del target, algorithm
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_data_closed_over_does_not_become_part_of_the_program():
    def text_length(dim):
        target = Target(jnp.asarray(np.random.default_rng(0).normal(size=(N, dim)), jnp.float32))
        algorithm = ring_dpsgd(target.grad)
        lowered = []
        jit = jax.jit

        def recording_jit(fun, **options):
            compiled = jit(fun, **options)

            def call(*args):
                lowered.append(len(jit(fun).lower(*args).as_text()))
                return compiled(*args)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["relaysim.programs"].jax, "jit", recording_jit)
            rs.simulate(key, algorithm, jnp.ones((N, dim)), num_steps=2)
        return max(lowered)

    assert text_length(5000) < text_length(5) + 1000


def test_models_may_be_a_constant_of_a_jitted_function():
    task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    method = rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    start = jnp.ones((4, 3))

    def run(start=start):
        return rs.simulate(jax.random.key(1), method, start, num_steps=3).params

    np.testing.assert_allclose(jax.jit(lambda: run())(), run(), rtol=1e-6)
    broken = start.at[2].set(jnp.nan)
    with pytest.raises(ValueError, match="params is not finite at worker 2"):
        jax.jit(lambda: run(broken))()
