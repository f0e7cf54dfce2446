import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaysim.tasks import Dataset, skew
from relaysim.tasks.partition import (
    by_classes,
    by_label_shards,
    by_owner,
    check_shares,
    dirichlet,
    iid,
    label_counts,
    like,
    power_law,
)

KEY = jax.random.key(0)
LABELS = np.repeat(np.arange(10), 100)


def covers(shares, num_samples):
    check_shares(shares, num_samples)
    return np.array_equal(np.sort(np.concatenate(shares)), np.arange(num_samples))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_workers=st.integers(1, 40),
    spare=st.integers(0, 300),
    alpha=st.sampled_from([1e-300, 1e-3, 0.01, 0.1, 1.0, 1e6]),
    group=st.integers(1, 12),
)
def test_equal_dirichlet_shares_divide_all_samples(seed, num_workers, spare, alpha, group):
    labels = np.random.default_rng(seed).integers(0, 5, num_workers + spare)
    shares = dirichlet(jax.random.key(seed), labels, num_workers, alpha, group=group)
    assert len(shares) == num_workers
    assert covers(shares, len(labels))
    assert np.ptp([len(s) for s in shares]) <= 1


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_unequal_dirichlet_shares_divide_all_samples(alpha):
    shares = dirichlet(KEY, LABELS, 16, alpha, equal=False)
    assert len(shares) == 16
    assert covers(shares, 1000)
    sizes = np.array([len(s) for s in shares])
    assert sizes.min() > 0 and np.ptp(sizes) > 1
    assert sizes[:10].sum() == 625  # the first group of workers has its part of the samples


def test_alpha_sets_how_much_workers_differ():
    def largest_class(alpha):
        counts = label_counts(dirichlet(KEY, LABELS, 10, alpha), LABELS)
        return (counts.max(1) / counts.sum(1)).mean()

    assert largest_class(1e4) < 0.15
    assert 0.2 < largest_class(1.0) < 0.5
    assert largest_class(0.001) > 0.8
    assert largest_class(1e4) < largest_class(1.0) < largest_class(0.1) < largest_class(0.001)


def test_a_full_worker_takes_no_further_class():
    for seed in range(20):
        counts = label_counts(dirichlet(jax.random.key(seed), LABELS, 4, 0.5, equal=False), LABELS)
        held = np.cumsum(counts, 1)
        assert (counts[:, 1:][held[:, :-1] >= 250] == 0).all()


def test_proportions_are_dirichlet():
    # One class, two workers: the first one's part is Beta(alpha, alpha), of variance 1 / 4 / (2 alpha + 1).
    labels = np.zeros(1000, int)

    def parts(alpha):
        keys = jax.random.split(KEY, 400)
        return [len(dirichlet(k, labels, 2, alpha, equal=False)[0]) / 1000 for k in keys]

    assert np.isclose(np.var(parts(1.0)), 1 / 12, rtol=0.15)
    assert np.isclose(np.var(parts(10.0)), 1 / 84, rtol=0.15)


def test_an_empty_share_is_an_error_unless_equal():
    labels = np.zeros(100, int)
    with pytest.raises(ValueError, match=r"alpha is 0.001.*worker \d+.*empty share.*equal=True"):
        dirichlet(KEY, labels, 10, 0.001, equal=False)
    assert covers(dirichlet(KEY, labels, 10, 0.001), 100)


def test_iid():
    shares = iid(KEY, 1003, 10)
    assert covers(shares, 1003)
    assert np.ptp([len(s) for s in shares]) == 1


def test_label_shards_hold_few_labels():
    shares = by_label_shards(KEY, LABELS, 20)
    assert covers(shares, 1000)
    counts = label_counts(shares, LABELS)
    assert (counts.sum(1) == 50).all()
    assert ((counts > 0).sum(1) <= 2).all()
    assert covers(by_label_shards(KEY, LABELS[:997], 7, 3), 997)


@pytest.mark.parametrize(
    "partition",
    [
        lambda key: dirichlet(key, LABELS, 16, 0.1),
        lambda key: dirichlet(key, LABELS, 16, 0.1, equal=False),
        lambda key: iid(key, 1000, 16),
        lambda key: by_label_shards(key, LABELS, 16),
    ],
)
def test_the_key_decides(partition):
    first, again, other = (np.concatenate(partition(jax.random.key(k))) for k in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "shares, message",
    [
        ([], "shares is \\[\\], expected a share"),
        ([[0], []], r"shares\[1\], of worker 1"),
        ([[0], [1.0]], r"shares\[1\] has dtype float64"),
        ([[0], [1, 5]], r"shares\[1\] spans 1 to 5, expected 0 to 4"),
        ([[0], [-1]], r"shares\[1\] spans -1"),
        ([[0, 3], [1], [3]], r"shares\[0\] and shares\[2\] both hold sample 3"),
        ([[0], [2, 2]], r"shares\[1\] holds a sample twice"),
    ],
)
def test_bad_shares(shares, message):
    with pytest.raises(ValueError, match=message):
        check_shares([np.array(s) for s in shares], 5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: dirichlet(KEY, LABELS, 0, 1.0), "num_workers is 0"),
        (lambda: dirichlet(KEY, LABELS, 1001, 1.0), "num_workers is 1001"),
        (lambda: dirichlet(KEY, LABELS, 2.5, 1.0), "num_workers is 2.5"),
        (lambda: dirichlet(KEY, LABELS, 4, 0.0), "alpha is 0.0"),
        (lambda: dirichlet(KEY, LABELS, 4, np.nan), "alpha is nan"),
        (lambda: dirichlet(KEY, LABELS, 4, 1.0, group=0), "group is 0"),
        (lambda: dirichlet(KEY, LABELS / 2, 4, 1.0), "labels is float64"),
        (lambda: dirichlet(KEY, LABELS[None], 4, 1.0), r"labels is int64 of shape \(1, 1000\)"),
        (lambda: iid(KEY, 3, 4), "num_workers is 4"),
        (lambda: iid(KEY, 0, 1), "num_samples is 0"),
        (lambda: by_label_shards(KEY, LABELS, 4, 0), "shards_per_worker is 0"),
        (lambda: by_label_shards(KEY, LABELS, 4, 251), "shards_per_worker is 251"),
        (lambda: label_counts([np.array([0])], np.array([-1])), "labels has -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("num_workers", "k"), [(10, 2), (7, 3), (16, 1), (4, 10)])
def test_shares_of_so_many_classes(num_workers, k):
    shares = by_classes(KEY, LABELS, num_workers, k)
    counts = label_counts(shares, LABELS)
    assert covers(shares, 1000) and ((counts > 0).sum(1) == k).all()
    for held in counts.T:
        assert np.ptp(held[held > 0]) <= 1


def test_owners_stay_whole():
    owners = np.random.default_rng(0).zipf(1.5, 300) % 20
    each = by_owner(owners)
    assert [set(owners[share]) for share in each] == [{i} for i in np.unique(owners)]
    packed = by_owner(owners, 5)
    assert covers(each, 300) and covers(packed, 300) and len(packed) == 5
    assert sum(len(set(owners[share])) for share in packed) == len(each)
    sizes = [len(share) for share in packed]
    assert max(sizes) <= max(max(map(len, each)), 2 * 300 / 5)


def test_sizes_of_a_power_law():
    for exponent in (0.0, 1.0, 2.5):
        sizes = np.array([len(share) for share in power_law(KEY, 100_000, 20, exponent)])
        assert covers(power_law(KEY, 100_000, 20, exponent), 100_000)
        expected = np.arange(1, 21) ** -exponent
        np.testing.assert_allclose(sizes, 1e5 * expected / expected.sum(), rtol=0.01, atol=2)
    assert [len(share) for share in power_law(KEY, 5, 5, 3.0)] == [1] * 5


def test_the_test_part_is_divided_as_the_training_part_is():
    shares = dirichlet(KEY, LABELS, 6, 0.1)
    others = np.repeat(np.arange(11), 50)  # one class more
    divided = like(KEY, shares, LABELS, others)
    check_shares(divided, len(others))
    assert sorted(np.concatenate(divided)) == list(range(500))
    for mine, theirs in zip(divided, shares, strict=True):
        counts = np.bincount(others[mine], minlength=11)[:10]
        np.testing.assert_allclose(counts, np.bincount(LABELS[theirs], minlength=10) / 2, atol=1)


def test_noise_and_rotation_depend_on_who_holds_a_sample():
    images = np.random.default_rng(0).normal(size=(400, 8, 8, 1))
    data, shares = (
        Dataset(images, np.zeros(400), images[:4], np.zeros(4), std=2.0),
        np.split(np.arange(400), 4),
    )
    noisy = skew.noise(KEY, data, shares, 0.5)
    deviations = [(noisy.train_x[share] - images[share]).std() / 2 for share in shares]
    np.testing.assert_allclose(deviations, np.sqrt(0.5 * np.arange(1, 5) / 4), rtol=0.02)
    assert noisy.test_x is data.test_x
    turned = skew.rotation(data, shares, test_shares=[[], [2], [], []])
    for worker, share in enumerate(shares):
        np.testing.assert_allclose(turned.train_x[share], np.rot90(images[share], worker, (1, 2)), atol=1e-5)
    np.testing.assert_allclose(turned.test_x[2], np.rot90(images[2]), atol=1e-5)
    np.testing.assert_allclose(turned.test_x[3], images[3], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: by_classes(KEY, LABELS, 4, 11), "classes_per_worker is 11, expected .*at most 10"),
        (lambda: by_classes(KEY, LABELS, 4, 2), "classes_per_worker is 2, expected enough"),
        (lambda: by_classes(KEY, np.arange(3) % 2, 3, 2), "labels has 2 samples of class 0"),
        (lambda: by_owner([]), "owners has shape"),
        (lambda: by_owner([1, 2], 3), "num_workers is 3, expected .*at most 2"),
        (lambda: power_law(KEY, 10, 2, -1), "exponent is -1"),
        (lambda: power_law(KEY, 2, 3), "num_workers is 3"),
        (lambda: skew.noise(KEY, Dataset(np.ones(2), np.ones(2)), [[0, 1]], -1), "variance is -1"),
        (lambda: skew.rotation(Dataset(np.ones(2), np.ones(2)), [[0, 1]]), "dataset has inputs of shape"),
    ],
)
def test_bad_arguments_of_the_others(call, message):
    with pytest.raises(ValueError, match=message):
        call()
