"""DSGD-CECA (Ding, Zhu, Ying and Yuan 2023, "DSGD-CECA: decentralized SGD with communication-optimal exact
consensus algorithm", Algorithms 1 and 2)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import tree

from relaysim.checks import check_count, check_num_workers
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Calls, Grad, Info, Key, Messages, Stacked


class CecaState(NamedTuple):
    params: Stacked
    """a, the models."""
    others: Stacked
    """c, in which a worker's own part is left out at times."""
    local: LocalState
    mix: tuple = ()


def ceca(
    grad: Grad, num_workers: int, optimizer: optax.GradientTransformation, *, peers: int = 2
) -> Algorithm:
    """One vector a step from one peer, and the exact average after ⌈log₂ n⌉ steps for any n.

    The binary digits of n − 1, the most significant first, are gone through one a step, again and again; k
    = 0 at the start of a pass, then k ← 2k + digit. With s the peer of the step and two models a and c a
    worker:

        digit 1    h = a + u(a),    a ← (h + h_s) / 2,    c ← ((k + 1) h_s + k (c + u)) / (2k + 1)
        digit 0    h = c + u(c),    c ← (h + h_s) / 2,    a ← ((k + 1) (a + u) + k h_s) / (2k + 1)

    With 2 peers worker i hears from i − (k + digit) mod n and another one hears from it; with 1 peer, for
    even n, pairs exchange: odd i with i + 2k + 1, even i with i − 2k − 1. The loss is that at h's model. No
    message can be lost: averages are exact because all arrive.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 6, 5, zeta2=1.0)
    >>> method = rs.ceca(task.grad, 6, optax.sgd(0.1), peers=1)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      num_workers: n; even where there is 1 peer.
      optimizer: makes u from g, for each worker apart; the same u moves both models.
      peers: 1 or 2.

    Raises:
      ValueError: where an argument is none of these.
    """
    n, peers = check_num_workers(num_workers), check_count("peers", peers, 1, 2)
    if peers == 1 and n % 2 and n > 1:
        raise ValueError(f"num_workers is {n}, expected an even number where peers is 1")
    digits, ks, senders = (np.array(v) for v in zip(*schedule(n, peers), strict=True))
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> CecaState:
        return CecaState(params, params, local.init(key, params))

    def step(key: Key, t: Array, s: CecaState) -> tuple[CecaState, Info]:
        phase = t % len(digits)
        one, k, peer = jnp.asarray(digits)[phase] == 1, jnp.asarray(ks)[phase], jnp.asarray(senders)[phase]
        at, other = tree.where(one, (s.params, s.others), (s.others, s.params))
        local_state, u, info = local.update(t, s.local, at)
        h, rest = tree.add(at, u), tree.add(other, u)
        heard = jax.tree.map(lambda v: v[peer], h)
        mean = jax.tree.map(lambda v, w: (v + w) / 2, h, heard)
        mine, theirs = jnp.where(one, k, k + 1) / (2 * k + 1), jnp.where(one, k + 1, k) / (2 * k + 1)
        rest = jax.tree.map(lambda v, w: mine.astype(v.dtype) * v + theirs.astype(v.dtype) * w, rest, heard)
        a, c = tree.where(one, (mean, rest), (rest, mean))
        return CecaState(a, c, local_state), info

    def messages(models: Any) -> Calls:
        worker = np.arange(n)
        return [[Messages(peer, worker)] if n > 1 else [] for peer in senders]

    return Algorithm(n, init, step, lambda s: s.params, messages)


def schedule(num_workers: int, peers: int) -> list[tuple[int, int, np.ndarray]]:
    """The steps of a pass: (digit, k, whom each worker hears (n,))."""
    i, k, steps = np.arange(num_workers), 0, []
    for digit in map(int, f"{num_workers - 1:b}"):
        if num_workers == 1:
            heard = i
        elif peers == 2:
            heard = (i - k - digit) % num_workers
        else:
            heard = (i + np.where(i % 2, 2 * k + 1, -2 * k - 1)) % num_workers
        steps.append((digit, k, heard))
        k = 2 * k + digit
    return steps
