"""Supervised learning: every worker trains the same model on its own share of a data set."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from relaysim.checks import check_count, check_key, shown
from relaysim.metrics import chosen, consensus_distance, mean_model
from relaysim.tasks.augment import Augment
from relaysim.tasks.datasets import Dataset, check_dataset
from relaysim.tasks.fitting import as_model, check_fit, check_part, check_stacked, scale, shape_of, taken_each
from relaysim.tasks.grouped import default_group, has_images, stacked
from relaysim.tasks.losses import Loss
from relaysim.tasks.model import check_statistics
from relaysim.tasks.partition import check_shares
from relaysim.tasks.rows import for_model, on_device
from relaysim.tasks.sampling import batch_indices, check_sizes, in_one_row
from relaysim.types import Array, Key, Stacked

_BATCHES, _AUGMENT, _NOISE = 0, 1, 2
"""Folded into a run's key for the order of the data, the augmentation, and the models' own randomness."""


@struct.dataclass
class Supervised:
    """Made by `supervised` and `classification`. A pytree: hand it to a jitted function as an argument.

    Tasks of the same functions, batch sizes and data, whose shares hold equally many samples in all (as those
    of `partition` do, equal or not), have the same shapes. So they can be stacked and mapped over:
    `jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)`.
    """

    model: Any = struct.field(pytree_node=False)
    """Has `init`, `apply` and `statistics`, see `Model`."""
    loss: Loss = struct.field(pytree_node=False)
    metrics: tuple[tuple[str, Loss], ...] = struct.field(pytree_node=False)
    regulariser: Callable[[Any], Array] | None = struct.field(pytree_node=False)
    augment: Augment | None = struct.field(pytree_node=False)
    batch_size: int = struct.field(pytree_node=False)
    """The largest of the workers' batches."""
    full_batch: bool = struct.field(pytree_node=False)
    test_batch: int = struct.field(pytree_node=False)
    at_once: int | None = struct.field(pytree_node=False)
    """How many workers are computed at once; None for what suits the platform."""
    images: bool = struct.field(pytree_node=False)
    """Whether the model has convolutions over images."""
    x: Any
    """leaves (N, ...), training inputs of all workers, as they are stored"""
    y: Any
    """leaves (N, ...)"""
    indices: Array
    """(total,) int32, into x and y: the workers' shares end to end"""
    sizes: Array
    """(n,) int32, the length of each worker's share"""
    test_x: Any
    """leaves (M, ...)"""
    test_y: Any
    """leaves (M, ...)"""
    mean: Array | None
    """() or (C,): models are given (x - mean) / std. None, as is `std`, where that would be x."""
    std: Array | None
    taken: Array | None = None
    """(n,) int32, the workers' batch sizes where they differ"""
    owners: Array | None = None
    """(M,) int32, whose test sample each one is, -1 for nobody's"""
    optimum: Array | None = None
    """() the least value of the objective, see `with_optimum`"""

    def __repr__(self) -> str:
        of = getattr(self.loss, "__name__", type(self.loss).__name__)
        return f"Supervised({self.num_workers} workers, {self.indices.shape[-1]} samples, {of})"

    @property
    def num_workers(self) -> int:
        return self.sizes.shape[-1]

    @property
    def patches(self) -> bool:
        """Whether convolutions are computed as products of matrices, on the platform that is compiled for."""
        return getattr(self.model, "by_patches", False)

    @property
    def group(self) -> int:
        """How many workers are computed at once, on the platform that is compiled for."""
        return self.at_once or default_group(self.images, self.num_workers, patches=self.patches)

    @property
    def takes_key(self) -> bool:
        """Whether the model has randomness of its own."""
        return len(inspect.signature(self.model.apply).parameters) > 2

    def model_parts(self, params: Any) -> tuple[Any, dict[str, Any]]:
        """What is trained of params, and what is not: the statistics by name."""
        names = [name for name in self.model.statistics if name in params]
        if not names:
            return params, {}
        return {n: params[n] for n in params if n not in names}, {n: params[n] for n in names}

    def check_optimizer(self, params: Stacked, state: Any) -> None:
        """Raise a ValueError where an optimizer, with this state for params, would train statistics."""
        check_statistics(self.model_parts(params)[1], state)

    def init(self, key: Key) -> Stacked:
        """The model's own initialization, one for all workers: leaves (n, ...)."""
        params = _init(
            self.model, in_one_row(check_key("key", key)), for_model(self._scaled(_rows(self.x, slice(1))))
        )
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.num_workers, *leaf.shape)), params)

    def grad(self, key: Key, step: Array | int, params: Stacked) -> tuple[Array, Stacked]:
        """The mean loss of each worker's model on the worker's own batch, and its gradient.

        Args:
          key: the order of each worker's data, its augmentation and its dropout. It must be the same
            throughout a run.
          step: () int, the batches taken so far.
          params: leaves (n, ...).

        Returns:
          (losses (n,), gradients like params), both with the regulariser. In place of a gradient, what is not
          trained has the old value less the new one.
        """
        workers = jnp.arange(self.num_workers)
        return self.grad_at(key, workers, jnp.broadcast_to(step, workers.shape), params)

    def grad_at(self, key: Key, workers: Array, steps: Array, params: Stacked) -> tuple[Array, Stacked]:
        """`grad` of workers (k,), each at a step (k,) and a model (k, ...) of its own -> (k,), (k, ...)."""
        check_stacked(params, len(workers))
        places, weights = self._places(jax.random.fold_in(key, _BATCHES), workers, steps)
        starts = (jnp.cumsum(self.sizes) - self.sizes)[workers]
        batch = self.indices[starts[:, None] + places]
        x, y = _rows(self.x, batch), _rows(self.y, batch)
        if self.augment is not None:
            x = jax.vmap(self.augment)(_keys(key, _AUGMENT, workers, steps), x)
        noise = _keys(key, _NOISE, workers, steps) if self.takes_key else None
        return stacked(self._one_grad, self.group)(params, self._scaled(x), y, (weights, noise))

    def _one_grad(self, params: Any, x: Any, y: Any, how: tuple) -> tuple[Array, Any]:
        """One worker's loss and gradient."""
        (weights, key), (trained, kept) = how, self.model_parts(params)

        def loss(p: Any) -> tuple[Array, dict]:
            outputs, new = self._outputs({**p, **kept} if kept else p, x, key), {}
            if self.model.statistics:
                outputs, new = outputs
            losses = self.loss(outputs, y)
            value = losses.mean() if weights is None else losses @ weights.astype(losses.dtype)
            return value if self.regulariser is None else value + self.regulariser(p), new

        (value, new), g = jax.value_and_grad(loss, has_aux=True)(trained)
        return value, {**g, **jax.tree.map(jnp.subtract, kept, new)} if kept else g

    def measure(
        self, params: Stacked, workers: Array | None = None, eval_size: int | None = None
    ) -> dict[str, Array]:
        """How good the models are on the test set, and how far apart.

        Args:
          params: leaves (n, ...).
          workers: (k,) int, which of them to look at alone; by default all.
          eval_size: so many of the test samples alone, evenly spaced; by default all.

        Returns:
          Each metric by its name, (n,) (or (k,)), of each worker's model, and with "mean_model_" before its
          name, (), of the average of all models; "test_loss" (n,) of each, without the regulariser; and
          consensus_distance (). Where the test set is divided, with "local_" before their names, (n,), those
          of each worker's model on its own test samples, NaN where it has none. Where the optimum is known,
          suboptimality () and worker_suboptimality (n,), the objective F of the average of all models and of
          each, less the least value; and squared_gradient_norm (), ‖∇F‖² at the average of all models.
        """
        check_stacked(params, self.num_workers)
        params = chosen(params, workers)
        mean = mean_model(params)
        found: dict[str, Array] = {}
        if self.test_y is not None:

            def test(p: Any, x: Any, y: Any) -> dict[str, Array]:
                outputs = self._outputs(p, x)
                return {name: of(outputs, y) for name, of in (*self.metrics, ("test_loss", self.loss))}

            def test_all(x: Any, y: Any) -> Any:
                return stacked(lambda p: test(p, x, y), self.group)(params), test(mean, x, y)

            tested = self._tested(eval_size)
            each, whole = self._over(self.test_x, self.test_y, tested, test_all)
            found |= {name: values.mean(-1) for name, values in each.items()}
            found |= {f"mean_model_{name}": whole[name].mean(-1) for name, _ in self.metrics}
            if self.owners is not None:
                owners = self.owners if tested is None else self.owners[tested]
                found |= self._local(each, owners, workers)
        if self.optimum is not None:
            value, gradient = jax.value_and_grad(self.objective_of)(mean)
            found["suboptimality"] = value - self.optimum
            found["squared_gradient_norm"] = optax.tree.norm(gradient, squared=True)
            found["worker_suboptimality"] = stacked(self.objective_of, self.group)(params) - self.optimum
        return {**found, "consensus_distance": consensus_distance(params)}

    def class_accuracy(self, params: Stacked) -> Array:
        """How much of each class the models get right: who forgot which class.

        Args:
          params: leaves (n, ...).

        Returns:
          (n, C) each worker's "accuracy" on the test samples of each class, NaN where there is none.
        """
        check_stacked(params, self.num_workers)
        accuracy = dict(self.metrics)["accuracy"]

        def test_all(x: Any, y: Any) -> Array:
            return stacked(lambda p: accuracy(self._outputs(p, x), y), self.group)(params)

        of_class = jax.nn.one_hot(self.test_y, self.shape_of_outputs()[-1])
        right = self._over(self.test_x, self.test_y, None, test_all)
        return right @ of_class / of_class.sum(0, keepdims=True)

    def predict(self, params: Stacked, x: Any) -> Any:
        """What the models make of new inputs, which are scaled as those of the training.

        Args:
          params: leaves (k, ...), of any number of models.
          x: leaves (B, ...), as the data set stores them; or a sparse matrix.

        Returns:
          outputs, leaves (k, B, ...).
        """
        x = self._scaled(on_device(x))
        return stacked(lambda p: self._outputs(p, x), self.group)(params)

    def objective(self, params: Stacked) -> Array:
        """F(x) = (1/n) Σ_i f_i(x) of all training samples, with the regulariser: leaves (k, ...) -> (k,)."""
        return stacked(self.objective_of, self.group)(params)

    def held_back(self, most: int = 2000) -> "Supervised":
        """The same task that is tested on a part of its training data, at most a quarter, to choose rates by.

        Every worker keeps a sample at least. The test data are not looked at. A task whose optimum is known
        asks for no more than its training data: it stays as it is.
        """
        if self.optimum is not None:
            return self
        total, sizes = len(self.indices), np.asarray(self.sizes)
        stride, worker = max(4, -(-total // most)), np.repeat(np.arange(len(sizes)), sizes)
        held = (np.arange(total) % stride == stride - 1) & (sizes[worker] > 1)
        kept, out = self.indices[~held], self.indices[held]
        left = jnp.asarray(np.bincount(worker[~held], minlength=len(sizes)), jnp.int32)
        owners = None if self.owners is None else jnp.asarray(worker[held], jnp.int32)
        test_x, test_y = _rows(self.x, out), _rows(self.y, out)
        return replace(self, indices=kept, sizes=left, test_x=test_x, test_y=test_y, owners=owners)

    def _places(self, key: Key, workers: Array, steps: Array) -> tuple[Array, Array | None]:
        """(k, B) where in its share each worker's batch lies, and what counts how much; None: all alike."""
        sizes, number = self.sizes[workers], jnp.arange(self.batch_size)[None]

        def first(taken: Array) -> Array:
            return (number < taken[:, None]) / taken.astype(jnp.result_type(float))[:, None]

        if self.full_batch:
            return number % sizes[:, None], first(sizes)
        if self.taken is None:
            return batch_indices(key, steps, sizes, self.batch_size, workers), None
        taken = self.taken[workers]
        places = batch_indices(key, steps, sizes, self.batch_size, workers, taken)
        return places, first(taken)

    def _outputs(self, params: Any, x: Any, key: Key | None = None) -> Any:
        """Of one model, for inputs as they are given to it."""
        extra = (key,) if self.takes_key else ()
        return self.model.apply(params, for_model(x), *extra)

    def shape_of_outputs(self) -> Any:
        """(1, ...), that of what a model makes of one sample; or a pytree of shapes."""

        def one(key: Key) -> Any:
            x = self._scaled(_rows(self.x, slice(1)))
            return self._outputs(self.model.init(key, for_model(x)), x)

        return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(one, jax.random.key(0)))

    def _scaled(self, x: Any) -> Any:
        """What a model is given for the inputs x (..., C)."""
        if self.mean is None or self.std is None:
            return x
        return (x - jnp.broadcast_to(self.mean, x.shape)) / jnp.broadcast_to(self.std, x.shape)

    def _tested(self, eval_size: int | None) -> Array | None:
        """(eval_size,) which test samples to look at, None for all."""
        num_samples = _length(self.test_y)
        if eval_size is None or check_count("eval_size", eval_size) >= num_samples:
            return None
        return jnp.asarray(np.arange(eval_size) * num_samples // eval_size)

    def _local(self, each: dict, owners: Array, workers: Array | None) -> dict[str, Array]:
        """Of metrics (k, M) the means over each worker's own test samples."""
        who = jnp.arange(self.num_workers) if workers is None else jnp.asarray(workers)
        own = owners[None, :] == who[:, None]
        return {f"local_{name}": (values * own).sum(-1) / own.sum(-1) for name, values in each.items()}

    def objective_of(self, params: Any) -> Array:
        """F of one model: a sample's weight is 1 / (n · the size of its share)."""
        total = len(self.indices)
        each = 1 / (self.num_workers * self.sizes.astype(jnp.result_type(float)))
        weights = jnp.repeat(each, self.sizes, total_repeat_length=total)

        def losses(x: Any, y: Any) -> Array:
            return self.loss(self._outputs(params, x), y)

        value = self._over(self.x, self.y, self.indices, losses)
        value = value @ weights.astype(value.dtype)
        return value if self.regulariser is None else value + self.regulariser(params)

    def _over(self, x: Any, y: Any, which: Array | None, test: Callable[[Any, Any], Any]) -> Any:
        """test(x, y) of all samples (M), or of some, a piece at a time: leaves (..., B) -> (..., M)."""
        num_samples = _length(y) if which is None else len(which)
        num_pieces = -(-num_samples // self.test_batch)
        pieces = jnp.arange(num_pieces * -(-num_samples // num_pieces)).reshape(num_pieces, -1)

        def test_piece(piece: Array) -> Any:
            piece = jnp.minimum(piece, num_samples - 1)  # what the last piece has too much is cut off below
            piece = piece if which is None else which[piece]
            return test(self._scaled(_rows(x, piece)), _rows(y, piece))

        def joined(values: Array) -> Array:
            """(num_pieces, ..., B) -> (..., M)"""
            return jnp.concatenate(values, -1)[..., :num_samples]

        return jax.tree.map(joined, jax.lax.map(test_piece, pieces))


def supervised(
    model: Any,
    dataset: Dataset,
    shares: Sequence[np.ndarray],
    *,
    loss: Loss,
    metrics: Mapping[str, Loss] | None = None,
    regulariser: Callable[[Any], Array] | None = None,
    batch_size: int | Sequence[int] | Literal["full"] = 32,
    augment: Augment | None = None,
    test_shares: Sequence[np.ndarray] | None = None,
    test_batch: int = 500,
    group: int | None = None,
    patches: bool | None = None,
) -> Supervised:
    """Train any model with any loss on a data set that is divided among workers.

    >>> import relaysim as rs
    >>> x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    >>> data = rs.tasks.Dataset(x, 3 * x[:, 0], x, 3 * x[:, 0])
    >>> line = rs.tasks.Model(lambda key, x: jnp.zeros(x.shape[1]), lambda w, x: x @ w)
    >>> task = supervised(line, data, np.split(np.arange(40), 4), loss=rs.tasks.losses.squared_error)
    >>> sorted(task.measure(task.init(jax.random.key(0))))
    ['consensus_distance', 'test_loss']

    Args:
      model: a `Model(init, apply)`, any pair of such functions, a flax.linen module with parameters alone, or
        what `from_linen` and `from_nnx` return, for dropout, batch statistics and flax.nnx.
      dataset: the training part is the workers', the test part, which may be None, is for `measure`. Inputs
        and labels are arrays or pytrees of arrays; inputs may be a sparse matrix of scipy (CSR), of which
        models are given a `jax.experimental.sparse.BCOO` (B, D): take `x @ w`, or `x.todense()`.
      shares: n int arrays, each worker's indices into the training part (see `partition`).
      loss: (outputs, y) -> (B,), of each sample, such as those in `losses`.
      metrics: by name, functions like the loss, to be averaged over the test set. None for none.
      regulariser: params -> (), added to each worker's loss, such as `losses.l2(1e-4)`. Weight decay can be
        left to the optimizer instead.
      batch_size: B, of each worker, or one for each (n,), drawn without replacement, epoch by epoch (see
        `sampling`); or "full": the whole of each worker's share in every step. Where they differ, all are
        computed as large as the largest, and batch statistics are those of the largest.
      augment: changes the training inputs of every batch at random, as they are stored, before they are
        scaled (see `augment`).
      test_shares: n int arrays, each worker's own indices into the test part, disjoint, maybe empty:
        `measure` then tells of them as well.
      test_batch: at most so many test samples at a time go through all n models in `measure`: more of them
        take more memory, and change nothing else.
      group: how many workers are computed at once, the others waiting: fewer take less memory. By default,
        where convolutions are computed as products, 1 on CPUs and up to 64 on GPUs, n otherwise: the fastest,
        as measured.
      patches: compute convolutions of flax.linen as products of matrices (see `grouped`); by default on CPUs
        and GPUs.

    Raises:
      ValueError: for anything that does not fit together.
    """
    model = as_model(model, patches)
    check_part("train", check_dataset(dataset).train_x, dataset.train_y)
    if (dataset.test_x is None) != (dataset.test_y is None):
        raise ValueError("test_x or test_y is None, expected both or none")
    if dataset.test_y is not None:
        check_part("test", dataset.test_x, dataset.test_y)
        if (test := shape_of(dataset.test_x)) != (train := shape_of(dataset.train_x)):
            raise ValueError(f"test_x has samples of shape {test}, expected {train} as in train_x")
    check_shares(shares, _length(dataset.train_y))
    sizes = np.array([len(share) for share in shares])
    full = isinstance(batch_size, str) and batch_size == "full"
    most, taken = (int(sizes.max()), None) if full else taken_each(batch_size, len(shares))
    check_sizes(sizes, 1 if full else most)
    check_count("test_batch", test_batch)
    if group is not None:
        check_count("group", group)
    if not isinstance(metrics, Mapping | None):
        raise ValueError(
            f"metrics is {shown(metrics)}, expected a dict of functions (outputs, y) -> (B,) by name"
        )
    owners = None
    if test_shares is not None:
        owners = _owners(test_shares, len(shares), 0 if dataset.test_y is None else _length(dataset.test_y))
    mean, std = scale(dataset)
    task = Supervised(
        model=model,
        loss=loss,
        metrics=tuple((metrics or {}).items()),
        regulariser=regulariser,
        augment=augment,
        batch_size=most,
        full_batch=full,
        test_batch=int(test_batch),
        at_once=group,
        images=False,
        x=on_device(dataset.train_x),
        y=_labels(dataset.train_y),
        indices=jnp.asarray(np.concatenate(shares), jnp.int32),
        sizes=jnp.asarray(sizes, jnp.int32),
        test_x=on_device(dataset.test_x),
        test_y=_labels(dataset.test_y),
        mean=mean,
        std=std,
        taken=taken,
        owners=owners,
    )
    params = check_fit(task, _rows(task.x, slice(1)), _rows(task.y, slice(1)))
    return replace(task, images=has_images(params))


@partial(jax.jit, static_argnums=0)  # for all tasks on such samples at once
def _init(model: Any, key: Key, x: Any) -> Any:
    return model.init(key, x)


def _rows(tree: Any, which: Any) -> Any:
    """Of leaves (N, ...) the rows `which`."""
    return jax.tree.map(lambda leaf: leaf[which], tree)


def _length(tree: Any) -> int:
    leaf = jax.tree.leaves(tree)[0]
    return leaf.shape[0]


def _keys(key: Key, stream: int, workers: Array, steps: Array) -> Array:
    """(k,) a key for each worker and step."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, stream), steps)
    return jax.vmap(jax.random.fold_in)(keys, workers)


def _labels(y: Any) -> Any:
    """Labels on the device, integers as int32."""

    def one(leaf: Any) -> Array:
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        return jnp.asarray(leaf, jnp.int32 if jnp.issubdtype(leaf.dtype, jnp.integer) else None)

    return jax.tree.map(one, y)


def _owners(shares: Sequence[np.ndarray], num_workers: int, num_samples: int) -> Array:
    if len(shares) != num_workers:
        raise ValueError(f"test_shares holds {len(shares)} shares, expected one for each of {num_workers}")
    check_shares([share for share in shares if len(share)], num_samples)
    owners = np.full(num_samples, -1, np.int32)
    for worker, share in enumerate(shares):
        owners[np.asarray(share, int)] = worker
    return jnp.asarray(owners)
