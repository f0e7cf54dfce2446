"""Flax models: networks to train, each a `flax.linen.Module` from inputs (B, ...) to logits (B, C)."""

from relaysim.models.causal import CausalTransformer
from relaysim.models.cnn import CNN
from relaysim.models.mlp import MLP
from relaysim.models.resnet import EvoNorm, ResNet, resnet18, resnet20
from relaysim.models.transformer import Transformer
from relaysim.models.vgg import VGG11

__all__ = [
    "CNN",
    "MLP",
    "VGG11",
    "CausalTransformer",
    "EvoNorm",
    "ResNet",
    "Transformer",
    "resnet18",
    "resnet20",
]
