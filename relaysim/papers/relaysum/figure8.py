"""Figure 8: the effect of heterogeneity on a star, where one worker is everybody's only neighbour.

RelaySGD averages over a star in two steps. Metropolis weights on a star mix as slowly as 1/n, which D² pays
for at any heterogeneity, and D-PSGD and gradient tracking as soon as there is some.
"""

from typing import Any

import pandas as pd

from relaysim.papers.relaysum.heterogeneity import Contender, compare, picture

__all__ = ["picture", "run"]

CONTENDERS = [Contender(name, "star") for name in ("Gossip", "Gradient tracking", "D2", "RelaySum/Model")]


def run(smoke: bool = False, progress: bool = True) -> pd.DataFrame:
    """The table of `heterogeneity.compare` for ζ² = 0, 0.01 and 0.1."""
    contenders = CONTENDERS[::3] if smoke else CONTENDERS
    sizes: dict[str, Any] = {"num_workers": 4, "seeds": 1, "num_steps": 20} if smoke else {}
    return compare(contenders, [0.0, 0.1] if smoke else [0.0, 0.01, 0.1], progress=progress, **sizes)
