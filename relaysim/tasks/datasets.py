"""Data sets in memory, split into a training and a test part.

Images stay bytes, a quarter of the memory, and are scaled where they are used (see `Dataset.mean`). Files
are looked for in the folder given, else below the one that the environment variable RELAYSIM_DATA names, else
where Debian's packages put them. Nothing is unpickled, and no code that comes with data is run.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relaysim.checks import check_choice, check_count, shown
from relaysim.tasks import readers

_SYSTEM = Path("/usr/share/datasets")


class Dataset(NamedTuple):
    """A labelled data set, on the host.

    >>> x, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 2
    >>> Dataset(x[:80], y[:80], x[80:], y[80:], num_classes=2, name="mine")
    Dataset('mine': 80 to train on and 20 to test, of shape (3,), 2 classes)
    """

    train_x: Any
    """(N, ...). For `supervised` it may be a sparse matrix of scipy, or a pytree of arrays."""
    train_y: Any
    """(N,) int, in 0, ..., num_classes - 1; for `supervised` any (N, ...), or a pytree of arrays"""
    test_x: Any = None
    """(M, ...)"""
    test_y: Any = None
    """(M,) int, or as `train_y`"""
    num_classes: int = 0
    """0 where labels are no classes."""
    name: str = "data"
    mean: np.ndarray | float = 0.0
    """() or (C,), for the last axis of the inputs. Networks are given (x - mean) / std."""
    std: np.ndarray | float = 1.0
    """() or (C,), above 0."""

    def __repr__(self) -> str:
        def size(y: Any) -> int:
            return 0 if y is None else len(next(iter(y.values())) if isinstance(y, dict) else y)

        told = f"{size(self.train_y)} to train on and {size(self.test_y)} to test"
        shape = f", of shape {self.train_x.shape[1:]}" if hasattr(self.train_x, "shape") else ""
        return f"Dataset({self.name!r}: {told}{shape}, {self.num_classes} classes)"


def check_dataset(dataset: Any) -> Dataset:
    """The data set.

    >>> check_dataset([[0.0, 1.0]])
    Traceback (most recent call last):
    ValueError: dataset is [[0.0, 1.0]], expected rs.tasks.Dataset(train_x, train_y, test_x, test_y)
    """
    if not isinstance(dataset, Dataset):
        expected = "expected rs.tasks.Dataset(train_x, train_y, test_x, test_y)"
        raise ValueError(f"dataset is {shown(dataset)}, {expected}")
    return dataset


def digits(test_fraction: float = 0.2) -> Dataset:
    """The 1797 handwritten digits of scikit-learn (UCI), as images (N, 8, 8, 1) float32.

    The split is stratified and always the same. One mean and one standard deviation, of all pixels of the
    training part, scale both parts.

    >>> digits().train_x.shape
    (1437, 8, 8, 1)

    Args:
      test_fraction: of the images, between 0.01 and 0.99.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed here alone

    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = _split(images.reshape(-1, 8, 8, 1), labels, test_fraction, labels)
    mean, std = train_x.mean(), train_x.std()

    def scale(x: np.ndarray) -> np.ndarray:
        return ((x - mean) / std).astype(np.float32)

    return Dataset(
        scale(train_x), train_y.astype(np.int32), scale(test_x), test_y.astype(np.int32), 10, "digits"
    )


def from_sklearn(name: str, test_fraction: float = 0.2) -> Dataset:
    """One of the small tables that scikit-learn carries, float32. Tasks scale each of its features.

    The split is always the same, stratified where the labels are classes.

    >>> from_sklearn("wine").train_x.shape
    (142, 13)

    Args:
      name: "breast_cancer" (569 samples, 30 features, 2 classes), "iris" (150, 4, 3), "wine" (178, 13, 3), or
        "diabetes" (442, 10), whose labels are numbers, less their mean and divided by their deviation.
      test_fraction: of the samples, between 0.01 and 0.99.

    Raises:
      ValueError: where there is none of that name.
    """
    import sklearn.datasets  # slow to import

    check_choice("name", name, ("breast_cancer", "diabetes", "iris", "wine"))
    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    classes = name != "diabetes"
    x, y = x.astype(np.float32), y if classes else ((y - y.mean()) / y.std()).astype(np.float32)
    train_x, test_x, train_y, test_y = _split(x, y, test_fraction, y if classes else None)
    num_classes = int(y.max()) + 1 if classes else 0
    return _scaled(name, (train_x, train_y), (test_x, test_y), num_classes)


def libsvm(train: Path | str, test: Path | str | None = None, *, num_features: int | None = None) -> Dataset:
    r"""Files in the format of LIBSVM, svmlight: a label, and index:value for what is not 0, a sample a line.

    As at https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets, packed (.gz, .bz2) or not.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = Path(folder, "a").write_text("+1 1:0.5 3:1\n-1 2:2")
    ...     libsvm(Path(folder, "a")).train_x.toarray()
    array([[0.5, 0. , 1. ],
           [0. , 2. , 0. ]])

    Args:
      train: the file to train on.
      test: the file to test on, None for none.
      num_features: D, by default that of the largest index in the files.

    Returns:
      Inputs are sparse matrices (CSR, float64), labels those in the files, integers where all are.

    Raises:
      ValueError: where a file is missing or of another format.
    """
    from sklearn.datasets import load_svmlight_files  # slow to import

    paths = [str(path) for path in (train, test) if path is not None]
    try:
        parts = load_svmlight_files(paths, n_features=num_features)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{' or '.join(paths)} cannot be read as LIBSVM's format: {error}") from error
    whole = all((y == np.round(y)).all() for y in parts[1::2])
    parts[1::2] = [y.astype(np.int32 if whole else np.float64) for y in parts[1::2]]
    train_x, train_y, test_x, test_y = [*parts, None, None][:4]
    return Dataset(train_x, train_y, test_x, test_y, name=Path(train).name)


def _split(x: np.ndarray, y: np.ndarray, test_fraction: float, by: np.ndarray | None) -> list[np.ndarray]:
    """train_x, test_x, train_y, test_y"""
    from sklearn.model_selection import train_test_split  # slow to import

    if not 0.01 <= test_fraction <= 0.99:
        raise ValueError(f"test_fraction is {test_fraction}, expected 0.01 to 0.99")
    return train_test_split(x, y, test_size=test_fraction, stratify=by, random_state=0)


def topics(num_classes: int = 4, *, train: int = 12_000, test: int = 2_000, seed: int = 0) -> Dataset:
    """Made-up texts on a few topics: token ids (N, 32) int32, 0 after the end of a text, below 500.

    A text has 8 to 32 words. A word is one of its topic with probability 0.25, else one of those that all
    texts share; a topic favours some words of the same vocabulary over others, so that a single word tells
    little. For networks that read text where no corpus is at hand.

    >>> topics(train=100, test=10).train_x.shape
    (100, 32)

    Args:
      num_classes: C, the topics.
      train: texts to train on.
      test: texts to test on.
      seed: fixes the vocabulary and the texts.
    """
    check_count("num_classes", num_classes)
    check_count("train", train)
    check_count("test", test)
    vocabulary, length, rng = 500, 32, np.random.default_rng(seed)
    shared = rng.dirichlet(np.full(vocabulary - 1, 0.5))
    own = rng.dirichlet(np.full(vocabulary - 1, 0.1), num_classes)
    words = 0.75 * shared + 0.25 * own
    labels = rng.integers(num_classes, size=train + test)
    tokens = np.zeros((train + test, length), np.int32)
    for label, chances in enumerate(words):
        rows = np.flatnonzero(labels == label)
        tokens[rows] = 1 + rng.choice(vocabulary - 1, (len(rows), length), p=chances)
    tokens[np.arange(length) >= rng.integers(8, length + 1, len(tokens))[:, None]] = 0
    y = labels.astype(np.int32)
    return Dataset(tokens[:train], y[:train], tokens[train:], y[train:], num_classes, "topics")


def fashion_mnist(folder: Path | str | None = None) -> Dataset:
    """Fashion-MNIST: grey images of ten kinds of clothing, uint8, (60000, 28, 28, 1) and 10,000 to test.

    Its four files have the same names as MNIST's, so keep the two sets in folders of their own.

    >>> fashion_mnist("folder")  # where the files are missing
    Traceback (most recent call last):
    ValueError: fashion-mnist: there are no IDX files in folder. apt install dataset-fashion-mnist, or ...

    Args:
      folder: holds the IDX files, packed (.gz) or not. By default $RELAYSIM_DATA/fashion-mnist, else
        $RELAYSIM_DATA, else where Debian's package dataset-fashion-mnist puts them.

    Raises:
      ValueError: where a file is missing or damaged; it says what to do.

    Xiao et al. 2017, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms".
    """
    put = "apt install dataset-fashion-mnist, or put its four IDX files"
    return _idx_images("fashion-mnist", folder, put)


def mnist(folder: Path | str | None = None) -> Dataset:
    """MNIST: grey images of handwritten digits, uint8, (60000, 28, 28, 1) and 10,000 to test.

    >>> mnist("folder")  # where the files are missing
    Traceback (most recent call last):
    ValueError: mnist: there are no IDX files in folder. Put the four IDX files of MNIST into a folder and ...

    Args:
      folder: holds the IDX files, packed (.gz) or not. By default $RELAYSIM_DATA/mnist, else
        $RELAYSIM_DATA, else /usr/share/datasets/mnist.

    Raises:
      ValueError: where a file is missing or damaged; it says what to do.

    LeCun et al. 1998, "Gradient-based learning applied to document recognition".
    """
    return _idx_images("mnist", folder, "Put the four IDX files of MNIST")


def cifar10(folder: Path | str | None = None) -> Dataset:
    """CIFAR-10: colour images of ten kinds of things, uint8, (50000, 32, 32, 3) and 10,000 to test.

    >>> cifar10("folder")  # where the files are missing
    Traceback (most recent call last):
    ValueError: there is no data_batch_1.bin in folder. Put cifar-10-binary.tar.gz, from ...

    Args:
      folder: holds the six .bin files of the binary version, or its cifar-10-binary.tar.gz. By default
        $RELAYSIM_DATA/cifar-10-batches-bin, else $RELAYSIM_DATA, else
        /usr/share/datasets/cifar-10-batches-bin.

    Raises:
      ValueError: where a file is missing or damaged; it says what to do.

    Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    places = _places("cifar-10-batches-bin", folder)
    try:
        batches = readers.cifar_batches(places)
    except ValueError as error:
        put = (
            "Put cifar-10-binary.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html, or its .bin files"
        )
        raise _advised(error, put, "cifar-10-batches-bin") from error
    x, y = map(np.concatenate, zip(*batches[:-1], strict=True))
    return _scaled("cifar10", (x, y), batches[-1], 10)


def huggingface(
    path: Path | str,
    name: str | None = None,
    *,
    inputs: str | Sequence[str] = "image",
    label: str = "label",
    train: str = "train",
    test: str = "test",
) -> Dataset:
    """A data set of the Hugging Face hub, or of a folder in its format. Needs the package `datasets`.

    Images become uint8, with one channel or three; columns of numbers become float32. Either are scaled by
    the mean and standard deviation of each channel or column of the training part.

    >>> import datasets, tempfile
    >>> part = datasets.Dataset.from_dict({"height": [1.5, 1.8], "weight": [50.0, 80.0], "sport": [0, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     datasets.DatasetDict(train=part, test=part).save_to_disk(folder)
    ...     huggingface(folder, inputs=["height", "weight"], label="sport").train_x.tolist()
    [[1.5, 50.0], [1.7999999523162842, 80.0]]

    Args:
      path: a folder that `save_to_disk` wrote, or what `datasets.load_dataset` takes.
      name: the configuration, where a data set of the hub has several.
      inputs: a column of images, or one or more of numbers, which are put side by side.
      label: a column of class labels, or of integers from 0.
      train: the split to train on.
      test: the split to test on.

    Raises:
      ImportError: without the package.
      ValueError: where a split or column is missing, or holds something else.
    """
    try:
        import datasets  # slow to import, and optional
    except ImportError as error:
        raise ImportError("the package datasets is missing: pip install 'relaysim[huggingface]'") from error

    if any((Path(path) / file).is_file() for file in ("dataset_dict.json", "state.json")):
        splits = datasets.load_from_disk(str(path))
    else:
        splits = datasets.load_dataset(str(path), name, trust_remote_code=False)
    if not isinstance(splits, datasets.DatasetDict):
        raise ValueError(f"path is {str(path)!r}, which holds one split alone, expected two or more")
    columns = [inputs] if isinstance(inputs, str) else list(inputs)
    if not columns:
        raise ValueError("inputs is empty, expected the name of a column, or several")
    for argument, split in (("train", train), ("test", test)):
        if split not in splits:
            raise ValueError(f"{argument} is {split!r}, expected one of the splits {', '.join(splits)}")
        for argument, column in (*(("inputs", column) for column in columns), ("label", label)):
            if column not in splits[split].column_names:
                raise ValueError(
                    f"{argument} is {column!r}, expected one of the columns of split {split!r}: "
                    f"{', '.join(splits[split].column_names)}"
                )
    train_y, test_y = (_labels(splits[split], label) for split in (train, test))
    feature = splits[train].features[label]
    num_classes = int(max(train_y.max(), test_y.max())) + 1
    if isinstance(feature, datasets.ClassLabel):
        num_classes = feature.num_classes
    train_x, test_x = (_inputs(splits[split], columns) for split in (train, test))
    return _scaled(str(path), (train_x, train_y), (test_x, test_y), num_classes)


def _places(name: str, folder: Path | str | None) -> list[Path]:
    """The folders where a data set may be, best first."""
    if folder is not None:
        return [Path(folder)]
    own = os.environ.get("RELAYSIM_DATA")
    return [*([Path(own, name), Path(own)] if own else []), _SYSTEM / name]


def _advised(error: ValueError, put: str, name: str) -> ValueError:
    return ValueError(
        f"{error}. {put} into a folder and pass that, or into $RELAYSIM_DATA/{name}, where RELAYSIM_DATA is "
        f"{os.environ.get('RELAYSIM_DATA') or 'not set'}"
    )


def _scaled(
    name: str, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_classes: int
) -> Dataset:
    """The data set, with the mean and standard deviation of each channel of its training part."""
    (train_x, train_y), (test_x, test_y) = train, test
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"{name} has samples of shape {train_x.shape[1:]} to train and {test_x.shape[1:]} to test on, "
            "expected one shape"
        )
    channels = np.moveaxis(train_x, -1, 0)
    mean, std = (np.array([f(c, dtype=np.float64) for c in channels], np.float32) for f in (np.mean, np.std))
    std[std == 0] = 1  # a channel that never changes is only shifted
    if num_classes:
        train_y, test_y = train_y.astype(np.int32), test_y.astype(np.int32)
    return Dataset(train_x, train_y, test_x, test_y, num_classes, name, mean, std)


def _idx_images(name: str, folder: Path | str | None, put: str) -> Dataset:
    places = _places(name, folder)
    place = next((p for p in places if any(p.glob("*-idx?-ubyte*"))), None)
    try:
        if place is None:
            raise ValueError(f"{name}: there are no IDX files in {' or '.join(map(str, places))}")
        train, test = (readers.idx_part(place, part) for part in ("train", "t10k"))
        return _scaled(name, train, test, 10)
    except ValueError as error:
        raise _advised(error, put, name) from error


def _inputs(split: Any, columns: list[str]) -> np.ndarray:
    """Columns of a split as one array: images uint8 (N, H, W, C), numbers float32 (N, ...)."""
    from datasets import Image

    if len(columns) == 1 and isinstance(split.features[columns[0]], Image):
        return _images(split, columns[0])
    parts = [_numbers(split, column, "iuf").astype(np.float32) for column in columns]
    if len(parts) == 1 and parts[0].ndim > 1:
        return parts[0]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _images(split: Any, column: str) -> np.ndarray:
    images, first = [], None
    for i, image in enumerate(split[column]):
        kind = None if image is None else (image.mode, *image.size)
        first = first or kind
        if kind != first or kind is None or kind[0] not in ("L", "RGB"):
            raise ValueError(
                f"image {i} of column {column!r} is {kind} (mode, width, height) and the first is {first}, "
                "expected images of one size, all of mode L or all of mode RGB"
            )
        images.append(np.asarray(image))
    if not images:
        raise ValueError(f"column {column!r} has no images in it, expected one or more")
    stacked = np.stack(images)
    return stacked if stacked.ndim == 4 else stacked[..., None]


def _numbers(split: Any, column: str, kinds: str) -> np.ndarray:
    """A column of numbers, of which none is missing, of one of NumPy's kinds."""
    values = np.asarray(split.with_format("numpy")[column][:])
    if not len(values) or values.dtype.kind not in kinds or not np.isfinite(values).all():
        raise ValueError(
            f"column {column!r} holds {len(values)} times {split.features[column]}, as {values.dtype}, "
            f"expected one or more {'numbers' if 'f' in kinds else 'integers'} of one shape, none missing"
        )
    return values


def _labels(split: Any, column: str) -> np.ndarray:
    labels = _numbers(split, column, "biu")
    if labels.ndim != 1 or labels.min() < 0:
        raise ValueError(
            f"column {column!r} has shape {labels.shape} and spans {labels.min()} to {labels.max()}, "
            "expected a label from 0 for each sample"
        )
    return labels
