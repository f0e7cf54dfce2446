"""Workers that lie: wrappers of a method, with a mask of who attacks.

After each step the attackers' models are replaced by lies, from which they go on and which they send; they do
all else as the method says. Attackers know everything. What the honest make of it,
`metrics.of_workers(task.measure, ~mask)` measures. A method's state must be a named tuple with a field
`params`, its models.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim import topology as topologies
from relaysim.checks import check_method, check_number, shown
from relaysim.tasks.datasets import Dataset
from relaysim.types import Algorithm, Array, Info, Key, Stacked, rows

Lie = Callable[[Key, Array, Array], Array]
"""(key, models before the step (n, ...), after it) -> lies (n, ...), leaf by leaf."""


def sign_flip(method: Algorithm, mask: Any, *, scale: float = 1.0) -> Algorithm:
    """Attackers go the other way: x_i − scale (x_i' − x_i), where x_i' is what the method made of x_i.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
    >>> method = rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = rs.attack.sign_flip(method, [True, False, False, False])

    Args:
      method: what `rs.dpsgd(...)` and its like return.
      mask: (n,) bool, who attacks. Somebody must be honest.
      scale: of the step back, at least 0.

    Raises:
      ValueError: where an argument does not fit, or the method's state has no field `params`.
    """
    check_number("scale", scale, 0)
    return _lying(method, mask, lambda key, before, after: before - scale * (after - before))


def noise(method: Algorithm, mask: Any, *, scale: float) -> Algorithm:
    """Attackers add Gaussian noise of deviation `scale` to each number of their models. See `sign_flip`.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = noise(method, [True, False, False, False], scale=1.0)
    """
    check_number("scale", scale, 0)
    return _lying(
        method,
        mask,
        lambda key, before, after: after + scale * jax.random.normal(key, after.shape, after.dtype),
    )


def constant(method: Algorithm, mask: Any, *, value: float | Array) -> Algorithm:
    """Attackers always say `value`, a number for all entries of a model. See `sign_flip`.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = constant(method, [True, False, False, False], value=0.0)
    """
    check_number("value", value)
    return _lying(method, mask, lambda key, before, after: jnp.full_like(after, value))


def alie(method: Algorithm, mask: Any, *, z: float | None = None) -> Algorithm:
    """A little is enough: the honest workers' mean less z of their deviations, in each number.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = alie(method, [True, False, False, False], z=0.5)

    Source: Baruch, Baruch and Goldberg, "A little is enough: circumventing defenses for distributed
    learning", NeurIPS 2019, algorithm 3.

    Args:
      method, mask: as for `sign_flip`.
      z: how many deviations; by default the most with which, of n Gaussian ones, a majority lies beyond.
    """
    mask = _checked(method, mask)
    if z is None:
        z = _most_deviations(len(mask), int(mask.sum()))
    check_number("z", z)
    honest = np.flatnonzero(~mask)

    def lie(key: Key, before: Array, after: Array) -> Array:
        seen = after[honest]
        return jnp.broadcast_to(seen.mean(0) - z * seen.std(0), after.shape)

    return _lying(method, mask, lie)


def inner_product(method: Algorithm, mask: Any, *, scale: float = 0.1) -> Algorithm:
    """Inner-product manipulation: as if the honest workers' mean step had gone the other way, times `scale`.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = inner_product(method, [True, False, False, False])

    Source: Xie, Koyejo and Gupta, "Fall of empires: breaking Byzantine-tolerant SGD by inner product
    manipulation", UAI 2019. See `sign_flip` for the arguments.
    """
    mask = _checked(method, mask)
    check_number("scale", scale, 0)
    honest = np.flatnonzero(~mask)

    def lie(key: Key, before: Array, after: Array) -> Array:
        start, end = before[honest].mean(0), after[honest].mean(0)
        return jnp.broadcast_to(start - scale * (end - start), after.shape)

    return _lying(method, mask, lie)


def dissensus(method: Algorithm, mask: Any, *, weights: Any, scale: float = 1.0) -> Algorithm:
    """Attackers push the honest away from each other: to neighbour i one would say

        x_i − scale Σ_{j honest} W_ij (x_j − x_i) / Σ_{b attacks} W_ib,

    which at scale 1 undoes what averaging does to i; it tells all its neighbours the mean of these.

    >>> import optax, relaysim as rs
    >>> method = rs.dpsgd(lambda key, step, x: (x.sum(1), x), rs.gossip(rs.topology.ring(4)), optax.sgd(0.1))
    >>> lying = dissensus(method, [True, False, False, False], weights=rs.topology.ring(4))

    Source: He, Karimireddy and Jaggi, "Byzantine-robust decentralized learning via ClippedGossip", 2022,
    where each neighbour may be told something else.

    Args:
      method, mask: as for `sign_flip`.
      weights: W (n, n) or a topology, for its Metropolis weights.
      scale: ε, at least 0.
    """
    mask = _checked(method, mask)
    check_number("scale", scale, 0)
    if isinstance(weights, topologies.Topology):
        weights = topologies.metropolis_weights(weights)
    w = topologies.check_stochastic("weights", weights, len(mask)).toarray()
    to_honest = (w > 0) & ~mask[None] & mask[:, None]  # of each attacker, its honest neighbours
    told = to_honest / np.maximum(to_honest.sum(1, keepdims=True), 1)
    between = np.where(mask[None] | mask[:, None], 0, w)
    laplacian = np.diag(between.sum(1)) - between
    away = laplacian / np.maximum(w[:, mask].sum(1, keepdims=True), np.finfo(float).tiny)
    away[w[:, mask].sum(1) == 0] = 0
    pushed = told @ (np.eye(len(mask)) + scale * away)

    def lie(key: Key, before: Array, after: Array) -> Array:
        return jnp.tensordot(jnp.asarray(pushed, after.dtype), after, 1)

    return _lying(method, mask, lie)


def label_flip(data: Dataset, shares: Sequence[np.ndarray], mask: Any) -> Dataset:
    """Attackers that learn, in earnest, from wrong labels: y becomes C − 1 − y in their shares of the data.

    >>> import relaysim as rs
    >>> data = rs.tasks.datasets.digits()
    >>> shares = rs.tasks.partition.iid(jax.random.key(0), len(data.train_y), 4)
    >>> wrong = rs.attack.label_flip(data, shares, [True, False, False, False])
    >>> int((wrong.train_y != data.train_y).sum()) == len(shares[0])
    True

    Args:
      data: with C classes; the test set stays as it is.
      shares: the samples of each worker, as `tasks.classification` takes them; attackers' are theirs alone.
      mask: (n,) bool, who attacks.

    Raises:
      ValueError: where the mask does not fit, or a sample is an attacker's and somebody else's.
    """
    mask = _mask(mask, len(shares))
    theirs = np.concatenate([np.asarray(s) for s, lies in zip(shares, mask, strict=True) if lies])
    others = np.concatenate([np.asarray(s) for s, lies in zip(shares, mask, strict=True) if not lies])
    if np.intersect1d(theirs, others).size:
        raise ValueError("shares has samples of attackers that honest workers have too, expected none")
    labels = np.array(data.train_y)
    labels[theirs] = data.num_classes - 1 - labels[theirs]
    return data._replace(train_y=labels)


def _lying(method: Algorithm, mask: Any, lie: Lie) -> Algorithm:
    mask = _checked(method, mask)

    def init(key: Key, params: Stacked) -> Any:
        state = method.init(key, params)
        if not hasattr(state, "_replace") or not hasattr(state, "params"):
            what = f"method has a state of {type(state).__name__}"
            raise ValueError(f"{what}, expected a named tuple with the models in its field params")
        return state

    def step(key: Key, t: Array, state: Any) -> tuple[Any, Info]:
        after, info = method.step(key, t, state)
        leaves, treedef = jax.tree.flatten(after.params)
        lies = [
            jnp.where(
                rows(mask, new), lie(jax.random.fold_in(key, 2**31 + i), old, new).astype(new.dtype), new
            )
            for i, (old, new) in enumerate(zip(jax.tree.leaves(state.params), leaves, strict=True))
        ]
        return after._replace(params=jax.tree.unflatten(treedef, lies)), info

    return method._replace(init=init, step=step)


def _checked(method: Any, mask: Any) -> np.ndarray:
    return _mask(mask, check_method(method).num_workers)


def _mask(mask: Any, num_workers: int) -> np.ndarray:
    found = np.asarray(mask)
    if found.shape != (num_workers,) or found.dtype != bool or found.all():
        raise ValueError(f"mask is {shown(mask)}, expected ({num_workers},) booleans, not all of them true")
    return found


def _most_deviations(n: int, attackers: int) -> float:
    """The z of which a share (n − b − s) / (n − b) of Gaussian numbers is below, s = ⌊n/2 + 1⌋ − b."""
    from scipy.stats import norm

    supporters = n // 2 + 1 - attackers
    return float(norm.ppf((n - attackers - supporters) / (n - attackers))) if supporters > 0 else 1.0
