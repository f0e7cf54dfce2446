from collections.abc import Sequence

import flax.linen as nn

from relaysim.checks import check_count, check_counts
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
        self.hidden = check_counts("hidden", self.hidden)  # a tuple, which can be hashed, as jit wants it
        check_count("num_classes", self.num_classes)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, ...) -> (B, C), each sample flattened first."""
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)
