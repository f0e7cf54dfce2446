"""CHOCO-SGD (Koloskova, Stich and Jaggi 2019, "Decentralized stochastic optimization and gossip algorithms
with compressed communication", Algorithm 2)."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import optax
from optax import tree

from relaysim.algorithms.base import method
from relaysim.checks import check_choice, check_number
from relaysim.compress.compressors import Compressor, check_compressor
from relaysim.local import LocalState, local_update
from relaysim.types import Algorithm, Array, Grad, Info, Key, Mixer, Stacked

Order = Literal["gradient_first", "together"]


class ChocoState(NamedTuple):
    params: Stacked
    copies: Stacked
    """H: what all workers know of each other's models."""
    compressor: Any
    local: LocalState
    mix: Any


def choco_sgd(
    grad: Grad,
    mixer: Mixer,
    optimizer: optax.GradientTransformation,
    *,
    compressor: Compressor,
    gamma: float,
    order: Order = "gradient_first",
) -> Algorithm:
    """D-PSGD with compressed differences to public copies H of the models, H = 0 at first:

        gradient_first    x ← x + u;                    H ← H + C(x − H);    x ← x + γ (W H − H)
        together          x ← x + u + γ (W H − H);      H ← H + C(x − H)

    Both are in use: the first in deep learning, the second in the experiments of the paper. A message is one
    C(x − H). With a mixer that loses messages a copy is left out of the average of the step, and what was
    missed comes with the next message.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> mixer, top = rs.gossip(rs.topology.ring(8)), rs.compress.top_k(0.2)
    >>> method = rs.choco_sgd(task.grad, mixer, optax.sgd(0.1), compressor=top, gamma=0.3)

    Args:
      grad: (key, step, params) -> (losses (n,), gradients), such as `task.grad`.
      mixer: W, such as `gossip(topology)`.
      optimizer: makes u from g, for each worker apart.
      compressor: C, such as `rs.compress.top_k(0.1)`.
      gamma: γ, the consensus step, in (0, 1].
      order: of the two halves.

    Raises:
      ValueError: where an argument is none of these.
    """
    check_compressor(compressor)
    check_number("gamma", gamma, 0, 1, "(]")
    check_choice("order", order, get_args(Order))
    local = local_update(grad, optimizer)

    def init(key: Key, params: Stacked) -> ChocoState:
        zeros = tree.zeros_like(params)
        return ChocoState(params, zeros, compressor.init(params), local.init(key, params), mixer.init(params))

    def step(key: Key, t: Array, s: ChocoState) -> tuple[ChocoState, Info]:
        local_state, u, info = local.update(t, s.local, s.params)
        x, own = tree.add(s.params, u), jax.random.fold_in(key, 1)
        if order == "gradient_first":
            sent, h = compressor.follow(own, t, s.compressor, s.copies, x)
            mix, mixed = mixer.mix(key, t, s.mix, h)
            x = tree.add_scale(x, gamma, tree.sub(mixed, h))
        else:
            mix, mixed = mixer.mix(key, t, s.mix, s.copies)
            x = tree.add_scale(x, gamma, tree.sub(mixed, s.copies))
            sent, h = compressor.follow(own, t, s.compressor, s.copies, x)
        return ChocoState(x, h, sent, local_state, mix), info

    return method(mixer, init, step, vectors=compressor.share)
