"""RelaySGD (Vogels et al. 2021, "RelaySum for decentralized deep learning on heterogeneous data",
Algorithm 1)."""

import optax
from optax import tree

from relaysim.algorithms.base import State, called, method
from relaysim.algorithms.dpsgd import dpsgd
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def relaysgd(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """Every worker takes its own step, then the models are averaged by RelaySum:

        x ← RelaySum(x + u),    u = −γ g for plain SGD,

    which is D-PSGD but for the mixer, and that makes all the difference: contributions are weighted evenly,
    so that workers with different data do not pull the models apart. With Adam's u it is Relay-Adam.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> relaysgd(task.grad, rs.relay_sum(rs.topology.chain(4)), optax.sgd(0.1))
    Algorithm('relaysgd with relay_sum on chain', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: `relay_sum(tree)`.
      optimizer: makes u from g, for each worker apart.
    """
    return called("relaysgd", dpsgd(grad, mixer, optimizer))


def relaysgd_grad(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """RelaySGD/Grad (appendix of the paper): the updates are relayed instead of the models,

        x ← x + RelaySum(u),

    so that each update is applied once everywhere, those still under way counting as 0. The arguments are
    those of `relaysgd`.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> relaysgd_grad(task.grad, rs.relay_sum(rs.topology.chain(4)), optax.sgd(0.1))
    Algorithm('relaysgd_grad with relay_sum on chain', 4 workers)
    """
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> State:
        return State(params, local.init(key, params), mixer.init(tree.zeros_like(params)))

    def step(key: Key, t: Array, s: State) -> tuple[State, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        mix, mean_u = mixer.mix(key, t, s.mix, u)
        return State(tree.add(s.params, mean_u), local_state, mix), info

    return method(mixer, init, step)
