"""NoLoCo (Kolehmainen, Blagoev, Donaghy, Ersoy and Nies 2025, "NoLoCo: no-all-reduce low communication
training method for large models", section 3.2)."""

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.algorithms.quasi_global_momentum import MomentumState
from relaysim.checks import check_count, check_number
from relaysim.local import local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked


def noloco(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    local_steps: int,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.5,
    gamma: float | None = None,
) -> Algorithm:
    """DiLoCo without an all-reduce: a momentum that also pulls the models of those who meet together.

        d = x_K − x after K local steps,    m ← α m + β W d + γ (W x − x),    x ← x + m,    m = 0 at first.

    The models are never averaged by themselves. Model and d travel in one message.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.noloco(task.grad, rs.random_matching(8), optax.adamw(0.01), local_steps=10)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t it is asked for the steps t K, …,
        t K + K − 1. The loss that is recorded is the mean over these.
      mixer: W, the paper's being `random_matching(n)`: pairs drawn anew each round.
      optimizer: of the local steps, for each worker apart; it keeps its state from round to round.
      local_steps: K, at least 1.
      outer_rate: β, above 0.
      outer_momentum: α, in [0, 1).
      gamma: γ, above 0; β by default, as in the authors' code.

    Raises:
      ValueError: where an argument is none of these.
    """
    steps = check_count("local_steps", local_steps)
    check_number("outer_rate", outer_rate, 0, ends="()")
    check_number("outer_momentum", outer_momentum, 0, 1, "[)")
    pull = outer_rate if gamma is None else gamma
    check_number("gamma", pull, 0, ends="()")
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> MomentumState:
        zeros = tree.zeros_like(params)
        return MomentumState(params, zeros, local.init(key, params), mixer.init((params, zeros)))

    def step(key: Key, t: Array, s: MomentumState) -> tuple[MomentumState, Info]:
        local_state, x, info = local.several(t, s.local, s.params, steps)
        mix, (mean_x, mean_d) = mixer.mix(key, t, s.mix, (s.params, tree.sub(x, s.params)))
        momentum = jax.tree.map(
            lambda m, d, mean, x: outer_momentum * m + outer_rate * d + pull * (mean - x),
            s.momentum,
            mean_d,
            mean_x,
            s.params,
        )
        return MomentumState(tree.add(s.params, momentum), momentum, local_state, mix), info

    return method(mixer, init, step, vectors=2)
