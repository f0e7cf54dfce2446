"""Runs that are killed and go on: bit for bit as if nothing had happened."""

import errno
import gc
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import relaysim as rs
from relaysim import checkpoint, faults, topology
from relaysim.checkpoint import Interrupted

HERE = Path(__file__).parent
N, D, STEPS, EVERY = 4, 3, 60, 5
numbers = np.random.default_rng(0)
task = rs.tasks.quadratics(numbers.normal(size=(N, D, D)), numbers.normal(size=(N, D)), noise=0.1)
down = faults.Outage([3], 12, 33)


def build(optimizer=None):
    """A method whose state holds a key, counts, flags of bad links, Adam's moments and relayed sums."""
    mixer = rs.relay_sum(topology.chain(N), drop=[faults.bursts(0.1, 4.0), down], fill="local")
    return faults.pause(rs.relaysgd(task.grad, mixer, optimizer or optax.adam(0.05)), down)


method = build()


def run(folder=None, *, resume=False, write_every=20, key=3, start=None, **options):
    written = folder and rs.Checkpoint(folder, write_every, resume)
    options = {"num_steps": STEPS, "every": EVERY, "measure": task.measure, "algorithm": method} | options
    start = jnp.zeros((N, D)) if start is None else start
    return rs.simulate(jax.random.key(key), params=start, checkpoint=written, **options)


def arrays(trace):
    """All that a trace holds, by name."""

    def raw(leaf):
        is_key = jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return {jax.tree_util.keystr(path): raw(leaf) for path, leaf in jax.tree.leaves_with_path(trace)}


def assert_same(trace, other):
    x, y = ({name: (v.dtype, v.shape, v.tobytes()) for name, v in t.items()} for t in (trace, other))
    assert x == y


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole():
    return arrays(run())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the checkpoints of a run to its end."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_writing_checkpoints_changes_nothing_and_keeps_two(whole, tmp_path):
    assert_same(arrays(run(tmp_path / "run")), whole)
    assert names(tmp_path / "run") == {"40", "60"}


def test_goes_on_from_the_last_checkpoint(whole, folder):
    shutil.rmtree(folder / "60")
    assert_same(arrays(run(folder, resume=True)), whole)
    assert names(folder) == {"40", "60"}


def test_what_is_finished_is_read_again(whole, folder):
    assert_same(arrays(run(folder, resume=True)), whole)


def test_resume_in_an_empty_folder_starts_at_the_beginning(whole, tmp_path):
    assert_same(arrays(run(tmp_path / "run", resume=True, write_every=60)), whole)


def test_what_was_being_written_counts_for_nothing(whole, folder):
    (folder / "60").rename(folder / "60.orbax-checkpoint-tmp")
    assert_same(arrays(run(folder, resume=True)), whole)
    assert {"40", "60"} <= names(folder)


def test_another_interval_goes_on_as_well(whole, folder, capsys):
    shutil.rmtree(folder / "60")
    assert_same(arrays(run(folder, resume=True, write_every=15, progress="loss")), whole)
    assert "100%" in capsys.readouterr().err
    assert names(folder) == {"45", "60"}


def test_a_state_with_empty_arrays_in_float64(tmp_path, x64):
    """A worker alone has no links, so that no flags of them are kept."""
    mixer = rs.gossip(topology.ring(1), drop=faults.bursts(0.1, 4.0))
    alone = rs.dpsgd(lambda key, step, x: (jnp.sum(x, 1), x), mixer, optax.sgd(0.1))
    options = {"algorithm": alone, "start": np.ones((1, D)), "measure": None}
    expected = arrays(run(**options))
    assert_same(arrays(run(tmp_path, **options)), expected)
    shutil.rmtree(tmp_path / "60")
    assert_same(arrays(run(tmp_path, resume=True, **options)), expected)


def test_a_sharded_run_comes_back_to_its_devices(tmp_path):
    mesh = jax.make_mesh((4,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    start = jax.device_put(jnp.ones((N, D)), jax.sharding.NamedSharding(mesh, jax.P("workers")))
    plain = rs.dpsgd(task.grad, rs.gossip(topology.ring(N)), optax.sgd(0.1))
    expected = run(tmp_path, algorithm=plain, start=start)
    shutil.rmtree(tmp_path / "60")
    resumed = run(tmp_path, algorithm=plain, start=start, resume=True)
    assert_same(arrays(resumed), arrays(expected))
    assert resumed.params.sharding == expected.params.sharding
    assert len(resumed.params.sharding.device_set) == 4


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"another run: key is \[0, 4\] but was \[0, 3\]$", {"key": 4}),
        ("num_steps is 40, but .* holds step 60 already: expected no fewer", {"num_steps": 40}),
        ("another run: every is 10 but was 5$", {"every": 10}),
        ("another run: params is .* but was", {"start": jnp.ones((N, D))}),
        (r"record\['suboptimality'\] is missing but was float32\[\]", {"measure": None}),
        (
            r"state.*trace is float32\[4, 3\] but was missing",
            {"algorithm": build(optax.sgd(0.1, momentum=0.9))},
        ),
    ],
)
def test_another_run_does_not_go_on(folder, message, options):
    with pytest.raises(ValueError, match=message):
        rs.simulate(
            jax.random.key(options.pop("key", 3)),
            params=options.pop("start", jnp.zeros((N, D))),
            checkpoint=rs.Checkpoint(folder, 20, resume=True),
            **{"num_steps": STEPS, "every": EVERY, "measure": task.measure, "algorithm": method} | options,
        )
    assert names(folder) == {"40", "60"}


def test_more_steps_are_simply_more_to_do(folder):
    longer = {"num_steps": 2 * STEPS}
    assert_same(arrays(run(folder, resume=True, **longer)), arrays(run(**longer)))


def test_a_run_that_goes_on_from_a_trace_can_be_written_down_too(whole, tmp_path):
    half = run(num_steps=STEPS - 20)
    rest = run(tmp_path, state=half.state, num_steps=20)
    np.testing.assert_array_equal(rest.params, run().params)
    again = run(tmp_path, state=half.state, num_steps=20, resume=True)
    assert again.steps.tolist() == rest.steps.tolist() and again.num_steps == STEPS
    with pytest.raises(ValueError, match=r"another run: .*; first is 0 but was 40; start is missing"):
        run(tmp_path, num_steps=20, resume=True)
    moments = jax.tree.map(lambda x: x + 1 if x.dtype == jnp.float32 else x, half.state.method.local)
    other = half.state.method._replace(local=moments)
    with pytest.raises(ValueError, match=r"another run: start is .* but was [0-9a-f]*$"):
        run(tmp_path, state=half.state._replace(method=other), num_steps=20, resume=True)


def test_a_folder_that_is_in_use_is_refused(folder):
    with pytest.raises(ValueError, match=f"folder is {folder}, .* step 60 already: .* resume=True"):
        run(folder)
    assert names(folder) == {"40", "60"}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut_short, change, Path.unlink])
@pytest.mark.parametrize("pattern", ["arrays/checkpoint/0", "arrays/_METADATA", "about.json"])
def test_a_broken_checkpoint_is_refused_until_it_is_deleted(whole, folder, pattern, damage, capfd):
    damage(folder / "60" / pattern)
    with pytest.raises(ValueError, match="60 is a broken checkpoint, delete it to go on from step 40"):
        run(folder, resume=True)
    assert not capfd.readouterr().err
    shutil.rmtree(folder / "60")
    assert_same(arrays(run(folder, resume=True)), whole)


@pytest.mark.parametrize("transform", [jax.jit, lambda f: lambda x: jax.vmap(f)(x[None])])
def test_refused_under_jit_and_vmap(tmp_path, transform):
    with pytest.raises(ValueError, match="checkpoint is given under vmap or jit"):
        transform(lambda start: run(tmp_path, start=start).params)(jnp.zeros((N, D)))
    with pytest.raises(ValueError, match="checkpoint is given under vmap or jit"):
        transform(lambda rate: run(tmp_path, algorithm=build(optax.sgd(rate))).params)(jnp.float32(0.1))
    assert not any(tmp_path.glob("*/*"))


# Killed for real

LONG = {"num_steps": 400, "every": 10}
lossy = rs.dpsgd(task.grad, rs.gossip(topology.ring(N), drop=faults.bursts(0.1, 4.0)), optax.sgd(0.1))


def run_to_the_end(folder):
    """What is killed: goes on from where the last one got, and leaves its arrays in a file at the end."""
    trace = run(folder / "run", resume=True, algorithm=lossy, **LONG)
    np.savez(folder / "end.npz", **arrays(trace))


def last_step(folder):
    return max((int(path.name) for path in folder.glob("*") if path.name.isdecimal()), default=0)


def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path, capfd):
    spawn, moments, folder = multiprocessing.get_context("spawn"), random.Random(0), tmp_path / "run"
    reached, cut_off = [0], []
    for kill in range(2):
        process = spawn.Process(target=run_to_the_end, args=(tmp_path,))
        process.start()
        while process.is_alive() and last_step(folder) < reached[-1] + 40:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        while kill == 1 and process.is_alive() and not any(folder.glob("*tmp*")):
            time.sleep(0.001)  # this time just while it writes
        process.kill()
        process.join()
        reached.append(last_step(folder))
        cut_off += folder.glob("*tmp*")
    assert 0 < reached[1] < reached[2] < LONG["num_steps"]
    assert cut_off

    process = spawn.Process(target=run_to_the_end, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert not capfd.readouterr().err
    with np.load(tmp_path / "end.npz") as end:
        assert_same(dict(end), arrays(run(algorithm=lossy, **LONG)))


def process_of(folder, **options):
    """A run of its own that goes on from where the last one got, its standard error to read."""
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        if "limit" in options
        else ""
    )
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({options['limit']},) * 2)\n" if limit else ""
    code = f"{limit}import pathlib, test_checkpoint as t\nt.run_to_the_end(pathlib.Path({str(folder)!r}))"
    return subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stderr=subprocess.PIPE, text=True)


def test_a_run_that_is_asked_to_stop_is_written_down(tmp_path):
    """In one line at the end, also while another run tries to use the folder."""
    stopped = process_of(tmp_path)
    while last_step(tmp_path / "run") < 40 and stopped.poll() is None:
        time.sleep(0.001)
    with pytest.raises(ValueError, match=r"run, which another run is using: expected one of its own"):
        run(tmp_path / "run", resume=True, algorithm=lossy, **LONG)
    stopped.send_signal(signal.SIGTERM)
    told = stopped.communicate()[1].splitlines()
    assert stopped.returncode != 0 and not (tmp_path / "end.npz").exists()
    step = last_step(tmp_path / "run")
    assert 40 <= step < LONG["num_steps"] and step % 10 == 0
    line = f"stopped after step {step} of 400, which is written to {tmp_path / 'run'}: go on with resume=True"
    assert told[-1] == f"relaysim.checkpoint.Interrupted: {line}"
    run_to_the_end(tmp_path)
    with np.load(tmp_path / "end.npz") as end:
        assert_same(dict(end), arrays(run(algorithm=lossy, **LONG)))


def test_without_checkpoints_an_interruption_is_an_ordinary_one():
    def interrupt(step, record):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(callback=interrupt)
    assert type(caught.value) is KeyboardInterrupt


def test_signals_are_handled_as_before_when_a_run_is_over(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped after step 5 of 60") as caught:
        run(tmp_path, callback=lambda step, record: signal.raise_signal(signal.SIGTERM))
    assert caught.value.signal == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert names(tmp_path) == {"5"}


def test_a_signal_at_the_very_end_is_not_lost(tmp_path):
    def interrupt(step, record):
        if step == STEPS:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped after step 60 of 60, which is written"):
        run(tmp_path, callback=interrupt)
    assert names(tmp_path) == {"40", "60"}
    with pytest.raises(KeyboardInterrupt), checkpoint.held(rs.Checkpoint(tmp_path, 20)):
        signal.raise_signal(signal.SIGINT)


def test_ignored_signals_stay_ignored(whole, tmp_path):
    """As those of the keyboard are in a job in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = run(tmp_path, callback=lambda step, record: signal.raise_signal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same(arrays(ended), whole)


def test_a_full_disk_is_said_so_in_one_line(folder, monkeypatch):
    longer = {"num_steps": 2 * STEPS}
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=rf"step 80 cannot be written to {folder}: .* 1000; that of step 60 is there"
    ):
        run(folder, resume=True, **longer)
    monkeypatch.undo()
    assert names(folder) == {"40", "60"}
    assert_same(arrays(run(folder, resume=True, **longer)), arrays(run(**longer)))


@pytest.mark.parametrize("limit", [100, 600])
def test_what_orbax_cannot_write_is_one_line_too(folder, limit, monkeypatch, capfd):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(checkpoint, "_check_space", lambda folder, size: None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"step 80 .* File too large; that of step 60 is there"):
            run(folder, resume=True, num_steps=2 * STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    gc.collect()
    assert not capfd.readouterr().err
    assert names(folder) == {"40", "60"}


def test_a_disk_that_fills_up_while_writing_is_said_so(folder, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"written to .*: No space left on device; that of step 60 is there"):
        run(folder, resume=True, num_steps=2 * STEPS)
    assert names(folder) == {"40", "60"}


def test_a_folder_that_is_read_only_is_said_so_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=f"{tmp_path} cannot be used for checkpoints: it is not writable"):
        run(tmp_path)


@pytest.mark.slow
def test_a_limit_on_files_is_said_so_in_one_line(tmp_path):
    process = process_of(tmp_path, limit=200)
    told = process.communicate()[1].strip().splitlines()
    assert process.returncode == 1
    assert "cannot be written to" in told[-1] and "there is none yet" in told[-1]
    assert "Event loop is closed" not in "".join(told)


def test_a_folder_that_cannot_be_one_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        with pytest.raises(OSError, match="cannot be used for checkpoints: "):
            run(place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 10), "folder is 5, expected a path"),
        ((None, 10), "folder is None"),
        (("out", "10"), "every is '10'"),
        (("out", True), "every is True"),
        (("out", 10, "no"), "resume is 'no', expected True or False"),
    ],
)
def test_bad_checkpoints(arguments, message):
    with pytest.raises(ValueError, match=message):
        rs.Checkpoint(*arguments)


# Tables, which are whole or not there as well


def test_a_table_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    table = pd.DataFrame({"step": [1]})
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for place, reason in (
        (tmp_path / "file" / "t.csv", "(Not a directory|File exists)"),
        (tmp_path / f"{'long' * 100}.csv", "File name too long"),
        (tmp_path / "folder.csv", "Is a directory"),
    ):
        with pytest.raises(OSError, match=f"^{place} cannot be written: {reason}$"):
            rs.io.save_table(table, place)

    def full(self, path, index):
        Path(path).write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rs.io.save_table(table, tmp_path / "t.csv")
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match=f"^{tmp_path / 't.csv'} cannot be written: No space left on device$"):
        rs.io.save_table(table, tmp_path / "t.csv")
    assert names(tmp_path) == {"file", "folder.csv", "t.csv"}
    assert (tmp_path / "t.csv").read_text() == "step\n1\n"
