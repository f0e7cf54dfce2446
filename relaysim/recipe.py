"""How the paper trains networks: Nesterov momentum, weight decay, and a learning rate in steps."""

from collections.abc import Sequence

import optax

from relaysim.types import Array


def steps_per_epoch(samples: int, workers: int, batch_size: int) -> int:
    """The batches in a worker's share of all samples, on average, rounded; 1 at least."""
    return max(round(samples / (workers * batch_size)), 1)


def schedule(
    rate: float | Array,
    steps_per_epoch: int,
    epochs: int,
    *,
    warmup: float = 5,
    milestones: Sequence[float] = (0.75, 0.9),
) -> optax.Schedule:
    """The paper's learning rate: up linearly, constant, then a tenth of it after each milestone.

    >>> rate = schedule(0.1, steps_per_epoch=10, epochs=40)
    >>> [round(float(rate(step)), 4) for step in (0, 25, 50, 299, 300, 360)]
    [0.002, 0.052, 0.1, 0.1, 0.01, 0.001]

    Args:
      rate: γ. May be traced.
      steps_per_epoch: an epoch's batches.
      epochs: of the whole run.
      warmup: epochs until the rate is γ; the first step has γ / (warmup steps).
      milestones: fractions of the run.

    Raises:
      ValueError: where `warmup` takes 2³¹ steps or more.
    """
    total, rising = steps_per_epoch * epochs, max(round(steps_per_epoch * warmup), 1)
    if rising >= 2**31:
        raise ValueError(f"warmup is {warmup}, expected less than 2³¹ steps, of {steps_per_epoch} an epoch")
    up = optax.linear_schedule(1 / rising, 1.0, max(rising - 1, 1))
    down = optax.piecewise_constant_schedule(1.0, {round(total * part): 0.1 for part in milestones})

    def at(step: Array) -> Array:
        return rate * up(step) * down(step)

    return at


def sgd(
    rate: float | Array | optax.Schedule, *, momentum: float = 0.0, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, where it is not 0, and weight decay that is part of the gradient."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(rate, momentum=momentum or None, nesterov=momentum > 0),
    )
