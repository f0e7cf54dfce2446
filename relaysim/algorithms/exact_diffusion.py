"""Exact diffusion (Yuan, Ying, Zhao and Sayed 2019, "Exact diffusion for distributed optimization and
learning — part I", Algorithm 1)."""

import jax
import optax

from relaysim.algorithms.base import called
from relaysim.algorithms.d2 import d2
from relaysim.checks import check_mixer
from relaysim.types import Algorithm, Array, Grad, Key, Mixer, Stacked


def exact_diffusion(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """D² with (I + W) / 2, which is stable for any symmetric, doubly stochastic W:

        x' = (I + W)/2 (x + u + c),    c = x' − (x + u),    c = 0 at first.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> rs.exact_diffusion(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1))
    Algorithm('exact_diffusion with gossip on ring', 8 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`, not lazy. What it loses leaves a bias for good: corrections
        no longer sum to zero.
      optimizer: makes u from g, for each worker apart.
    """
    return called("exact_diffusion", d2(grad, lazy(mixer), optimizer))


def lazy(mixer: Mixer) -> Mixer:
    """x ← (x + W x) / 2."""
    check_mixer(mixer)

    def mix(key: Key, step: Array, s: Stacked, x: Stacked) -> tuple[Stacked, Stacked]:
        s, mixed = mixer.mix(key, step, s, x)
        return s, jax.tree.map(lambda v, m: (v + m) / 2, x, mixed)

    return mixer._replace(mix=mix)
