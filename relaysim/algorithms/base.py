"""What the methods share: the usual state, and the frame around a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from relaysim.local import LocalState
from relaysim.types import Algorithm, Info, Key, Mixer, Stacked


class State(NamedTuple):
    params: Stacked
    local: LocalState
    mix: Any


def method(
    mixer: Mixer,
    init: Callable[[Key, Stacked], Any],
    step: Callable[[Key, Any], tuple[Any, Info]],
    *,
    params: Callable[[Any], Stacked] = lambda s: s.params,
    vectors: int = 1,
) -> Algorithm:
    """An algorithm that calls `mixer` once a step with `vectors` model-sized vectors from each worker.

    Raises:
      ValueError: where `mixer` is not a mixer.
    """
    if not isinstance(mixer, Mixer):
        raise ValueError(f"mixer is {mixer!r}, expected a way to communicate such as rs.relay_sum(tree)")
    return Algorithm(mixer.num_workers, init, step, params, sent=lambda: vectors * mixer.sent())
