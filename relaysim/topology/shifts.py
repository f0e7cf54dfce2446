"""Graphs and sequences of graphs that are made of shifts: i hears from i + a (mod n)."""

import numpy as np
from scipy.sparse import block_array, coo_array, csr_array, diags_array, eye_array

from relaysim.checks import check_bool, check_count, check_num_workers, check_number
from relaysim.topology.graphs import as_array


def equistatic(num_workers: int, degree: int, seed: int, *, directed: bool = True) -> csr_array:
    """EquiStatic: `degree` random shifts, whose gap does not close as n grows.

    W = (1/M) Σ_a [(n − 1)/n P_a + I/n], where in P_a worker i hears from i + a (mod n), for M shifts a drawn
    with replacement from 1, …, n − 1. The undirected graph has (W + Wᵀ)/2.

    Source: Song et al., "Communication-efficient topologies for decentralized learning with O(1) consensus
    rate", NeurIPS 2022, algorithms 1 and 2. The shifts are those of the authors' code.

    >>> equistatic(20, degree=2, seed=0).shape
    (20, 20)

    Args:
      num_workers: n, at least 2.
      degree: M, the neighbours that a worker hears from; up to twice as many where undirected.
      seed: of the shifts.
      directed: whether messages go one way.

    Returns: one matrix (n, n), doubly stochastic, for `time_varying([W])`.
    """
    n, degree = check_num_workers(num_workers, 2), check_count("degree", degree)
    check_bool("directed", directed)
    shifts = _shifts(n, degree, seed)
    others = sum(_permutation(n, a) for a in shifts.tolist()) / degree
    w = csr_array((n - 1) / n * others + eye_array(n) / n)
    return w if directed else csr_array((w + w.T) / 2)


def equidynamic(
    num_workers: int,
    degree: int | None = None,
    seed: int = 0,
    *,
    num_phases: int = 100,
    eta: float = 0.5,
    directed: bool = True,
) -> list[csr_array]:
    """EquiDyn: one random shift in each phase, so that a worker hears from one other alone.

    W_t = (1 − η) I + η A_t. Directed, A_t = (n − 1)/n P_a + I/n as in `equistatic`. Undirected, worker after
    worker, from a random one on, i is matched with i + a if both are still free, and both give each other
    (n − 1)/n. The shift a is drawn from M shifts, drawn once and for all, or from 1, …, n − 1.

    Source: Song et al., "Communication-efficient topologies for decentralized learning with O(1) consensus
    rate", NeurIPS 2022, algorithms 3 and 4. Their η is 1/2 for gradient tracking and 1 elsewhere.

    >>> len(equidynamic(20, degree=4, num_phases=30))
    30

    Args:
      num_workers: n, at least 2.
      degree: M, how many shifts there are to draw from; all n − 1 by default.
      seed: of the shifts.
      num_phases: how many draws there are before they come again.
      eta: η, in (0, 1].
      directed: whether messages go one way.
    """
    n, num_phases = check_num_workers(num_workers, 2), check_count("num_phases", num_phases)
    check_bool("directed", directed)
    seed = check_count("seed", seed, 0, 2**32 - 1)
    among = np.arange(1, n) if degree is None else _shifts(n, check_count("degree", degree), seed)
    rng, shifts, starts = np.random.default_rng(seed), [], []
    for _ in range(num_phases):  # in the order of the authors' code
        shifts.append(rng.choice(among))
        if not directed:
            starts.append(rng.choice(n))
    return equidynamic_phases(n, np.array(shifts), None if directed else np.array(starts), eta=eta)


def equidynamic_phases(
    num_workers: int, shifts: np.ndarray, starts: np.ndarray | None = None, *, eta: float = 0.5
) -> list[csr_array]:
    """`equidynamic` at shifts (T,) of one's own; undirected where there are workers (T,) to start from.

    >>> len(equidynamic_phases(5, np.array([1, 2])))
    2
    """
    n = check_num_workers(num_workers, 2)
    check_number("eta", eta, 0, 1, "(]")
    shifts = as_array("shifts", shifts)
    if starts is not None and as_array("starts", starts).shape != shifts.shape:
        raise ValueError(f"starts has shape {np.shape(starts)}, expected that of the shifts, {shifts.shape}")
    give, phases = eta * (n - 1) / n, []
    for t, a in enumerate(shifts.tolist()):
        there = give * (_permutation(n, a) if starts is None else _matched(n, a, int(starts[t])))
        phases.append(csr_array(there + diags_array(1 - there.sum(axis=1))))
    return phases


def ceca(num_workers: int, peers: int = 2) -> list[tuple[csr_array, csr_array]]:
    """CECA's communication: exact averages of two models a worker in ⌈log₂ n⌉ phases, for any n.

    For pairs (a, c) of models, stacked to (2n, d), a phase takes (a; c) to W (a; c) − γ V (g; g'), where the
    gradients lie in the half at which they were taken: at a where the phase's digit of n − 1 (in binary, the
    most significant first) is 1, else at c. After all phases a is the exact average of a start where a = c.
    Each worker sends one vector a phase and hears one: from the worker that it sends to where `peers` is 1,
    for which n must be even, from another where it is 2.

    Source: Ding et al., "DSGD-CECA: Decentralized SGD with communication-optimal exact consensus algorithm",
    ICML 2023.

    >>> [w.shape for w, v in ceca(5)]
    [(10, 10), (10, 10), (10, 10)]

    Returns: the pairs (W, V), each (2n, 2n), rows of which sum to 1.
    """
    n, peers = check_num_workers(num_workers, 2), check_count("peers", peers, 1, 2)
    if peers == 1 and n % 2:
        raise ValueError(f"num_workers is {n}, expected an even number where peers = 1")
    worker, one = np.arange(n), eye_array(n)
    phases, k = [], 0
    for digit in map(int, f"{n - 1:b}"):
        if peers == 2:
            sender = (worker - k - digit) % n
        else:
            sender = np.where(worker % 2, worker + 2 * k + 1, worker - 2 * k - 1) % n
        other, zero = coo_array((np.ones(n), (worker, sender)), shape=(n, n)), csr_array((n, n))
        mean, share = (one + other) / 2, k / (2 * k + 1)
        if digit:
            new_c = (1 - share) * other
            halves = [[mean, zero], [new_c, share * one]], [[mean, zero], [new_c + share * one, zero]]
        else:
            new_a = share * other
            halves = (
                [[(1 - share) * one, new_a], [zero, mean]],
                [[zero, (1 - share) * one + new_a], [zero, mean]],
            )
        phases.append(tuple(csr_array(block_array(half)) for half in halves))
        k = 2 * k + digit
    return phases


def _shifts(n: int, many: int, seed: int) -> np.ndarray:
    legacy = np.random.RandomState(
        check_count("seed", seed, 0, 2**32 - 1)
    )  # NumPy keeps its numbers for ever
    return legacy.randint(1, n, many)


def _permutation(n: int, shift: int) -> csr_array:
    """P_a: 1 at [i, i + a]."""
    worker = np.arange(n)
    return csr_array((np.ones(n), (worker, (worker + shift) % n)), shape=(n, n))


def _matched(n: int, shift: int, start: int) -> csr_array:
    """1 at the pairs (i, i + shift), from `start` on and in turn, of workers that are still free."""
    free, pairs = [True] * n, []
    for i in [*range(start, n), *range(start)]:
        j = (i + shift) % n
        if free[i] and free[j] and i != j:
            free[i] = free[j] = False
            pairs.append((i, j))
    i, j = np.array(pairs + [(j, i) for i, j in pairs], int).reshape(-1, 2).T
    return csr_array((np.ones(len(i)), (i, j)), shape=(n, n))
