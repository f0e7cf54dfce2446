"""The learning rates of the methods in the deep-learning tables, for each α."""

_ALPHAS = (1.0, 0.1, 0.01)


def _each(rates: dict[str, tuple[float, ...]]) -> dict[tuple[str, float], float]:
    """(method, α) -> rate; a method with one rate has that for the smallest α alone."""
    return {
        (name, alpha): rate
        for name, row in rates.items()
        for alpha, rate in zip(_ALPHAS[-len(row) :], row, strict=True)
    }


RATES = _each(
    {
        "all-reduce, fully connected": (2**-2, 2**-1, 2**-2),
        "all-reduce + momentum": (2**-3, 2**-5, 2**-2),
        "RelaySGD, double binary trees": (2**1, 2**0, 2**0),  # α = 0.1: 2 diverges with one seed in six
        "RelaySGD + local momentum, double binary trees": (2**-1, 2**-3, 2**-3),
        "RelaySGD, chain": (2**1, 2**1, 2**0),
        "RelaySGD + local momentum, chain": (2**-1, 2**-4, 2**-4),
        "RelaySGD/Grad, chain": (2**0, 2**-1, 2**-1),
        "RelaySGD/Grad + local momentum, chain": (2**-5, 2**-5, 2**-6),
        "D-PSGD, ring": (2**-1, 2**-2, 2**-3),
        "D-PSGD + quasi-global momentum, ring": (2**-2, 2**-5, 2**-6),
        "D2, ring": (2**-1, 2**-2, 2**-4),
        "D2 + local momentum, ring": (2**-3, 2**-4, 2**-6),
        "SGP, time-varying exponential": (2**-1, 2**-1, 2**-1),
        "SGP + local momentum, time-varying exponential": (2**-3, 2**-3, 2**-4),
        "D-PSGD, double binary trees": (2**-3,),
        "D-PSGD + quasi-global momentum, double binary trees": (2**-8,),
        "D2, double binary trees": (2**-2,),
        "D2 + local momentum, double binary trees": (2**-5,),
    }
)
"""For the small CNN on Fashion-MNIST, 16 workers, 3 epochs, by `deep.search`."""
RATES |= {
    ("D-PSGD Adam + quasi-global momentum, ring", 0.1): 2**-9,
    ("D-PSGD Adam, ring", 0.1): 2**-5,
    ("Relay-Adam, chain", 0.1): 2**-5,
    ("all-reduce Adam, fully connected", 0.1): 2**-9,
}
"""For the small transformer on texts, 12 epochs."""

PAPER_RATES = _each(
    {
        "all-reduce, fully connected": (0.1, 0.1, 0.1),
        "all-reduce + momentum": (0.1, 0.1, 0.1),
        "RelaySGD, double binary trees": (1.2, 0.6, 0.3),
        "RelaySGD + local momentum, double binary trees": (0.6, 0.3, 0.15),
        "RelaySGD, chain": (2.0, 2.0, 1.0),
        "RelaySGD + local momentum, chain": (0.5, 0.5, 0.125),
        "D-PSGD, ring": (0.4, 0.1, 0.2),
        "D-PSGD + quasi-global momentum, ring": (0.1, 0.025, 0.05),
        "D2, ring": (0.2, 0.2, 0.1),
        "D2 + local momentum, ring": (0.05, 0.05, 0.013),
        "SGP, time-varying exponential": (0.4, 0.2, 0.2),
        "SGP + local momentum, time-varying exponential": (0.1, 0.1, 0.025),
        "RelaySGD/Grad, chain": (0.1, 0.1, 0.1),
        "RelaySGD/Grad + local momentum, chain": (0.1, 0.1, 0.1),
    }
)
"""For VGG-11 on CIFAR-10, 16 workers, 200 epochs (Vogels et al. 2021); RelaySGD/Grad with all-reduce's."""
