"""What theory says of a method: its rate, and the largest stable step, from the spectrum of its own step.

On quadratics a step is an affine map of the method's state. Its derivative, which jax takes of any step,
also of a user's, says how fast errors shrink. It is computed in float64, whole where it is small, else by
its products alone, with scipy's sparse eigensolver.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigs

from relaysim.checks import check_count, check_key, check_number, shown
from relaysim.theory.graphs import DENSE
from relaysim.types import Algorithm, Array, Info, Key, Mixer, Stacked

CONSERVED = 1e-8
"""How near to 1 an eigenvalue is that stands for what a method conserves."""


def operator(method: Algorithm | Mixer, params: Stacked = None, *, key: Key | None = None) -> LinearOperator:
    """The derivative of a method's step with respect to its state, as a scipy LinearOperator (N, N).

    Where graphs change it is that of a whole period. Random keys, counters, and what a step returns as it
    came are no part of the state.

    >>> import relaysim as rs
    >>> operator(rs.gossip(rs.topology.ring(4))).shape
    (4, 4)

    Args:
      method: any, also one's own. Of a mixer alone it is the method that only averages, without gradients.
      params: the models (n, ...) at which the derivative is taken: on quadratics it is the same everywhere.
        With a mixer, one number for each worker by default.
      key: for what is random in the step.

    Returns: the operator; its field `period` has the number of steps in it.
    """
    with jax.enable_x64(True):
        start, step, period = _flat(method, params, key)
    found = _operator(len(start), lambda v: jax.jvp(step, (start,), (v,))[1])
    found.period = period
    return found


def eigenvalues(
    method: Algorithm | Mixer, params: Stacked = None, *, count: int = 6, key: Key | None = None
) -> np.ndarray:
    """The eigenvalues of `operator` of largest magnitude, descending: `count`, or all of a small one.

    An eigenvalue of exactly 1 stands for what a method conserves, such as the sum of D²'s corrections.

    >>> import relaysim as rs
    >>> np.abs(eigenvalues(rs.gossip(rs.topology.ring(4)))).round(2).tolist()
    [1.0, 0.33, 0.33, 0.33]
    """
    check_count("count", count)
    whole = operator(method, params, key=key)
    return _largest(whole, count)


def rate(method: Algorithm | Mixer, params: Stacked = None, *, key: Key | None = None) -> float:
    """ρ, the factor by which a method's errors shrink in a step, in the long run: ‖x_t − x_∞‖ ~ ρ^t.

    It is the largest magnitude of the eigenvalues of the step's derivative, without those that are 1 (what is
    conserved does not shrink, and does not matter; what is within 1e-8 of 1 counts as that). Suboptimality
    shrinks by ρ² a step. Above 1 the method diverges. Of a mixer it is |λ₂|, also of RelaySum's delay matrix,
    and per step where graphs change.

    >>> import relaysim as rs, optax
    >>> round(rate(rs.gossip(rs.topology.ring(8))), 6), round(rate(rs.relay_sum(rs.topology.chain(8))), 6)
    (0.804738, 0.920851)
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 3, zeta2=1.0)
    >>> method = rs.d2(task.grad, rs.gossip(rs.topology.ring(8), lazy=True), optax.sgd(0.5))
    >>> 0 < rate(method, task.init(jax.random.key(1))) < 1
    True

    Args:
      method, params, key: as for `operator`.
    """
    whole = operator(method, params, key=key)
    return _radius(whole) ** (1 / whole.period)


def largest_stable(
    build: Callable[[Any], Algorithm],
    params: Stacked,
    *,
    start: float = 1.0,
    tolerance: float = 1e-3,
    key: Key | None = None,
) -> float:
    """The largest learning rate at which a method is stable: where the magnitude of an eigenvalue passes 1.

    >>> import relaysim as rs, optax
    >>> task = rs.tasks.quadratics(np.eye(2)[None], np.ones((1, 2)))  # curvature 1: stable below 2
    >>> build = lambda rate: rs.dpsgd(task.grad, rs.all_reduce(1), optax.sgd(rate))
    >>> round(largest_stable(build, np.zeros((1, 2))), 2)
    2.0

    Args:
      build: learning rate -> method, such as `lambda rate: rs.d2(task.grad, mixer, optax.sgd(rate))`. The
        rate is traced, so that all rates share one program.
      params: the models (n, ...) at which derivatives are taken.
      start: where the search starts; it doubles and halves, then bisects.
      tolerance: of the result, relative.

    Returns:
      The rate; 0.0 where 2^-40 of `start` is not stable, infinity where 2^40 times it is.
    """
    check_number("start", start, 0, ends="()")
    check_number("tolerance", tolerance, 0, 1, "()")
    with jax.enable_x64(True):
        at = _flat(build(jnp.asarray(float(start))), params, key)[0]

    @jax.jit
    def product(learning_rate: Array, v: Array) -> Array:
        return jax.jvp(_flat(build(learning_rate), params, key)[1], (at,), (v,))[1]

    def stable(learning_rate: float) -> bool:
        return _radius(_operator(len(at), functools.partial(product, learning_rate))) < 1

    low, high = start, start
    while not stable(low):
        high, low = low, low / 2
        if low < start * 2.0**-40:
            return 0.0
    while high == low or stable(high):
        low, high = high, 2 * high
        if low > start * 2.0**40:
            return float("inf")
    while high > low * (1 + tolerance):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if stable(middle) else (low, middle)
    return (low * high) ** 0.5


def _flat(
    method: Algorithm | Mixer, params: Stacked, key: Key | None
) -> tuple[Array, Callable[[Array], Array], int]:
    """The real numbers of a method's first state in one vector (N,), a period's steps on such a vector, and
    how many steps that are."""
    if isinstance(method, Mixer):
        params = np.zeros((method.num_workers, 1)) if params is None else params
        method = _averaging(method)
    if not isinstance(method, Algorithm):
        raise ValueError(f"method is {shown(method)}, expected one such as rs.d2(...), or a mixer")
    if params is None:
        raise ValueError("params is None, expected the models (n, ...) at which the derivative is taken")
    key = jax.random.key(0) if key is None else check_key("key", key)
    params = jax.tree.map(lambda x: jnp.asarray(x, float), params)
    leaves, treedef = jax.tree.flatten(method.init(key, params))
    kept = _kept(lambda t, *leaves: method.step(key, t, jax.tree.unflatten(treedef, leaves))[0], leaves)
    real = [
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and not same
        for leaf, same in zip(leaves, kept, strict=True)
    ]
    start, unravel = ravel_pytree([leaf for leaf, r in zip(leaves, real, strict=True) if r])
    period = len(method.messages(params))

    def step(v: Array) -> Array:
        numbers, rest = iter(unravel(v)), [leaf for leaf, r in zip(leaves, real, strict=True) if not r]
        others = iter(rest)
        state = jax.tree.unflatten(treedef, [next(numbers) if r else next(others) for r in real])
        state = jax.lax.fori_loop(0, period, lambda t, s: method.step(key, t, s)[0], state)
        after = zip(jax.tree.leaves(state), real, strict=True)
        return ravel_pytree([leaf for leaf, r in after if r])[0]

    return start, step, period


def _kept(step: Callable, leaves: list) -> list[bool]:
    """Which leaves a step returns as they came, such as what relayed sums are relative to."""
    traced = jax.make_jaxpr(step)(jnp.zeros((), jnp.int32), *leaves).jaxpr
    return [before is after for before, after in zip(traced.invars[1:], traced.outvars, strict=True)]


def _averaging(mixer: Mixer) -> Algorithm:
    """Nothing but calls of the mixer."""

    def step(key: Key, t: Array, state: tuple) -> tuple[tuple, Info]:
        mix, x = mixer.mix(key, t, *state)
        return (mix, x), Info(jnp.zeros(mixer.num_workers))

    return Algorithm(
        mixer.num_workers, lambda key, x: (mixer.init(x), x), step, lambda s: s[1], lambda x: mixer.messages()
    )


def _operator(size: int, product: Callable[[Array], Array]) -> Any:
    def in_x64(function: Callable) -> Callable[[np.ndarray], np.ndarray]:
        def called(v: np.ndarray) -> np.ndarray:
            with jax.enable_x64(True):
                return np.asarray(function(jnp.asarray(v, float)))

        return called

    columns = jax.jit(jax.vmap(product, 1, 1))
    return LinearOperator(
        (size, size), matvec=in_x64(jax.jit(product)), matmat=in_x64(columns), dtype=np.float64
    )


def _largest(whole: Any, count: int) -> np.ndarray:
    """Eigenvalues of largest magnitude, descending: `count` of them, or all of a small matrix."""
    size = whole.shape[0]
    if size <= DENSE:
        found = np.linalg.eigvals(whole @ np.eye(size))
    else:
        start, many = np.random.default_rng(0).standard_normal(size), min(size - 1, max(100, 4 * count))
        if not (whole @ start).any():  # nothing is left after a step, which ARPACK does not take
            return np.zeros(count)
        found = eigs(whole, k=count, v0=start, ncv=many, tol=1e-9, return_eigenvectors=False)
    return found[np.argsort(-abs(found), kind="stable")]


def _radius(whole: Any) -> float:
    """The largest magnitude of eigenvalues other than 1."""
    count = 1  # the more are asked for, the more crowded they lie
    while True:
        found = _largest(whole, count)
        others = found[abs(found - 1) > CONSERVED]
        if len(others) or len(found) < count or count > 100:
            return float(abs(others).max(initial=0))
        count *= 2
