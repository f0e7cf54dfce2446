"""Files of images as their authors publish them: the IDX format of MNIST, the binary version of CIFAR-10.

Each function raises a ValueError that names the file and what is wrong with it.
"""

import gzip
import math
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

_BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError)


def idx_part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 1) and labels (N,), both uint8, of a data set in MNIST's four IDX files.

    Args:
      folder: holds them, packed (.gz) or not.
      part: "train" or "t10k".
    """
    x_path = _packed_or_not(folder / f"{part}-images-idx3-ubyte")
    y_path = _packed_or_not(folder / f"{part}-labels-idx1-ubyte")
    x, y = _idx(x_path, 3), _idx(y_path, 1)
    if len(x) != len(y):
        raise ValueError(f"{x_path} holds {len(x)} images, expected {len(y)}, the labels in {y_path}")
    return x[..., None], _up_to_nine(y_path, y)


def cifar_batches(folders: Sequence[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (N, 32, 32, 3) and labels (N,), both uint8, of the five training batches and the test batch.

    Args:
      folders: the first that holds the binary version counts, as .bin files or as the archive.
    """
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    for folder in folders:
        archive = folder / "cifar-10-binary.tar.gz"
        if any((folder / name).is_file() for name in names):
            return [_cifar(folder / name, _read(folder / name)) for name in names]
        if archive.is_file():
            members = _read_archive(archive, names)
            return [_cifar(archive / name, members[name]) for name in names]
    for folder in folders:
        for pickled in ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz"):
            if (folder / pickled).exists():
                raise ValueError(
                    f"{folder / pickled} is of the pickled version, and reading a pickle can run any code, "
                    "expected the binary version"
                )
    raise ValueError(f"there is no data_batch_1.bin in {' or '.join(map(str, folders))}")


def _packed_or_not(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and not packed.is_file():
        raise ValueError(f"{path} is missing, and so is {packed.name}")
    return path if path.is_file() else packed


def _read(path: Path) -> bytes:
    """What a file holds, unpacked if its name ends in .gz."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read()
    except _BROKEN as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_archive(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """What those files of a .tar.gz hold that go by one of the names, in whatever folder."""
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = Path(member.name).name
                file = archive.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = file.read()
    except _BROKEN as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for name in names:
        if name not in found:
            raise ValueError(f"{path} has no {name} in it")
    return found


def _idx(path: Path, ndim: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes.

    The file starts with two zero bytes, one for the type of the numbers and one for how many dimensions there
    are. The sizes follow, big-endian integers of four bytes, and then the numbers.
    """
    contents = _read(path)
    magic = bytes([0, 0, 8, ndim])
    if contents[:4] != magic:
        raise ValueError(
            f"{path} starts with the bytes {contents[:4].hex(' ') or '(none)'}, expected {magic.hex(' ')}: "
            f"an IDX file of bytes in {ndim} dimensions"
        )
    start = 4 + 4 * ndim
    if len(contents) < start:
        raise ValueError(f"{path} holds {len(contents)} bytes, expected {start} for its header alone")
    shape = tuple(np.frombuffer(contents[4:start], ">u4").tolist())
    if not math.prod(shape):
        raise ValueError(f"{path} holds an array of shape {shape}, expected one that is not empty")
    if len(contents) != start + math.prod(shape):
        raise ValueError(
            f"{path} holds {len(contents)} bytes, expected {start + math.prod(shape)} "
            f"for the shape {shape} in its header"
        )
    return np.frombuffer(contents, np.uint8, offset=start).reshape(shape)


def _cifar(path: Path, contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 32, 32, 3) and labels (N,) in a file of CIFAR-10's binary version, both uint8.

    A record is a byte for the label, and then the red, the green and the blue plane, row by row.
    """
    length = 1 + 3 * 32 * 32
    if not contents or len(contents) % length:
        raise ValueError(
            f"{path} holds {len(contents)} bytes, expected records of {length} bytes, one or more"
        )
    records = np.frombuffer(contents, np.uint8).reshape(-1, length)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), _up_to_nine(path, records[:, 0])


def _up_to_nine(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.max() > 9:
        raise ValueError(f"{path} has the label {labels.max()} in it, expected 0 to 9")
    return labels
