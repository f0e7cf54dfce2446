"""Work that goes on all cores: programs are compiled and run without Python's lock."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def side_by_side(function: Callable, items: Iterable) -> list:
    """function(item) for each, a thread for each core, in the order of the items and in the caller's
    precision."""
    in_double = jax.config.read("jax_enable_x64")

    def call(item: Any) -> Any:
        with jax.enable_x64(in_double):  # holds for a thread
            return function(item)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(call, items))
