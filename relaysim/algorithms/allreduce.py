"""Synchronous data-parallel SGD, the centralized baseline."""

import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import State, method
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def allreduce(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """The gradients are averaged, then everybody takes the same step from the same model:

        x ← x + u,    u made from (1/n) Σ_i g_i.

    The models are averaged once, at the start.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> allreduce(task.grad, rs.all_reduce(4), optax.sgd(0.1))
    Algorithm('allreduce with all_reduce by ring', 4 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: `all_reduce(n)`.
      optimizer: makes u from the average gradient; for SGD with or without momentum that is the average of
        the workers' own u, for others, such as Adam, it is not.
    """
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> State:
        mix, params = mixer.mix(key, jnp.zeros((), jnp.int32), mixer.init(params), params)
        return State(params, local.init(key, params), mix)

    def step(key: Key, t: Array, s: State) -> tuple[State, Info]:
        local_state, g, info = local.gradient(t, s.local, s.params)
        mix, mean_g = mixer.mix(key, t, s.mix, g)
        local_state, u = local.apply(t, local_state, mean_g, s.params, info)
        return State(tree.add(s.params, u), local_state, mix), info

    return method(mixer, init, step)
