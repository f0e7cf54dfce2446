"""Synchronous data-parallel SGD, the centralized baseline."""

import jax.numpy as jnp
import optax
from optax import tree

from relaysim.algorithms.base import State, method
from relaysim.local import LocalState, per_worker
from relaysim.types import Algorithm, Grad, Info, Key, Mixer, Stacked


def allreduce(grad: Grad, mixer: Mixer, optimizer: optax.GradientTransformation) -> Algorithm:
    """The gradients are averaged, then everybody takes the same step from the same model:

        x ← x + u,    u made from (1/n) Σ_i g_i.

    The models are averaged once, at the start.

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: `all_reduce(n)`.
      optimizer: makes u from the average gradient; for SGD with or without momentum that is the average of
        the workers' own u, for others, such as Adam, it is not.
    """
    optimizer = per_worker(optimizer)

    def init(key: Key, params: Stacked) -> State:
        mix, params = mixer.mix(key, mixer.init(params), params)
        return State(params, LocalState(key, jnp.zeros((), jnp.int32), optimizer.init(params)), mix)

    def step(key: Key, s: State) -> tuple[State, Info]:
        run_key, count, opt = s.local
        loss, g = grad(run_key, count, s.params)
        mix, mean_g = mixer.mix(key, s.mix, g)
        u, opt = optimizer.update(mean_g, opt, s.params)
        return State(tree.add(s.params, u), LocalState(run_key, count + 1, opt), mix), Info(loss)

    return method(mixer, init, step)
