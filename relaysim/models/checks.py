from collections.abc import Sequence
from typing import Any

import numpy as np


def check_positive(**numbers: int | Sequence[int]) -> None:
    """Raise a ValueError unless each is an integer of at least 1, or a sequence of such."""
    for name, value in numbers.items():
        entries: Any = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(entry, int | np.integer) and entry >= 1 for entry in entries):
            raise ValueError(f"{name} is {value!r}, expected integers of at least 1")
