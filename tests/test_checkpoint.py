"""Runs that are killed and go on: bit for bit as if nothing had happened."""

import multiprocessing
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import faults, topology

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
    checkpoint = folder and rs.Checkpoint(folder, write_every, resume)
    options = {"num_steps": STEPS, "every": EVERY, "measure": task.measure, "algorithm": method} | options
    start = jnp.zeros((N, D)) if start is None else start
    return rs.simulate(jax.random.key(key), params=start, checkpoint=checkpoint, **options)


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
    assert_same(arrays(run(folder, resume=True, write_every=15, progress="again")), whole)
    assert "again: 100%" in capsys.readouterr().err
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
        ("another run: num_steps is 80 but was 60$", {"num_steps": 80}),
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
    with pytest.raises(ValueError, match=f"folder is {folder}, .*{message}"):
        rs.simulate(
            jax.random.key(options.pop("key", 3)),
            params=options.pop("start", jnp.zeros((N, D))),
            checkpoint=rs.Checkpoint(folder, 20, resume=True),
            **{"num_steps": STEPS, "every": EVERY, "measure": task.measure, "algorithm": method} | options,
        )
    assert names(folder) == {"40", "60"}


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


@pytest.mark.parametrize("damage", [cut_short, change])
@pytest.mark.parametrize("pattern", ["arrays/d/*", "about/metadata"])
def test_a_broken_checkpoint_is_refused_until_it_is_deleted(whole, folder, pattern, damage):
    (path,) = (folder / "60").glob(pattern)
    damage(path)
    with pytest.raises(ValueError, match="60 is a broken checkpoint, delete it to go on from step 40"):
        run(folder, resume=True)
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
