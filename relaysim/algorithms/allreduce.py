"""Synchronous data-parallel SGD, the centralized baseline."""

import optax
from optax import tree

from relaysim.algorithms.base import State, method
from relaysim.local import local_update, per_worker
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
    local, optimizer = local_update(grad, optimizer), per_worker(optimizer)

    def init(key: Key, params: Stacked) -> State:
        mix, params = mixer.mix(key, mixer.init(params), params)
        return State(params, local.init(key, params), mix)

    def step(key: Key, s: State) -> tuple[State, Info]:
        run_key, steps, opt = s.local
        loss, g = grad(run_key, steps, s.params)
        mix, mean_g = mixer.mix(key, s.mix, g)
        u, opt = optimizer.update(mean_g, opt, s.params)
        return State(tree.add(s.params, u), s.local._replace(steps=steps + 1, opt=opt), mix), Info(loss)

    return method(mixer, init, step)
