"""Runs that may be killed: what they have done so far, written to a folder every so often."""

import hashlib
import json
import logging
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

from relaysim.checks import check_bool, check_count
from relaysim.types import Key, Stacked

try:
    import fcntl
    import resource
except ImportError:  # as on Windows, where folders are not locked, and files not limited
    fcntl = resource = None  # type: ignore[assignment]

KEPT = 2
MANIFEST = "files.json"
SPARE = 1 << 16  # bytes that a checkpoint needs besides its arrays


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is written down.

    A checkpoint is whole or not there: what was being written when a run was killed counts for nothing. The
    last two are kept.

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
        if not isinstance(self.folder, str | os.PathLike):
            raise ValueError(f"folder is {self.folder!r}, expected a path")
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

    The first SIGINT or SIGTERM only asks, so that the run can be written down; a second one acts as ever.
    Where there is no checkpoint, or in another thread than the main one, signals are left alone.

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

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    folder = None
    try:
        folder = _locked(Path(checkpoint.folder))
        yield lambda: asked[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if folder is not None:
            os.close(folder)  # which frees it, as the end of the process does


def _locked(folder: Path) -> int | None:
    """The folder, opened and locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
    return opened


def describe(key: Key, params: Stacked, every: int, carry: Any, record: Any) -> dict[str, Any]:
    """What has to be the same for a run to go on: its arguments, and the names and shapes of its arrays.

    Args:
      carry: what a step hands on to the next, or its shapes.
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
        "every": int(every),
        **kinds("state", carry.method, 0),
        **kinds("record", record, 1),
    }


def save(checkpoint: Checkpoint, run: dict[str, Any], step: int, carry: Any, records: Any) -> None:
    """Write down what was done in the first steps of a run, and return when it is there.

    Raises:
      ValueError: under vmap or jit.
    """
    import orbax.checkpoint as ocp  # here, since it takes its time

    leaves, folder = _host((carry, records)), Path(checkpoint.folder)
    arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax takes no empty ones
    about = {"run": run, "digest": _digest(leaves, run)}
    try:
        _check_space(folder, sum(leaf.nbytes for leaf in leaves))
        with _manager(checkpoint) as manager:
            manager.save(
                step,
                args=ocp.args.Composite(about=ocp.args.JsonSave(about), arrays=ocp.args.StandardSave(arrays)),
            )
        (folder / str(step) / MANIFEST).write_text(json.dumps(_digests(folder / str(step))))
    except Exception as error:  # orbax raises many kinds
        there = [
            int(path.name) for path in folder.glob("*") if path.name.isdecimal() and int(path.name) < step
        ]
        kept = f"that of step {max(there)} is there to go on from" if there else "there is none yet"
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise OSError(
            f"the checkpoint of step {step} cannot be written to {folder}: {reason}; {kept}"
        ) from error


def _check_space(folder: Path, size: int) -> None:
    """Raise an OSError where so many bytes find no room, before half of them are written."""
    free = shutil.disk_usage(folder).free
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) >= 0:
        free = min(free, limit)  # of a file
    if free < size + SPARE:
        raise OSError(f"it takes {size + SPARE} bytes, and there is room for {free}")


def _digests(folder: Path) -> dict[str, str]:
    """Of all files in a checkpoint but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
    folder = checkpoint.folder
    with _manager(checkpoint) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        if not checkpoint.resume:
            raise ValueError(
                f"folder is {folder}, which holds a checkpoint of step {step} already: "
                "expected another folder, or resume=True to go on from there"
            )
        about, arrays = _read(manager, checkpoint, step)
    check_same(folder, run, about["run"])
    if step > num_steps:
        raise ValueError(
            f"num_steps is {num_steps}, but {folder} holds step {step} already: expected no fewer"
        )

    like, treedef = jax.tree.flatten((carry, record))
    leaves = [arrays.get(str(i), np.zeros(0)) for i in range(len(like))]
    num_carried = len(jax.tree.leaves(carry))
    carried = map(_put_back, leaves[:num_carried], like[:num_carried])
    recorded = [
        np.asarray(leaf).reshape(step // run["every"], *a.shape[1:]).astype(a.dtype)
        for leaf, a in zip(leaves[num_carried:], like[num_carried:], strict=True)
    ]
    return step, *jax.tree.unflatten(treedef, [*carried, *recorded])


def check_same(folder: Path | str, run: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse to go on with another run than the one that was saved.

    Raises:
      ValueError: where they differ, with the names of what does.
    """
    names = [name for name in run | saved if run.get(name) != saved.get(name)]
    if names:
        was = [f"{name} is {run.get(name, 'missing')} but was {saved.get(name, 'missing')}" for name in names]
        raise ValueError(f"folder is {folder}, which holds another run: {'; '.join(was)}")


def _read(manager: Any, checkpoint: Checkpoint, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    import orbax.checkpoint as ocp

    try:
        manifest = Path(checkpoint.folder) / str(step) / MANIFEST
        if manifest.exists() and json.loads(manifest.read_text()) != _digests(manifest.parent):
            raise ValueError("its files are not what was written")
        args = ocp.args.Composite(about=ocp.args.JsonRestore(), arrays=ocp.args.StandardRestore())
        saved = manager.restore(step, args=args)
        about, arrays = saved["about"], saved["arrays"]
        if about["digest"] != _digest([arrays[name] for name in sorted(arrays, key=int)], about["run"]):
            raise ValueError("what is in it has changed")
    except Exception as error:  # orbax raises many kinds
        before = [earlier for earlier in manager.all_steps() if earlier < step]
        instead = f"go on from step {max(before)}" if before else "start again"
        path = Path(checkpoint.folder) / str(step)
        raise ValueError(
            f"{path} is a broken checkpoint, delete it to {instead}: {str(error)[:200]}"
        ) from error
    return about, arrays


@contextmanager
def _manager(checkpoint: Checkpoint) -> Iterator[Any]:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT, cleanup_tmp_directories=True, enable_async_checkpointing=False
    )
    # orbax's, which warns of all that a kill left half written or half deleted
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with ocp.CheckpointManager(Path(checkpoint.folder).absolute(), options=options) as manager:
            yield manager
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
    return jax.device_put(
        np.asarray(leaf).reshape(like.shape).astype(like.dtype), like.sharding, may_alias=False
    )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: Iterable[Any], run: dict[str, Any] | None = None) -> str:
    hashed = hashlib.sha256(json.dumps(run, sort_keys=True).encode())
    for array in map(np.asarray, arrays):
        if array.size:
            hashed.update(f"{array.dtype}{array.shape}".encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()
