"""DecentLaM (Yuan, Chen, Huang, Zhang, Pan, Xu and Yin 2021, "DecentLaM: decentralized momentum SGD for
large-batch deep training", Algorithm 2)."""

import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.quasi_global_momentum import MomentumState
from relaysim.checks import check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def decentlam(
    grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation, *, beta: float = 0.9
) -> Algorithm:
    """Momentum of the whole step of D-PSGD, averaging included, which takes away the bias that momentum adds:

        z = W (x + u) − x,    m ← β m + z,    x ← x + m,    m = 0 at first.

    With β = 0 this is D-PSGD. The momentum is in units of the parameters (−γ times the paper's).

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.decentlam(task.grad, rs.gossip(rs.topology.ring(8)), optax.sgd(0.1), beta=0.9)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from g (without a momentum of its own), for each worker apart.
      beta: β, in [0, 1).

    Raises:
      ValueError: where `beta` is not in [0, 1).
    """
    check_number("beta", beta, 0, 1, "[)")
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> MomentumState:
        return MomentumState(params, tree.zeros_like(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: MomentumState) -> tuple[MomentumState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        mix, mixed = mixer.mix(key, t, s.mix, tree.add(s.params, u))
        momentum = tree.add_scale(tree.sub(mixed, s.params), beta, s.momentum)
        return MomentumState(tree.add(s.params, momentum), momentum, local_state, mix), info

    return method(mixer, init, step)
