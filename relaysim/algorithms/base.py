"""What the methods share: the usual state, and the frame around a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from relaysim.checks import check_mixer
from relaysim.local import LocalState
from relaysim.types import Algorithm, Array, Calls, Info, Key, Mixer, Stacked, changed, made_by, scaled


class State(NamedTuple):
    """What most methods hand on from step to step."""

    params: Stacked
    """The models, leaves (n, ...)."""
    local: LocalState
    """What the workers' optimizers remember."""
    mix: Any
    """The mixer's state."""


def method(
    mixer: Mixer,
    init: Callable[[Key, Stacked], Any],
    step: Callable[[Key, Array, Any], tuple[Any, Info]],
    *,
    params: Callable[[Any], Stacked] = lambda s: s.params,
    vectors: float | Callable[[Stacked], float] = 1,
    calls: int = 1,
) -> Algorithm:
    """An algorithm that calls `mixer` once a step, or `calls` times.

    >>> import jax, optax, relaysim as rs
    >>> mixer = rs.gossip(rs.topology.ring(4))
    >>> def step(key, t, s):
    ...     mix, x = mixer.mix(key, t, s.mix, s.params)
    ...     return s._replace(params=x, mix=mix), Info(jax.numpy.zeros(4))
    >>> only_gossip = method(mixer, lambda key, x: State(x, (), mixer.init(x)), step)
    >>> only_gossip.num_workers
    4

    Args:
      mixer: how the workers communicate.
      init: (key, params) -> state.
      step: (key, step, state) -> (state, info).
      params: state -> the models to evaluate.
      vectors: the size of what goes into that call, in models: 2 for a pair of them, less than 1 for what is
        compressed; or a function of the models (or their shapes) that tells.
      calls: how often `mixer` is called in a step, one call after the other.

    Raises:
      ValueError: where `mixer` is not a mixer.
    """
    check_mixer(mixer)

    def messages(models: Stacked) -> Calls:
        mixed = (models,) * vectors if isinstance(vectors, int) else models
        size = (vectors(models) if callable(vectors) else vectors) * mixer.share(mixed)
        return scaled(changed(mixer.messages(), lambda call: list(call) * calls), size)

    name = f"{made_by(step)} with {mixer.name or made_by(mixer.mix)}"
    return Algorithm(mixer.num_workers, init, step, params, messages, name)


def called(name: str, special: Algorithm) -> Algorithm:
    """A special case of another method, under a name of its own."""
    return special._replace(name=f"{name} with {special.name.partition(' with ')[2]}")
