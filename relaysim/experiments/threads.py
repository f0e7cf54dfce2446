"""Work that goes on all cores: programs are compiled and run without Python's lock."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor


def side_by_side(function: Callable, items: Iterable) -> list:
    """function(item) for each, a thread for each core, in the order of the items."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))
