from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from relaysim.checks import check_bool, check_count, check_counts
from relaysim.types import Array

MAX_GROUPS = 32
EPSILON = 1e-5

Conv = partial(
    nn.Conv, use_bias=False, kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal")
)


class EvoNorm(nn.Module):
    """Normalization and activation in one, of each sample by itself: x σ(v x) / std(x) · γ + β.

    EvoNorm-S0 of Liu et al. (2020), "Evolving Normalization-Activation Layers". The standard deviation
    sqrt(var + 1e-5) is that of a group of channels, with all their pixels. γ, β and v are one number for each
    channel and start as 1, 0 and 1. There are 32 groups, or one for each channel if these are fewer.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, channels), the same out."""
        b, h, w, channels = x.shape
        gamma = self.param("gamma", nn.initializers.ones, (channels,))
        beta = self.param("beta", nn.initializers.zeros, (channels,))
        v = self.param("v", nn.initializers.ones, (channels,))
        var = x.reshape(b, h, w, num_groups(channels), -1).var((1, 2, 4))
        std = jnp.repeat(jnp.sqrt(var + EPSILON), channels // num_groups(channels), axis=1)[:, None, None]
        return x * jax.nn.sigmoid(broadcast(v) * x) / std * broadcast(gamma) + broadcast(beta)


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut, which is a 1 × 1 convolution where the shape changes."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, ...) -> (B, H / stride, W / stride, channels)."""
        norm = partial(nn.GroupNorm, num_groups(self.channels), epsilon=EPSILON)
        y = Conv(self.channels, (3, 3), self.stride, padding=1)(x)
        y = norm()(Conv(self.channels, (3, 3), padding=1)(EvoNorm()(y)))
        if x.shape != y.shape:
            x = norm()(Conv(self.channels, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network with EvoNorm in place of batch normalization and relu.

    He et al. (2016), "Deep Residual Learning for Image Recognition", in the way of Lin et al. (2021) and
    Vogels et al. (2021). Where their code normalizes without an activation, by the statistics of the batch,
    there is a GroupNorm here: no sample knows of another. He initialization (normal, fan out) of the
    convolutions as in their code, LeCun normal of the dense layer.

    >>> model = resnet20(num_classes=10)

    Args:
      num_classes: C.
      blocks: the number of blocks of each stage. From the second stage on, the first block halves the image.
      channels: of each stage, as many.
      wide_stem: start with a 7 × 7 convolution and max-pooling, which together quarter the image, as is done
        for ImageNet; otherwise with a 3 × 3 convolution.
    """

    num_classes: int
    blocks: Sequence[int]
    channels: Sequence[int]
    wide_stem: bool

    def __post_init__(self) -> None:
        check_count("num_classes", self.num_classes)
        self.blocks = check_counts("blocks", self.blocks)
        self.channels = check_counts("channels", self.channels)
        check_bool("wide_stem", self.wide_stem)
        if len(self.blocks) != len(self.channels) or not self.blocks:
            raise ValueError(
                f"blocks is {self.blocks}, channels is {self.channels}, expected one of each for every stage"
            )
        for channels in self.channels:
            if channels % num_groups(channels):
                raise ValueError(f"channels is {self.channels}, expected at most 32 or multiples of 32")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(B, H, W, ...) -> (B, C)."""
        if self.wide_stem:
            x = EvoNorm()(Conv(self.channels[0], (7, 7), 2, padding=3)(x))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            x = EvoNorm()(Conv(self.channels[0], (3, 3), padding=1)(x))
        for stage, (blocks, channels) in enumerate(zip(self.blocks, self.channels, strict=True)):
            for block in range(blocks):
                x = Block(channels, 2 if stage and not block else 1)(x)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def resnet20(num_classes: int = 10) -> ResNet:
    """ResNet-20, for images of about 32 × 32 pixels.

    >>> resnet20().channels
    (16, 32, 64)
    """
    return ResNet(num_classes, blocks=(3, 3, 3), channels=(16, 32, 64), wide_stem=False)


def resnet18(num_classes: int = 1000) -> ResNet:
    """ResNet-18, for images of about 224 × 224 pixels.

    >>> resnet18().num_classes
    1000
    """
    return ResNet(num_classes, blocks=(2, 2, 2, 2), channels=(64, 128, 256, 512), wide_stem=True)


def num_groups(channels: int) -> int:
    return min(MAX_GROUPS, channels)


def broadcast(x: Array) -> Array:
    """(channels,) -> (1, 1, 1, channels)."""
    return x[None, None, None]
