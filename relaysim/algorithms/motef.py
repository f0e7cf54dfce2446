"""MoTEF (Islamov, Gao and Stich 2024, "Towards faster decentralized stochastic optimization with
communication compression", Algorithm 1) and BEER (Zhao, Li, Li, Richtárik and Chi 2022, "BEER: fast O(1/T)
rate for decentralized nonconvex optimization with communication compression", Algorithm 1)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import called, method
from relaysim.checks import check_bool, check_number
from relaysim.compress.compressors import Compressor, check_compressor
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class MotefState(NamedTuple):
    params: Stacked
    tracker: Stacked
    """V, an estimate of the mean u."""
    momentum: Stacked
    """M."""
    copies: tuple[Stacked, Stacked]
    """H and Q: what all workers know of each other's models and trackers."""
    compressor: tuple[Any, Any]
    local: LocalState
    mix: Any


def motef(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    compressor: Compressor,
    gamma: float,
    momentum: float,
    exact_start: bool = True,
) -> Algorithm:
    """Gradient tracking of a running mean of u, with compressed differences to public copies of x and v:

        m' = (1 − λ) m + λ u,    v ← v + γ (W Q − Q) + m' − m,    Q ← Q + C(v − Q),
                                 x ← x + γ (W H − H) + v,         H ← H + C(x − H).

    At first m = v = u, and H = Q = 0: nothing is mixed in the first step, in which v is not sent either. (The
    paper ends a step between the two lines.) A message holds two compressed vectors.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0, noise=1.0)
    >>> mixer, top = rs.gossip(rs.topology.ring(8)), rs.compress.top_k(0.2)
    >>> method = rs.motef(task.grad, mixer, optax.sgd(0.05), compressor=top, gamma=0.2, momentum=0.1)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`. Where it loses messages, copies are left out of the average of a
        step, and what was missed comes with the next message.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      compressor: C, such as `rs.compress.top_k(0.1)`.
      gamma: γ, the consensus step, in (0, 1].
      momentum: λ, in (0, 1]: how much a new u counts. With 1 it is BEER.
      exact_start: m = u at first, as in the paper. With m = 0, as in some of its authors' code, the mean of v
        differs for ever from that of m by the first u, and the method converges to another point.

    Raises:
      ValueError: where an argument is none of these.
    """
    check_compressor(compressor)
    check_number("gamma", gamma, 0, 1, "(]")
    check_number("momentum", momentum, 0, 1, "(]")
    check_bool("exact_start", exact_start)
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> MotefState:
        zeros, of_one = tree.zeros_like(params), compressor.init(params)
        pair, local_state = (zeros, zeros), local.init(key, params)
        return MotefState(params, zeros, zeros, pair, (of_one, of_one), local_state, mixer.init(pair))

    def step(key: Key, t: Array, s: MotefState) -> tuple[MotefState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        first, (h, q) = jnp.equal(t, 0), s.copies
        mix, mixed = mixer.mix(key, t, s.mix, s.copies)
        pull_x, pull_v = tree.scale(gamma, tree.sub(mixed, s.copies))

        m = jax.tree.map(lambda m, u: (1 - momentum) * m + momentum * u, s.momentum, u)
        v = tree.add(tree.add(s.tracker, pull_v), tree.sub(m, s.momentum))
        m = tree.where(first, u if exact_start else tree.zeros_like(u), m)
        v = tree.where(first, u, v)
        x = tree.add(tree.add(s.params, pull_x), v)

        of_x, of_v = s.compressor
        of_v, q = tree.where(first, (of_v, q), compressor.follow(jax.random.fold_in(key, 1), t, of_v, q, v))
        of_x, h = compressor.follow(jax.random.fold_in(key, 2), t, of_x, h, x)
        return MotefState(x, v, m, (h, q), (of_x, of_v), local_state, mix), info

    return method(mixer, init, step, vectors=lambda models: 2 * compressor.share(models))


def beer(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    compressor: Compressor,
    gamma: float,
) -> Algorithm:
    """Gradient tracking with compressed differences to public copies of models and trackers, both 0 at first:

        v ← v + γ (W Q − Q) + u' − u,    Q ← Q + C(v − Q),    x ← x + γ (W H − H) + v,    H ← H + C(x − H),

    which is `motef` with λ = 1; the arguments are the same.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> mixer, top = rs.gossip(rs.topology.ring(8)), rs.compress.top_k(0.2)
    >>> method = rs.beer(task.grad, mixer, optax.sgd(0.05), compressor=top, gamma=0.2)
    """
    return called("beer", motef(grad, mixer, optimizer, compressor=compressor, gamma=gamma, momentum=1.0))
