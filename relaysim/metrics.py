"""What to look at in a set of models."""

import jax
import jax.numpy as jnp

from relaysim.types import Array, Stacked


def mean_model(params: Stacked) -> Stacked:
    """x̄, the average of the workers' models: leaves (n, ...) -> (...)."""
    return jax.tree.map(lambda x: x.mean(0), params)


def consensus_distance(params: Stacked) -> Array:
    """(1/n) Σ_i ‖x_i − x̄‖², how far the workers disagree: leaves (n, ...) -> ()."""

    def of_leaf(x: Array) -> Array:
        return jnp.sum((x - x.mean(0, keepdims=True)) ** 2) / x.shape[0]

    return sum(map(of_leaf, jax.tree.leaves(params)), jnp.zeros(()))


def all_finite(params: Stacked) -> Array:
    """Which workers hold only finite numbers: leaves (n, ...) -> (n,) bool."""
    finite = [jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for x in jax.tree.leaves(params)]
    return jnp.stack(finite).all(0)
