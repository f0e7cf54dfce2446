"""The table of all methods, in the README and in docs/methods.md: the same, and as much as is sent."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import topology
from relaysim.types import sent

ROOT = Path(__file__).parent.parent
N, SIZE = 16, 10**6
ring, tree, top = rs.gossip(topology.ring(N)), topology.binary_tree(N), rs.compress.top_k(0.1)
compressed = {"compressor": top, "gamma": 0.2}
OPTIONS = {
    "prox_skip": {"probability": 0.5},
    "choco_sgd": compressed,
    "beer": compressed,
    "motef": compressed | {"momentum": 0.1},
    "moniqua": {"theta": 1.0},
    "k_gt": {"local_steps": 4},
    "led": {"local_steps": 4},
    "diloco": {"local_steps": 4},
    "noloco": {"local_steps": 4},
    "decoupled_momentum": {"compressor": top},
    "teleportation": {"num_workers": N},
}
OVER = {
    "push_sum": rs.push(topology.ring(N)),
    "relaysgd": rs.relay_sum(tree),
    "relaysgd_grad": rs.relay_sum(tree),
    "btpp": N,
    "ceca": N,
    "allreduce": rs.all_reduce(N),
    "noloco": rs.random_matching(N),
    "teleportation": rs.gossip(topology.ring(4)),
    "dpsgd` over `rs.epidemic": rs.epidemic(N),
}
"""What a method goes over, where it is not the ring."""


def rows(page):
    """The cells of each method's row."""
    lines = (ROOT / page).read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `rs.")]


TABLE = {re.fullmatch(r"`rs\.(.*)`", row[0])[1]: row for row in rows("docs/methods.md")}


def test_readme_has_the_same_table():
    assert rows("README.md") == list(TABLE.values())


def test_all_methods_are_there():
    assert set(TABLE) == {*rs.algorithms.__all__, "dpsgd` over `rs.epidemic"}


@pytest.mark.parametrize("name", TABLE)
def test_megabytes_are_what_is_sent(name):
    build = getattr(rs, name.split("`")[0])
    method = build(
        lambda key, t, x: (x[:, 0], x), OVER.get(name, ring), optax.sgd(0.1), **OPTIONS.get(name, {})
    )
    vectors = sent(method.messages(jax.ShapeDtypeStruct((N, SIZE), jnp.float32)), N)[0]
    told = float(TABLE[name][3])
    assert told == pytest.approx(4 * np.mean(vectors) * SIZE / 1e6, abs=0.05)
