from collections.abc import Sequence

import flax.linen as nn

from relaysim.checks import check_count, check_counts
from relaysim.types import Array

CONVOLUTIONS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""The channels, with max-pooling after each group."""

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class VGG11(nn.Module):
    """VGG-11 without batch normalization, for images of 32 × 32 pixels.

    Configuration A of Simonyan & Zisserman (2015), "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", as Vogels et al. (2021) train it on CIFAR-10: 3 × 3 convolutions with bias, 2 × 2
    max-pooling. Their code has the classifier `hidden=(512, 512)`, with dropout, which is left out here. He
    initialization (normal, fan out) of the convolutions as in their code, LeCun normal of the dense layers,
    biases 0.

    >>> model = VGG11(num_classes=10)

    Args:
      num_classes: C.
      hidden: the width of each hidden layer of the classifier.
    """

    num_classes: int
    hidden: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes)
        self.hidden = check_counts("hidden", self.hidden)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, channels) -> (B, C), H and W multiples of 32."""
        if x.shape[1] % 32 or x.shape[2] % 32:
            raise ValueError(f"x has shape {x.shape}, expected a height and a width that are multiples of 32")
        for group in CONVOLUTIONS:
            for channels in group:
                x = nn.relu(nn.Conv(channels, (3, 3), kernel_init=he_normal)(x))
            x = max_pool(x)
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)


def max_pool(x: Array) -> Array:
    """The maximum of each 2 × 2 square: (B, H, W, C) -> (B, H/2, W/2, C).

    As a reshape and a maximum, since the gradient of windows is slow on CPUs. Entries that tie share the
    gradient equally, which after a relu changes nothing: there only zeros tie, where relu has none.
    """
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
