"""The exact average, by the schedules with which clusters compute it."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_choice, check_num_workers
from relaysim.types import Array, Key, Messages, Mixer, Stacked

Schedule = Literal["ring", "tree", "halving"]


def all_reduce(num_workers: int, *, schedule: Schedule = "ring") -> Mixer:
    """The exact average at every worker.

    The schedule says which messages that takes (Thakur, Rabenseifner & Gropp 2005, "Optimization of
    collective communication operations in MPICH"); the average is the same.

        ring       2 (n − 1) rounds, in each a message of 1/n from every worker to the next: parts of the sum
                   go around once, then the parts of the average. 2 (n − 1) / n vectors a worker.
        tree       ⌈log₂ n⌉ rounds of whole vectors up a binomial tree to worker 0, as many down again.
        halving    with 2^k workers k rounds of 1/2, 1/4, …, 1/2^k, and these again the other way around.
                   Workers beyond 2^k hand their vector to one of the others first and get the average last.

    >>> all_reduce(4).sent().tolist()
    [1.5, 1.5, 1.5, 1.5]

    Args:
      num_workers: n.
      schedule: of the messages.

    Raises:
      ValueError: where `num_workers` is below 1 or there is no such schedule.
    """
    n = check_num_workers(num_workers)
    schedules = {"ring": _ring, "tree": _tree, "halving": _halving}
    check_choice("schedule", schedule, schedules)

    def mix(key: Key, step: Array, s: tuple, x: Stacked) -> tuple[tuple, Stacked]:
        return s, jax.tree.map(lambda v: jnp.broadcast_to(v.mean(0), v.shape), x)

    return Mixer(
        n, lambda x: (), mix, messages=lambda: [schedules[schedule](n)], name=f"all_reduce by {schedule}"
    )


def _ring(n: int) -> list[Messages]:
    worker = np.arange(n)
    return [Messages(worker, (worker + 1) % n, 1 / n)] * (2 * (n - 1))


def _tree(n: int) -> list[Messages]:
    up = []
    for k in range((n - 1).bit_length()):
        senders = np.arange(2**k, n, 2 ** (k + 1))
        up.append(Messages(senders, senders - 2**k))
    return up + [Messages(r.receivers, r.senders) for r in reversed(up)]


def _halving(n: int) -> list[Messages]:
    k = n.bit_length() - 1
    worker, extra = np.arange(2**k), np.arange(2**k, n)
    halves = [Messages(worker, worker ^ 2 ** (k - 1 - i), 0.5 ** (i + 1)) for i in range(k)]
    rounds = [*halves, *reversed(halves)]
    if len(extra):
        rounds = [Messages(extra, extra - 2**k), *rounds, Messages(extra - 2**k, extra)]
    return rounds
