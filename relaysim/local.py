"""What a worker does by itself: take the gradient of its own loss, turn it into an update."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.custom_batching import custom_vmap
from optax import tree

from relaysim.checks import check_alike, check_count, shown
from relaysim.types import Array, Grad, Info, Key, Stacked


class PerWorker(optax.GradientTransformationExtraArgs):
    """An optax transformation of stacked pytrees, which does the same to each worker apart."""


def per_worker(
    optimizer: optax.GradientTransformation | Callable[..., optax.GradientTransformation], **settings: Any
) -> PerWorker:
    """Apply an optax transformation to each worker apart: its state and its norms are the worker's own.

    Without it, a transformation that looks at a whole pytree (`optax.clip_by_global_norm`) would see the
    stacked models of all workers as one. One that draws random numbers (`optax.add_noise`) draws each
    worker's own. Extra arguments of `update` are passed on: arrays are each worker's, functions all workers'.

    With settings each worker's optimizer is built with its own:

    >>> optimizer = per_worker(optax.sgd, learning_rate=[0.1, 0.2, 0.4], momentum=0.9)
    >>> updates, state = optimizer.update(jnp.ones((3, 1)), optimizer.init(jnp.ones((3, 1))))
    >>> updates.ravel()
    Array([-0.1, -0.2, -0.4], dtype=float32)

    Args:
      optimizer: an optax transformation; or, with settings, a function that makes one, such as `optax.sgd`.
      settings: of that function. Lists and arrays (n, ...) hold one for each worker, all else is for all.

    Raises:
      ValueError: where `optimizer` is not an optax transformation, or a setting has not one for each worker.
    """
    if settings:
        return _built_per_worker(optimizer, settings)
    if isinstance(optimizer, PerWorker):
        return optimizer
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer is {shown(optimizer)}, expected an optax transformation such as optax.sgd(0.1)"
        )
    of_one = optax.with_extra_args_support(optimizer)

    def init(params: Stacked) -> Any:
        worker = jnp.arange(len(jax.tree.leaves(params)[0]))
        return jax.tree.map(lambda leaf: _of_worker(leaf, worker), jax.vmap(of_one.init)(params))

    def update(updates: Stacked, state: Any, params: Stacked | None = None, **extra: Any) -> tuple:
        shared = {name: value for name, value in extra.items() if callable(value)}
        own = {name: value for name, value in extra.items() if name not in shared}
        return jax.vmap(lambda g, s, p, own: of_one.update(g, s, p, **own, **shared))(
            updates, state, params, own
        )

    return PerWorker(init, update)


def _built_per_worker(build: Any, settings: dict[str, Any]) -> PerWorker:
    """The settings lie in the state, (n, ...) as the rest of it."""
    if not callable(build):
        raise ValueError(
            f"optimizer is {type(build).__name__}, expected with settings a function such as optax.sgd"
        )
    own = {k: jnp.asarray(v) for k, v in settings.items() if isinstance(v, list | np.ndarray | jax.Array)}
    own = {name: values for name, values in own.items() if values.ndim}
    build = functools.partial(build, **{name: v for name, v in settings.items() if name not in own})

    def of_one(own: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(build(**own))

    def init(params: Stacked) -> tuple:
        n = len(jax.tree.leaves(params)[0])
        for name, values in own.items():
            if len(values) != n:
                raise ValueError(f"{name} has shape {values.shape}, expected one for each one of {n} workers")
        states = jax.vmap(lambda own, x: of_one(own).init(x))(own, params)
        return own, jax.tree.map(lambda leaf: _of_worker(leaf, jnp.arange(n)), states)

    def update(updates: Stacked, state: tuple, params: Stacked | None = None, **extra: Any) -> tuple:
        own, states = state
        shared = {name: value for name, value in extra.items() if callable(value)}
        each = {name: value for name, value in extra.items() if name not in shared}
        u, states = jax.vmap(lambda o, g, s, p, each: of_one(o).update(g, s, p, **each, **shared))(
            own, updates, states, params, each
        )
        return u, (own, states)

    return PerWorker(init, update)


def _of_worker(leaf: Array, worker: Array) -> Array:
    """Of a leaf (n, ...) of n equal states: where it is a random key, one for each worker."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.vmap(jax.random.fold_in)(leaf, worker) if leaf.ndim == 1 else leaf
    if leaf.dtype == np.uint32 and leaf.shape[1:] == (2,):  # a key in the old style
        return jax.vmap(lambda key, i: jax.random.key_data(jax.random.fold_in(key, i)))(
            jax.random.wrap_key_data(leaf), worker
        )
    return leaf


class LocalState(NamedTuple):
    key: Any
    """A random key: that of the start, the same throughout a run."""
    opt: Any
    """The workers' optimizers."""
    inner: Any = ()
    """Those of `local_steps`."""


class LocalUpdate(NamedTuple):
    """The local half of a step, for all workers."""

    init: Callable[[Key, Stacked], LocalState]
    gradient: Callable[[Array, LocalState, Stacked], tuple[LocalState, Stacked, Info]]
    """(step, state, params) -> (state, g, info): each worker's gradient at its own model."""
    apply: Callable[[Array, LocalState, Stacked, Stacked, Info], tuple[LocalState, Stacked]]
    """(step, state, g, params, info) -> (state, u): what the optimizers make of gradients."""

    def update(self, step: Array, state: LocalState, params: Stacked) -> tuple[LocalState, Stacked, Info]:
        """(step, state, params) -> (state, u, info): the optimizer's update u, to be added to the models."""
        state, g, info = self.gradient(step, state, params)
        state, u = self.apply(step, state, g, params, info)
        return state, u, info

    def several(
        self, step: Array, state: LocalState, params: Stacked, steps: int, drift: Stacked | None = None
    ) -> tuple[LocalState, Stacked, Info]:
        """(state, x_K, info) after K steps x_{k+1} = x_k + u_k + drift, each with a batch of its own, that of
        step t K + k. The loss is the mean over the K steps."""

        def one(carry: tuple, k: Array) -> tuple[tuple, Array]:
            s, x = carry
            s, u, info = self.update(step * steps + k, s, x)
            moved = tree.add(x, u)
            return (s, moved if drift is None else tree.add(moved, drift)), info.loss

        (state, x), losses = jax.lax.scan(one, (state, params), jnp.arange(steps))
        return state, x, Info(losses.mean(0))


class LocalSteps(NamedTuple):
    """Made by `local_steps`: a gradient with a memory."""

    init: Callable[[Stacked], Any]
    step: Callable[[Key, Array, Any, Stacked], tuple[Any, Array, Stacked]]
    """(key, step, state, params) -> (state, losses (n,), what stands for gradients)."""


def local_steps(grad: Grad, optimizer: optax.GradientTransformation, steps: int) -> LocalSteps:
    """Several local steps between messages, for any method: K steps of each worker stand for one gradient,

        g = x − x_K,    x_{k+1} = x_k + u_k,    x_0 = x,

    so that with `optax.sgd(1.0)` the method goes on from where the local steps ended, and with another rate
    or with momentum it takes what they found as one large step (as the outer optimizer of local SGD and
    DiLoCo does). The inner optimizers keep their states from one step of the method to the next.

    >>> import relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> several = rs.local_steps(task.grad, optax.sgd(0.1), steps=4)
    >>> method = rs.relaysgd(several, rs.relay_sum(rs.topology.chain(8)), optax.sgd(1.0))

    Args:
      grad: (key, step, params) -> (losses (n,), gradients). In step t of the method it is asked for the steps
        t K, …, t K + K − 1, so that every local step has a batch of its own.
      optimizer: any optax transformation, applied for each worker apart.
      steps: K, at least 1.

    Returns:
      What takes the place of `grad` in a method. The loss that is recorded is the mean over the K steps.

    Raises:
      ValueError: where an argument is none of these.
    """
    local, steps = local_update(grad, optimizer), check_count("steps", steps)

    def init(params: Stacked) -> LocalState:
        return local.init(jax.random.key(0), params)._replace(key=())

    def step(key: Key, t: Array, s: LocalState, params: Stacked) -> tuple[LocalState, Array, Stacked]:
        s, x, info = local.several(t, s._replace(key=key), params, steps)
        return s._replace(key=()), info.loss, tree.sub(params, x)

    return LocalSteps(init, step)


def local_update(grad: Grad | LocalSteps, optimizer: optax.GradientTransformation) -> LocalUpdate:
    """Each worker's gradient at its own model, through its own copy of the optimizer.

    Optimizers that want to know the loss (`optax.contrib.reduce_on_plateau`, line searches) are given
    `value`, `grad` and `value_fn`, each worker's own on its batch of the step.

    >>> local = local_update(lambda key, step, x: (x.sum(1), x), optax.sgd(0.5))
    >>> x = jnp.ones((2, 3))
    >>> state, u, info = local.update(0, local.init(jax.random.key(0), x), x)
    >>> u.tolist(), info.loss.tolist()
    ([[-0.5, -0.5, -0.5], [-0.5, -0.5, -0.5]], [3.0, 3.0])

    Args:
      grad: (key, step, params) -> (losses (n,), gradients like params), or what `local_steps` returns.
      optimizer: any optax transformation; for plain SGD, u = −γ g.

    Raises:
      ValueError: where `grad` cannot be called or `optimizer` is not an optax transformation; in `init`,
        where it does not suit the task of `grad`.
    """
    if not isinstance(grad, LocalSteps):
        check_grad(grad)
    optimizer = per_worker(optimizer)
    of = grad if isinstance(grad, LocalSteps) else LocalSteps(lambda x: (), _without_memory(grad))

    def init(key: Key, params: Stacked) -> LocalState:
        return LocalState(key, started(optimizer, params, grad), of.init(params))

    def gradient(step: Array, s: LocalState, params: Stacked) -> tuple[LocalState, Stacked, Info]:
        inner, loss, g = of.step(s.key, step, s.inner, params)
        return s._replace(inner=inner), g, Info(loss)

    def apply(
        step: Array, s: LocalState, g: Stacked, params: Stacked, info: Info
    ) -> tuple[LocalState, Stacked]:
        value_fn = _each_loss(lambda x: of.step(s.key, step, s.inner, x)[1:])
        u, opt = optimizer.update(g, s.opt, params, value=info.loss, grad=g, value_fn=value_fn)
        return s._replace(opt=opt), u

    return LocalUpdate(init, gradient, apply)


def started(optimizer: optax.GradientTransformation, params: Stacked, grad: Any) -> Any:
    """The optimizer's state at the start, after the task of `grad`, if it cares, has had a look at it."""
    state = optimizer.init(params)
    check = getattr(getattr(grad, "__self__", None), "check_optimizer", None)
    if check is not None:
        check(params, state)
    return state


def check_grad(grad: Any) -> None:
    """Raise a ValueError where `grad` cannot be called."""
    if isinstance(grad, LocalSteps):
        raise ValueError("grad is what local_steps returns, expected gradients of one sample at any models")
    if not callable(grad):
        what = f"grad is {shown(grad)}, expected a function (key, step, params) -> (losses, gradients)"
        raise ValueError(f"{what}, such as {type(grad).__name__}'s grad" if hasattr(grad, "grad") else what)


def _without_memory(grad: Grad) -> Callable[[Key, Array, Any, Stacked], tuple[Any, Array, Stacked]]:
    """A gradient as the step of a `LocalSteps`, with a look at what it returns while it is traced."""

    def step(key: Key, t: Array, nothing: Any, params: Stacked) -> tuple[Any, Array, Stacked]:
        told = grad(key, t, params)
        losses = jax.ShapeDtypeStruct(jnp.shape(jax.tree.leaves(params)[0])[:1], jnp.float32)
        told = check_alike(
            "what grad returns", tuple(told) if isinstance(told, list) else told, (losses, params)
        )
        return nothing, *told

    return step


def _each_loss(losses_and_gradients: Callable[[Stacked], tuple[Array, Stacked]]) -> Callable[[Any], Array]:
    """One worker's loss as a function of its model, for use under vmap over all workers."""

    @custom_vmap
    def evaluate(x: Any) -> tuple[Array, Any]:
        return jnp.zeros(
            (), jax.tree.leaves(x)[0].dtype
        ), x  # what one worker's look like: vmap makes them all

    @evaluate.def_vmap
    def evaluate_all(n: int, batched: Any, x: Any) -> Any:
        out = losses_and_gradients(x)
        return out, jax.tree.map(lambda _: True, out)

    @jax.custom_jvp
    def loss(x: Any) -> Array:
        return evaluate(x)[0]

    @loss.defjvp
    def jvp(x: tuple, direction: tuple) -> tuple[Array, Array]:
        value, g = evaluate(*x)
        return value, tree.vdot(g, *direction)

    return loss
