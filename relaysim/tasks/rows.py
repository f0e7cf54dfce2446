"""Sparse features: rows of few numbers, from which a compiled step can pick a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from flax import struct

from relaysim.types import Array


@struct.dataclass
class SparseRows:
    """N rows of a matrix with D columns, each with as many entries as the longest has."""

    columns: Array
    """(N, K) int32, D where there is no entry"""
    values: Array
    """(N, K), 0 where there is no entry"""
    width: int = struct.field(pytree_node=False)
    """D"""


def sparse_rows(matrix: Any) -> SparseRows:
    """From any matrix (N, D) of scipy.sparse, in memory of N times the longest row."""
    csr = matrix.tocsr()
    csr.sum_duplicates()
    counts = np.diff(csr.indptr)
    place = np.arange(counts.max(initial=0)) < np.maximum(counts, 0)[:, None]
    columns = np.full(place.shape, csr.shape[1], np.int32)
    values = np.zeros(place.shape, np.result_type(csr.dtype, np.float32))
    columns[place], values[place] = csr.indices, csr.data
    return SparseRows(jnp.asarray(columns), jnp.asarray(values), csr.shape[1])


def is_sparse(x: Any) -> bool:
    """Whether it is one of scipy's sparse matrices."""
    return scipy.sparse.issparse(x)


def on_device(x: Any) -> Any:
    """Arrays, or a sparse matrix, or a pytree of them, as jax's arrays."""
    return jax.tree.map(lambda part: sparse_rows(part) if is_sparse(part) else jnp.asarray(part), x)


def for_model(x: Any) -> Any:
    """What a model is given: sparse rows (B, K) as jax's own BCOO matrix (B, D), all else as it is."""

    from jax.experimental.sparse import BCOO  # slow to import

    def one(part: Any) -> Any:
        if not isinstance(part, SparseRows):
            return part
        return BCOO((part.values, part.columns[..., None]), shape=(len(part.values), part.width))

    return jax.tree.map(one, x, is_leaf=lambda part: isinstance(part, SparseRows))
