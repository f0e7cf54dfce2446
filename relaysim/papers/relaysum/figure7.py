"""Figure 7: the effect of heterogeneity, without and with gradient noise.

On a ring, D-PSGD and its rivals; on a chain, RelaySGD. Heterogeneity costs RelaySGD next to nothing, D²
little, gradient tracking more, and D-PSGD ever more without bound: its bias shrinks only with its steps.
"""

from typing import Any

import pandas as pd

from relaysim.papers.relaysum.heterogeneity import Contender, compare, picture

__all__ = ["picture", "run"]

CONTENDERS = [
    Contender("Gossip", "ring"),
    Contender("Gradient tracking", "ring"),
    Contender("D2", "ring"),
    Contender("RelaySum/Model", "chain"),
]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """The table of `heterogeneity.compare` for ζ² = 0, 0.1 and 10."""
    contenders = CONTENDERS[::3] if smoke else CONTENDERS
    sizes: dict[str, Any] = {"num_workers": 4, "seeds": 1, "num_steps": 20} if smoke else {}
    zeta2s = [0.0, 0.1] if smoke else [0.0, 0.1, 10.0]
    return compare(contenders, zeta2s, noises=[0.0, 0.1], progress=progress, **sizes)
