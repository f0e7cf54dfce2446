from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from relaysim.checks import check_count
from relaysim.types import Array


class Transformer(nn.Module):
    """A small encoder of text, and a dense layer on the mean over the tokens.

    Vaswani et al. (2017), "Attention Is All You Need", with layer normalization before each part instead of
    after it (Xiong et al. 2020), learned positions, gelu and no dropout. Flax's own initialization: LeCun
    normal, and normal of variance 1 / width for the embeddings.

    >>> model = Transformer(num_classes=2, vocabulary=1000, max_length=64)

    Args:
      num_classes: C.
      vocabulary: tokens are 0, …, vocabulary - 1, where 0 is padding: it is neither attended to nor counted.
      max_length: of a text, in tokens.
      width: of the embeddings, a multiple of `heads`. The layers within are four times as wide.
      heads: of the attention.
      layers: how many.
    """

    num_classes: int
    vocabulary: int
    max_length: int
    width: int = 64
    heads: int = 4
    layers: int = 2

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes)
        check_sizes(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """(B, T) int -> (B, C), T at most max_length."""
        check_tokens(tokens, self.max_length)
        present = tokens > 0
        x = attended(self, tokens, present[:, None, None, :]) * present[..., None]
        return nn.Dense(self.num_classes)(x.sum(1) / jnp.maximum(present.sum(1, keepdims=True), 1))


def check_tokens(tokens: Array, max_length: int) -> None:
    """Raise a ValueError unless they are integers (B, T), T at most max_length."""
    if tokens.ndim != 2 or tokens.shape[1] > max_length:
        raise ValueError(f"tokens has shape {tokens.shape}, expected (B, T ≤ max_length={max_length})")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens holds {tokens.dtype}, expected integers")


def check_sizes(model: Any) -> None:
    """Raise a ValueError unless they are positive, and the width a multiple of the heads."""
    for name in ("vocabulary", "max_length", "width", "heads", "layers"):
        check_count(name, getattr(model, name))
    if model.width % model.heads:
        raise ValueError(f"width is {model.width}, expected a multiple of heads = {model.heads}")


def attended(model: Any, tokens: Array, mask: Array) -> Array:
    """What a model's layers make of its tokens: (B, T) int -> (B, T, width). To be called in its `__call__`.

    Args:
      model: has vocabulary, max_length, width, heads and layers.
      tokens: (B, T) int.
      mask: broadcasts to (B, heads, T, T), who sees whom.
    """
    x = nn.Embed(model.vocabulary, model.width)(tokens)
    x = x + nn.Embed(model.max_length, model.width)(jnp.arange(tokens.shape[1])[None])
    for _ in range(model.layers):
        x = x + nn.MultiHeadDotProductAttention(model.heads)(nn.LayerNorm()(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * model.width)(nn.LayerNorm()(x)))
        x = x + nn.Dense(model.width)(y)
    return nn.LayerNorm()(x)
