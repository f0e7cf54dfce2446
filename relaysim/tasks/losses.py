"""Losses and metrics, one number for each sample, and regularisers.

A loss or a metric is a function (outputs, y) -> (B,) of what a model makes of B samples and of their labels;
a regulariser is a function of a model's parameters. Any function of your own will do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from relaysim.checks import check_number
from relaysim.types import Array

Loss = Callable[[Any, Any], Array]
"""(outputs, y), leaves (B, ...) -> (B,)"""


def cross_entropy(outputs: Array, y: Array) -> Array:
    """−log softmax(outputs)_y of classes y.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).round(4)
    Array([1.3863], dtype=float32)

    Args:
      outputs: (B, ..., C) logits.
      y: (B, ...) int, in 0, ..., C - 1.

    Returns:
      (B,), the mean over all but the first axis.
    """
    return _of_sample(optax.softmax_cross_entropy_with_integer_labels(outputs, y))


def logistic(outputs: Array, y: Array) -> Array:
    """log(1 + exp(−y · outputs)) of labels y = ±1.

    >>> logistic(jnp.array([0.0, 9.0]), jnp.array([1, -1])).round(4)
    Array([0.6931, 9.0001], dtype=float32)

    Args:
      outputs: (B,) or (B, 1) real numbers, positive for the label 1.
      y: (B,) −1 or 1.
    """
    return jax.nn.softplus(-y * outputs.reshape(y.shape))


def squared_error(outputs: Array, y: Array) -> Array:
    """½ ‖outputs − y‖².

    >>> squared_error(jnp.array([[1.0], [3.0]]), jnp.array([1.0, 1.0]))
    Array([0., 2.], dtype=float32)

    Args:
      outputs: (B, ...) real numbers.
      y: (B, ...) as many.
    """
    away = outputs.reshape(y.shape) - y
    return jnp.sum(away.reshape(len(away), -1) ** 2, 1) / 2


def next_token(outputs: Array, y: Array) -> Array:
    """The mean cross-entropy of the tokens that follow, those that are negative left out.

    >>> next_token(jnp.zeros((1, 3, 4)), jnp.array([[1, 2, -1]])).round(4)
    Array([1.3863], dtype=float32)

    Args:
      outputs: (B, T, V) logits of the token after each place.
      y: (B, T) int, that token, or a negative number where there is none.
    """
    there = y >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.where(there, y, 0))
    return jnp.where(there, losses, 0).sum(-1) / jnp.maximum(there.sum(-1), 1)


def accuracy(outputs: Array, y: Array) -> Array:
    """Whether the largest of the outputs (B, C) is that of the class y (B,): (B,) bool.

    Of sequences (B, T, C) and (B, T) the share of the places where it is, those left out where y is negative.

    >>> accuracy(jnp.array([[0.1, 0.9], [0.7, 0.3]]), jnp.array([1, 1]))
    Array([ True, False], dtype=bool)
    """
    right = outputs.argmax(-1) == y
    if right.ndim == 1:
        return right
    return right.sum(-1) / jnp.maximum((y >= 0).sum(-1), 1)


def sign_accuracy(outputs: Array, y: Array) -> Array:
    """Whether the outputs (B,) or (B, 1) have the sign of the labels y = ±1 (B,): (B,) bool.

    >>> sign_accuracy(jnp.array([0.1, 0.9]), jnp.array([1, -1]))
    Array([ True, False], dtype=bool)
    """
    return (outputs.reshape(y.shape) > 0) == (y > 0)


def absolute_error(outputs: Array, y: Array) -> Array:
    """The mean distance of outputs and y over a sample's numbers: (B, ...) and as many -> (B,).

    >>> absolute_error(jnp.array([[1.0], [3.0]]), jnp.array([1.0, 1.0]))
    Array([0., 2.], dtype=float32)
    """
    return _of_sample(jnp.abs(outputs.reshape(y.shape) - y))


def l2(strength: float) -> Callable[[Any], Array]:
    """The regulariser ½ λ ‖x‖² over all parameters.

    >>> l2(0.1)({"w": jnp.array([1.0, 2.0])})
    Array(0.25, dtype=float32)

    Args:
      strength: λ ≥ 0.
    """
    return _L2(check_number("strength", strength, 0))


def nonconvex(strength: float) -> Callable[[Any], Array]:
    """The regulariser λ Σ x² / (1 + x²), which is bounded and not convex.

    As in Antoniadis, Gijbels & Nikolova (2011), "Penalized likelihood regression for generalized linear
    models with non-quadratic penalties", and in many papers on stochastic methods since.

    >>> nonconvex(0.1)({"w": jnp.array([1.0, -1.0])})
    Array(0.1, dtype=float32)

    Args:
      strength: λ ≥ 0.
    """
    return _NonConvex(check_number("strength", strength, 0))


@dataclass(frozen=True)
class _L2:  # compares equal, so that tasks that are built with it compile once
    strength: float

    def __call__(self, params: Any) -> Array:
        return self.strength / 2 * _total(lambda x: x**2, params)


@dataclass(frozen=True)
class _NonConvex:
    strength: float

    def __call__(self, params: Any) -> Array:
        return self.strength * _total(lambda x: x**2 / (1 + x**2), params)


def _total(of: Callable[[Array], Array], params: Any) -> Array:
    return sum((jnp.sum(of(x)) for x in jax.tree.leaves(params)), jnp.zeros(()))


def _of_sample(values: Array) -> Array:
    """(B, ...) -> (B,)"""
    return values if values.ndim == 1 else values.mean(range(1, values.ndim))
