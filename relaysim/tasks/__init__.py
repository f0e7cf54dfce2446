"""What is being learned: problems with `grad`, `init` and `measure`, which know nothing of networks."""

from relaysim.tasks import augment, datasets, partition
from relaysim.tasks.classification import Classification, classification
from relaysim.tasks.datasets import Dataset
from relaysim.tasks.quadratics import Quadratics, quadratics, random_quadratics

__all__ = [
    "Classification",
    "Dataset",
    "Quadratics",
    "augment",
    "classification",
    "datasets",
    "partition",
    "quadratics",
    "random_quadratics",
]
