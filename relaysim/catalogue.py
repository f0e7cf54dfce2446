"""What has a name: data sets, models, partitions, graphs, methods, optimizers and networks.

The command line and all studies take their choices from here. Each table is a plain dict: put an entry of
your own in, and it can be chosen by its name.

>>> import relaysim as rs
>>> mine = rs.catalogue.Method(rs.dpsgd, rs.gossip, "ring", "my method", "tab:pink")
>>> rs.catalogue.METHODS["my-method"] = mine
>>> del rs.catalogue.METHODS["my-method"]
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import optax

from relaysim import algorithms, compress, mixing, palette, timing, topology
from relaysim.checks import check_choice
from relaysim.models import CNN, MLP, VGG11, Transformer, resnet20
from relaysim.recipe import sgd
from relaysim.tasks import Dataset, datasets, partition, texts
from relaysim.types import Algorithm, Key

DATASETS: dict[str, Callable[[str | None], Dataset]] = {
    "digits": lambda folder: datasets.digits(),
    "fashion-mnist": datasets.fashion_mnist,
    "mnist": datasets.mnist,
    "cifar10": datasets.cifar10,
    "topics": lambda folder: datasets.topics(),
    "newsgroups": texts.newsgroups,
    "reuters": texts.reuters,
}
"""From the folder that holds the files, None for where the loader looks by itself."""

WITHOUT_FILES = ("digits", "topics")
TEXTS = ("topics", "newsgroups", "reuters")
HANDED = ("digits", "mnist")
"""Images that mirrored would be others."""


def _transformer(data: Dataset) -> nn.Module:
    vocabulary, length = int(np.max(data.train_x)) + 1, np.shape(data.train_x)[1]
    return Transformer(data.num_classes, vocabulary, length, width=32, heads=2, layers=1)


MODELS: dict[str, Callable[[Dataset], nn.Module]] = {
    "mlp": lambda data: MLP((64,), data.num_classes),
    "cnn": lambda data: CNN(data.num_classes),
    "small-cnn": lambda data: CNN(data.num_classes, channels=(8, 16)),
    "vgg11": lambda data: VGG11(data.num_classes),
    "resnet20": lambda data: resnet20(data.num_classes),
    "logistic": lambda data: MLP((), data.num_classes),
    "transformer": _transformer,
}
"""For a data set; the transformer for texts."""

PARTITIONS: dict[str, Callable[[Key, np.ndarray, int, float], list[np.ndarray]]] = {
    "dirichlet": partition.dirichlet,
    "dirichlet-unequal": partial(partition.dirichlet, equal=False),
    "iid": lambda key, labels, n, alpha: partition.iid(key, len(labels), n),
    "label-shards": lambda key, labels, n, alpha: partition.by_label_shards(key, labels, n),
}

TOPOLOGIES: dict[str, Callable[[int], Any]] = {
    "chain": topology.chain,
    "ring": topology.ring,
    "star": topology.star,
    "binary-tree": topology.binary_tree,
    "double-binary-trees": topology.double_binary_trees,
    "random-tree": partial(topology.random_tree, seed=0),
    "hypercube": topology.hypercube,
    "fully-connected": topology.fully_connected,
    "exponential": topology.exponential,
}


class Method(NamedTuple):
    """A method with what it usually goes with."""

    build: Callable[..., Algorithm]
    """(grad, mixer, optimizer) -> method"""
    mixer: Callable[..., Any]
    """(topology, or the number of workers where it takes none; drop=) -> mixer, or the number itself where
    the method communicates in a way of its own"""
    topology: str
    """Of TOPOLOGIES, by default; "" where it takes none."""
    label: str
    colour: str
    """In all figures."""
    momentum: bool = False
    """Whether it has a momentum of its own, which that of an optimizer would come on top of."""


_quasi_global = partial(algorithms.quasi_global_momentum, variant="nesterov")
_filled = partial(mixing.relay_sum, fill="last")
_peers = mixing.one_peer_exponential
_trees = "double-binary-trees"


def _by_itself(num_workers: int) -> int:
    return num_workers


METHODS: dict[str, Method] = {
    "relaysgd": Method(algorithms.relaysgd, _filled, _trees, "RelaySGD", "#0173b2"),
    "relaysgd-grad": Method(algorithms.relaysgd_grad, mixing.relay_sum, _trees, "RelaySGD/Grad", "#56b4e9"),
    "dpsgd": Method(algorithms.dpsgd, mixing.gossip, "ring", "D-PSGD", "#d55e00"),
    "d2": Method(algorithms.d2, mixing.gossip, "ring", "D²", "#029e73"),
    "exact-diffusion": Method(
        algorithms.d2, partial(mixing.gossip, lazy=True), "ring", "exact diffusion", "#7f7f00"
    ),
    "gradient-tracking": Method(
        algorithms.gradient_tracking, mixing.gossip, "ring", "gradient tracking", "#cc78bc"
    ),
    "quasi-global-momentum": Method(
        _quasi_global, mixing.gossip, "ring", "D-PSGD + quasi-global momentum", "#ca9161", momentum=True
    ),
    "sgp": Method(algorithms.push_sum, mixing.push, "exponential", "SGP, exponential graph", "#de8f05"),
    "sgp-one-peer": Method(algorithms.push_sum, _peers, "", "SGP, one peer", "#de8f05"),
    "sgp-two-peers": Method(algorithms.push_sum, partial(_peers, rounds=2), "", "SGP", "#de8f05"),
    "allreduce": Method(algorithms.allreduce, mixing.all_reduce, "", "all-reduce", "0.4"),
    "nids": Method(algorithms.nids, mixing.gossip, "ring", "NIDS", "#556b2f"),
    "extra": Method(algorithms.extra, mixing.gossip, "ring", "EXTRA", "#2e8b57"),
    "momentum-tracking": Method(
        partial(algorithms.momentum_tracking, beta=0.9),
        mixing.gossip,
        "ring",
        "momentum tracking",
        "#8b008b",
        momentum=True,
    ),
    "decentlam": Method(
        partial(algorithms.decentlam, beta=0.9), mixing.gossip, "ring", "DecentLaM", "#b8860b", momentum=True
    ),
    "choco": Method(
        partial(algorithms.choco_sgd, compressor=compress.top_k(0.1), gamma=0.2),
        mixing.gossip,
        "ring",
        "CHOCO-SGD, a tenth sent",
        "#fa8072",
    ),
    "btpp": Method(algorithms.btpp, _by_itself, "", "B-ary tree push-pull", "#483d8b"),
    "ceca": Method(algorithms.ceca, _by_itself, "", "DSGD-CECA", "#708090"),
}

ALSO = {
    "DSGD": "dpsgd",
    "gossip": "dpsgd",
    "DSGT": "gradient-tracking",
    "BTPP": "btpp",
}
"""What methods are also called in figures -> their names."""

palette.COLOURS.update({method.label: method.colour for method in METHODS.values()})
palette.COLOURS.update({label: METHODS[name].colour for label, name in ALSO.items()})

OPTIMIZERS: dict[str, Callable[[float | optax.Schedule, float, float], optax.GradientTransformation]] = {
    "sgd": lambda rate, momentum, decay: sgd(rate, momentum=momentum, weight_decay=decay),
    "adam": lambda rate, momentum, decay: optax.adamw(rate, b1=momentum or 0.9, weight_decay=decay),
    "rms": lambda rate, momentum, decay: optax.adamw(rate, b1=momentum, weight_decay=decay),
}
"""From the learning rate, the momentum and the weight decay."""

NETWORKS: dict[str, Callable[[int, Any], timing.Network]] = {
    "datacenter": lambda n, compute: timing.datacenter(compute),
    "lan": lambda n, compute: timing.lan(compute),
    "wan": lambda n, compute: timing.wan(compute),
    "home": lambda n, compute: timing.home(compute),
    "gcp": lambda n, compute: timing.regions("gcp", n, compute),
    "aws": lambda n, compute: timing.regions("aws", n, compute),
}
"""From the number of workers and the seconds a gradient."""


def choose(name: str, value: str, choices: dict[str, Any]) -> Any:
    """The entry of that name.

    >>> choose("method", "relaysgd", METHODS).label
    'RelaySGD'

    Raises:
      ValueError: where there is none; it lists those that there are.
    """
    return choices[check_choice(name, value, choices)]
