import gzip
import io
import struct
import sys
import tarfile

import jax
import numpy as np
import PIL.Image
import pytest

from relaysim.models import MLP
from relaysim.tasks import classification, datasets
from relaysim.tasks.datasets import cifar10, digits, fashion_mnist, huggingface, mnist, topics


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """Neither this machine's data sets nor its settings count."""
    monkeypatch.delenv("RELAYSIM_DATA", raising=False)
    monkeypatch.setattr(datasets, "_SYSTEM", tmp_path / "system")


def test_digits():
    data = digits()
    assert data.num_classes == 10 and data.name == "digits"
    assert data.train_x.shape == (1437, 8, 8, 1) and data.test_x.shape == (360, 8, 8, 1)
    assert data.train_x.dtype == data.test_x.dtype == np.float32
    assert np.isclose(data.train_x.mean(), 0, atol=1e-5) and np.isclose(data.train_x.std(), 1, atol=1e-5)
    assert abs(data.test_x.mean()) < 0.05


def test_digits_split_is_stratified_and_fixed():
    data, again = digits(0.5), digits(0.5)
    assert np.array_equal(data.test_x, again.test_x)
    assert np.abs(np.bincount(data.train_y) - np.bincount(data.test_y)).max() <= 1
    both = np.concatenate([data.train_x, data.test_x]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797  # no image of the test part is in the training part


@pytest.mark.parametrize("fraction", [0.0, 1.0, np.nan])
def test_bad_fraction(fraction):
    with pytest.raises(ValueError, match="test_fraction is"):
        digits(fraction)


def scaled_alike(data):
    """Is the training part, scaled, of mean 0 and deviation 1 in each channel?"""
    x = (data.train_x - data.mean) / data.std
    axes = tuple(range(x.ndim - 1))
    return np.allclose(x.mean(axes), 0, atol=1e-5) and np.allclose(x.std(axes), 1, atol=1e-5)


# IDX files: MNIST and Fashion-MNIST

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 4, 3)).astype(np.uint8), np.arange(30).astype(np.uint8) % 10
GREY_TEST = RNG.integers(0, 256, (7, 4, 3)).astype(np.uint8), np.arange(7).astype(np.uint8)
TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, (x, y) in (("train", GREY), ("t10k", GREY_TEST)):
        for name, array in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            if pack:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return folder


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("load, name", [(mnist, "mnist"), (fashion_mnist, "fashion-mnist")])
def test_idx_files(tmp_path, load, name, pack):
    data = load(write_idx(tmp_path, pack))
    assert data.name == name and data.num_classes == 10
    assert data.train_x.dtype == data.test_x.dtype == np.uint8
    assert np.array_equal(data.train_x[..., 0], GREY[0]) and np.array_equal(data.test_x[..., 0], GREY_TEST[0])
    assert np.array_equal(data.train_y, GREY[1]) and np.array_equal(data.test_y, GREY_TEST[1])
    assert data.mean.shape == data.std.shape == (1,) and data.mean.dtype == data.std.dtype == np.float32
    assert scaled_alike(data)


@pytest.mark.parametrize("place", ["own/mnist", "own", "system/mnist"])
def test_where_idx_files_are_looked_for(tmp_path, monkeypatch, place):
    monkeypatch.setenv("RELAYSIM_DATA", str(tmp_path / "own"))
    write_idx(tmp_path / place)
    assert len(mnist().train_y) == 30
    with pytest.raises(ValueError, match="elsewhere"):
        mnist(tmp_path / "elsewhere")


def replaced(at, part):
    return lambda contents: contents[:at] + part + contents[at + len(part) :]


@pytest.mark.parametrize(
    "name, spoil, message",
    [
        (TRAIN_X, lambda c: c[:-1], r"train-images\S* holds 375 bytes, expected 376 .*\(30, 4, 3\)"),
        (TRAIN_X, lambda c: c + b"0", "holds 377 bytes, expected 376"),
        (TRAIN_X, lambda c: c[:9], "holds 9 bytes, expected 16 for its header"),
        (TRAIN_X, lambda c: b"", r"starts with the bytes \(none\), expected 00 00 08 03"),
        (TRAIN_X, replaced(0, b"\x1f\x8b"), "starts with the bytes 1f 8b 08 03, expected 00 00 08 03"),
        (TRAIN_X, replaced(2, b"\x0d"), "starts with the bytes 00 00 0d 03"),
        (TRAIN_X, lambda c: idx(GREY[1]), "starts with the bytes 00 00 08 01, expected 00 00 08 03"),
        (TRAIN_X, lambda c: idx(GREY[0][:29]), "holds 29 images, expected 30, the labels in .*train-labels"),
        (TRAIN_X, lambda c: idx(GREY[0][:, :3]), r"\(3, 3, 1\) to train and \(4, 3, 1\) to test"),
        (TRAIN_X, lambda c: idx(GREY[0][:0]), r"array of shape \(0, 4, 3\), expected one that is not empty"),
        (TRAIN_X, replaced(4, b"\xff" * 12), r"expected \d{29} for the shape \(4294967295, "),
        (TRAIN_Y, replaced(8, b"\x0a"), "train-labels-idx1-ubyte has the label 10 in it, expected 0 to 9"),
        (TRAIN_Y, None, "train-labels-idx1-ubyte is missing, and so is train-labels-idx1-ubyte.gz"),
    ],
)
def test_spoilt_idx_files(tmp_path, name, spoil, message):
    file = write_idx(tmp_path) / name
    contents = file.read_bytes()
    file.unlink()
    if spoil:
        file.write_bytes(spoil(contents))
    with pytest.raises(ValueError, match=f"(?s){message}.*apt install dataset-fashion-mnist.*RELAYSIM_DATA"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda c: c[:-20], "ended before"),
        (lambda c: c[:-8] + b"\0\0\0\0" + c[-4:], "CRC"),
        (lambda c: idx(GREY[0]), "[Nn]ot a gzipped file"),
        (lambda c: c[:12] + b"\xff\xff\xff" + c[15:], "invalid"),
    ],
)
def test_spoilt_packed_files(tmp_path, spoil, message):
    file = write_idx(tmp_path, pack=True) / f"{TRAIN_X}.gz"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte\.gz cannot be read: .*{message}"):
        fashion_mnist(tmp_path)


def test_no_idx_files(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no IDX files in .*system/mnist.*RELAYSIM_DATA is not set"):
        mnist()
    monkeypatch.setenv("RELAYSIM_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"RELAYSIM_DATA is {tmp_path}"):
        mnist()


def test_fashion_mnist_as_published(monkeypatch):
    monkeypatch.undo()
    try:
        data = fashion_mnist()
    except ValueError as error:
        pytest.skip(str(error))
    assert data.train_x.shape == (60000, 28, 28, 1) and data.test_x.shape == (10000, 28, 28, 1)
    assert (np.bincount(data.train_y) == 6000).all() and (np.bincount(data.test_y) == 1000).all()
    assert data.train_y[:5].tolist() == [9, 0, 0, 3, 0]
    assert np.allclose([data.mean / 255, data.std / 255], [[0.2860], [0.3530]], atol=5e-5)
    task = classification(MLP((), 10), data, [np.arange(60000)])
    assert task.x.dtype == np.uint8
    measured = jax.eval_shape(task.measure, jax.eval_shape(task.init, jax.random.key(0)))
    assert measured["accuracy"].shape == (1,)


# CIFAR-10

COLOUR = [
    (RNG.integers(0, 256, (4, 32, 32, 3)).astype(np.uint8), RNG.integers(0, 10, 4).astype(np.uint8))
    for _ in range(6)
]
BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def records(x, y):
    """Label, red plane, green plane, blue plane, as loops over pixels."""
    contents = bytearray()
    for image, label in zip(x, y, strict=True):
        contents.append(label)
        for channel in range(3):
            for row in range(32):
                contents += bytes(image[row, column, channel] for column in range(32))
    return bytes(contents)


CONTENTS = {name: records(x, y) for name, (x, y) in zip(BATCHES, COLOUR, strict=True)}


def write_cifar(folder, contents=CONTENTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(folder, contents=CONTENTS):
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in {"readme.html": b"hello", **contents}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder


@pytest.mark.parametrize("write", [write_cifar, write_archive])
def test_cifar10(tmp_path, write):
    data = cifar10(write(tmp_path))
    assert data.name == "cifar10" and data.num_classes == 10
    assert np.array_equal(data.train_x, np.concatenate([x for x, _ in COLOUR[:5]]))
    assert np.array_equal(data.train_y, np.concatenate([y for _, y in COLOUR[:5]]))
    assert np.array_equal(data.test_x, COLOUR[5][0]) and np.array_equal(data.test_y, COLOUR[5][1])
    assert data.train_x.dtype == np.uint8 and data.mean.shape == data.std.shape == (3,)
    assert scaled_alike(data)


@pytest.mark.parametrize("place", ["own/cifar-10-batches-bin", "own", "system/cifar-10-batches-bin"])
def test_where_cifar10_is_looked_for(tmp_path, monkeypatch, place):
    monkeypatch.setenv("RELAYSIM_DATA", str(tmp_path / "own"))
    write_cifar(tmp_path / place)
    assert len(cifar10().train_y) == 20


BATCH = CONTENTS["data_batch_3.bin"]


@pytest.mark.parametrize("write", [write_cifar, write_archive])
@pytest.mark.parametrize(
    "batch, message",
    [
        (BATCH[:-1], r"data_batch_3.bin holds 12291 bytes, expected records of 3073"),
        (b"", "data_batch_3.bin holds 0 bytes"),
        (b"\x0a" + BATCH[1:], "data_batch_3.bin has the label 10 in it, expected 0 to 9"),
        (None, r"data_batch_3\.bin"),
    ],
)
def test_spoilt_cifar10(tmp_path, write, batch, message):
    contents = CONTENTS | {"data_batch_3.bin": batch}
    if batch is None:
        del contents["data_batch_3.bin"]
    with pytest.raises(ValueError, match=f"{message}.*Put cifar-10-binary.tar.gz.*RELAYSIM_DATA"):
        cifar10(write(tmp_path, contents))


def test_spoilt_archive(tmp_path):
    archive = write_archive(tmp_path) / "cifar-10-binary.tar.gz"
    contents = archive.read_bytes()
    for spoilt in (contents[:-1000], b"hello", b""):
        archive.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz cannot be read.*Put cifar-10-binary"):
            cifar10(tmp_path)


def test_no_cifar10(tmp_path):
    with pytest.raises(ValueError, match=f"no data_batch_1.bin in {tmp_path}"):
        cifar10(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-python.tar.gz"])
def test_pickles_are_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} is of the pickled version.*expected the binary version"):
        cifar10(tmp_path)


# Hugging Face


def saved(folder, **splits):
    """A data set on disk with some splits, out of dicts of columns."""
    from datasets import Dataset, DatasetDict

    DatasetDict({name: Dataset.from_dict(columns) for name, columns in splits.items()}).save_to_disk(folder)
    return folder


def pictures(arrays):
    return [PIL.Image.fromarray(array) for array in arrays]


def test_images_of_huggingface(tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

    features = Features({"img": Image(), "kind": ClassLabel(names=["a", "b", "c"])})
    parts = {
        name: Dataset.from_dict({"img": pictures(x), "kind": list(y % 2)}, features)
        for name, (x, y) in (("train", COLOUR[0]), ("validation", COLOUR[5]))
    }
    DatasetDict(parts).save_to_disk(tmp_path)
    data = huggingface(tmp_path, inputs="img", label="kind", test="validation")
    assert data.num_classes == 3 and data.name == str(tmp_path)
    assert data.train_x.dtype == np.uint8
    assert np.array_equal(data.train_x, COLOUR[0][0]) and np.array_equal(data.test_x, COLOUR[5][0])
    assert np.array_equal(data.train_y, COLOUR[0][1] % 2) and np.array_equal(data.test_y, COLOUR[5][1] % 2)
    assert scaled_alike(data)


def test_grey_images_of_huggingface(tmp_path):
    x, y = GREY
    part = {"image": pictures(x), "label": list(y)}
    data = huggingface(saved(tmp_path, train=part, test=part))
    assert np.array_equal(data.train_x, x[..., None]) and data.num_classes == 10


def test_numbers_of_huggingface(tmp_path):
    rng = np.random.default_rng(0)
    part = {"a": rng.normal(3, 2, 20), "b": rng.integers(0, 9, 20), "c": rng.normal(size=(20, 3)).tolist()}
    part |= {"constant": [5.0] * 20, "label": [0, 1] * 10}
    saved(tmp_path, train=part, test=part)
    data = huggingface(tmp_path, inputs=["a", "b", "c", "constant"])
    assert data.train_x.dtype == np.float32 and data.num_classes == 2
    expected = np.column_stack([part["a"], part["b"], part["c"], part["constant"]])
    np.testing.assert_allclose(data.train_x, expected, rtol=1e-6)
    np.testing.assert_allclose(data.std[:5], expected.std(0)[:5], rtol=1e-5)
    assert data.std[5] == 1
    assert huggingface(tmp_path, inputs="c").train_x.shape == (20, 3)
    assert huggingface(tmp_path, inputs="a").train_x.shape == (20, 1)


def test_the_hub_is_asked_without_its_code(monkeypatch):
    import datasets

    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        part = datasets.Dataset.from_dict({"x": [0.0, 1.0], "label": [0, 1]})
        return datasets.DatasetDict(train=part, test=part)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert huggingface("someone/something", "small", inputs="x").train_y.tolist() == [0, 1]
    assert calls == [(("someone/something", "small"), {"trust_remote_code": False})]


def test_without_huggingface(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'relaysim\[huggingface\]'"):
        huggingface("mnist")


GOOD = {"x": [0.0, 1.0], "label": [0, 1]}
UNEQUAL = pictures([np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)])
MIXED = pictures([np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)])
TRANSPARENT = pictures(np.zeros((2, 4, 4, 4), np.uint8))


@pytest.mark.parametrize(
    "train, options, message",
    [
        (GOOD, {"test": "dev"}, "test is 'dev', expected one of the splits train, test"),
        (GOOD, {"inputs": "image"}, "inputs is 'image', expected one of the columns .*'train': x, label"),
        (GOOD, {"label": "y"}, "label is 'y', expected one of the columns"),
        (GOOD, {"inputs": []}, "inputs is empty"),
        ({"x": ["a", "b"], "label": [0, 1]}, {}, "column 'x' .*string.*expected one or more numbers"),
        ({"x": [[0.0], [1.0, 2.0]], "label": [0, 1]}, {}, "column 'x' .*of one shape"),
        ({"x": [0.0, None], "label": [0, 1]}, {}, "column 'x' .*none missing"),
        ({"x": [0.0, 1.0], "label": ["a", "b"]}, {}, "column 'label' .*expected one or more integers"),
        ({"x": [0.0, 1.0], "label": [0, None]}, {}, "column 'label' .*none missing"),
        ({"x": [0.0, 1.0], "label": [0, -1]}, {}, "column 'label' .*spans -1 to 0"),
        ({"x": [[0.0, 1.0]], "label": [0]}, {}, r"\(2,\) to train and \(1,\) to test"),
        ({"x": UNEQUAL, "label": [0, 1]}, {}, r"image 1 of column 'x' is \('L', 5, 4\).*of one size"),
        ({"x": MIXED, "label": [0, 1]}, {}, r"image 1 of column 'x' is \('RGB', 4, 4\)"),
        ({"x": TRANSPARENT, "label": [0, 1]}, {}, r"image 0 of column 'x' is \('RGBA', 4, 4\)"),
    ],
)
def test_bad_huggingface(tmp_path, train, options, message):
    saved(tmp_path, train=train, test=GOOD)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        huggingface(tmp_path, **{"inputs": "x"} | options)


def test_one_split_alone(tmp_path):
    from datasets import Dataset

    Dataset.from_dict(GOOD).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match="holds one split alone"):
        huggingface(tmp_path, inputs="x")


# Texts


def test_topics_can_be_told_from_their_words():
    from sklearn.linear_model import LogisticRegression

    data = topics(train=4000, test=1000)
    assert data.train_x.dtype == np.int32 and data.train_x.shape == (4000, 32)
    lengths = (data.train_x > 0).sum(1)
    assert lengths.min() == 8 and lengths.max() == 32
    assert (np.diff((data.train_x > 0).astype(int), axis=1) <= 0).all()  # words first, then padding
    parts = (data.train_x, data.test_x)
    counts = [np.stack([np.bincount(row, minlength=500)[1:] for row in x]) for x in parts]
    model = LogisticRegression(max_iter=200).fit(counts[0], data.train_y)
    assert 0.8 < model.score(counts[1], data.test_y) < 0.97
    assert np.array_equal(topics(train=4000, test=1000).train_x, data.train_x)
    assert not np.array_equal(topics(train=4000, test=1000, seed=1).train_x, data.train_x)


def test_bad_topics():
    with pytest.raises(ValueError, match="num_classes is 0, expected an integer of at least 1"):
        topics(0)
