"""What is being learned: problems with `grad`, `init` and `measure`, which know nothing of networks."""

from relaysim.tasks.quadratics import Quadratics, quadratics, random_quadratics

__all__ = ["Quadratics", "quadratics", "random_quadratics"]
