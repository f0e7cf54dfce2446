"""Devices that are described instead of had: XLA compiles for GPUs and TPUs on machines that have neither."""

import functools
import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from relaysim.checks import shown

GPUS = {
    "h100": """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
}
"""What XLA wants to know of a GPU (its `GpuTargetConfigProto`)."""


MEMORY = {"h100": 80 * 2**30} | {"v4": 32 * 2**30, "v5e": 16 * 2**30, "v5p": 95 * 2**30, "v6e": 32 * 2**30}
"""Bytes of one device, by its name or its generation."""


class NotInstalled(ModuleNotFoundError):
    """A compiler is missing."""


def described(name: str) -> list[Any]:
    """The devices of that name, to compile for; nothing can run on those that are not there.

    >>> described("cpu")[0].platform
    'cpu'

    Args:
      name: "cpu"; "h100", one GPU; or a TPU's generation and grid, such as "v5e:2x2" or "v5e:16x16".

    Raises:
      ValueError: where there is no such name.
      NotInstalled: where the compiler for it is not installed; it says how to get it.
    """
    if isinstance(name, str):
        if name == "cpu":
            return jax.devices("cpu")[:1]
        if name in GPUS:
            return _gpus(name)
        if re.fullmatch(r"v\d\w*:\d+(x\d+)+", name):
            return _tpus(name)
    raise ValueError(
        f"on is {shown(name)}, expected cpu, {', '.join(GPUS)} or a grid of TPUs such as v5e:2x2 or v5e:16x16"
    )


def memory_of(name: str) -> int | None:
    """Bytes of each of the devices of that name, where that is known.

    >>> memory_of("v5e:2x2")
    17179869184
    """
    return MEMORY.get(name.split(":")[0])


@functools.cache
def _gpus(name: str) -> list[Any]:
    try:
        import jax_plugins.xla_cuda12 as plugin
        from jax._src import xla_bridge
    except ImportError as error:
        raise NotInstalled(_missing(name, "cuda12")) from error
    describe = functools.partial(
        topologies.get_topology_desc, "", "cuda", target_config=GPUS[name], topology="1x1x1"
    )
    try:
        return describe().devices
    except Exception:  # the plugin registers itself only where there is a driver
        plugin._load_nvidia_libraries()
        library = Path(plugin.__file__).parent / "xla_cuda_plugin.so"
        xla_bridge.register_plugin("cuda", priority=1, library_path=str(library))
        return describe().devices


@functools.cache
def _tpus(name: str) -> list[Any]:
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise NotInstalled(_missing(name, "tpu")) from error
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # or libtpu looks for a machine that has TPUs
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nobody's chips are taken: no lock
    rows = name.split(":")[1].split("x")
    more = {"chips_per_host_bounds": [2, 2, 1]} if rows == ["2", "2"] else {}
    return topologies.get_topology_desc(name, "tpu", **more).devices


def _missing(name: str, extra: str) -> str:
    return f"to compile for {name}, install the extra {extra}: pip install 'relaysim[{extra}]'"
