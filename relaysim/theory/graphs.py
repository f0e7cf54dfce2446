"""What theory says of a graph: eigenvalues, resistances, the effective number of neighbours.

Small matrices are taken whole, beyond `DENSE` workers only by scipy's sparse solvers.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import block_array, csr_array, diags_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, cg, eigs, eigsh, splu

from relaysim import topology as topologies
from relaysim.checks import check_count, check_number, shown
from relaysim.topology import Topology, as_topology
from relaysim.topology.graphs import as_array

DENSE = 1000
"""Rows up to which a matrix is taken whole."""


class Mixing(NamedTuple):
    """How fast gossip with symmetric weights mixes."""

    lambda2: float
    """The second largest eigenvalue of W."""
    lambda_min: float
    """The smallest one. D² is stable where it is above −1/3."""
    rho: float
    """The larger of their magnitudes: what a round of gossip leaves of a disagreement, at worst."""
    gap: float
    """1 − rho."""


def mixing(weights: Any) -> Mixing:
    """Eigenvalues of a mixing matrix.

    >>> import relaysim as rs
    >>> round(mixing(rs.topology.ring(8)).lambda2, 6)
    0.804738

    Args:
      weights: W, (n, n), symmetric, dense or scipy-sparse, with rows that sum to 1; or a topology, for its
        Metropolis weights. n = 10⁵ takes seconds.

    Raises:
      ValueError: where they are no such weights, or not symmetric (`rate` takes any mixer).
    """
    if isinstance(weights, Topology):
        weights = topologies.metropolis_weights(weights)
    w = topologies.check_stochastic("weights", weights)
    if abs(w - w.T).max() > 1e-12:
        raise ValueError(f"weights of shape {w.shape} are not symmetric: take theory.rate(mixer)")
    if w.shape[0] == 1:
        return Mixing(0.0, 0.0, 0.0, 1.0)
    low, _, high = _ends(csr_array(eye_array(w.shape[0]) - w))
    gap = min(low, 2 - high)
    return Mixing(1 - low, 1 - high, 1 - gap, gap)


def relaying(tree: Topology) -> float:
    """1 − |λ₂| of RelaySum's delay matrix, the step x_i ← (1/n) Σ_j x_j of max(dist(i, j) − 1, 0) steps ago.

    It is found among the eigenvalues next to −1 and 1, by sparse factors of the equations of the messages m,
    their sums S and the models x: λ m[i→j] = x_i + S_i − m[j→i], S_i = Σ_j m[j→i], n λ x_i = x_i + λ S_i.

    >>> import relaysim as rs
    >>> round(1 - relaying(rs.topology.chain(8)), 6)
    0.920851

    Args:
      tree: of any size, with three workers at least.

    Raises:
      ValueError: where it is no tree of that size.
    """
    parent = topologies.rooted(tree).parent
    n = check_count("num_workers", len(parent), 3)
    child, edge = np.arange(1, n), np.arange(n - 1)
    senders, receivers = np.append(child, parent[1:]), np.append(parent[1:], child)
    reverse, m, one = np.append(edge + n - 1, edge), 2 * (n - 1), eye_array(n)
    sent = csr_array((np.ones(m), (np.arange(m), senders)), shape=(m, n))
    heard = csr_array((np.ones(m), (receivers, np.arange(m))), shape=(n, m))
    back = csr_array((np.ones(m), (np.arange(m), reverse)), shape=(m, m))
    now = block_array([[-back, sent, sent], [-heard, one, None], [None, None, one]], format="csc")
    after = block_array(
        [[eye_array(m), None, None], [None, 0 * one, None], [None, -one, n * one]], format="csc"
    )
    start, found = np.random.default_rng(0).standard_normal(now.shape[0]), []
    for near in (-1.0, 1.0 + 1e-4):
        factors = splu(now - near * after, permc_spec="MMD_AT_PLUS_A")
        inverse = LinearOperator(now.shape, matvec=lambda z, f=factors: f.solve(after @ z), dtype=np.float64)
        found.append(near + 1 / eigs(inverse, k=3, v0=start, return_eigenvectors=False))
    values = np.concatenate(found)
    return float(1 - abs(values[abs(values - 1) > 1e-11 * n]).max())


class Resistance(NamedTuple):
    """A connected graph as a network of conductors."""

    lambda2: float
    """The second smallest eigenvalue of the Laplacian, its algebraic connectivity."""
    lambda_max: float
    condition: float
    """lambda_max / lambda2."""
    chi1: float
    """χ₁ = 1 / lambda2."""
    chi2: float
    """χ₂, half the largest resistance between the ends of an edge. DADAO's rate hangs on χ₁ χ₂."""
    max_edge_resistance: float


def resistance(topology: Topology, rates: Any = None) -> Resistance:
    """The Laplacian Σ_e rate_e (e_i − e_j)(e_i − e_j)ᵀ of a graph, and the resistances in it.

    Source: Nabli and Oyallon, "DADAO: Decoupled accelerated decentralized asynchronous optimization", ICML
    2023; Nabli et al., "A²CiD²", NeurIPS 2023. Papers scale the rates differently, and χ with them: 1 / |E|
    for each edge in DADAO's code, (1/d_i + 1/d_j) / 2 where each worker calls a neighbour in a unit of time.

    >>> import relaysim as rs
    >>> round(resistance(rs.topology.chain(8)).chi2, 6)
    0.5

    Args:
      topology: connected and undirected.
      rates: of the edges, (num_edges,) in the order of `topology.edges`, or one for all; 1 by default.

    Raises:
      ValueError: where the graph is directed or not connected, or rates are not above 0.
    """
    topology, weights = _weighted(topology, rates)
    laplacian = _laplacian(topology, weights)
    low, condition, high = _ends(laplacian)
    edges, n, solve = topology.edges, topology.num_workers, _inverse(laplacian, condition)
    if len(edges) > 2 * DENSE:
        i, j = edges.T
        edge, root = np.arange(len(edges)), np.sqrt(weights)
        incidence = csr_array((np.append(root, -root), (np.append(edge, edge), np.append(i, j))))
        edges = edges[np.argsort(_sketched(solve, incidence, edges))[-32:]]
    largest = float(_resistances(solve, n, edges).max())
    return Resistance(low, high, condition, 1 / low, largest / 2, largest)


def effective_resistance(topology: Topology, pairs: Any, rates: Any = None) -> np.ndarray:
    """(k,) the resistance between the workers of each pair (k, 2): (e_i − e_j)ᵀ L⁺ (e_i − e_j).

    >>> import relaysim as rs
    >>> effective_resistance(rs.topology.ring(4), [(0, 1), (0, 2)]).round(6).tolist()
    [0.75, 1.0]

    Args:
      topology: connected and undirected.
      pairs: of workers. Each takes one sparse solve.
      rates: as for `resistance`.
    """
    topology, weights = _weighted(topology, rates)
    pairs = as_array("pairs", pairs)
    n = topology.num_workers
    if (
        pairs.ndim != 2
        or pairs.shape[1] != 2
        or pairs.dtype.kind not in "iu"
        or not ((pairs >= 0) & (pairs < n)).all()
    ):
        raise ValueError(f"pairs is {shown(pairs)}, expected (k, 2) workers in 0..{n - 1}")
    laplacian = _laplacian(topology, weights)
    return _resistances(_inverse(laplacian, _ends(laplacian)[1]), n, pairs)


def effective_neighbours(weights: Any, decay: float) -> float:
    """n_W(γ), the effective number of neighbours: how much averaging with W reduces the variance of noise
    that comes in all the time and is forgotten at a rate γ,

        n_W(γ) = (1 / (1 − γ)) / ((1/n) Σ_i λ_i² / (1 − γ λ_i²)),

    between 1 (nobody listens) and n. Source: Vogels, Hendrikx and Jaggi, "Beyond spectral gap: the role of
    the topology in decentralized learning", NeurIPS 2022, definition A.

    >>> import relaysim as rs
    >>> round(effective_neighbours(rs.topology.fully_connected(8), 0.9), 6)
    8.0

    Args:
      weights: as for `mixing`. Beyond some thousand workers the sum is estimated from random vectors, to some
        parts in a thousand.
      decay: γ, in [0, 1). For SGD with rate η on losses of curvature μ it is about (1 − η μ)².
    """
    check_number("decay", decay, 0, 1, "[)")
    if isinstance(weights, Topology):
        weights = topologies.metropolis_weights(weights)
    w = topologies.check_stochastic("weights", weights)
    n = w.shape[0]
    if n <= 2 * DENSE:
        squares = np.linalg.eigvalsh(w.toarray()) ** 2
        return float(1 / (1 - decay) / np.mean(squares / (1 - decay * squares)))
    # all but the consensus, whose part is exact, by random signs z: zᵀ W² (I − γ W²)⁻¹ z
    damped = LinearOperator((n, n), matvec=lambda x: x - decay * (w @ (w @ x)), dtype=np.float64)
    signs, total = np.random.default_rng(0).choice([-1.0, 1.0], (16, n)), 0.0
    for z in signs - signs.mean(1, keepdims=True):
        total += z @ (w @ (w @ cg(damped, z, rtol=1e-8)[0])) / len(signs)
    return float(1 / (1 - decay) / ((1 / (1 - decay) + total) / n))


def _weighted(topology: Any, rates: Any) -> tuple[Topology, np.ndarray]:
    topology = as_topology("topology", topology)
    if topology.directed or not topology.is_connected or topology.num_workers < 2:
        raise ValueError(f"topology {topology!r} must be connected, undirected, and of two workers at least")
    rates = as_array("rates", 1.0 if rates is None else rates)
    fits = rates.shape in ((), (topology.num_edges,)) and rates.dtype.kind in "fiu"
    if not (fits and np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"rates is {shown(rates)}, expected ({topology.num_edges},) numbers above 0")
    return topology, np.broadcast_to(rates, topology.num_edges).astype(float)


def _laplacian(topology: Topology, weights: np.ndarray) -> csr_array:
    i, j = topology.edges.T
    n = topology.num_workers
    adjacency = csr_array((np.append(weights, weights), (np.append(i, j), np.append(j, i))), shape=(n, n))
    return csr_array(diags_array(adjacency.sum(axis=1)) - adjacency)


def _ends(laplacian: csr_array) -> tuple[float, float, float]:
    """The smallest eigenvalue but for that of the constant vector, how many times that the largest is,
    and the largest, of a symmetric matrix whose rows sum to 0.

    On chains, rings, trees and lattices eigenvalues crowd at the ends, but the matrix has sparse factors, and
    the inverse spreads them; expanders are the other way around.
    """
    n = laplacian.shape[0]
    if n <= DENSE:
        values = np.linalg.eigvalsh(laplacian.toarray())
        return float(values[1]), float(values[-1] / values[1]), float(values[-1])
    some = {"k": 1, "v0": np.random.default_rng(0).standard_normal(n), "return_eigenvectors": False}
    bound, low = abs(laplacian).sum(axis=1).max(), 0.0
    if laplacian.nnz > 3.5 * n:
        turned = LinearOperator((n, n), matvec=lambda x: bound * (x - x.mean()) - laplacian @ x, dtype=float)
        with contextlib.suppress(ArpackNoConvergence):
            low = bound - eigsh(turned, which="LA", ncv=40, maxiter=30, tol=1e-5, **some)[0]
    if low < 1e-4 * bound:
        inverse = LinearOperator((n, n), matvec=_inverse(laplacian, np.inf), dtype=float)
        low = 1 / eigsh(inverse, which="LA", **some)[0]
        high = eigsh(laplacian, sigma=bound * (1 + 1e-9), **some)[0]
    else:
        high = eigsh(laplacian, which="LA", ncv=40, maxiter=100, tol=1e-5, **some)[0]
    return float(low), float(high / low), float(high)


def _inverse(laplacian: csr_array, condition: float) -> Callable[[np.ndarray], np.ndarray]:
    """b -> L⁺ b, for a matrix that is singular for the constant vector alone: by factors, with worker 0 at
    ground, or by conjugate gradients where the condition is good, since there factors may be large."""
    factors = splu(laplacian[1:, 1:].tocsc()) if condition > 1e3 or laplacian.shape[0] <= DENSE else None

    def solve(b: np.ndarray) -> np.ndarray:
        b = b - b.mean()
        x = np.append(0.0, factors.solve(b[1:])) if factors else cg(laplacian, b, rtol=1e-12)[0]
        return x - x.mean()

    return solve


def _resistances(solve: Callable, n: int, pairs: np.ndarray) -> np.ndarray:
    """Exact ones, a solve for each pair."""
    found = []
    for i, j in pairs:
        b = np.zeros(n)
        b[i] += 1
        b[j] -= 1
        x = solve(b)
        found.append(x[i] - x[j])
    return np.array(found)


def _sketched(solve: Callable, incidence: csr_array, edges: np.ndarray) -> np.ndarray:
    """Rough ones of all edges, by 64 random signs of each (Spielman and Srivastava 2011)."""
    rng, total = np.random.default_rng(0), np.zeros(len(edges))
    for _ in range(64):
        x = solve(incidence.T @ rng.choice([-1.0, 1.0], len(edges)))
        total += (x[edges[:, 0]] - x[edges[:, 1]]) ** 2
    return total
