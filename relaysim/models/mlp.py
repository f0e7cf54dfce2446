from collections.abc import Sequence

import flax.linen as nn

from relaysim.types import Array


class MLP(nn.Module):
    """A fully connected network with relu.

    >>> model = MLP(hidden=(64,), num_classes=10)

    Args:
      hidden: the width of each hidden layer; none makes it multinomial logistic regression.
      num_classes: C.
    """

    hidden: Sequence[int]
    num_classes: int

    def __post_init__(self) -> None:
        self.hidden = tuple(self.hidden)  # a list could not be hashed, so jit could not tell models apart
        if min((*self.hidden, self.num_classes)) < 1:
            raise ValueError(
                f"hidden is {self.hidden}, num_classes is {self.num_classes}, expected widths of at least 1"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, ...) -> (B, C), each sample flattened first."""
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)
