"""The public comparison of push-pull trees: the published gradient norms, step by step, for every method."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.sparse import csr_array

import relaysim as rs
from relaysim import topology
from relaysim.mixing.gossip import linear
from relaysim.studies import btpp

PUBLISHED = np.load(Path(__file__).parent / "reference" / "btpp_logistic.npz")
N = 16


def features():
    """What the published code draws after `np.random.seed(100)`; its labels must be the stored ones."""
    rng = np.random.RandomState(100)
    w, drawn = rng.randn(1, 20), []
    own = np.stack([rng.randn(20) for _ in range(N)])
    w = w + 0.8 * own / np.linalg.norm(own, axis=1, keepdims=True)
    for i in range(N):
        drawn.append(rng.randn(200, 20))
        labels = 2 * (rng.rand(200) < 1 / (1 + np.exp(-drawn[-1] @ w[i]))) - 1
        assert (labels == PUBLISHED["y"][i]).all()
    return np.stack(drawn)


def published_task():
    order = jnp.asarray(PUBLISHED["minibatch_index"])
    return btpp.Logistic(jnp.asarray(features()), jnp.asarray(PUBLISHED["y"], float), order)


def both_ways(matrix):
    """Pull by a matrix, push by its transpose."""
    return [linear(csr_array(m), 0.0, None, renormalise=False) for m in (matrix, matrix.T)]


def directed_ring(task, n, rate):
    """Half of it from the left neighbour."""
    left = (np.eye(n) + np.roll(np.eye(n), -1, axis=1)) / 2
    return btpp.push_pull(task.grad, *both_ways(left), rate)


def equidynamic(task, n, rate):
    mixer = rs.time_varying(topology.equidynamic_phases(n, PUBLISHED["equidyn_shift"][1:]))
    return btpp.push_pull(task.grad, mixer, mixer, rate)


METHODS = {
    "BTPP_B2": btpp.METHODS["BTPP, B = 2"],
    "BTPP_B4": btpp.METHODS["BTPP, B = 4"],
    "PushPull_ring": directed_ring,
    "RelaySGD_chain": btpp.METHODS["RelaySGD, chain, by count"],
    "DSGD_ring": btpp.METHODS["DSGD, ring"],
    "DSGD_full": btpp.METHODS["DSGD, fully connected"],
    "DSGD_exp": btpp.METHODS["DSGD, exponential"],
    "DSGD_base3": btpp.METHODS["DSGD, base-3"],
    "DSGD_CECA2p": btpp.METHODS["DSGD-CECA"],
    "DSGT_ring": btpp.METHODS["DSGT, ring"],
    "DSGT_grid": btpp.METHODS["DSGT, grid"],
    "DSGT_onepeerexp": btpp.METHODS["DSGT, one-peer exponential"],
    "DSGT_ODEquiDyn": equidynamic,
    "D2_ring": btpp.METHODS["D², ring"],
}


def test_all_published_methods_are_here():
    assert {key.removeprefix("grad_norm/") for key in PUBLISHED if "grad_norm" in key} == set(METHODS)


def test_gradient_norms_are_the_published_ones(x64):
    """At the same data, samples and steps, after each of 300 steps; all in one program."""
    task = published_task()

    @jax.jit
    def norms():
        found = {}
        for name, build in METHODS.items():
            kind = "tracking" if name.startswith(("BTPP", "PushPull", "DSGT")) else "gossip"
            steps = jnp.asarray(PUBLISHED[f"step_size_{kind}"])
            rate = (lambda t: 0.7) if name == "D2_ring" else (lambda t, steps=steps: steps[t])
            method, start = build(task, N, rate), task.init(jax.random.key(0))
            trace = rs.simulate(
                jax.random.key(0), method, start, num_steps=300, every=1, measure=task.measure
            )
            found[name] = trace.metrics["at_root" if "Pu" in name or "BTPP" in name else "at_mean"]
        return found

    for name, found in norms().items():
        np.testing.assert_allclose(found, PUBLISHED[f"grad_norm/{name}"][1:], rtol=1e-10, err_msg=name)


def test_btpp_with_a_constant_rate_is_the_published_one_until_the_first_decay(x64):
    task = published_task()
    method = rs.btpp(task.grad, N, optax.sgd(0.7), branching=2)
    run = rs.simulate(jax.random.key(0), method, task.init(None), num_steps=98, every=1, measure=task.measure)
    np.testing.assert_allclose(run.metrics["at_root"], PUBLISHED["grad_norm/BTPP_B2"][1:99], rtol=1e-10)


@pytest.mark.slow
def test_gradients_are_those_of_the_objective(x64):
    task = btpp.draw(4, seed=0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, btpp.DIM)))

    def mean_loss(v):
        margins = jnp.einsum("nmd,d->nm", task.features, v) * task.labels
        return jnp.logaddexp(0, -margins).mean() + btpp.PENALTY * jnp.sum(v**2 / (1 + v**2))

    np.testing.assert_allclose(
        task.gradient_norm(x[:1]), [jnp.linalg.norm(jax.grad(mean_loss)(x[0]))], rtol=1e-6
    )
    loss, g = task.grad(jax.random.key(0), 3, x)
    by_jax = jax.grad(lambda x: task.grad(jax.random.key(0), 3, x)[0].sum())(x)
    np.testing.assert_allclose(g, by_jax, rtol=1e-6)
    assert loss.shape == (4,)


@pytest.mark.slow
def test_the_study_runs(tmp_path):
    found = btpp.run(sizes=[4], seeds=1, num_steps=30, out=tmp_path, progress=False)
    told = btpp.table(found)
    assert set(told.index) == set(btpp.METHODS) and np.isfinite(found.table.gradient_norm).all()
    assert btpp.picture(found).axes
