"""DiLoCo (Douillard, Feng, Rusu et al. 2023, "DiLoCo: distributed low-communication training of language
models", Algorithm 1)."""

import optax

from relaysim import local
from relaysim.algorithms.base import called
from relaysim.algorithms.dpsgd import dpsgd
from relaysim.checks import check_count, check_number
from relaysim.types import Algorithm, Grad, Mixer


def diloco(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    local_steps: int,
    outer_rate: float = 0.7,
    outer_momentum: float = 0.9,
) -> Algorithm:
    """Local steps, and what they found as one large step with Nesterov momentum, over any mixer:

        x_K from x by K local steps,    m ← β m + (x_K − x),    x ← W (x + η (x_K − x + β m)).

    With `all_reduce` and equal first models this is DiLoCo: the average of the workers' outer steps is the
    outer step of their average. Every K-th gradient is followed by one message of a vector.

    >>> import jax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> rs.diloco(task.grad, rs.all_reduce(8), optax.adamw(0.01), local_steps=10)
    Algorithm('diloco with all_reduce by ring', 8 workers)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t it is asked for the steps t K, …,
        t K + K − 1. The loss that is recorded is the mean over these.
      mixer: W, such as `all_reduce(n)`, `gossip(topology)` or `relay_sum(tree)`.
      optimizer: of the local steps, for each worker apart; it keeps its state from round to round.
      local_steps: K, at least 1.
      outer_rate: η, above 0.
      outer_momentum: β, in [0, 1).

    Raises:
      ValueError: where an argument is none of these.
    """
    check_count("local_steps", local_steps)
    check_number("outer_rate", outer_rate, 0, ends="()")
    check_number("outer_momentum", outer_momentum, 0, 1, "[)")
    several = local.local_steps(grad, optimizer, local_steps)
    outer = optax.sgd(outer_rate, momentum=outer_momentum, nesterov=True)
    return called("diloco", dpsgd(several, mixer, outer))  # type: ignore[arg-type]
