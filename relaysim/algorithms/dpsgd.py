"""D-PSGD (Lian et al. 2017, "Can decentralized algorithms outperform centralized algorithms? A case study for
decentralized parallel stochastic gradient descent", Algorithm 1)."""

import optax
from optax import tree

from relaysim.algorithms.base import State, method
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def dpsgd(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Every worker takes its own step, then averages with its neighbours:

        x ← W (x + u),    u = −γ g for plain SGD.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> dpsgd(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    Algorithm('dpsgd with gossip on ring', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from g, for each worker apart.
    """
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> State:
        return State(params, local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: State) -> tuple[State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        mix, x = mixer.mix(key, t, s.mix, tree.add(s.params, u))
        return State(x, local_state, mix), info

    return method(mixer, init, step)
