import flax.linen as nn
import jax.numpy as jnp

from relaysim.checks import check_positive
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
        check_positive(
            num_classes=self.num_classes,
            vocabulary=self.vocabulary,
            max_length=self.max_length,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
        )
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of heads = {self.heads}")
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """(B, T) int -> (B, C), T at most max_length."""
        check_tokens(tokens, self.max_length)
        present = tokens > 0
        positions = jnp.arange(tokens.shape[1])[None]
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        x = x + nn.Embed(self.max_length, self.width)(positions)
        for _ in range(self.layers):
            attention = nn.MultiHeadDotProductAttention(self.heads)
            x = x + attention(nn.LayerNorm()(x), mask=present[:, None, None, :])
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        x = nn.LayerNorm()(x) * present[..., None]
        return nn.Dense(self.num_classes)(x.sum(1) / jnp.maximum(present.sum(1, keepdims=True), 1))


def check_tokens(tokens: Array, max_length: int) -> None:
    """Raise a ValueError unless they are integers (B, T), T at most max_length."""
    if tokens.ndim != 2 or tokens.shape[1] > max_length:
        raise ValueError(f"tokens has shape {tokens.shape}, expected (B, T ≤ max_length={max_length})")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens holds {tokens.dtype}, expected integers")
