"""RelaySGD (Vogels et al. 2021) without barriers: a worker relays whenever it is done, with what has arrived
by then."""

from typing import Any

import jax
import optax
from optax import tree

from relaysim.asynchronous.graphs import check_tree
from relaysim.asynchronous.one_way import Step, one_way
from relaysim.asynchronous.types import GradAt, Method
from relaysim.topology import Topology
from relaysim.types import Array, Stacked


def relaysgd(grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation) -> Method:
    """The models are relayed. A worker keeps the last message m[j→i] of each neighbour, and when it is done

        y_i = x_i + u_i,    m[i→j] = y_i + Σ_{k ∈ N(i)∖j} m[k→i],    x_i ← (y_i + Σ_j m[j→i]) / n,

    everything relative to the common initial model x⁰, with messages that are 0 before the first comes.

    A message holds one version of the model of each worker behind it, and takes the place of the one before
    it on its edge. So in every average each worker counts exactly once, with the last of its models that got
    through, however fast or slow anybody is. (Adding messages up as they come would count fast workers
    several times; taking what came since the last step would leave slow ones out.) Where it rests all x_i are
    the same and Σ u_i = 0: for plain SGD that is the minimum of Σ f_i, exactly, whatever the workers' speeds
    and with a constant γ.

    What it costs: a store of one model for each neighbour; a message to each neighbour after each step, as
    with barriers; and of a step that is over before the neighbours read about it only 1 / n of the update
    stays, so that a fast worker gains little from its speed. The models advance by γ ∇f / A a second, A being
    the mean age, in seconds, of the models in an average: a slow worker in the middle of the tree holds up
    what passes through it, but nobody else.

    >>> import jax, optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5, zeta2=1.0)
    >>> method = rs.asynchronous.relaysgd(task.grad_at, rs.topology.chain(8), optax.sgd(0.3))
    >>> network = rs.timing.Network(compute=0.1 * rs.timing.stragglers(0.25, 4.0))
    >>> models = task.init(jax.random.key(1))
    >>> trace = rs.asynchronous.simulate(
    ...     jax.random.key(2), method, network, models, seconds=100, measure=task.measure
    ... )
    >>> bool(trace.metrics["suboptimality"][-1] < 1e-9)
    True

    Args:
      grad: (key, workers, steps, params) -> (losses, gradients), such as `task.grad_at`.
      topology: a tree.
      optimizer: makes u from g, for each worker apart.

    Raises:
      ValueError: where the graph is no tree, or an argument is none of these.
    """
    topology = check_tree(topology)
    n = topology.num_workers

    def step(workers: Array, x: Stacked, u: Stacked, heard: Stacked, _: Any) -> tuple[Stacked, Stacked]:
        total = jax.tree.map(lambda *terms: sum(terms), x, u, heard)
        return tree.scale(1 / n, total), total

    return one_way(
        grad, optimizer, topology, Step(_from_start, tree.add, step, _relative), latest=True, relays=True
    )


def relaysgd_grad(grad: GradAt, topology: Topology, optimizer: optax.GradientTransformation) -> Method:
    """The updates are relayed. A worker adds to its model all that has come since its last step, and passes
    it on, together with its own update:

        m[i→j] = u_i + Σ_{k ∈ N(i)∖j} Σ m_since[k→i],    x_i ← x_i + (u_i + Σ_j Σ m_since[j→i]) / n.

    Every update reaches every worker exactly once, and none is lost or held back. So the models are x⁰ + 1/n
    times the sum of all updates but those under way: asynchronous SGD without a server. Fast workers take
    more steps, and their data count more: it goes to the minimum of Σ r_i f_i, r_i being a worker's steps a
    second, up to a distance of O(γ). It needs no store of messages, but one that is lost is lost for good.

    >>> import optax, relaysim as rs
    >>> task = rs.tasks.random_quadratics(jax.random.key(0), 8, 5)
    >>> method = rs.asynchronous.relaysgd_grad(task.grad_at, rs.topology.chain(8), optax.sgd(0.1))

    The arguments are those of `relaysgd`.
    """
    topology = check_tree(topology)
    n = topology.num_workers

    def step(workers: Array, x: Stacked, u: Stacked, heard: Stacked, _: Any) -> tuple[Stacked, Stacked]:
        news = tree.add(u, heard)
        return tree.add(x, tree.scale(1 / n, news)), news

    return one_way(
        grad, optimizer, topology, Step(_from_start, tree.add, step, _relative), latest=False, relays=True
    )


def _from_start(params: Stacked) -> tuple[Stacked, Stacked, Stacked]:
    """Models relative to the common initial one, no messages, and that."""
    origin = jax.tree.map(lambda v: v.mean(0, keepdims=True), params)
    return tree.sub(params, origin), tree.zeros_like(params), origin


def _relative(_: Stacked, models: Stacked, origin: Stacked) -> Stacked:
    return tree.sub(models, origin)
