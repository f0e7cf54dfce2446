"""Mixing a part of the model alone."""

import math
from typing import Any

import jax

from relaysim.checks import check_mixer
from relaysim.types import Array, Key, Mixer, Stacked, scaled


def keep_local(mixer: Mixer, *names: str, params: Stacked | None = None) -> Mixer:
    """Mix all but the parts of a model that go by these names, which stay each worker's own.

    For batch statistics (Li et al. 2021, "FedBN: Federated learning on non-IID features via local batch
    normalization") and personal layers (Arivazhagan et al. 2019, "Federated learning with personalization
    layers"). Not for `push_sum`, whose models are all divided by a weight.

    >>> import jax.numpy as jnp
    >>> from relaysim.mixing import all_reduce
    >>> mixer, x = keep_local(all_reduce(2), "head"), {"body": jnp.arange(2.0), "head": jnp.arange(2.0)}
    >>> mixer.mix(jax.random.key(0), 0, mixer.init(x), x)[1]
    {'body': Array([0.5, 0.5], dtype=float32), 'head': Array([0., 1.], dtype=float32)}

    Args:
      mixer: mixes the rest.
      names: of entries of dicts, or of fields, anywhere in the model.
      params: the models or their shapes, by which the messages are counted as the smaller ones that they are;
        without them they are counted as whole models.

    Raises:
      ValueError: where `mixer` is no mixer, or no name is given.
    """
    check_mixer(mixer)
    if not names:
        raise ValueError("names is empty, expected those of the parts that stay, such as 'batch_stats'")

    def is_kept(path: tuple) -> bool:
        return any(getattr(key, "key", getattr(key, "name", None)) in names for key in path)

    def shared(x: Stacked) -> list[Array]:
        return [leaf for path, leaf in jax.tree.leaves_with_path(x) if not is_kept(path)]

    def mix(key: Key, step: Array, state: Any, x: Stacked) -> tuple[Any, Stacked]:
        state, mixed = mixer.mix(key, step, state, shared(x))
        there = iter(mixed)
        return state, jax.tree.map_with_path(lambda path, leaf: leaf if is_kept(path) else next(there), x)

    def size(leaves: list[Array]) -> int:
        return sum(math.prod(leaf.shape) for leaf in leaves)

    share = 1.0 if params is None else size(shared(params)) / size(jax.tree.leaves(params))
    return Mixer(
        mixer.num_workers,
        lambda x: mixer.init(shared(x)),
        mix,
        messages=lambda: scaled(mixer.messages(), share),
    )
