"""Flax models: small networks to train, each a `flax.linen.Module` from inputs (B, ...) to logits (B, C)."""

from relaysim.models.mlp import MLP

__all__ = ["MLP"]
