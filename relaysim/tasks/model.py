"""What is trained: a pair of functions, or a flax module that is made into one."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

from relaysim.checks import shown
from relaysim.tasks import grouped
from relaysim.types import Key

_STATISTICS = "batch_stats"  # as flax calls them
_TRAINED = ""


class Model(NamedTuple):
    """A model as two functions. Build it once: tasks of the same functions compile once.

    >>> import jax.numpy as jnp
    >>> line = Model(lambda key, x: {"w": jnp.zeros(x.shape[1])}, lambda params, x: x @ params["w"])
    >>> line.apply(line.init(jax.random.key(0), jnp.ones((1, 3))), jnp.ones((5, 3)))
    Array([0., 0., 0., 0., 0.], dtype=float32)
    """

    init: Callable[[Key, Any], Any]
    """(key, x (1, ...)) -> params, a pytree of arrays: one worker's."""
    apply: Callable[..., Any]
    """(params, x (B, ...)) -> outputs, leaves (B, ...); or (params, x, key), with a key for dropout and its
    like, another one for each worker and step, and None where the model is measured or predicts."""
    statistics: tuple[str, ...] = ()
    """Names in params, then a dict, of what is not trained but follows the batches, such as "batch_stats".
    Where there is a key, `apply` then returns (outputs, the new entries by name); see `with_statistics`."""


@dataclass(frozen=True)
class Linen:
    """A flax.linen module with parameters alone, its convolutions by patches if so wished."""

    module: nn.Module
    patches: bool | None
    """None for what suits the platform."""
    statistics: tuple[str, ...] = ()

    def init(self, key: Key, x: Any) -> Any:
        return self.module.init(key, x)["params"]

    def apply(self, params: Any, x: Any) -> Any:
        return grouped.apply(self.module, params, x, patches=self.by_patches)

    @property
    def by_patches(self) -> bool:
        return grouped.default_patches() if self.patches is None else self.patches


def from_linen(module: nn.Module, train: str = "train") -> Model:
    """A flax.linen module with dropout or batch statistics. One with parameters alone is taken as it is.

    >>> import jax.numpy as jnp
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, train):
    ...         x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
    ...         return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))
    >>> model = from_linen(Net())
    >>> sorted(model.init(jax.random.key(0), jnp.ones((1, 3))))
    ['batch_stats', 'params']

    Args:
      module: takes (x, train=...), whether it is trained.
      train: the name of that argument, of which "deterministic" stands for the opposite.

    Returns:
      A model whose params are {"params": ...}, beside them "batch_stats" where it has any.

    Raises:
      ValueError: where `module` is no flax module, or takes no such argument.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is {shown(module)}, expected an instance of flax.linen.Module")
    if train not in inspect.signature(module.__call__).parameters:  # type: ignore[operator]
        raise ValueError(f"train is {train!r}, expected the name of an argument of {type(module).__name__}")

    def how(training: bool) -> dict[str, Any]:
        return {train: training is not (train == "deterministic")}

    def init(key: Key, x: Any) -> Any:
        variables = module.init({"params": key, "dropout": key}, x, **how(False))
        return {name: variables[name] for name in ("params", _STATISTICS) if name in variables}

    def apply(params: Any, x: Any, key: Key | None) -> Any:
        if key is None:
            return module.apply(params, x, **how(False))
        return module.apply(params, x, **how(True), rngs={"dropout": key}, mutable=[_STATISTICS])

    return Model(init, apply, (_STATISTICS,))


def from_nnx(build: Callable[[Any], Any]) -> Model:
    """A flax.nnx module, with or without dropout and batch statistics.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    >>> params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> model.apply(params, jnp.ones((5, 3)), None).shape
    (5, 2)

    Args:
      build: makes the module from its random streams, an `nnx.Rngs`.

    Returns:
      A model whose params are {"params": ...}, beside them "batch_stats" where it has any.

    Raises:
      ValueError: where `build` is no such function.
    """
    from flax import nnx

    if not callable(build) or isinstance(build, nnx.Module):
        raise ValueError(f"build is {type(build).__name__}, expected a function nnx.Rngs -> nnx.Module")

    def parts(key: Key) -> tuple:
        return nnx.split(build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...)

    def named(params: Any, statistics: Any) -> dict[str, Any]:
        found = {"params": params, _STATISTICS: statistics}
        return {name: nnx.to_pure_dict(state) for name, state in found.items() if state}

    def init(key: Key, x: Any) -> Any:
        return named(*parts(key)[1:3])

    def apply(params: Any, x: Any, key: Key | None) -> Any:
        graph, own, statistics, rest = parts(jax.random.key(0) if key is None else key)
        nnx.replace_by_pure_dict(own, params["params"])
        if statistics:
            nnx.replace_by_pure_dict(statistics, params[_STATISTICS])
        module = nnx.merge(graph, own, statistics, rest)
        module.eval() if key is None else module.train()
        outputs = module(x)
        if key is None:
            return outputs
        return outputs, named({}, nnx.state(module, nnx.BatchStat))

    return Model(init, apply, (_STATISTICS,))


def with_statistics(
    optimizer: optax.GradientTransformation, *names: str
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that trains the parameters, and lets statistics take the values that the batch gave them.

    In place of a gradient, `supervised` has for statistics the old value less the new one, so that u = −g is
    right for them. As a part of the model they are then averaged with it; `rs.keep_local` leaves them out.

    >>> import jax.numpy as jnp
    >>> params = {"params": jnp.ones(2), "batch_stats": jnp.ones(2)}
    >>> optimizer = with_statistics(optax.sgd(0.5))
    >>> updates, _ = optimizer.update(params, optimizer.init(params))
    >>> updates["params"][0].item(), updates["batch_stats"][0].item()
    (-0.5, -1.0)

    Args:
      optimizer: for what is trained.
      names: the statistics' names in params, by default those of flax.
    """
    of = names or (_STATISTICS,)

    def label(params: Any) -> dict[str, str]:
        return {name: name if name in of else _TRAINED for name in params}

    return optax.multi_transform({_TRAINED: optimizer} | dict.fromkeys(of, optax.sgd(1.0)), label)


def check_statistics(names: Iterable[str], state: Any) -> None:
    """That an optimizer with this state leaves those statistics to the batches.

    Raises:
      ValueError: where it would train them.
    """

    def is_partition(part: Any) -> bool:
        return isinstance(part, optax.transforms.PartitionState)

    parts = filter(is_partition, jax.tree.leaves(state, is_leaf=is_partition))
    trained = set(names).difference(*(part.inner_states for part in parts))
    if trained:
        raise ValueError(
            f"optimizer would train the statistics {sorted(trained)} of the model, which follow the batches: "
            "expected rs.tasks.with_statistics(optimizer), with their names where these are not flax's"
        )
