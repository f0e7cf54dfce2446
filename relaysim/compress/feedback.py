"""Error feedback: what compression left out of a message comes with a later one."""

from typing import Any, Literal, NamedTuple, get_args

import jax
from optax import tree

from relaysim.checks import check_choice, check_mixer, check_number
from relaysim.compress.compressors import Compressor, check_compressor
from relaysim.types import Array, Key, Mixer, Stacked, made_by

Of = Literal["models", "updates"]


class FeedbackState(NamedTuple):
    memory: Stacked
    """The public copies H of the models, or what is left of the updates, e."""
    compressor: Any
    mix: Any


def error_feedback(mixer: Mixer, compressor: Compressor, *, gamma: float = 1.0, of: Of = "models") -> Mixer:
    """A mixer whose messages are compressed, for any method, with a memory for what was left out.

    Of models, each worker sends the compressed difference between its model and a copy H_i that all who
    hear it keep, and what is mixed are the copies (H = 0 at first):

        H ← H + C(x − H),    x ← x + γ (W H − H).

    Of updates or gradients, which are sent once and add up (`relaysgd_grad`, `allreduce`), what was left out
    is added to the next ones:

        q = C(x + e),    e ← x + e − q,    x ← W q.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> mixer = error_feedback(rs.gossip(rs.topology.ring(8)), rs.compress.top_k(0.2), gamma=0.3)
    >>> method = rs.dpsgd(task.grad, mixer, optax.sgd(0.1))          # which is rs.choco_sgd

    What is sent is counted at the compressed size, for mixers that send each worker's own x to its
    neighbours. Where sums are formed on the way they have more entries than one message: relayed sums are
    compressed hop by hop by `rs.compress.relay_sum`. With a mixer that loses messages a copy is left out of
    that step's average, and what was missed comes with the next message: copies never differ.

    Source: Koloskova, Stich and Jaggi, "Decentralized stochastic optimization and gossip algorithms with
    compressed communication" (CHOCO), ICML 2019; Karimireddy et al., "Error feedback fixes SignSGD", ICML
    2019.

    Args:
      mixer: W, such as `gossip(topology)`.
      compressor: C, such as `rs.compress.top_k(0.1)`.
      gamma: γ, in (0, 1], the step towards the neighbours' copies. The more is left out, the smaller; with
        1 and strong compression models drift apart.
      of: what is mixed, "models" or "updates" (then γ is not used).

    Raises:
      ValueError: where an argument is none of these.
    """
    check_mixer(mixer)
    check_compressor(compressor)
    check_number("gamma", gamma, 0, 1, "(]")
    check_choice("of", of, get_args(Of))

    def init(x: Stacked) -> FeedbackState:
        zeros = tree.zeros_like(x)
        return FeedbackState(zeros, compressor.init(x), mixer.init(x if of == "models" else zeros))

    def mix(key: Key, step: Array, s: FeedbackState, x: Stacked) -> tuple[FeedbackState, Stacked]:
        own = jax.random.fold_in(key, 1)
        if of == "updates":
            x = tree.add(x, s.memory)
            state, q = compressor.compress(own, step, s.compressor, x)
            mixing, mixed = mixer.mix(key, step, s.mix, q)
            return FeedbackState(tree.sub(x, q), state, mixing), mixed
        state, copies = compressor.follow(own, step, s.compressor, s.memory, x)
        mixing, mixed = mixer.mix(key, step, s.mix, copies)
        x = tree.add_scale(x, gamma, tree.sub(mixed, copies))
        return FeedbackState(copies, state, mixing), x

    name = f"compressed {mixer.name or made_by(mixer.mix)}"
    return Mixer(mixer.num_workers, init, mix, mixer.messages, compressor.share, name)
