"""Figure 10: RelaySGD against RelaySGD/Grad, which relays the updates instead of the models.

Each update reaches every worker with the same weight in both. But where updates are relayed, the models
stay as far apart as the updates under way differ, which they do, even at the optimum, where workers have
different data. Where models are relayed, they are pulled together.
"""

from typing import Any

import pandas as pd

from relaysim.papers.relaysum.heterogeneity import Contender, compare, picture

__all__ = ["picture", "run"]

CONTENDERS = [
    Contender(name, topology)
    for topology in ("chain", "tree")
    for name in ("RelaySum/Model", "RelaySum/Grad")
]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """The table of `heterogeneity.compare` for ζ² = 0, 0.1 and 10."""
    contenders = CONTENDERS[:2] if smoke else CONTENDERS
    sizes: dict[str, Any] = {"num_workers": 4, "seeds": 1, "num_steps": 20} if smoke else {}
    return compare(contenders, [0.0, 0.1] if smoke else [0.0, 0.1, 10.0], progress=progress, **sizes)
