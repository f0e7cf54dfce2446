"""DESTRESS (Li, Li and Chi 2022, "DESTRESS: computation-optimal and communication-efficient decentralized
nonconvex finite-sum optimization", Algorithm 1)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_count, check_mixer, check_number
from relaysim.local import LocalState, check_grad, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked

MOST = 4096
"""Workers up to which the contraction of W is found from its matrix."""


class DestressState(NamedTuple):
    params: Stacked
    tracker: Stacked
    """s, an estimate of the mean gradient."""
    last: Stacked
    """The gradient at the last models."""
    local: LocalState
    mix: Any


def destress(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    inner_steps: int = 1,
    inner_mixings: int = 1,
    outer_mixings: int = 1,
    full_grad: Grad | None = None,
    contraction: float | None = None,
) -> Algorithm:
    """Tracking of full gradients between rounds of variance-reduced steps, with accelerated averaging:

        s ← P_out (s + g(x) − g(x_last));    y, v = x, s and inner_steps times
        y' = P_in (y + u(v)),    v ← P_in (v + g(y'; ξ) − g(y; ξ)),    y ← y';    x ← y,

    where P_K = T_K(W / α) / T_K(1 / α) takes K mixings, T_K is Chebyshev's polynomial and α = ‖W − 11ᵀ/n‖.
    Models and gradients are averaged exactly at the start, which is not counted. (The paper's round ends
    with s.)

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0, noise=0.1)
    >>> method = rs.destress(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), inner_steps=3)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`. In round t it is asked for
        the steps t inner_steps, …, t inner_steps + inner_steps − 1, twice each, with the same sample.
      mixer: W, such as `gossip(topology)`, symmetric; models and gradients are sent one after the other.
        What it loses leaves a bias for good: trackers no longer sum to what the gradients sum to.
      optimizer: makes u from v, for each worker apart.
      inner_steps: S, at least 1.
      inner_mixings: K of P_in, at least 1.
      outer_mixings: K of P_out, at least 1.
      full_grad: the gradients of the rounds, from all data, asked for step t; `grad` by default. The loss
        that is recorded is theirs.
      contraction: α, in (0, 1); found from W by default, up to 4096 workers, where W stays the same.

    Raises:
      ValueError: where an argument is none of these.
    """
    inner = check_count("inner_steps", inner_steps)
    k_in, k_out = check_count("inner_mixings", inner_mixings), check_count("outer_mixings", outer_mixings)
    check_grad(grad)
    check_mixer(mixer)
    local = local_update(grad if full_grad is None else full_grad, optimizer)
    if contraction is None:
        alpha = contraction_of(mixer) if max(k_in, k_out) > 1 else 1.0
        exact = alpha < 1e-12
    else:
        alpha, exact = check_number("contraction", contraction, 0, 1, "()"), False

    def mixed(key: Key, t: Array, state: Any, x: Stacked, times: int) -> tuple[Any, Stacked]:
        """P_K x, by T_{k+1}(W / α) = 2 W / α T_k − T_{k−1}."""
        state, now = mixer.mix(key, t, state, x)
        if times == 1 or exact:
            return state, now
        before, now = x, tree.scale(1 / alpha, now)
        scale_before, scale = 1.0, 1 / alpha
        for k in range(1, times):
            state, after = mixer.mix(jax.random.fold_in(key, k), t, state, now)
            before, now = now, tree.sub(tree.scale(2 / alpha, after), before)
            scale_before, scale = scale, 2 / alpha * scale - scale_before
        return state, tree.scale(1 / scale, now)

    def init(key: Key, params: Stacked) -> DestressState:
        params = jax.tree.map(mean, params)
        zeros = tree.zeros_like(params)
        states = mixer.init(params), mixer.init(zeros)
        return DestressState(params, zeros, zeros, local.init(key, params), states)

    def step(key: Key, t: Array, s: DestressState) -> tuple[DestressState, Info]:
        local_state, g, info = local.gradient(t, s.local, s.params)
        of_x, of_s = s.mix
        of_s, v = mixed(key, t, of_s, tree.add(s.tracker, tree.sub(g, s.last)), k_out)
        v = tree.where(jnp.equal(t, 0), jax.tree.map(mean, g), v)

        def one(carry: tuple, k: Array) -> tuple[tuple, None]:
            y, v, local_state, of_x, of_s = carry
            local_state, u = local.apply(t, local_state, v, y, info)
            first, second = jax.random.split(jax.random.fold_in(key, 1 + k))
            of_x, after = mixed(first, t, of_x, tree.add(y, u), k_in)
            _, g = grad(local_state.key, t * inner + k, y)
            _, g_after = grad(local_state.key, t * inner + k, after)
            of_s, v = mixed(second, t, of_s, tree.add(v, tree.sub(g_after, g)), k_in)
            return (after, v, local_state, of_x, of_s), None

        start = (s.params, v, local_state, of_x, of_s)
        (x, _, local_state, of_x, of_s), _ = jax.lax.scan(one, start, jnp.arange(inner))
        return DestressState(x, v, g, local_state, (of_x, of_s)), info

    return method(mixer, init, step, calls=2 * inner * k_in + k_out)


def mean(x: Array) -> Array:
    return jnp.broadcast_to(x.mean(0, keepdims=True), x.shape)


def contraction_of(mixer: Mixer) -> float:
    """‖W − 11ᵀ/n‖, from what the mixer makes of the identity."""
    n = mixer.num_workers
    if n > MOST:
        raise ValueError(
            f"contraction is None for {n} workers, expected a number where there are over {MOST}"
        )

    def matrix(t: int) -> np.ndarray:
        with jax.enable_x64(True):
            eye = jnp.eye(n)
            return np.asarray(mixer.mix(jax.random.key(t), jnp.asarray(t), mixer.init(eye), eye)[1])

    with ThreadPoolExecutor(1) as elsewhere:  # where nothing is being traced, under vmap and jit too
        w, again = elsewhere.map(matrix, range(2))
    if not np.array_equal(w, again):
        raise ValueError("contraction is None for a mixer that loses messages or changes, expected a number")
    return float(np.linalg.norm(w - 1 / n, 2))
