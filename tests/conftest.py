import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # which can be several devices, and adds up in float32
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget():
    """What a file of tests has compiled, which the next one has no use for."""
    yield
    jax.clear_caches()
