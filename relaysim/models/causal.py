import flax.linen as nn

from relaysim.models.transformer import attended, check_sizes, check_tokens
from relaysim.types import Array


class CausalTransformer(nn.Module):
    """A small decoder, which tells at each place of a text what comes next.

    The layers of `Transformer`, where no token sees those after it; in the way of Radford et al. (2019),
    "Language models are unsupervised multitask learners", without dropout. With `losses.next_token`.

    >>> model = CausalTransformer(vocabulary=64, max_length=32)

    Args:
      vocabulary: V, tokens are 0, …, V - 1.
      max_length: of a text, in tokens.
      width: of the embeddings, a multiple of `heads`. The layers within are four times as wide.
      heads: of the attention.
      layers: how many.
    """

    vocabulary: int
    max_length: int
    width: int = 64
    heads: int = 4
    layers: int = 2

    def __post_init__(self) -> None:
        check_sizes(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """(B, T) int -> (B, T, V), T at most max_length."""
        check_tokens(tokens, self.max_length)
        x = attended(self, tokens, nn.make_causal_mask(tokens[:1]))
        return nn.Dense(self.vocabulary)(x)
