"""What can go wrong: messages that get lost, alone or in bursts; workers that are down, or come and go.

Every mixer that can lose messages takes, as its `drop`, a probability, a process of this module, or a list of
them: a message is then lost where any of them loses it.
"""

from relaysim.faults.churn import Churn
from relaysim.faults.losses import Absence, Drop, Loss, Outage, bursts, independent, loss_of, together
from relaysim.faults.pauses import Start, pause

__all__ = [
    "Absence",
    "Churn",
    "Drop",
    "Loss",
    "Outage",
    "Start",
    "bursts",
    "independent",
    "loss_of",
    "pause",
    "together",
]
