from collections.abc import Sequence

import flax.linen as nn

from relaysim.checks import check_count, check_counts
from relaysim.types import Array

he_normal = nn.initializers.he_normal()


class CNN(nn.Module):
    """A small convolutional network: strided convolutions with relu, then one dense layer.

    Each convolution halves the image, so that no pooling is needed. He initialization (normal, fan in) of the
    convolutions, LeCun normal of the dense layer, biases 0. By default 20,490 parameters for 28 × 28 × 1
    and 10 classes.

    >>> model = CNN(num_classes=10)

    Args:
      num_classes: C.
      channels: of each convolution.
      kernel_size: the side of the square kernels.
    """

    num_classes: int
    channels: Sequence[int] = (16, 32)
    kernel_size: int = 3

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes)
        check_count("kernel_size", self.kernel_size)
        self.channels = check_counts("channels", self.channels)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, channels) -> (B, C)."""
        for channels in self.channels:
            size = (self.kernel_size, self.kernel_size)
            x = nn.relu(nn.Conv(channels, size, strides=2, kernel_init=he_normal)(x))
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))
