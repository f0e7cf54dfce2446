"""What a run needs, and that it is refused where that is not there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import memory, topology

N, D = 16, 3
key = jax.random.key(0)
target = jnp.ones((N, D))


def grad(key, step, x):
    return jnp.sum((x - target) ** 2, 1), x - target


def relay_adam(mesh=None):
    mixer = rs.relay_sum(topology.chain(N), fill="local", mesh=mesh)
    return rs.relaysgd(grad, mixer, optax.adam(0.1))


def start():
    return jnp.zeros((N, D))


def test_parts_are_the_sizes_of_the_arrays():
    model, count = 4 * N * D, 4 * N
    parts = rs.estimate_memory(
        relay_adam(), start(), num_steps=6, every=2, measure=lambda x: {"first": x[0]}
    ).parts
    assert parts.pop("data") >= model
    assert parts.pop("temporaries") > 0
    assert parts == {
        "given": model,
        "state.params": model,
        "state.local.key": 8,
        "state.local.opt": 2 * model + count,
        "state.mix.origin": 4 * D,
        "state.mix.up": model + count,
        "state.mix.down": model + count,
        "state.mix.below": model + count,
        "records": 3 * (4 * N + 4 * D),
    }


def test_shapes_do_as_well_as_arrays():
    shape = jax.ShapeDtypeStruct((N, D), jnp.float32)
    assert rs.estimate_memory(relay_adam(), shape) == rs.estimate_memory(relay_adam(), start())


def test_over_devices_each_holds_its_part():
    mesh = rs.sharding.mesh()
    over = jax.NamedSharding(mesh, jax.P("workers"))
    shape = jax.ShapeDtypeStruct((N, D), jnp.float32, sharding=over)
    one, four = rs.estimate_memory(relay_adam(), start()), rs.estimate_memory(relay_adam(mesh), shape)
    for name in ("given", "state.params", "state.local.opt", "state.mix.up"):
        assert four.parts[name] == one.parts[name] / 4


def test_simulate_uses_the_program_that_was_compiled(caplog):
    algorithm, params = relay_adam(), start()
    with jax.log_compiles():
        rs.estimate_memory(algorithm, params, num_steps=2)
        assert caplog.text.count("Finished XLA compilation of jit(run)") == 2  # the start and the steps
        rs.simulate(key, algorithm, params, num_steps=2)
    assert caplog.text.count("Finished XLA compilation of jit(run)") == 2


def test_a_memory_prints_as_a_table():
    assert str(rs.Memory({"state.params": 1_500_000, "records": 20})) == (
        "state.params      1.5 MB\nrecords             20 B\ntotal             1.5 MB"
    )


def needed(algorithm):
    """Bytes of the state and of one record, less the models that it starts from."""
    parts = rs.estimate_memory(algorithm, start()).parts
    state = sum(size for name, size in parts.items() if name.startswith("state"))
    step, broken = 4, 4 * N
    return state + step + broken + parts["records"] - parts["given"]


def test_a_run_that_cannot_fit_is_refused_before_it_compiles(monkeypatch, caplog):
    algorithm, params = relay_adam(), start()
    limit = needed(algorithm)
    monkeypatch.setattr(memory, "room", lambda devices: limit)
    rs.simulate(key, algorithm, params, num_steps=1)  # just fits
    limit -= 1
    with jax.log_compiles(), pytest.raises(MemoryError, match=r"at least 1.37 kB more .* there are 1.37 kB"):
        rs.simulate(key, relay_adam(), params, num_steps=1)
    assert "jit(run)" not in caplog.text


def test_records_count_too(monkeypatch):
    algorithm = relay_adam()
    limit = needed(algorithm)
    monkeypatch.setattr(memory, "room", lambda devices: limit)
    with pytest.raises(MemoryError, match=r"needs at least 65\.3 kB"):
        rs.simulate(key, algorithm, start(), num_steps=1000)


def test_processes_and_devices_share_what_there_is(monkeypatch):
    """Half of the devices are this process's, and hold half of the arrays."""

    class Leaf:
        shape, dtype = (100,), np.dtype(np.uint8)

        def devices(self):
            here, there = jax.devices()[0], type("Device", (), {"process_index": 1})()
            return {here, there}

    outputs = jax.ShapeDtypeStruct((300,), np.uint8)
    monkeypatch.setattr(memory, "room", lambda devices: 100 if devices == jax.devices()[:1] else 0)
    memory.check_room(outputs, Leaf())
    with pytest.raises(MemoryError):
        memory.check_room([outputs, jax.ShapeDtypeStruct((2,), np.uint8)], Leaf())


class Gpu:
    platform = "gpu"

    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_room_on_gpus_is_their_limit():
    assert memory.room([Gpu({"bytes_limit": 5}), Gpu({"bytes_limit": 7})]) == 12
    assert memory.room([Gpu(None)]) == np.inf


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "700", "memory.max": "900"}, 700),
        ("0::/a/b\n", {"a/b/memory.max": "max"}, 5 * 1024),
        ("0::/outside/container\n", {"memory.max": "800"}, 800),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "600"}, 600),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, 5 * 1024),
    ],
)
def test_room_on_cpus_is_what_is_left_and_allowed(tmp_path, monkeypatch, membership, files, expected):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    files["proc/self/cgroup"] = membership
    files["proc/meminfo"] = "MemTotal: 9 kB\nMemAvailable:    4 kB\nSwapFree: 1 kB\nHugePages_Total: 0\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.room(jax.devices()) == expected


def test_where_no_system_tells_there_is_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.room(jax.devices()) == np.inf
