"""What is being learned: problems with `grad`, `init` and `measure`, which know nothing of networks."""

from relaysim.tasks import augment, datasets, losses, partition, skew, texts
from relaysim.tasks.classification import classification
from relaysim.tasks.convex import least_squares, logistic_regression, with_optimum
from relaysim.tasks.datasets import Dataset
from relaysim.tasks.model import Model, from_linen, from_nnx, with_statistics
from relaysim.tasks.quadratics import Quadratics, quadratics, random_quadratics
from relaysim.tasks.supervised import Supervised, supervised

__all__ = [
    "Dataset",
    "Model",
    "Quadratics",
    "Supervised",
    "augment",
    "classification",
    "datasets",
    "from_linen",
    "from_nnx",
    "least_squares",
    "logistic_regression",
    "losses",
    "partition",
    "quadratics",
    "random_quadratics",
    "skew",
    "supervised",
    "texts",
    "with_optimum",
    "with_statistics",
]
