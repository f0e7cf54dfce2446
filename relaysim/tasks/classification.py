"""Classification: every worker trains the same network on its own share of a data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from relaysim.checks import check_count
from relaysim.metrics import chosen, consensus_distance, mean_model
from relaysim.tasks.augment import Augment
from relaysim.tasks.datasets import Dataset
from relaysim.tasks.grouped import apply, default_group, default_patches, stacked
from relaysim.tasks.partition import check_shares
from relaysim.tasks.sampling import batch_indices, check_sizes, in_one_row
from relaysim.types import Array, Key, Stacked

_BATCHES = 0  # folded into a run's key for the order of the data
_AUGMENT = 1  # and for the augmentation


@struct.dataclass
class Classification:
    """Made by `classification`. A pytree: hand it to a jitted function as an argument.

    Tasks of the same model, batch sizes, augmentation and data, whose shares hold equally many samples in all
    (as those of `partition` do, equal or not), have the same shapes. So they can be stacked and mapped over:
    `jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)`.
    """

    model: nn.Module = struct.field(pytree_node=False)
    num_classes: int = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    test_batch: int = struct.field(pytree_node=False)
    augment: Augment | None = struct.field(pytree_node=False)
    group: int = struct.field(pytree_node=False)
    patches: bool = struct.field(pytree_node=False)
    x: Array
    """(N, ...) training inputs of all workers, as they are stored"""
    y: Array
    """(N,) int32"""
    indices: Array
    """(total,) int32, into x and y: the workers' shares end to end"""
    sizes: Array
    """(n,) int32, the length of each worker's share"""
    test_x: Array
    """(M, ...)"""
    test_y: Array
    """(M,) int32"""
    mean: Array | None
    """() or (C,): networks are given (x - mean) / std. None, as is `std`, where that would be x."""
    std: Array | None

    @property
    def num_workers(self) -> int:
        return self.sizes.shape[-1]

    def init(self, key: Key) -> Stacked:
        """The network's own initialization, one for all workers: leaves (n, ...)."""
        params = _init(self.model, in_one_row(key), self._scaled(self.x[:1]))
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.num_workers, *leaf.shape)), params)

    def grad(self, key: Key, step: Array | int, params: Stacked) -> tuple[Array, Stacked]:
        """The mean cross-entropy of each worker's model on the worker's own batch, and its gradient.

        Args:
          key: the order of each worker's data and its augmentation. It must be the same throughout a run.
          step: () int, the batches taken so far.
          params: leaves (n, ...).

        Returns:
          (losses (n,), gradients like params).
        """
        workers = jnp.arange(self.num_workers)
        return self.grad_at(key, workers, jnp.broadcast_to(step, workers.shape), params)

    def grad_at(self, key: Key, workers: Array, steps: Array, params: Stacked) -> tuple[Array, Stacked]:
        """`grad` of workers (k,), each at a step (k,) and a model (k, ...) of its own -> (k,), (k, ...)."""
        _check_stacked(params, len(workers))
        order, sizes = jax.random.fold_in(key, _BATCHES), self.sizes[workers]
        places = batch_indices(order, steps, sizes, self.batch_size, workers)
        starts = (jnp.cumsum(self.sizes) - self.sizes)[workers]
        batch = self.indices[starts[:, None] + places]
        x, y = self._scaled(self._augmented(key, workers, steps, self.x[batch])), self.y[batch]

        def loss(p: Any, x: Array, y: Array) -> Array:
            return _cross_entropy(self._logits(p, x), y).mean()

        return stacked(jax.value_and_grad(loss), self.group)(params, x, y)

    def measure(self, params: Stacked, workers: Array | None = None) -> dict[str, Array]:
        """How good the models are on the whole test set, and how far apart.

        Args:
          params: leaves (n, ...).
          workers: (k,) int, which of them to look at alone; by default all.

        Returns:
          accuracy (n,) and test_loss (n,) (or (k,)) of each worker's model, mean_model_accuracy () of the
          average of all models, and consensus_distance ().
        """
        _check_stacked(params, self.num_workers)
        params = chosen(params, workers)
        mean = mean_model(params)

        def test(p: Any, x: Array, y: Array) -> tuple[Array, Array]:
            logits = self._logits(p, x)
            return logits.argmax(-1) == y, _cross_entropy(logits, y)

        def test_all(x: Array, y: Array) -> Any:
            return stacked(lambda p: test(p, x, y), self.group)(params), test(mean, x, y)

        tested = jax.tree.map(lambda values: values.mean(-1), self._over_test_set(test_all))
        (accuracy, loss), (mean_accuracy, _) = tested
        return {
            "accuracy": accuracy,
            "mean_model_accuracy": mean_accuracy,
            "test_loss": loss,
            "consensus_distance": consensus_distance(params),
        }

    def held_back(self, most: int = 2000) -> "Classification":
        """The same task that is tested on a part of its training data, at most a quarter, to choose rates by.

        Every worker keeps a sample at least. The test data are not looked at.
        """
        total, sizes = len(self.indices), np.asarray(self.sizes)
        stride, worker = max(4, -(-total // most)), np.repeat(np.arange(len(sizes)), sizes)
        held = (np.arange(total) % stride == stride - 1) & (sizes[worker] > 1)
        kept, out = self.indices[~held], self.indices[held]
        left = jnp.asarray(np.bincount(worker[~held], minlength=len(sizes)), jnp.int32)
        return replace(self, indices=kept, sizes=left, test_x=self.x[out], test_y=self.y[out])

    def class_accuracy(self, params: Stacked) -> Array:
        """How much of each class the models get right: who forgot which class.

        Args:
          params: leaves (n, ...).

        Returns:
          (n, num_classes) each worker's accuracy on the test samples of each class, NaN where there is none.
        """
        _check_stacked(params, self.num_workers)

        def test_all(x: Array, y: Array) -> Array:
            return stacked(lambda p: self._logits(p, x).argmax(-1) == y, self.group)(params)

        of_class = jax.nn.one_hot(self.test_y, self.num_classes)
        return self._over_test_set(test_all) @ of_class / of_class.sum(0, keepdims=True)

    def _over_test_set(self, test: Callable[[Array, Array], Any]) -> Any:
        """test(x, y) of the whole test set, a piece at a time: leaves (..., B) -> (..., M)."""
        num_samples = len(self.test_y)
        num_pieces = -(-num_samples // self.test_batch)
        pieces = jnp.arange(num_pieces * -(-num_samples // num_pieces)).reshape(num_pieces, -1)

        def test_piece(piece: Array) -> Any:
            piece = jnp.minimum(piece, num_samples - 1)  # what the last piece has too much is cut off below
            return test(self._scaled(self.test_x[piece]), self.test_y[piece])

        def joined(values: Array) -> Array:
            """(num_pieces, ..., B) -> (..., M)"""
            return jnp.concatenate(values, -1)[..., :num_samples]

        return jax.tree.map(joined, jax.lax.map(test_piece, pieces))

    def _augmented(self, key: Key, workers: Array, steps: Array, x: Array) -> Array:
        """(k, B, ...) -> (k, B, ...), each worker's batch by a key of its own."""
        if self.augment is None:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, _AUGMENT), steps)
        return jax.vmap(self.augment)(jax.vmap(jax.random.fold_in)(keys, workers), x)

    def _scaled(self, x: Array) -> Array:
        """What a network is given for the inputs x (..., C)."""
        if self.mean is None or self.std is None:
            return x
        return (x - jnp.broadcast_to(self.mean, x.shape)) / jnp.broadcast_to(self.std, x.shape)

    def _logits(self, params: Any, x: Array) -> Array:
        return apply(self.model, params, x, patches=self.patches)


def classification(
    model: nn.Module,
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    *,
    batch_size: int = 32,
    augment: Augment | None = None,
    test_batch: int = 500,
    group: int | None = None,
    patches: bool | None = None,
) -> Classification:
    """Train one network on a data set that is divided among workers.

    Weight decay is left to the optimizer.

    Args:
      model: a flax module from inputs (B, ...) to logits (B, dataset.num_classes), with parameters alone:
        no batch statistics, no dropout.
      dataset: the training part is the workers', the test part is for `measure`.
      shares: n int arrays, each worker's indices into the training part (see `partition`).
      batch_size: B, of each worker. Drawn without replacement, epoch by epoch (see `sampling`).
      augment: changes the training images of every batch at random, as they are stored, before they are
        scaled (see `augment`).
      test_batch: at most so many test samples at a time go through all n models in `measure`: more of them
        take more memory, and change nothing else.
      group: how many workers are computed at once, the others waiting: fewer take less memory. By default,
        where convolutions are computed as products, 1 on CPUs and up to 64 on GPUs, n otherwise: the fastest,
        as measured.
      patches: compute convolutions as products of matrices (see `stacked`); by default on CPUs and GPUs.

    Raises:
      ValueError: for anything that does not fit together.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {model!r}, expected an instance of flax.linen.Module")
    _check_part("train", dataset.train_x, dataset.train_y, dataset.num_classes)
    _check_part("test", dataset.test_x, dataset.test_y, dataset.num_classes)
    if np.shape(dataset.test_x)[1:] != np.shape(dataset.train_x)[1:]:
        raise ValueError(
            f"test_x has samples of shape {np.shape(dataset.test_x)[1:]}, "
            f"expected {np.shape(dataset.train_x)[1:]} as in train_x"
        )
    check_shares(shares, len(dataset.train_y))
    sizes = np.array([len(share) for share in shares])
    check_sizes(sizes, batch_size)
    check_count("test_batch", test_batch)
    mean, std = _scale(dataset)
    patches = default_patches() if patches is None else patches
    if group is not None:
        check_count("group", group)
    task = Classification(
        model=model,
        num_classes=dataset.num_classes,
        batch_size=batch_size,
        test_batch=int(test_batch),
        augment=augment,
        group=len(shares),
        patches=patches,
        x=jnp.asarray(dataset.train_x),
        y=jnp.asarray(dataset.train_y, jnp.int32),
        indices=jnp.asarray(np.concatenate(shares), jnp.int32),
        sizes=jnp.asarray(sizes, jnp.int32),
        test_x=jnp.asarray(dataset.test_x),
        test_y=jnp.asarray(dataset.test_y, jnp.int32),
        mean=mean,
        std=std,
    )
    key = jax.random.key(0)
    if augment is not None:
        _check_augment(augment, key, task.x[:1])
    logits, variables = jax.eval_shape(model.init_with_output, key, task._scaled(task.x[:1]))
    if set(variables) != {"params"}:
        raise ValueError(f"model has variables {sorted(variables)}, expected params alone")
    if logits.shape != (1, dataset.num_classes):
        raise ValueError(
            f"model turns {task.x[:1].shape} into {logits.shape}, expected (1, {dataset.num_classes})"
        )
    if group is None:
        group = default_group(variables["params"], len(shares), patches=patches)
    return replace(task, group=group)


@partial(jax.jit, static_argnums=0)  # for all tasks on such samples at once
def _init(model: nn.Module, key: Key, x: Array) -> Any:
    return model.init(key, x)["params"]


def _cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _scale(dataset: Dataset) -> tuple[Array | None, Array | None]:
    mean, std = np.asarray(dataset.mean, np.float32), np.asarray(dataset.std, np.float32)
    channels = np.shape(dataset.train_x)[-1:]
    for name, value in (("mean", mean), ("std", std)):
        if value.shape not in ((), channels) or not np.isfinite(value).all():
            raise ValueError(
                f"{name} is {value}, expected a finite number, or an array of shape {channels}, one a channel"
            )
    if (std <= 0).any():
        raise ValueError(f"std is {std}, expected numbers > 0")
    if (mean == 0).all() and (std == 1).all():
        return None, None
    return jnp.asarray(mean), jnp.asarray(std)


def _check_augment(augment: Augment, key: Key, x: Array) -> None:
    if not callable(augment):
        raise ValueError(f"augment is {augment!r}, expected a function (key, images) -> images")
    changed = jax.eval_shape(augment, key, x)
    if (changed.shape, changed.dtype) != (x.shape, x.dtype):
        raise ValueError(
            f"augment turns {x.dtype} of shape {x.shape} into {changed.dtype} of shape {changed.shape}, "
            "expected the same shape and type"
        )


def _check_stacked(params: Stacked, num_workers: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.shape(leaf)[:1] != (num_workers,):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, "
                f"expected a leading axis of num_workers={num_workers}"
            )


def _check_part(part: str, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    y = np.asarray(y)
    if y.ndim != 1 or not len(y) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{part}_y is {y.dtype} of shape {y.shape}, expected one integer or more")
    if len(x) != len(y):
        raise ValueError(f"{part}_x has {len(x)} samples, expected {len(y)} as in {part}_y")
    if y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"{part}_y spans {y.min()} to {y.max()}, expected 0 to num_classes - 1 = {num_classes - 1}"
        )
