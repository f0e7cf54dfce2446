"""Runs that may be killed: what they have done so far, written to a folder every so often."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relaysim.checks import check_count
from relaysim.types import Key, Stacked

KEPT = 2


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
      ValueError: where `every` is below 1.
    """

    folder: Path | str
    every: int
    resume: bool = False

    def __post_init__(self) -> None:
        check_count("every", self.every)


def describe(
    key: Key, params: Stacked, num_steps: int, every: int, carry: Any, record: Any
) -> dict[str, Any]:
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
        "num_steps": int(num_steps),
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

    leaves = _host((carry, records))
    arrays = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}  # orbax takes no empty ones
    about = {"run": run, "digest": _digest(leaves, run)}
    with _manager(checkpoint) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(about=ocp.args.JsonSave(about), arrays=ocp.args.StandardSave(arrays)),
        )


def load(checkpoint: Checkpoint, run: dict[str, Any], carry: Any, record: Any) -> tuple[int, Any, Any] | None:
    """The last checkpoint: the steps taken, what they hand on, and the records; None where there is none.

    Args:
      run: from `describe`.
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
