"""The newer methods against the numbers of their authors' and of others' code (tests/reference/README.md)."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim.local import LocalSteps

published = np.load(Path(__file__).parent / "reference" / "methods.npz")
top, sgd = rs.compress.top_k, optax.sgd


def recorded(values):
    """What was drawn in each step, in place of what would be."""
    return lambda key, step, shape: jnp.asarray(values)[step]


def choco(order):
    def build(c, grad, mix, lr):
        if "masks" in c:
            compressor = rs.compress.random_k(int(c["k"]), draw=recorded(c["masks"]))
        else:
            compressor = top(int(c["k"]))
        return rs.choco_sgd(grad, mix, sgd(lr), compressor=compressor, gamma=float(c["gamma"]), order=order)

    return build


def motef(**options):
    def build(c, grad, mix, lr):
        given = {"compressor": top(int(c["k"])), "gamma": float(c["gamma"]), "momentum": float(c["lam"])}
        return rs.motef(grad, mix, sgd(lr), **given, **options)

    return build


def gta(variant):
    def build(c, grad, mix, lr):
        given = {"mixings": int(c["n_c"]), "local_steps": int(c["n_g"])}
        return rs.gta(grad, mix, sgd(lr), variant=variant, **given)

    return build


def frozen(grad, rounds):
    """The gradient at the models of every so many steps."""

    def step(key, t, last, params):
        loss, g = grad(key, t, params)
        g = jnp.where(t % rounds == 0, g, last)
        return g, loss, g

    return LocalSteps(jnp.zeros_like, step)


def adam(c, lr):
    return optax.adam(lr, *(float(c[name]) for name in ("beta1", "beta2", "eps")))


def beta(c):
    return float(c["beta"])


BUILD = {
    "beer": lambda c, grad, mix, lr: rs.beer(
        grad, mix, sgd(lr), compressor=top(int(c["k"])), gamma=float(c["gamma"])
    ),
    "btpp": lambda c, grad, mix, lr: rs.btpp(grad, len(c["b"]), sgd(lr), branching=int(c["branching"])),
    "ceca1p": lambda c, grad, mix, lr: rs.ceca(grad, len(c["b"]), sgd(lr), peers=1),
    "ceca2p": lambda c, grad, mix, lr: rs.ceca(grad, len(c["b"]), sgd(lr), peers=2),
    "choco_a": choco("gradient_first"),
    "choco_b": choco("together"),
    "d2": lambda c, grad, mix, lr: rs.d2(grad, mix, sgd(lr)),
    "d_adam": lambda c, grad, mix, lr: rs.dpsgd(grad, mix, adam(c, lr)),
    "decentlam": lambda c, grad, mix, lr: rs.decentlam(grad, mix, sgd(lr), beta=beta(c)),
    "destress_full": lambda c, grad, mix, lr: rs.destress(
        grad,
        mix,
        sgd(lr),
        inner_steps=int(c["n_inner"]),
        inner_mixings=int(c["K_in"]),
        outer_mixings=int(c["K_out"]),
    ),
    "dsgdm": lambda c, grad, mix, lr: rs.dpsgd(grad, mix, sgd(lr, momentum=beta(c))),
    "dsgdm_nesterov": lambda c, grad, mix, lr: rs.dpsgd(grad, mix, sgd(lr, momentum=beta(c), nesterov=True)),
    "exact_diffusion": lambda c, grad, mix, lr: rs.exact_diffusion(grad, mix, sgd(lr)),
    "extra": lambda c, grad, mix, lr: rs.extra(grad, mix, sgd(lr)),
    "extra_nda_tilde": lambda c, grad, mix, lr: rs.extra(
        grad, mix, sgd(lr), share=0.9 / (1 - c["W"].diagonal().min())
    ),
    "gt_momentum_zero_start": lambda c, grad, mix, lr: rs.momentum_tracking(
        grad, mix, sgd(lr), beta=beta(c), exact_start=False
    ),
    "gt_sarah_full": lambda c, grad, mix, lr: rs.gta(grad, mix, sgd(lr)),
    "gt_sarah_frozen": lambda c, grad, mix, lr: rs.gta(frozen(grad, rounds(c)), mix, sgd(lr)),
    "gta1": gta(1),
    "gta2": gta(2),
    "gta3": gta(3),
    "k_gt": lambda c, grad, mix, lr: rs.k_gt(
        grad, mix, sgd(lr), local_steps=int(c["K"]), server_rate=float(c["eta_s"])
    ),
    "led": lambda c, grad, mix, lr: rs.led(grad, mix, sgd(lr), local_steps=int(c["K"]), beta=beta(c)),
    "momentum_tracking": lambda c, grad, mix, lr: rs.momentum_tracking(grad, mix, sgd(lr), beta=beta(c)),
    "moniqua": lambda c, grad, mix, lr: rs.moniqua(
        grad, mix, sgd(lr), theta=float(c["theta"]), gamma=float(c["gamma"]), draw=recorded(c["draws"])
    ),
    "motef": motef(),
    "motef_zero_start": motef(exact_start=False),
    "nids": lambda c, grad, mix, lr: rs.nids(grad, mix, sgd(lr)),
    "nids_as_d2_nda": lambda c, grad, mix, lr: rs.nids(grad, mix, sgd(lr)),
    "qg_dsgdm": lambda c, grad, mix, lr: rs.quasi_global_momentum(
        grad, mix, sgd(lr), beta=beta(c), variant="original"
    ),
    "scaffnew": lambda c, grad, mix, lr: rs.prox_skip(
        grad,
        mix,
        sgd(lr),
        probability=float(c["p"]),
        relaxation=float(c["s"]),
        draw=recorded(c["coins"]),
    ),
}
ABSENT = {
    "dadao": "events one after the other, no steps",
    "moniqua_sequential": "an order of the neighbours that its authors' paper does not have",
}


def cases():
    found = {}
    for key in published.files:
        method, name, part = key.split("/")
        if method not in ABSENT:
            found.setdefault(method, {}).setdefault(name, {})[part] = published[key]
    return found


CASES = cases()


def least_squares(A, b):
    """x -> ½ ‖A_i x_i − b_i‖² and its gradients."""

    def grad(key, step, x):
        residual = jnp.einsum("nij,nj->ni", A, x) - b
        return jnp.sum(residual**2, axis=1) / 2, jnp.einsum("nij,ni->nj", A, residual)

    return grad


def rounds(c):
    """Of a published step, in steps of ours: the others count an outer step and its inner ones as one."""
    return 1 + int(c["n_inner"]) if "n_inner" in c and "K_in" not in c else 1


@functools.cache
def trajectories(method, cases):
    """The models after each step (T, n, d), by the case: all in one program, which compiles sooner."""

    def run(c):
        (n, _, d), key = c["A"].shape, jax.random.key(0)
        mixer = rs.gossip(rs.topology.from_edges(n, c["edges"])) if "W" in c else None
        algorithm = BUILD[method](c, least_squares(c["A"], c["b"]), mixer, float(c["lr"]))
        steps = int(c["steps"][-1]) * rounds(c)
        return rs.simulate(key, algorithm, jnp.zeros((n, d)), num_steps=steps, measure=lambda x: {"x": x})

    return jax.jit(lambda: {name: run(CASES[method][name]).metrics["x"] for name in cases})()


def test_all_cases_are_here():
    assert CASES.keys() == BUILD.keys()
    assert sum(map(len, CASES.values())) == 125


def check(method, case, cases):
    x, c = trajectories(method, cases)[case], CASES[method][case]
    for step, expected in zip(c["steps"], c["X"], strict=True):
        error = np.linalg.norm(x[step * rounds(c) - 1] - expected) / np.linalg.norm(expected)
        assert error < 1e-10, f"after {step} steps"


FIRST = {method: tuple(of)[:2] for method, of in CASES.items()}
OTHERS = {method: tuple(of)[2:] for method, of in CASES.items()}


@pytest.mark.parametrize(("method", "case"), [(m, c) for m, of in FIRST.items() for c in of])
def test_published_trajectory(method, case, x64):
    check(method, case, FIRST[method])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "case"), [(m, c) for m, of in OTHERS.items() for c in of])
def test_further_published_trajectories(method, case, x64):
    check(method, case, OTHERS[method])
