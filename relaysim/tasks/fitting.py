"""Whether model, data and functions fit together, before anything is compiled."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_count, check_function, kinds, shown
from relaysim.tasks.augment import Augment
from relaysim.tasks.datasets import Dataset
from relaysim.tasks.model import Linen, Model
from relaysim.tasks.rows import for_model, is_sparse
from relaysim.types import Array, Key, Stacked


def as_model(model: Any, patches: bool | None) -> Any:
    """What has `init`, `apply` and `statistics`.

    Raises:
      ValueError: where it is no model.
    """
    if isinstance(model, nn.Module):
        return Linen(model, patches)
    if isinstance(model, Model | tuple) and len(model) in (2, 3) and all(map(callable, model[:2])):
        return Model(*model)
    what = shown(model).splitlines()[0][:80]
    raise ValueError(
        f"model is {what}, expected an instance of flax.linen.Module, rs.tasks.Model(init, apply), "
        "or what rs.tasks.from_linen or rs.tasks.from_nnx returns"
    )


def taken_each(batch_size: Any, num_workers: int) -> tuple[int, Array | None]:
    """The largest batch size, and each worker's (n,) where there is one for each."""
    if isinstance(batch_size, str) or np.ndim(batch_size) == 0:
        return check_count("batch_size", batch_size), None
    sizes = list(batch_size)
    if len(sizes) != num_workers:
        raise ValueError(f"batch_size is {shown(batch_size)}, expected one for each of {num_workers} workers")
    sizes = [check_count("batch_size", size) for size in sizes]
    return max(sizes), jnp.asarray(sizes, jnp.int32)


def check_part(part: str, x: Any, y: Any) -> None:
    """That there is a sample or more, with as many labels, and that numbers are finite."""
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(y)}
    if len(lengths) != 1 or min(lengths) in ((), (0,)):
        raise ValueError(f"{part}_y has {sorted(lengths)} labels, expected one or more along its first axis")
    (number,) = lengths.pop()
    for name, tree in (("x", x), ("y", y)):
        leaves = [tree] if is_sparse(tree) else jax.tree.leaves(tree)
        for leaf in leaves:
            if np.shape(leaf)[:1] != (number,):
                have = np.shape(leaf)[0] if np.ndim(leaf) else 0
                raise ValueError(f"{part}_{name} has {have} samples, expected {number} as in {part}_y")
            values = leaf.data if is_sparse(leaf) else leaf
            if not jnp.issubdtype(values.dtype, jnp.number) and values.dtype != bool:
                raise ValueError(f"{part}_{name} holds {values.dtype}, expected numbers")
            if jnp.issubdtype(values.dtype, jnp.inexact) and not np.isfinite(np.asarray(values)).all():
                raise ValueError(f"{part}_{name} holds numbers that are not finite")
        if not leaves:
            raise ValueError(f"{part}_{name} is {shown(tree)}, expected arrays")


def shape_of(x: Any) -> Any:
    """That of a sample: of one array its shape, of a pytree that of shapes."""
    if is_sparse(x):
        return x.shape[1:]
    return jax.tree.map(lambda leaf: np.shape(leaf)[1:], x)


def scale(dataset: Dataset) -> tuple[Array | None, Array | None]:
    """The mean and the standard deviation on the device, None where they change nothing."""
    mean, std = np.asarray(dataset.mean, np.float32), np.asarray(dataset.std, np.float32)
    x = dataset.train_x
    plain = not is_sparse(x) and isinstance(x, np.ndarray | jax.Array)
    channels = np.shape(x)[-1:] if plain else ()
    for name, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), channels) or not np.isfinite(value).all():
            raise ValueError(
                f"{name} is {value}, expected a finite number, or an array of shape {channels}, one a channel"
            )
    if (std <= 0).any():
        raise ValueError(f"std is {std}, expected numbers > 0")
    if (mean == 0).all() and (std == 1).all():
        return None, None
    if not plain:
        raise ValueError(f"mean is {mean} and std {std}, expected 0 and 1 unless train_x is a dense array")
    return jnp.asarray(mean), jnp.asarray(std)


def check_fit(task: Any, x: Any, y: Any) -> Any:
    """Follow one sample (1, ...) through the functions of a task -> the shapes of one model's params.

    Raises:
      ValueError: where one does not return what it should.
    """
    key = jax.random.key(0)
    if task.augment is not None:
        _check_augment(task.augment, key, x)
    given = jax.eval_shape(lambda x: for_model(task._scaled(x)), x)
    if isinstance(task.model, Linen):
        variables = jax.eval_shape(task.model.module.init, key, given)
        if set(variables) != {"params"}:
            raise ValueError(
                f"model has variables {sorted(variables)}, expected params alone: see rs.tasks.from_linen"
            )
    params = jax.eval_shape(task.model.init, key, given)
    trained, kept = task.model_parts(params)
    leaves = jax.tree.leaves(trained)
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError(f"model's init returned {kinds(params)}, expected a pytree of floating-point arrays")
    outputs = jax.eval_shape(lambda p, x: task._outputs(p, task._scaled(x)), params, x)
    _check_values("loss", task.loss, outputs, y)
    for name, metric in task.metrics:
        _check_values(f"metrics[{name!r}]", metric, outputs, y)
    if task.regulariser is not None:
        value = jax.eval_shape(check_function("regulariser", task.regulariser, "params -> ()"), trained)
        if getattr(value, "shape", None) != ():
            raise ValueError(f"regulariser returned {value}, expected one number")
    if task.model.statistics:
        told = jax.eval_shape(lambda p, x: task._outputs(p, task._scaled(x), key), params, x)
        new = told[1] if isinstance(told, tuple) and len(told) == 2 else None
        if jax.tree.map(_kind, new) != jax.tree.map(_kind, kept):
            raise ValueError(f"model's apply returned {told} with a key, expected (outputs, {kept})")
    return params


def _check_values(name: str, function: Any, outputs: Any, y: Any) -> None:
    values = jax.eval_shape(check_function(name, function, "(outputs, y) -> (B,)"), outputs, y)
    if getattr(values, "shape", None) != (1,):
        raise ValueError(
            f"{name} returned {values} for one sample, expected shape (1,): a number for each sample"
        )


def _check_augment(augment: Augment, key: Key, x: Any) -> None:
    changed = jax.eval_shape(check_function("augment", augment, "(key, images) -> images"), key, x)
    if jax.tree.map(_kind, changed) != jax.tree.map(_kind, x):
        before, after = (
            jax.tree.map(lambda leaf: f"{leaf.dtype} of shape {leaf.shape}", t) for t in (x, changed)
        )
        raise ValueError(f"augment turns {before} into {after}, expected the same shape and type")


def _kind(leaf: Any) -> tuple:
    return leaf.shape, leaf.dtype


def check_stacked(params: Stacked, num_workers: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.shape(leaf)[:1] != (num_workers,):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, "
                f"expected a leading axis of num_workers={num_workers}"
            )
