"""Averaging weights on the edges of a graph, and how fast they mix."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array, issparse

from relaysim.topology.graphs import Topology, as_array, as_topology


def metropolis_weights(topology: Topology) -> csr_array:
    """Metropolis-Hastings weights: 1 / (1 + max(deg_i, deg_j)) for neighbours, the rest for oneself.

    >>> import relaysim as rs
    >>> metropolis_weights(rs.topology.chain(3)).toarray().round(2)
    array([[0.67, 0.33, 0.  ],
           [0.33, 0.33, 0.33],
           [0.  , 0.33, 0.67]])

    Args:
      topology: undirected, or directed with in-degrees that make the weights doubly stochastic
        (`exponential`).

    Returns: W, (n, n) float64, where W[i, j] is the weight that i gives to the model of j.

    Raises: ValueError for other directed graphs.
    """
    topology = as_topology("topology", topology)
    degrees, w = topology.in_degrees, topology.adjacency()
    w.data = 1 / (1.0 + np.maximum(degrees[topology.senders], degrees[topology.receivers]))
    w = (w + diags_array(1 - w.sum(axis=1))).tocsr()
    if abs(w.sum(axis=0) - 1).max() > 1e-6:
        what = f"topology {topology.name!r} is directed and its Metropolis weights"
        raise ValueError(f"{what} are not doubly stochastic: use rs.push")
    return w


def check_weights(weights: Any, topology: Topology) -> csr_array:
    """Check weights of one's own: finite, doubly stochastic to 1e-6, and zero where there is no edge.

    >>> import relaysim as rs
    >>> check_weights([[0.5, 0.5], [0.5, 0.5]], rs.topology.chain(2)).nnz
    4

    Args:
      weights: (n, n), a dense array or a scipy sparse one. Entries may be negative.
      topology: the graph whose edges, besides the diagonal, they may use.

    Returns: the same weights, (n, n) float64, without explicit zeros.
    """
    topology, w = as_topology("topology", topology), _square(weights)
    n = topology.num_workers
    if w.shape != (n, n):
        raise ValueError(f"weights must have shape ({n}, {n}) for {topology.name!r}, got {w.shape}")
    stray = (w - w.multiply(topology.adjacency() + eye_array(n))).tocoo()
    if stray.nnz:
        i, j = stray.coords[0][0], stray.coords[1][0]
        edge = f"{topology.name!r} has no edge from {j} to {i}"
        raise ValueError(f"weights[{i}, {j}] must be 0 as {edge}, got {stray.data[0]:g}")
    _check_sums(w, "row")
    _check_sums(w, "column")
    return w


def check_stochastic(
    name: str, weights: Any, num_workers: int | None = None, *, rows: bool = True
) -> csr_array:
    """Weights of one's own without a graph, (n, n) float64, whose columns, and rows if asked, sum to 1.

    >>> check_stochastic("weights", [[0.5, 0.5], [0.5, 0.5]]).shape
    (2, 2)

    Raises: ValueError for all else, which calls them `name`.
    """
    try:
        w = _square(weights)
        if num_workers is not None and w.shape[0] != num_workers:
            raise ValueError(f"weights must have shape ({num_workers}, {num_workers}), got {w.shape}")
        if rows:
            _check_sums(w, "row")
        _check_sums(w, "column")
    except ValueError as error:
        raise ValueError(str(error).replace("weights", name, 1)) from None
    return w


def spectral_gap(weights: Any) -> float:
    """1 - |λ_2|, λ_2 being the eigenvalue of second largest magnitude: how fast gossip reaches consensus.

    The weights are (n, n), dense or sparse, with rows that sum to 1; iterative beyond n = 500.

    >>> import relaysim as rs
    >>> round(spectral_gap(metropolis_weights(rs.topology.ring(16))), 4)
    0.0507
    """
    w = _square(weights)
    _check_sums(w, "row")
    n, symmetric = w.shape[0], abs(w - w.T).max() < 1e-12
    if n <= 500:  # W - 11ᵀ/n has the eigenvalues of W, but 0 for the constant vector
        deviation = w.toarray() - 1 / n
        values = np.linalg.eigvalsh(deviation) if symmetric else np.linalg.eigvals(deviation)
    else:
        from scipy.sparse.linalg import LinearOperator, eigs, eigsh  # slow to import

        deflated = LinearOperator((n, n), matvec=lambda x: w @ x - x.mean(), dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(n)
        values = (eigsh if symmetric else eigs)(deflated, k=1, v0=start, ncv=50, return_eigenvectors=False)
    return float(1 - np.abs(values).max())


def _square(weights: Any) -> csr_array:
    given = weights if issparse(weights) else as_array("weights", weights)
    if not np.can_cast(given.dtype, np.float64, "same_kind"):
        raise ValueError(f"weights is {given.dtype} of shape {given.shape}, expected real numbers")
    if given.ndim != 2 or given.shape[0] != given.shape[1]:
        raise ValueError(f"weights must have shape (n, n), got {given.shape}")
    w = csr_array(given, dtype=np.float64, copy=True)
    w.sum_duplicates()
    w.eliminate_zeros()
    if not np.isfinite(w.data).all():
        raise ValueError(f"weights must be finite, got {w.data[~np.isfinite(w.data)][0]}")
    return w


def _check_sums(w: csr_array, line: str) -> None:
    sums = w.sum(axis=1 if line == "row" else 0)
    bad = np.flatnonzero(abs(sums - 1) > 1e-6)
    if len(bad):
        raise ValueError(f"weights must sum to 1 in every {line}, got {sums[bad[0]]:.8g} in {line} {bad[0]}")
