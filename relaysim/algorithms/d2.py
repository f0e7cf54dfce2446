"""D² (Tang et al. 2018, "D²: Decentralized training over decentralized data", Algorithm 1)."""

from typing import Any, NamedTuple

import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


class D2State(NamedTuple):
    params: Stacked
    correction: Stacked
    local: LocalState
    mix: Any


def d2(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Gossip with a correction for what averaging did to the last step:

        x' = W (x + u + c),    c = x' − (x + u),    c = 0 at first.

    With lazy gossip, W replaced by (W + I) / 2, this is exact diffusion (Yuan et al. 2019).

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> d2(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    Algorithm('d2 with gossip on ring', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`; D² is stable where its smallest eigenvalue is above −1/3. Messages
        that it loses leave a bias for good: corrections no longer sum to zero.
      optimizer: makes u from g (u = −γ g for plain SGD), for each worker apart.
    """
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> D2State:
        return D2State(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: D2State) -> tuple[D2State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        moved = tree.add(s.params, u)
        mix, x = mixer.mix(key, t, s.mix, tree.add(moved, s.correction))
        return D2State(x, tree.sub(x, moved), local_state, mix), info

    return method(mixer, init, step)
