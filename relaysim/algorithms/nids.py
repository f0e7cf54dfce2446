"""NIDS (Li, Shi and Yan 2019, "A decentralized proximal-gradient method with network independent step-sizes
and separated convergence rates", Algorithm 1 without a proximal term)."""

import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.d2 import D2State
from relaysim.algorithms.exact_diffusion import lazy
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def nids(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Exact diffusion whose first step is not mixed:

        x' = (I + W)/2 (x + u + c),    c = x' − (x + u),    but x' = x + u at first.

    The paper's matrix is I − c γ (I − W), here with c γ = 1/2.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.nids(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1))

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`, not lazy. What it loses leaves a bias for good: corrections
        no longer sum to zero.
      optimizer: makes u from g, for each worker apart.
    """
    local, mixer = local_update(grad, optimizer), lazy(mixer)

    def init(key: Key, params: Stacked) -> D2State:
        return D2State(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: D2State) -> tuple[D2State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        moved = tree.add(s.params, u)
        mix, mixed = mixer.mix(key, t, s.mix, tree.add(moved, s.correction))
        x = tree.where(jnp.equal(t, 0), moved, mixed)
        return D2State(x, tree.sub(x, moved), local_state, mix), info

    return method(mixer, init, step)
