"""Bars that tell the truth: they move when steps are done, not when these were sent to a device."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm.auto import tqdm

OFTEN = 0.1
"""Seconds between two moves of a bar, about."""


class Bar:
    """A bar of steps, for use with `with`. What it shows beside, and how fast, never changes a run."""

    def __init__(self, total: int, done: int, metric: str | None) -> None:
        self.metric, self.size, self.started, self.told = metric, 1, False, False
        self.bar = tqdm(total=total, initial=done, unit="step", smoothing=0.1, postfix="compiling")

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()

    def pieces(self, steps: int) -> Iterator[int]:
        """So many steps in pieces that take about as long as a bar may stand still. Whoever iterates has a
        piece done, and waited for, before he asks for the next."""
        while steps:
            piece, begun = min(self.size, steps), time.perf_counter()
            yield piece
            if not self.started:  # from here on, lest the speed tell of the compiler
                self.started = True
                self.bar.set_postfix_str("", refresh=False)
                self.bar.unpause()
            elif (took := time.perf_counter() - begun) < OFTEN / 2 and piece == self.size:
                self.size *= 2
            elif took > 2 * OFTEN:
                self.size = max(self.size // 2, 1)
            self.bar.update(piece)
            steps -= piece

    def tell(self, record: dict[str, Any]) -> None:
        """What was measured in a record (1, ...), the mean over the workers."""
        if not self.told:  # what looks has been compiled as well
            self.told = True
            self.bar.unpause()
        if self.metric:
            self.bar.set_postfix_str(f"{self.metric} {np.mean(record[self.metric]):.4g}")
