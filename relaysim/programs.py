"""Compiled programs, kept for as long as the method that they run."""

import functools
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from relaysim.columns import compiling_for

_programs: WeakKeyDictionary = WeakKeyDictionary()
"""The compiled programs of each algorithm, for as long as its step function lives."""


LOWERED = {"gpu": "cuda"}
"""What a platform's programs are lowered for, where that has another name."""


OPTIONS: dict[str, dict] = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
"""With which XLA compiles for described devices. Its own products of matrices, which it cannot try there, end
the process for some shapes, such as those of ResNet-20; cuBLAS is taken instead."""


class Program(NamedTuple):
    run: Any
    """A jitted function (closed_over, what is kept, leaves of what is given) -> leaves of `outputs`."""
    closed_over: list
    outputs: Any
    """The shapes of what comes out."""
    static: tuple
    """What it was made from, besides the algorithm."""

    def __call__(self, kept: Any, given: Any) -> Any:
        leaves = self.run(self.closed_over, kept, jax.tree.leaves(given))
        return jax.tree.unflatten(jax.tree.structure(self.outputs), leaves)

    def compiled(self, kept: Any, given: Any) -> Any:
        """The XLA program, which later calls with the same shapes use."""
        return self.run.lower(self.closed_over, kept, jax.tree.leaves(given)).compile()

    def compiled_for(self, platform: str, over: Any, kept: Any, given: Any) -> Any:
        """The XLA program for devices that may be described ones (see `platforms`).

        Args:
          platform: of the devices, as for `program`.
          over: a sharding on these devices, for all arrays that come without one; XLA's choice if None.
        """
        args = jax.tree.map(functools.partial(_lying, over), (self.closed_over, kept, jax.tree.leaves(given)))
        lowered = self.run.trace(*args).lower(lowering_platforms=(LOWERED.get(platform, platform),))
        return lowered.compile(OPTIONS.get(platform))


def program(fun: Callable, static: tuple, kept: Any, given: Any, platform: str | None = None) -> Program:
    """fun(*static, kept, given), compiled once for each `static` and shape of the rest; given is given away.

    The arrays that an algorithm closes over (problems, data, graphs) become arguments of the program: jit
    would write them into its text as constants. The program is kept as long as the algorithm, which is the
    first of `static`, unless that closes over traced values, which must not outlive their trace. Functions
    among the others are the same where they are written alike, as a lambda is in a cell that is run again.
    It is for the platform where `given` lies, if no other is named.
    """
    algorithm, *others = static
    programs = _programs.setdefault(algorithm.step, {})
    leaves, treedef = jax.tree.flatten(given)
    given_traced = is_traced((kept, leaves))  # under vmap or jit: nothing can be given away
    own = (algorithm.init, algorithm.params)  # but not its step, which would then never be freed
    kinds = jax.tree.structure(kept), treedef, tuple(map(jax.typeof, [*jax.tree.leaves(kept), *leaves]))
    platform = None if given_traced else platform or _platform(leaves)
    signature = (fun, own, tuple(map(_told, others)), given_traced, platform, *kinds)
    if signature in programs:
        return programs[signature]
    with compiling_for(platform):
        closed, outputs = jax.make_jaxpr(functools.partial(fun, *static), return_shape=True)(kept, given)
    traced = is_traced(closed.consts)

    def run(consts: list, kept: Any, leaves: list) -> list:
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*jax.tree.leaves(kept), *leaves)

    donated = () if traced or given_traced else 2
    consts = closed.consts if platform in (None, "cpu") else jax.tree.map(jnp.asarray, closed.consts)
    made = Program(jax.jit(run, donate_argnums=donated), consts, outputs, tuple(others))
    if not traced:
        programs[signature] = made
    return made


def _lying(over: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    own = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=own or over)


def _platform(leaves: list) -> str:
    laid = [leaf.sharding for leaf in leaves if getattr(leaf, "sharding", None) is not None]
    devices = laid[0].device_set if laid else jax.devices()
    return next(iter(devices)).platform


def is_traced(pytree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(pytree))


def _told(value: Any) -> Any:
    """What tells values of a program's making apart, hashable; good for as long as the value lives."""
    if isinstance(value, FunctionType):
        cells = tuple(_told(cell.cell_contents) for cell in value.__closure__ or ())
        defaults = _told((value.__defaults__, tuple(sorted((value.__kwdefaults__ or {}).items()))))
        return _told(value.__code__), cells, defaults, id(value.__globals__)
    if isinstance(value, MethodType):
        return _told(value.__func__), id(value.__self__)
    if isinstance(value, CodeType):  # wherever it is written
        named = (
            value.co_names,
            value.co_varnames,
            value.co_freevars,
            value.co_argcount,
            value.co_kwonlyargcount,
        )
        return value.co_code, named, tuple(map(_told, value.co_consts))
    if isinstance(value, tuple):
        return tuple(map(_told, value))
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), repr(value)
    return id(value)
