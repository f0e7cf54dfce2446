"""Runs that may be killed: what they have done so far, written to a folder every so often."""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_bool, check_count, check_path
from relaysim.types import Key, Stacked

try:
    import fcntl
    import resource
except ImportError:  # as on Windows, where folders are not locked, and files not limited
    fcntl = resource = None  # type: ignore[assignment]

KEPT = 2
ABOUT = "about.json"
UNFINISHED = ".tmp"
SPARE = 1 << 16  # bytes that a checkpoint needs besides its arrays


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is written down.

    A checkpoint is whole or not there: what was being written when a run was killed counts for nothing. The
    last two are kept.

    >>> Checkpoint("out/run", every=100, resume=True)  # for `rs.simulate(..., checkpoint=)`
    Checkpoint(folder='out/run', every=100, resume=True)

    Args:
      folder: of this run alone.
      every: steps between checkpoints, a multiple of the steps between records.
      resume: go on from the last checkpoint in the folder, or from the beginning where it holds none.

    Raises:
      ValueError: where `folder` is no path, `every` is below 1, or `resume` is no truth value.
    """

    folder: Path | str
    every: int
    resume: bool = False

    def __post_init__(self) -> None:
        check_path("folder", self.folder)
        check_count("every", self.every)
        check_bool("resume", self.resume)


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop, by SIGINT or SIGTERM, and is written down."""

    def __init__(self, checkpoint: Checkpoint, step: int, num_steps: int, number: int) -> None:
        where = f"stopped after step {step} of {num_steps}, which is written to {checkpoint.folder}"
        super().__init__(f"{where}: go on with resume=True")
        self.signal = number


@contextmanager
def held(checkpoint: Checkpoint | None) -> Iterator[Callable[[], int]]:
    """While a run uses the folder nobody else can. Yields a function: by which signal it was asked to stop.

    The first SIGINT or SIGTERM only asks, so that the run can be written down; a second one acts as ever, and
    so does the first at the end of a run that did not heed it. Signals are left alone where there is no
    checkpoint, where they are ignored, and in another thread than the main one.

    Raises:
      ValueError: where another run uses the folder.
      OSError: where it cannot be written to.
    """
    if checkpoint is None:
        yield lambda: 0
        return
    asked, before = [0], dict[int, Any]()

    def ask(number: int, frame: Any) -> None:
        asked[0] = number
        signal.signal(number, before[number])

    folder = _locked(Path(checkpoint.folder))
    try:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            before |= {n: handler for n, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
        for number in before:
            signal.signal(number, ask)
        yield lambda: asked[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if folder is not None:
            os.close(folder)  # which frees it, as the end of the process does
    if asked[0]:
        signal.raise_signal(asked[0])


def _locked(folder: Path) -> int | None:
    """The folder, opened and locked; on file systems without locks nobody is kept out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise OSError(errno.EACCES, "it is not writable")
        if fcntl is None:
            return None
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OSError(f"{folder} cannot be used for checkpoints: {error.strerror}") from error
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(opened)
        raise ValueError(
            f"folder is {folder}, which another run is using: expected one of its own"
        ) from error
    except OSError:
        os.close(opened)
        return None
    return opened


def describe(key: Key, params: Stacked, every: int, carry: Any, record: Any) -> dict[str, Any]:
    """What has to be the same for a run to go on: its arguments, and the names and shapes of its arrays.

    Args:
      params: the models that it starts from.
      carry: all that it starts from, which counts where that is the end of another run.
      record: the shapes of some records, one along the leading axis.
    """

    def kinds(name: str, pytree: Any, first_axis: int) -> dict[str, str]:
        return {
            name + jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape[first_axis:])}"
            for path, leaf in jax.tree.leaves_with_path(pytree)
        }

    return {
        "key": _host(key)[0].tolist(),
        "params": _digest(_host(params)),
        "first": int(carry.step),
        **({"start": _digest(_host(carry))} if carry.step else {}),
        "every": int(every),
        **kinds("state", carry.method, 0),
        **kinds("record", record, 1),
    }


def save(checkpoint: Checkpoint, run: dict[str, Any], step: int, carry: Any, records: Any) -> None:
    """Write down what was done in the first steps of a run, and return when it is there.

    Raises:
      ValueError: under vmap or jit.
      OSError: where that fails; what was written before stays.
    """
    leaves, folder = _host((carry, records)), Path(checkpoint.folder)
    packed = np.concatenate([leaf.reshape(-1).view(np.uint8) for leaf in leaves])
    steps, beside = _steps(folder), folder / f"{step}{UNFINISHED}"
    try:
        _check_space(folder, packed.nbytes)
        for left in folder.glob(f"[0-9]*{UNFINISHED}"):
            shutil.rmtree(left)
        _write_array(beside / "arrays", packed)
        kinds = [[str(leaf.dtype), leaf.shape] for leaf in leaves]
        about = {"run": run, "arrays": kinds, "files": _digests(beside)}
        (beside / ABOUT).write_text(json.dumps({"digest": _digest_of(about), **about}))
        beside.rename(folder / str(step))
    except Exception as error:  # orbax raises many kinds
        shutil.rmtree(beside, ignore_errors=True)
        kept = f"that of step {steps[-1]} is there to go on from" if steps else "there is none yet"
        raise OSError(
            f"the checkpoint of step {step} cannot be written to {folder}: {_reason(error)}; {kept}"
        ) from error
    for old in [*steps, step][:-KEPT]:  # renamed first, or a kill would leave half of it
        shutil.rmtree((folder / str(old)).rename(folder / f"{old}{UNFINISHED}"))


def _steps(folder: Path) -> list[int]:
    """Of which there are whole checkpoints, ascending."""
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _check_space(folder: Path, size: int) -> None:
    """Raise an OSError where so many bytes find no room, before half of them are written."""
    free = shutil.disk_usage(folder).free
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) >= 0:
        free = min(free, limit)  # of a file
    if free < size + SPARE:
        raise OSError(f"it takes {size + SPARE} bytes, and there is room for {free}")


def _reason(error: Exception) -> str:
    """What went wrong in the system's words, which orbax has somewhere in a long text."""
    words = {os.strerror(code) for code in errno.errorcode}
    return max((said for said in words if said in str(error)), key=len, default=str(error)[:200])


def _digests(folder: Path) -> dict[str, str]:
    """Of all files in it, by their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest_of_file(path) for path in files}


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def load(
    checkpoint: Checkpoint, run: dict[str, Any], num_steps: int, carry: Any, record: Any
) -> tuple[int, Any, Any] | None:
    """The last checkpoint: the steps taken, what they hand on, and the records; None where there is none.

    Args:
      run: from `describe`.
      num_steps: how long the run is to be; more steps than it was begun with are simply more to do.
      carry: as it is before the first step. Arrays come back where these are, on the same devices.
      record: the shapes of some records.

    Raises:
      ValueError: where the folder holds checkpoints and should not, those of another run, or broken ones.
    """
    folder = Path(checkpoint.folder)
    steps = _steps(folder)
    if not steps:
        return None
    step = steps[-1]
    if not checkpoint.resume:
        raise ValueError(
            f"folder is {folder}, which holds a checkpoint of step {step} already: "
            "expected another folder, or resume=True to go on from there"
        )
    saved, leaves = _read(folder, steps)
    check_same(folder, run, saved)
    if step > num_steps:
        raise ValueError(
            f"num_steps is {num_steps}, but {folder} holds step {step} already: expected no fewer"
        )
    like, treedef = jax.tree.flatten(carry)
    carried = jax.tree.unflatten(treedef, map(_put_back, leaves[: len(like)], like))
    return step, carried, jax.tree.unflatten(jax.tree.structure(record), leaves[len(like) :])


def check_same(folder: Path | str, run: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse to go on with another run than the one that was saved.

    Raises:
      ValueError: where they differ, with the names of what does.
    """
    names = [name for name in run | saved if run.get(name) != saved.get(name)]
    if names:
        was = [f"{name} is {run.get(name, 'missing')} but was {saved.get(name, 'missing')}" for name in names]
        raise ValueError(f"folder is {folder}, which holds another run: {'; '.join(was)}")


def _read(folder: Path, steps: list[int]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What the run of the last checkpoint was, and its arrays; orbax gets to see none but sound files."""
    path = folder / str(steps[-1])
    try:
        about = json.loads((path / ABOUT).read_text())
        if about.pop("digest") != _digest_of(about):
            raise ValueError(f"{ABOUT} has changed")
        for name, digest in about["files"].items():
            if _digest_of_file(path / name) != digest:
                raise ValueError(f"{name} has changed")
        packed = _read_array(path / "arrays")
    except PermissionError:
        raise
    except Exception as error:  # orbax raises many kinds
        instead = f"go on from step {steps[-2]}" if len(steps) > 1 else "start again"
        raise ValueError(
            f"{path} is a broken checkpoint, delete it to {instead}: {str(error)[:200]}"
        ) from error
    kinds = [(jnp.dtype(name), shape) for name, shape in about["arrays"]]
    ends = np.cumsum([math.prod(shape) * dtype.itemsize for dtype, shape in kinds])
    parts = np.split(packed, ends[:-1])
    return about["run"], [
        part.copy().view(dtype).reshape(shape) for part, (dtype, shape) in zip(parts, kinds, strict=True)
    ]


def _write_array(path: Path, packed: np.ndarray) -> None:
    """Write one array (bytes,).

    Of many at once orbax leaves some behind where one fails, which then complain of a closed event loop.
    """
    import orbax.checkpoint as ocp  # here, since it takes its time

    with _quiet(), ocp.Checkpointer(ocp.ArrayCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.ArraySave(packed))


def _read_array(path: Path) -> np.ndarray:
    import orbax.checkpoint as ocp

    as_numpy = ocp.args.ArrayRestore(restore_args=ocp.RestoreArgs(restore_type=np.ndarray))
    with _quiet(), ocp.Checkpointer(ocp.ArrayCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path.absolute(), args=as_numpy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax's log, which tells with a traceback what it raises as well."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _host(pytree: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays, keys as their data."""
    leaves = jax.tree.leaves(pytree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise ValueError("checkpoint is given under vmap or jit, expected a run by itself")
    raw = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
    return [np.asarray(leaf) for leaf in jax.device_get(raw)]


def _put_back(leaf: np.ndarray, like: jax.Array) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(like))
    return jax.device_put(leaf, like.sharding, may_alias=False)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    hashed = hashlib.sha256()
    for array in arrays:
        if array.size:
            hashed.update(f"{array.dtype}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
