"""Dividing a labelled data set among workers.

A partition is a list of n index arrays, the *shares*: disjoint, and together (here) the whole data set.
It is made once, on the host, from a jax key.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from relaysim.checks import check_bool, check_count, check_key, check_number, shown
from relaysim.types import Key

_DEALS = 1000  # how often `dirichlet` deals a group anew to leave nobody empty-handed


def dirichlet(
    key: Key,
    labels: np.ndarray,
    num_workers: int,
    alpha: float,
    *,
    equal: bool = True,
    group: int = 10,
) -> list[np.ndarray]:
    """Shares whose mixtures of labels are drawn from a Dirichlet distribution: the smaller alpha, the more
    the workers differ.

    Workers form groups of `group` (the last may be smaller), among which the shuffled samples are split in
    proportion. Within a group each class is dealt by proportions ~ Dirichlet(alpha) over those workers that
    hold less than their fair part of the group's samples so far. The shares that result are of unequal size.
    `equal=True` lays them end to end and cuts the whole into n equal parts, as the paper does. (The published
    code first deals a group anew until each of its workers holds half its fair part; here it is dealt once.)

    >>> labels = np.repeat([0, 1], 50)
    >>> [len(share) for share in dirichlet(jax.random.key(0), labels, 4, alpha=0.1)]
    [25, 25, 25, 25]

    Args:
      key: a jax random key.
      labels: (N,) int.
      num_workers: n.
      alpha: concentration > 0. 1.0, 0.1 and 0.01 in the paper.
      equal: sizes differ by at most one (the paper drops the remainder instead). If False, a group is dealt
        anew, up to 1000 times, while one of its shares is empty.
      group: the workers among which a class is dealt.

    Returns:
      n int arrays of indices into `labels`.

    Raises:
      ValueError: for bad arguments; for equal=False, when alpha is so small that a share stays empty.

    Lin et al. 2021, "Quasi-global momentum: Accelerating decentralized deep learning on heterogeneous data";
    Vogels et al. 2021, "RelaySum for decentralized deep learning on heterogeneous data".
    """
    labels = _check_labels(labels)
    _check_workers(num_workers, len(labels))
    alpha = check_number("alpha", alpha, 0, np.inf, "()")
    check_count("group", group)
    check_bool("equal", equal)
    rng = rng_of(key)
    first = np.append(np.arange(0, num_workers, group), num_workers)  # worker of each group, and the end
    cuts = first[1:-1] * len(labels) // num_workers
    shares: list[np.ndarray] = []
    for size, samples in zip(np.diff(first), np.split(rng.permutation(len(labels)), cuts), strict=True):
        for _ in range(1 if equal else _DEALS):
            dealt = _deal(rng, samples, labels, size, alpha)
            if all(map(len, dealt)):
                break
        shares += dealt
    if equal:
        return np.array_split(np.concatenate(shares), num_workers)
    for worker, share in enumerate(shares):
        if not len(share):
            raise ValueError(
                f"alpha is {alpha}, which left worker {worker} an empty share in each of {_DEALS} deals, "
                "expected a larger alpha or equal=True"
            )
    return shares


def iid(key: Key, num_samples: int, num_workers: int) -> list[np.ndarray]:
    """Shares drawn uniformly at random, of sizes that differ by at most one.

    >>> [len(share) for share in iid(jax.random.key(0), 10, 4)]
    [3, 3, 2, 2]

    Args:
      key: a jax random key.
      num_samples: N.
      num_workers: n, at most N.

    Returns:
      n int arrays of indices below N.
    """
    _check_workers(num_workers, num_samples)
    return np.array_split(rng_of(key).permutation(num_samples), num_workers)


def by_label_shards(
    key: Key, labels: np.ndarray, num_workers: int, shards_per_worker: int = 2
) -> list[np.ndarray]:
    """Samples sorted by label, cut into equal shards, of which each worker gets a few at random.

    With s shards a worker sees about s labels. From McMahan et al. 2017, "Communication-efficient learning
    of deep networks from decentralized data" (there s = 2).

    >>> shares = by_label_shards(jax.random.key(0), np.repeat([0, 1, 2, 3], 5), 2)
    >>> [len(share) for share in shares]
    [10, 10]

    Args:
      key: a jax random key.
      labels: (N,) int.
      num_workers: n.
      shards_per_worker: s; N must be at least n s.

    Returns:
      n int arrays of indices into `labels`, of sizes that differ by at most s.
    """
    labels = _check_labels(labels)
    _check_workers(num_workers, len(labels))
    check_count("shards_per_worker", shards_per_worker)
    num_shards = num_workers * shards_per_worker
    if num_shards > len(labels):
        raise ValueError(
            f"shards_per_worker is {shards_per_worker} for {num_workers} workers and {len(labels)} samples, "
            "expected at least one sample in each shard"
        )
    rng = rng_of(key)
    order = rng.permutation(len(labels))
    shards = np.array_split(order[np.argsort(labels[order], kind="stable")], num_shards)
    hands = rng.permutation(num_shards).reshape(num_workers, shards_per_worker)
    return [np.concatenate([shards[i] for i in hand]) for hand in hands]


def by_classes(
    key: Key, labels: np.ndarray, num_workers: int, classes_per_worker: int = 2
) -> list[np.ndarray]:
    """Shares of exactly k classes each, the pathological partition: a class is dealt out evenly to those that
    hold it, of whom there are n k / C or so.

    As in Li et al. 2022, "Federated learning on non-IID data silos: an experimental study" (there #C = k). By
    contrast, `by_label_shards` makes equal shares of k classes or a few more.

    >>> shares = by_classes(jax.random.key(0), np.arange(40) % 4, 8)
    >>> (label_counts(shares, np.arange(40) % 4) > 0).sum(1)
    array([2, 2, 2, 2, 2, 2, 2, 2])

    Args:
      key: a jax random key.
      labels: (N,) int, of C kinds.
      num_workers: n.
      classes_per_worker: k, from 1 to C; n k must be at least C.

    Returns:
      n int arrays of indices into `labels`.

    Raises:
      ValueError: for bad arguments, or where a class has fewer samples than workers that hold it.
    """
    labels = _check_labels(labels)
    _check_workers(num_workers, len(labels))
    kinds = np.unique(labels)
    check_count("classes_per_worker", classes_per_worker, 1, len(kinds))
    if num_workers * classes_per_worker < len(kinds):
        raise ValueError(
            f"classes_per_worker is {classes_per_worker}, expected enough for {num_workers} workers to hold "
            f"all of {len(kinds)} classes"
        )
    rng = rng_of(key)
    slots = np.resize(rng.permutation(len(kinds)), num_workers * classes_per_worker)
    holders = rng.permutation(num_workers).repeat(classes_per_worker)
    parts: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
    for kind, label in enumerate(kinds):
        samples, hold = rng.permutation(np.flatnonzero(labels == label)), holders[slots == kind]
        if len(samples) < len(hold):
            raise ValueError(
                f"labels has {len(samples)} samples of class {label}, expected one for each of the "
                f"{len(hold)} workers that hold it"
            )
        for worker, part in zip(hold, np.array_split(samples, len(hold)), strict=True):
            parts[worker].append(part)
    return [np.concatenate(part) for part in parts]


def by_owner(owners: Sequence[Any] | np.ndarray, num_workers: int | None = None) -> list[np.ndarray]:
    """Shares of natural owners: the author of a text, the writer of a digit, a hospital.

    >>> by_owner(["ann", "bob", "ann", "cid"])
    [array([0, 2]), array([1]), array([3])]
    >>> by_owner(["ann", "bob", "ann", "cid"], num_workers=2)
    [array([0, 2]), array([1, 3])]

    Args:
      owners: (N,) ids of any kind, each sample's.
      num_workers: n, at most as many as there are owners. The owners, those with the most samples first, are
        given to the worker that holds the fewest so far, and stay whole. By default each owner is a worker,
        in the order of their ids.

    Returns:
      n int arrays of indices.
    """
    ids = np.asarray(owners)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"owners has shape {ids.shape}, expected (N,) ids")
    kinds, of = np.unique(ids, return_inverse=True)
    each = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    if num_workers is None:
        return each
    check_count("num_workers", num_workers, 1, len(kinds))
    shares: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
    held = np.zeros(num_workers, int)
    for samples in sorted(each, key=len, reverse=True):
        worker = held.argmin()
        shares[worker].append(samples)
        held[worker] += len(samples)
    return [np.sort(np.concatenate(share)) for share in shares]


def power_law(key: Key, num_samples: int, num_workers: int, exponent: float = 1.0) -> list[np.ndarray]:
    """Shares drawn uniformly at random whose sizes follow a power law: the r-th largest ∝ r^−a.

    >>> [len(share) for share in power_law(jax.random.key(0), 110, 4)]
    [52, 26, 18, 14]

    Args:
      key: a jax random key.
      num_samples: N.
      num_workers: n, at most N. Everybody gets one sample at least.
      exponent: a ≥ 0; 0 makes equal shares.

    Returns:
      n int arrays of indices below N, the largest first.
    """
    _check_workers(num_workers, num_samples)
    ranks = np.arange(1, num_workers + 1, dtype=float)
    weights = ranks ** -check_number("exponent", exponent, 0)
    ends = np.cumsum(weights) / weights.sum() * (num_samples - num_workers)
    cuts = np.round(ends).astype(int) + np.arange(1, num_workers + 1)
    return np.split(rng_of(key).permutation(num_samples), cuts[:-1])


def like(
    key: Key, shares: Sequence[np.ndarray], labels: np.ndarray, other_labels: np.ndarray
) -> list[np.ndarray]:
    """Divide other samples, such as the test part, as these are divided: each class in the same proportions.

    >>> like(jax.random.key(0), [np.array([0]), np.array([1, 2])], np.array([0, 1, 1]), np.array([1, 0]))
    [array([1]), array([0])]

    Args:
      key: a jax random key.
      shares: n int arrays of indices into `labels`.
      labels: (N,) int.
      other_labels: (M,) int. Samples of classes that nobody holds are left out.

    Returns:
      n int arrays of indices into `other_labels`, which may be empty: `supervised(test_shares=)`.
    """
    counts, other = label_counts(shares, labels), _check_labels(other_labels)
    rng, parts = rng_of(key), [[np.zeros(0, int)] for _ in shares]
    for label, held in enumerate(counts.T):
        samples = rng.permutation(np.flatnonzero(other == label))
        if held.sum():
            cuts = np.round(np.cumsum(held)[:-1] / held.sum() * len(samples)).astype(int)
            for worker, part in enumerate(np.split(samples, cuts)):
                parts[worker].append(part)
    return [np.concatenate(part) for part in parts]


def check_shares(shares: Sequence[np.ndarray], num_samples: int) -> None:
    """Check that shares can be trained on.

    >>> check_shares([np.array([0, 2]), np.array([1])], 3)

    Args:
      shares: n int arrays of indices.
      num_samples: N.

    Raises:
      ValueError: if there is no share, or one is empty, not a vector of integers, or out of range, or if a
        sample is dealt twice.
    """
    if not isinstance(shares, Sequence | np.ndarray) or isinstance(shares, str) or not len(shares):
        raise ValueError(f"shares is {shown(shares)}, expected a share for each worker")
    owner = np.full(num_samples, -1)
    for worker, share in enumerate(map(np.asarray, shares)):
        if share.ndim != 1 or not len(share):
            raise ValueError(
                f"shares[{worker}], of worker {worker}, has shape {share.shape}, expected at least one sample"
            )
        if not np.issubdtype(share.dtype, np.integer):
            raise ValueError(f"shares[{worker}] has dtype {share.dtype}, expected integers")
        if share.min() < 0 or share.max() >= num_samples:
            raise ValueError(
                f"shares[{worker}] spans {share.min()} to {share.max()}, expected 0 to {num_samples - 1}"
            )
        taken = share[owner[share] >= 0]
        if len(taken):
            raise ValueError(
                f"shares[{owner[taken[0]]}] and shares[{worker}] both hold sample {taken[0]}, "
                "expected disjoint shares"
            )
        if len(np.unique(share)) < len(share):
            raise ValueError(f"shares[{worker}] holds a sample twice, expected distinct samples")
        owner[share] = worker


def label_counts(shares: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """(n, num_classes) how many samples of each label each worker holds.

    >>> label_counts([np.array([0, 1]), np.array([2, 3])], np.array([0, 0, 0, 1]))
    array([[2, 0],
           [1, 1]])

    Args:
      shares: n int arrays of indices into `labels`.
      labels: (N,) int, in 0, ..., num_classes - 1, the largest present.
    """
    labels = _check_labels(labels)
    if labels.min() < 0:
        raise ValueError(f"labels has {labels.min()} in it, expected none below 0")
    check_shares(shares, len(labels))
    return np.stack([np.bincount(labels[share], minlength=labels.max() + 1) for share in shares])


def _deal(
    rng: np.random.Generator, samples: np.ndarray, labels: np.ndarray, num_workers: int, alpha: float
) -> list[np.ndarray]:
    """Deal the samples of one group, class by class."""
    held = np.zeros(num_workers, int)
    parts: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
    for label in np.unique(labels[samples]):
        of_class = samples[labels[samples] == label]
        # A Dirichlet vector restricted to some coordinates and renormalised is Dirichlet again: drawing it
        # for those below their fair part is the same, and cannot be all zeros when alpha is tiny.
        takers = np.flatnonzero(held * num_workers < len(samples))
        proportions = rng.dirichlet(np.full(len(takers), alpha))
        cuts = (np.cumsum(proportions)[:-1] * len(of_class)).astype(int)
        for worker, part in zip(takers, np.split(of_class, cuts), strict=True):
            parts[worker].append(part)
            held[worker] += len(part)
    return [np.concatenate(part) for part in parts]


def rng_of(key: Key) -> np.random.Generator:
    """NumPy's random numbers under a key of jax.

    >>> rng_of(jax.random.key(0)).random() == rng_of(jax.random.key(0)).random()
    True
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(check_key("key", key))))


def _check_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels is {labels.dtype} of shape {labels.shape}, expected integers of shape (N,)")
    return labels


def _check_workers(num_workers: int, num_samples: int) -> None:
    check_count("num_workers", num_workers)
    check_count("num_samples", num_samples)
    if num_workers > num_samples:
        raise ValueError(
            f"num_workers is {num_workers}, expected at most one for each of {num_samples} samples"
        )
