"""Many runs at once: under `jax.vmap`, runs become columns of the workers' arrays.

vmap would lay arrays (n, ...) of many runs out as (runs, n, ...). But neighbours send each other rows, and a
step of many small runs is several times as fast if it moves a few long rows instead of many short ones: those
of (n, ..., runs), or of (n, runs, ...) where the rows of a run are longer than there are runs.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from relaysim.types import Array

_target: ContextVar[str | None] = ContextVar("target", default=None)


@contextmanager
def compiling_for(platform: str | None) -> Iterator[None]:
    """What is traced inside is compiled for that platform alone, or for any where that is None."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def platform() -> str:
    """What is compiled for: where that is not told, what jax runs on."""
    return _target.get() or jax.default_backend()


def by_platform(*args: Any, default: Callable, **branches: Callable) -> Any:
    """`jax.lax.platform_dependent`: of these functions of `args` that for the platform ("cpu", "tpu").

    Where it is known when this is traced, the arrays that the other functions close over are left out.
    """
    if _target.get() or _at_once(args):
        return branches.get(platform(), default)(*args)
    return jax.lax.platform_dependent(*args, default=default, **branches)


def _at_once(args: Any) -> bool:
    """Whether this is computed operation by operation, where each call would compile a program anew."""
    return not any(isinstance(x, jax.core.Tracer) for x in (*jax.tree.leaves(args), jnp.zeros(())))


def on_columns(function: Callable) -> Callable:
    """The same function of arrays (n, ...), which takes those of many runs as one, whose rows are longer.

    It must do the same to each column, whatever the others are, and return arrays (n, ...).
    """

    @custom_vmap
    def called(*args: Any) -> Any:
        return function(*args)

    @called.def_vmap
    def many(runs: int, batched: Any, *args: Any) -> Any:
        if not any(jax.tree.leaves(batched)):  # as where forward derivatives alone differ from run to run
            out = function(*args)
            return out, jax.tree.map(lambda _: False, out)
        each = jax.tree.map(_of_one, args, tuple(batched))
        laid = jax.tree.map(functools.partial(_laid, runs), args, tuple(batched))
        back = functools.partial(_run_first, runs)
        out = jax.tree.map(back, called(*laid), jax.eval_shape(function, *each))
        return out, jax.tree.map(lambda _: True, out)

    anyhow = _differentiable(called, function)
    return lambda *args: (function if _at_once(args) else anyhow)(*args)


def repeat(step: Callable[[Any], Any], times: int, carry: Any) -> Any:
    """`step(step(... (carry)))`, so many times; the arrays (n, ...) of many runs are carried as columns."""
    leaves, treedef = jax.tree.flatten(carry)
    closed = jax.make_jaxpr(lambda leaves: jax.tree.leaves(step(jax.tree.unflatten(treedef, leaves))))(leaves)

    def once(consts: list, leaves: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*leaves)

    def loop(once: Callable, consts: list, leaves: list) -> list:
        return repeated(functools.partial(once, consts), times, leaves)

    @custom_vmap
    def called(consts: list, leaves: list) -> list:
        return loop(once, consts, leaves)

    @called.def_vmap
    def many(runs: int, batched: Any, consts: list, leaves: list) -> Any:
        of_consts, of_leaves = batched
        if not any(of_consts + of_leaves):
            return loop(once, consts, leaves), of_leaves
        while (after := _differ(closed.jaxpr, of_consts, of_leaves)) != of_leaves:
            of_leaves = after
        each = [_of_one(leaf, b) for leaf, b in zip(leaves, batched[1], strict=True)]
        axes = [_axis(runs, leaf) if b else None for leaf, b in zip(each, of_leaves, strict=True)]
        leaves = [
            _laid(runs, leaf, b) if differ else leaf
            for leaf, b, differ in zip(leaves, batched[1], of_leaves, strict=True)
        ]
        side_by_side = jax.vmap(once, ([0 if b else None for b in of_consts], axes), axes)
        out = loop(side_by_side, consts, leaves)
        out = [
            _run_first(runs, leaf, one) if differ else leaf
            for leaf, one, differ in zip(out, each, of_leaves, strict=True)
        ]
        return out, of_leaves

    out = _differentiable(called, functools.partial(loop, once))(closed.consts, leaves)
    return jax.tree.unflatten(treedef, out)


def _differentiable(called: Callable, plain: Callable) -> Callable:
    """`called`, with the derivatives of the same function without a rule for vmap, which has no transpose."""
    function = jax.custom_jvp(called)
    function.defjvp(lambda given, directions: jax.jvp(plain, given, directions))
    return function


def scan(body: Callable, carry: Any, xs: Any, length: int, *, in_pairs: bool) -> tuple[Any, Any]:
    """`jax.lax.scan`, off CPUs two at a time if so wished (see `repeated`)."""

    def scanned(unroll: int) -> Callable:
        return lambda carry, xs: jax.lax.scan(body, carry, xs, length, unroll=unroll)

    if not in_pairs or length == 1:
        return scanned(1)(carry, xs)
    return by_platform(carry, xs, cpu=scanned(1), tpu=scanned(1), default=scanned(2))


def repeated(step: Callable[[Any], Any], times: int | Array, carry: Any) -> Any:
    """One after the other on CPUs, elsewhere two at a time, with two sets of arrays in turn.

    What gathers rows cannot write where it reads, so that a loop over single steps would end each of them by
    copying all that it made to where the next one looks for it.
    """

    def one_by_one(carry: Any) -> Any:
        return jax.lax.fori_loop(0, times, lambda _, carry: step(carry), carry)

    def in_turn(carry: Any) -> Any:
        def pair(_: Any, carry: Any) -> Any:
            return step(jax.lax.optimization_barrier(step(carry)))  # the first is done before the second

        carry = jax.lax.optimization_barrier(jax.lax.fori_loop(0, times // 2, pair, carry))
        if isinstance(times, int):
            return step(carry) if times % 2 else carry
        return jax.lax.fori_loop(0, times % 2, lambda _, carry: step(carry), carry)

    return by_platform(carry, cpu=one_by_one, tpu=one_by_one, default=in_turn)


def apart(function: Callable, step: Array, *args: Any) -> Any:
    """function(*args), where `step` is 1 at least: with the same bits whatever stands around it.

    XLA on CPUs fuses what it can, and compiles small loops as one piece, in which the last bits of sums are
    others. So this is a loop of its own, which XLA cannot know to be of length 1, nor to do nothing new.
    """
    leaves, treedef = jax.tree.flatten(args)

    def of_leaves(leaves: list) -> Any:
        return function(*jax.tree.unflatten(treedef, leaves))

    closed, shapes = jax.make_jaxpr(of_leaves, return_shape=True)(leaves)

    def plain(step: Array, consts: list, leaves: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*leaves)

    def looped(step: Array, consts: list, leaves: list) -> list:
        def once(i: Array, out: list) -> list:
            return plain(step, consts, [_never(i < 0, leaf) for leaf in leaves])

        blank = [jnp.zeros(shape.shape, shape.dtype) for shape in closed.out_avals]
        return jax.lax.fori_loop(0, jnp.minimum(step, 1), once, blank)

    out = by_platform(step, closed.consts, leaves, cpu=_differentiable(looped, plain), default=plain)
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def settled(x: Any) -> Any:
    """x, computed here and once.

    XLA would rather compute it anew for each neighbour that reads it, and it cannot overwrite an old array
    before all that reads it is done, in an order that it does not know: what is settled is done.
    """

    def stay(x: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return _same(x)

    return on_columns(lambda x: by_platform(x, cpu=stay, default=lambda x: x))(x)


@jax.jit
def _same(x: Any) -> Any:
    return x


def _never(no: Array, leaf: Array) -> Array:
    """The leaf, where `no` is false, as XLA does not know that it is."""
    return jnp.where(no, 0, leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _of_one(leaf: Array, is_batched: bool) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[is_batched:], leaf.dtype)


def _axis(runs: int, one: Any) -> int:
    """Where the runs go in an array that has the shape of `one` in each."""
    return one.ndim if one.ndim < 2 or one.shape[-1] < runs else 1


def _laid(runs: int, leaf: Array, is_batched: bool) -> Array:
    axis = _axis(runs, _of_one(leaf, is_batched))
    return jnp.moveaxis(leaf, 0, axis) if is_batched else jnp.repeat(jnp.expand_dims(leaf, axis), runs, axis)


def _run_first(runs: int, leaf: Array, one: Any) -> Array:
    return jnp.moveaxis(leaf, _axis(runs, one), 0)


def _differ(jaxpr: Any, of_consts: list[bool], of_leaves: list[bool]) -> list[bool]:
    """Which of the leaves differ between runs after a step."""
    differs = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*of_consts, *of_leaves], strict=True))
    for equation in jaxpr.eqns:
        known = any(differs.get(v, False) for v in equation.invars if not isinstance(v, Literal))
        differs |= dict.fromkeys(equation.outvars, known)
    after = [not isinstance(v, Literal) and differs.get(v, False) for v in jaxpr.outvars]
    return [a or b for a, b in zip(after, of_leaves, strict=True)]
