"""What a message keeps of a vector, and how many bits that takes."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from optax import tree

from relaysim.checks import check_choice, check_count, check_draw, check_number, shown
from relaysim.types import Array, Key, Stacked

Each = Literal["model", "leaf"]
Draw = Callable[[Key, Array, tuple[int, int]], Array]
"""(key, step, (n, d)) -> an array (n, d) of random numbers, or recorded ones: what a compressor draws."""


class Compressor(NamedTuple):
    """A way to make messages small: every worker's x becomes C(x), of the same shape."""

    init: Callable[[Stacked], Any]
    """x, leaves (n, ...) -> what the compressor keeps from call to call."""
    compress: Callable[[Key, Array, Any, Stacked], tuple[Any, Stacked]]
    """(key, step, state, x) -> (state, C(x))."""
    bits: Callable[[Stacked], int]
    """x (or its shapes) -> the bits of one worker's message."""

    def share(self, x: Stacked) -> float:
        """The size of a message, as a share of a worker's x."""
        return self.bits(x) / sum(8 * leaf.dtype.itemsize * _size(leaf) for leaf in jax.tree.leaves(x))

    def follow(self, key: Key, step: Array, state: Any, copy: Stacked, x: Stacked) -> tuple[Any, Stacked]:
        """copy + C(x − copy): a public copy of x moves by what is sent, so that all who hear it agree on
        it."""
        state, difference = self.compress(key, step, state, tree.sub(x, copy))
        return state, tree.add(copy, difference)


def top_k(k: int | float, *, each: Each = "model") -> Compressor:
    """The k entries of largest magnitude, as they are; of equal ones those that come first.

    A message has k values and k coordinates of ⌈log₂ d⌉ bits.

    >>> x = jnp.array([[3.0, -5.0, 1.0, 0.0]])
    >>> top_k(2).compress(jax.random.key(0), 0, (), x)[1]
    Array([[ 3., -5.,  0.,  0.]], dtype=float32)
    >>> top_k(2).bits(x), top_k(0.25).bits(x)
    (68, 34)

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018.

    Args:
      k: a count, or a share in (0, 1] of the d entries: max(1, ⌊share · d⌋). All where there are fewer.
      each: of the whole "model", or of each "leaf" apart.

    Raises:
      ValueError: where `k` is neither, or `each` is none of the two.
    """
    count = _counter(k)

    def keep(key: Key, step: Array, x: Array) -> Array:
        n, d = x.shape
        if count(d) == d:
            return x
        _, largest = jax.lax.top_k(jnp.abs(x), count(d))
        kept = jnp.zeros((n, d), bool).at[jnp.arange(n)[:, None], largest].set(True)
        return jnp.where(kept, x, 0)

    return _of_vectors(keep, lambda d, value: count(d) * (value + (d - 1).bit_length()), each)


def random_k(k: int | float, *, each: Each = "model", draw: Draw | None = None) -> Compressor:
    """k entries drawn anew for each worker and message, as they are (not scaled by d / k).

    A message has k values alone: the coordinates follow from a seed that both ends know.

    >>> masks = np.array([[[1, 0, 0, 1]], [[0, 1, 1, 0]]])          # recorded for two steps
    >>> recorded = random_k(2, draw=lambda key, step, shape: jnp.asarray(masks)[step])
    >>> recorded.compress(jax.random.key(0), 1, (), jnp.array([[3.0, -5.0, 1.0, 2.0]]))[1]
    Array([[ 0., -5.,  1.,  0.]], dtype=float32)

    Args:
      k: a count or a share, as in `top_k`.
      each: of the whole "model", or of each "leaf" apart.
      draw: (key, step, (n, d)) -> (n, d), not 0 where an entry is kept, in place of uniform draws.

    Raises:
      ValueError: where an argument is none of these.
    """
    count = _counter(k)

    def masks(key: Key, step: Array, shape: tuple[int, int]) -> Array:
        _, chosen = jax.lax.top_k(jax.random.uniform(key, shape), count(shape[1]))
        return jnp.zeros(shape, bool).at[jnp.arange(shape[0])[:, None], chosen].set(True)

    draw = check_draw(draw, masks)
    return _of_vectors(
        lambda key, step, x: jnp.where(draw(key, step, x.shape) != 0, x, 0),
        lambda d, value: count(d) * value,
        each,
    )


def sign(*, each: Each = "model") -> Compressor:
    """The signs, times the mean magnitude: (‖x‖₁ / d) sign(x), with sign(0) = 1. One bit an entry and one
    value.

    >>> sign().compress(jax.random.key(0), 0, (), jnp.array([[3.0, -5.0]]))[1]
    Array([[ 4., -4.]], dtype=float32)

    Source: Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes", ICML
    2019."""

    def signs(key: Key, step: Array, x: Array) -> Array:
        scale = jnp.mean(jnp.abs(x), axis=1, keepdims=True)
        return jnp.where(x >= 0, scale, -scale)

    return _of_vectors(signs, lambda d, value: d + value, each)


def quantize(bits: int, *, each: Each = "model", draw: Draw | None = None) -> Compressor:
    """Each entry rounded at random to one of s = 2^(bits − 1) − 1 levels below the norm, or 0: unbiased,

        ‖x‖ sign(x) ⌊s |x| / ‖x‖ + r⌋ / s,    r uniform on [0, 1).

    A message has `bits` bits an entry (one is the sign's) and the norm. It is no contraction: the error is up
    to min(d / s², √d / s) times ‖x‖², so that methods which send differences need a smaller γ.

    >>> halves = quantize(2, draw=lambda key, step, shape: jnp.full(shape, 0.5))
    >>> halves.compress(jax.random.key(0), 0, (), jnp.array([[3.0, -4.0, 0.0]]))[1]
    Array([[ 5., -5.,  0.]], dtype=float32)

    Source: Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and encoding",
    NeurIPS 2017, section 3.1.

    Args:
      bits: of each entry, at least 2.
      each: of the whole "model", or of each "leaf" apart.
      draw: (key, step, (n, d)) -> r (n, d), in place of uniform draws.

    Raises:
      ValueError: where an argument is none of these.
    """
    levels = 2 ** (check_count("bits", bits, 2, 31) - 1) - 1
    draw = check_draw(draw, lambda key, step, shape: jax.random.uniform(key, shape))

    def rounded(key: Key, step: Array, x: Array) -> Array:
        norm = jnp.linalg.norm(x, axis=1, keepdims=True)
        ratio = levels * jnp.abs(x) / jnp.where(norm > 0, norm, 1)
        steps = jnp.floor(ratio + draw(key, step, x.shape).astype(x.dtype))
        return norm * jnp.sign(x) * steps / levels

    return _of_vectors(rounded, lambda d, value: d * bits + value, each)


def low_rank(rank: int, *, each: Each = "leaf") -> Compressor:
    """Each matrix M by one of low rank, P Qᵀ, from one step of power iteration a message,

        P = orthonormal(M Q),    Q ← Mᵀ P,

    with the Q of the last message to start from. A message has P and Q; vectors are sent whole.

    Source: Vogels, Karimireddy and Jaggi, "Practical low-rank communication compression in decentralized deep
    learning" (PowerGossip), NeurIPS 2020, which does so with the difference between two neighbours, in the
    orthonormal form of their "PowerSGD", NeurIPS 2019, Algorithm 1.

    >>> x = {"kernel": jnp.ones((8, 20, 10)), "bias": jnp.ones((8, 10))}
    >>> low_rank(1).bits(x) // 32, low_rank(1, each="model").bits(x) // 32
    (40, 29)

    Args:
      rank: of P Qᵀ, at least 1.
      each: the matrix of each "leaf" (all axes but the last are its rows), or the whole "model" as one that
        is as near to a square as can be, filled up with zeros.

    Raises:
      ValueError: where `rank` is no count, or `each` is none of the two.
    """
    check_count("rank", rank)
    _check_each(each)

    def shape_of(leaf: Any) -> tuple[int, int]:
        columns = leaf.shape[-1] if each == "leaf" else int(np.ceil(np.sqrt(_size(leaf))))
        return -(-_size(leaf) // columns), columns

    def is_matrix(leaf: Any) -> bool:
        return each == "model" or leaf.ndim > 2

    def ranks(leaf: Any) -> int:
        return min(rank, *shape_of(leaf))

    def start(leaf: Array) -> Array:
        q = jax.random.normal(jax.random.key(0), (shape_of(leaf)[1], ranks(leaf)), leaf.dtype)
        return jnp.broadcast_to(q, (leaf.shape[0], *q.shape))

    def init(x: Stacked) -> list:
        return [start(leaf) if is_matrix(leaf) else () for leaf in _vectors(x, each)]

    def of_leaf(q: Any, leaf: Array) -> tuple[Any, Array]:
        if not is_matrix(leaf):
            return q, leaf
        (a, b), n, size = shape_of(leaf), leaf.shape[0], _size(leaf)
        m = jnp.pad(leaf.reshape(n, size), ((0, 0), (0, a * b - size))).reshape(n, a, b)
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        p = jnp.linalg.qr((m @ q).astype(wide))[0].astype(leaf.dtype)
        q = jnp.swapaxes(m, 1, 2) @ p
        return q, (p @ jnp.swapaxes(q, 1, 2)).reshape(n, a * b)[:, :size].reshape(leaf.shape)

    def compress(key: Key, step: Array, s: list, x: Stacked) -> tuple[list, Stacked]:
        done = [of_leaf(q, leaf) for q, leaf in zip(s, _vectors(x, each), strict=True)]
        return [q for q, _ in done], _joined([leaf for _, leaf in done], x)

    def bits(x: Stacked) -> int:
        leaves = jax.eval_shape(lambda x: _vectors(x, each), x)
        entries = [ranks(v) * sum(shape_of(v)) if is_matrix(v) else _size(v) for v in leaves]
        return sum(8 * v.dtype.itemsize * k for v, k in zip(leaves, entries, strict=True))

    return Compressor(init, compress, bits)


def in_cosines(compressor: Compressor, *, chunk: int = 64) -> Compressor:
    """What another compressor keeps of the cosine coefficients (DCT-II, orthonormal) of chunks of the model.

    The model is one vector, filled up with zeros to whole chunks.

    >>> x = jnp.ones((1, 8))
    >>> in_cosines(top_k(1), chunk=8).compress(jax.random.key(0), 0, (), x)[1].round(4).tolist()
    [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]

    Source: Peng, Quesnelle and Kingma, "DeMo: decoupled momentum optimization", 2024, section 3.

    Args:
      compressor: C, such as `top_k(0.1)`.
      chunk: the length of a chunk, at least 1.

    Raises:
      ValueError: where an argument is none of these.
    """
    check_compressor(compressor)
    check_count("chunk", chunk)

    def coefficients(x: Stacked) -> Array:
        (v,) = _vectors(x, "model")
        padded = jnp.pad(v, ((0, 0), (0, -v.shape[1] % chunk)))
        waves = jax.scipy.fft.dct(padded.reshape(len(v), -1, chunk), norm="ortho")
        return waves.reshape(padded.shape)

    def compress(key: Key, step: Array, s: Any, x: Stacked) -> tuple[Any, Stacked]:
        s, waves = compressor.compress(key, step, s, coefficients(x))
        n, size = len(waves), sum(_size(leaf) for leaf in jax.tree.leaves(x))
        back = jax.scipy.fft.idct(waves.reshape(n, -1, chunk), norm="ortho").reshape(n, -1)
        return s, _joined([back[:, :size]], x)

    def bits(x: Stacked) -> int:
        return compressor.bits(jax.eval_shape(coefficients, x))

    return Compressor(lambda x: compressor.init(coefficients(x)), compress, bits)


def _of_vectors(
    function: Callable[[Key, Array, Array], Array], bits: Callable[[int, int], int], each: Each
) -> Compressor:
    """A compressor from one of vectors, (key, step, (n, d)) -> (n, d), and its bits by d and a value's."""
    _check_each(each)

    def compress(key: Key, step: Array, s: tuple, x: Stacked) -> tuple[tuple, Stacked]:
        vectors = [leaf.reshape(leaf.shape[0], -1) for leaf in _vectors(x, each)]
        keys = jax.random.split(key, len(vectors)) if len(vectors) > 1 else [key]
        return s, _joined([function(k, step, v) for k, v in zip(keys, vectors, strict=True)], x)

    def size(x: Stacked) -> int:
        leaves = jax.eval_shape(lambda x: _vectors(x, each), x)
        return sum(bits(_size(leaf), 8 * leaf.dtype.itemsize) for leaf in leaves)

    return Compressor(lambda x: (), compress, size)


def _vectors(x: Stacked, each: Each) -> list[Array]:
    """The leaves; or one (n, d) of all that a worker has."""
    leaves = jax.tree.leaves(x)
    if each == "leaf":
        return leaves
    return [jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)]


def _joined(vectors: list[Array], like: Stacked) -> Stacked:
    leaves, treedef = jax.tree.flatten(like)
    if len(vectors) == 1:
        ends = np.cumsum([_size(leaf) for leaf in leaves])[:-1]
        flat = vectors[0].reshape(vectors[0].shape[0], -1)
        vectors = jnp.split(flat, ends, axis=1)
    shaped = [v.reshape(leaf.shape).astype(leaf.dtype) for v, leaf in zip(vectors, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def _size(leaf: Any) -> int:
    """The numbers that one worker has in a leaf (n, ...)."""
    return int(np.prod(leaf.shape[1:]))


def _counter(k: Any) -> Callable[[int], int]:
    """How many of d entries."""
    if np.ndim(k) == 0 and isinstance(k, np.ndarray):
        k = k.item()  # a count that comes from a file
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        most = check_count("k", k)
        return lambda d: min(most, d)
    share = check_number("k", k, 0, 1, "(]")
    return lambda d: max(1, int(share * d + 1e-9))


def _check_each(each: Any) -> None:
    check_choice("each", each, get_args(Each))


def check_compressor(compressor: Any) -> None:
    if not isinstance(compressor, Compressor):
        raise ValueError(f"compressor is {shown(compressor)}, expected one such as rs.compress.top_k(0.1)")
