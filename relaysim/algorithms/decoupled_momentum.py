"""Decoupled momentum (Peng, Quesnelle and Kingma 2024, "DeMo: decoupled momentum optimization", Algorithm
1)."""

from typing import Any, NamedTuple

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_mixer, check_number
from relaysim.compress.compressors import Compressor, check_compressor
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class DecoupledState(NamedTuple):
    params: Stacked
    momentum: Stacked
    compressor: Any
    local: LocalState
    mix: Any


def decoupled_momentum(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    compressor: Compressor,
    beta: float = 0.9,
) -> Algorithm:
    """Each worker's momentum stays its own, but for its largest components, which are taken out and shared:

        m ← β m + u,    q = C(m),    m ← m − q,    x ← x + W q,    m = 0 at first.

    The paper takes the largest cosine coefficients: `rs.compress.in_cosines(rs.compress.top_k(0.02))`. With
    β = 1 nothing is ever left out for good, and this is error feedback.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> top = rs.compress.top_k(0.2)
    >>> method = rs.decoupled_momentum(task.grad, rs.all_reduce(8), optax.sgd(0.05), compressor=top)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W of what is shared, such as `all_reduce(n)`. Models that start equal stay so if W averages
        exactly; with `relay_sum` they get the same in the end. Who does not hear what was lost lacks it for
        good.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      compressor: C, such as `rs.compress.top_k(0.1)`.
      beta: β, in [0, 1].

    Raises:
      ValueError: where an argument is none of these.
    """
    check_mixer(mixer)
    check_compressor(compressor)
    check_number("beta", beta, 0, 1)
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> DecoupledState:
        zeros = tree.zeros_like(params)
        of_one = compressor.init(params)
        return DecoupledState(params, zeros, of_one, local.init(key, params), mixer.init(zeros))

    def step(key: Key, t: Array, s: DecoupledState) -> tuple[DecoupledState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        m = tree.add_scale(u, beta, s.momentum)
        own, q = compressor.compress(jax.random.fold_in(key, 1), t, s.compressor, m)
        mix, shared = mixer.mix(key, t, s.mix, q)
        x = tree.add(s.params, shared)
        return DecoupledState(x, tree.sub(m, q), own, local_state, mix), info

    return method(mixer, init, step, vectors=compressor.share)
