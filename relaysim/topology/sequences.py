"""Sequences of weighted graphs, a phase a step: each is a list of matrices W_0, W_1, …, (n, n) scipy-sparse.

W[i, j] is the weight that i gives to the model of j, as in `metropolis_weights`. A list is what
`relaysim.time_varying` takes, and starts again from its front when it has been gone through. Sizes are in
proportion to the edges, so that n = 10⁵ is a matter of seconds.
"""

from collections.abc import Iterable
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array

from relaysim.checks import check_count, check_num_workers

Phase = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Edges without direction: (m,) one end of each, (m,) the other, (m,) the weight that both give."""


def hyper_hypercube(num_workers: int, degree: int) -> list[csr_array]:
    """The one-peer hypercube for more than one peer: exact averages within the groups of a mixed
    radix system.

    n = f_1 f_2 … f_L with factors of at most k + 1. In phase l the workers that differ in the l-th digit
    alone average with each other, so that after L phases everybody has the exact average.

    Source: Takezawa et al., "Beyond exponential graph", NeurIPS 2023, algorithm 1.

    >>> [w.nnz for w in hyper_hypercube(6, degree=2)]
    [12, 18]

    Args:
      num_workers: n, without a prime factor above k + 1.
      degree: k, the most neighbours that a worker has in a phase.

    Raises: ValueError if n has a larger prime factor.
    """
    n, k = _sizes(num_workers, degree)
    factors, rest = _factors(n, k)
    if rest > 1:
        raise ValueError(f"num_workers is {n}, expected one without prime factors above degree + 1 = {k + 1}")
    return _matrices(n, _hypercube(np.arange(n), factors))


def simple_base(num_workers: int, degree: int) -> list[csr_array]:
    """The Simple Base-(k+1) Graph: exact averages of any number of workers, at most k neighbours a phase.

    The workers are split by the digits of n in base k + 1 into parts whose sizes are a digit times a power.
    Each part averages by itself (`hyper_hypercube`); then one part after the other gives to all that come
    after it what their sum lacks; then each averages again. The product of the matrices is 11ᵀ/n.

    Source: Takezawa et al., "Beyond exponential graph", NeurIPS 2023, algorithm 2.

    >>> len(simple_base(7, degree=1)), len(simple_base(8, degree=1))
    (5, 3)

    Args:
      num_workers: n.
      degree: k, the most neighbours that a worker has in a phase.
    """
    n, k = _sizes(num_workers, degree)
    return _matrices(n, _simple_base(n, k))


def base(num_workers: int, degree: int) -> list[csr_array]:
    """The Base-(k+1) Graph: exact averages of any number of workers, in at most 2 log_{k+1} n + 2 phases.

    With n = p q, where p has all prime factors up to k + 1, blocks of q workers average by `simple_base` and
    then, across the blocks, by `hyper_hypercube`. Where `simple_base` of n takes fewer phases, it is that.

    Source: Takezawa et al., "Beyond exponential graph", NeurIPS 2023, algorithm 3.

    >>> len(base(6, degree=1)), len(simple_base(6, degree=1))
    (4, 5)

    Args:
      num_workers: n.
      degree: k, the most neighbours that a worker has in a phase.
    """
    n, k = _sizes(num_workers, degree)
    factors, q = _factors(n, k)
    simple, within = _simple_base(n, k), _simple_base(q, k)
    if len(simple) < len(within) + len(factors):
        return _matrices(n, simple)
    starts = np.arange(0, n, q)[:, None]
    blocks = [((a + starts).ravel(), (b + starts).ravel(), np.tile(w, n // q)) for a, b, w in within]
    across = [_moved(phase, q) for phase in _hypercube(np.arange(n // q), factors)]
    return _matrices(n, blocks + across)


def _sizes(num_workers: int, degree: int) -> tuple[int, int]:
    return check_num_workers(num_workers), check_count("degree", degree)


def _factors(n: int, k: int) -> tuple[list[int], int]:
    """n as factors of at most k + 1, ascending, the largest taken first; and what is left."""
    factors = []
    for factor in range(min(k + 1, n), 1, -1):
        while n % factor == 0:
            factors.append(factor)
            n //= factor
    return factors[::-1], n


def _hypercube(workers: np.ndarray, factors: list[int]) -> list[Phase]:
    phases, stride = [], 1
    for factor in factors:
        groups = workers.reshape(-1, factor, stride).swapaxes(1, 2).reshape(-1, factor)
        phases.append(_cliques(groups))
        stride *= factor
    return phases


def _cliques(groups: np.ndarray) -> Phase:
    """Exact averages within groups (g, size)."""
    size = groups.shape[1]
    a, b = np.array(list(combinations(range(size), 2)), int).reshape(-1, 2).T
    ends = groups[:, a].ravel(), groups[:, b].ravel()
    return *ends, np.full(len(ends[0]), 1 / max(size, 1))


def _simple_base(n: int, k: int) -> list[Phase]:
    """The phases of workers 0..n-1, none where there is one alone."""
    factors, rest = _factors(n, k)
    if rest == 1:
        return _hypercube(np.arange(n), factors)
    parts = _parts(n, k)  # (digit, power) workers in each
    sizes = [part.size for part in parts]
    whole = [_hypercube(part.ravel(), _factors(part.size, k)[0]) or [_nothing()] for part in parts]
    pieces = [[_hypercube(piece, _factors(len(piece), k)[0]) for piece in part] for part in parts]
    again = [  # what a part does once it has given, or the last one has been given to
        whole[i] if sizes[i] <= k else [_joined(same) for same in zip(*pieces[i], strict=True)]
        for i in range(len(parts))
    ]
    last = len(parts) - 1
    since = [min(i + 1, last) for i in range(len(parts))]
    phases = [_joined([w[m % len(w)] for w in whole]) for m in range(len(whole[0]))]
    for m in range(1 + len(again[0])):
        now = [done[(m - first) % len(done)] for done, first in zip(again, since, strict=True) if m >= first]
        if m < last:
            takers = np.concatenate([part.ravel() for part in parts[:m:-1]])
            now += _given(parts[m], takers, sizes[m] / sum(sizes[m:]), k)
        phases.append(_joined(now))
    return phases


def _parts(n: int, k: int) -> list[np.ndarray]:
    """The workers by the digits of n in base k + 1: each part is (digit, power), the largest power first."""
    power = 1
    while power * (k + 1) <= n:
        power *= k + 1
    parts, start = [], 0
    while start < n:
        digit = (n - start) // power
        if digit:
            parts.append(np.arange(start, start + digit * power).reshape(digit, power))
        start += digit * power
        power //= k + 1
    return parts


def _given(giving: np.ndarray, takers: np.ndarray, share: float, k: int) -> list[Phase]:
    """Each of the takers gets the share, from one worker in each row of those that give; the others of these
    average among themselves, in groups of k + 1."""
    digit, kept = len(giving), giving.shape[1] - len(takers)
    from_each = giving[:, ::-1][:, : len(takers)]
    gifts = np.tile(takers, digit), from_each.ravel(), np.full(digit * len(takers), share / digit)
    left = giving[:, :kept].ravel()
    even = len(left) - len(left) % (k + 1)
    return [gifts, _cliques(left[:even].reshape(-1, k + 1)), _cliques(left[even:][None])]


def _joined(phases: Iterable[Phase]) -> Phase:
    a, b, weights = (np.concatenate(arrays) for arrays in zip(*phases, strict=True))
    return a, b, weights


def _nothing() -> Phase:
    return np.zeros(0, int), np.zeros(0, int), np.zeros(0)


def _moved(phase: Phase, size: int) -> Phase:
    """A phase among blocks of so many workers: each with those at its place in the other blocks."""
    a, b, w = phase
    places = np.arange(size)
    i, j = ((size * ends[:, None] + places).ravel() for ends in (a, b))
    return i, j, np.repeat(w, size)


def _matrices(n: int, phases: list[Phase]) -> list[csr_array]:
    """The matrices of phases; one that changes nothing where there are none."""
    found = []
    for a, b, w in phases or [_nothing()]:
        edges = coo_array((np.append(w, w), (np.append(a, b), np.append(b, a))), shape=(n, n)).tocsr()
        found.append(csr_array(edges + diags_array(1 - edges.sum(axis=1))))
    return found
