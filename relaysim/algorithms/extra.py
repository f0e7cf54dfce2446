"""EXTRA (Shi, Ling, Wu and Yin 2015, "EXTRA: an exact first-order algorithm for decentralized consensus
optimization", Algorithm 1)."""

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.d2 import D2State
from relaysim.checks import check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def extra(
    grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation, *, share: float = 0.5
) -> Algorithm:
    """Averaging before the step, with what the last step and its averaging left to correct:

        x' = W x + u + c,    c' = x' − W~ x − u,    W~ = a W + (1 − a) I,    c = 0 at first,

    which is x'' = (I + W) x' − W~ x − γ (g' − g) for u = −γ g.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.extra(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1))

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`. What it loses leaves a bias for good: corrections no longer
        sum to zero.
      optimizer: makes u from g, for each worker apart.
      share: a. The paper wants (I + W) / 2 ≥ W~ ≥ W, as with its 1/2; above 1 it may diverge.

    Raises:
      ValueError: where `share` is no positive number.
    """
    check_number("share", share, 0, ends="()")
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> D2State:
        return D2State(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: D2State) -> tuple[D2State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        mix, mixed = mixer.mix(key, t, s.mix, s.params)
        x = tree.add(mixed, tree.add(u, s.correction))
        correction = jax.tree.map(
            lambda new, x, m, u: new - (share * m + (1 - share) * x) - u, x, s.params, mixed, u
        )
        return D2State(x, correction, local_state, mix), info

    return method(mixer, init, step)
