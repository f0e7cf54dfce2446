"""Arguments that make no sense are refused at once, with a message that says what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import relaysim as rs
from relaysim import faults, topology

N = 4
sgd, key = optax.sgd(0.1), jax.random.key(0)
ring, chain = topology.ring(N), topology.chain(N)
two_pairs = topology.from_edges(N, [(0, 1), (2, 3)])
one_way = topology.from_edges(3, [(0, 1), (1, 2)], directed=True)
start, eye = jnp.ones((N, 3)), np.eye(N)
nan_at_2 = start.at[2, 1].set(jnp.nan)
drops = [-0.1, 1.5, float("nan")]
outage_of_4 = faults.Outage([1, 4], 0, 1)


def never(key, step, params):
    raise AssertionError("the gradient was called")


def method(grad=never):
    return rs.dpsgd(grad, rs.gossip(ring), sgd)


def simulate(params=start, *, algorithm=None, num_steps=4, **options):
    return rs.simulate(key, algorithm or method(), params, num_steps=num_steps, **options)


def case(name, message, function, *args, **options):
    return pytest.param(functools.partial(function, *args, **options), message, id=name)


MIXERS = [
    case("gossip: not connected", "not connected", rs.gossip, two_pairs),
    case("gossip: directed, not both ways", "not connected", rs.gossip, one_way),
    case("push: not connected", "not connected", rs.push, two_pairs),
    case("relay_sum: not connected", "2 components", rs.relay_sum, two_pairs),
    case("relay_sum: cycle", "4 edges, a tree on 4 workers has 3", rs.relay_sum, ring),
    case("relay_sum: directed", "directed", rs.relay_sum, one_way),
    case("relay_sum: one of two has a cycle", "4 edges", rs.relay_sum, [chain, ring]),
    case("relay_sum: different n", r"\[4, 5\] workers", rs.relay_sum, [chain, topology.chain(5)]),
    case("relay_sum: no tree", "one or more", rs.relay_sum, []),
    case(
        "relay_sum: fill",
        "'zero', expected one of 'initial', 'last', 'local', 'count'",
        rs.relay_sum,
        chain,
        fill="zero",
    ),
    case("gossip: rows", "sum to 1 in every row, got 2 in row 0", rs.gossip, ring, 2 * eye),
    case("gossip: columns", "sum to 1 in every column", rs.gossip, ring, eye[[0, 0, 2, 3]]),
    case("gossip: shape", r"shape \(4, 4\) .* got \(3, 3\)", rs.gossip, ring, np.eye(3)),
    case("gossip: not a matrix", r"shape \(n, n\)", rs.gossip, ring, np.ones(N)),
    case("gossip: off the graph", "no edge from 2 to 0", rs.gossip, ring, eye[[2, 1, 0, 3]]),
    case("gossip: not finite", "finite", rs.gossip, ring, eye * np.nan),
    case("gossip: different n", r"\[4, 5\] workers", rs.gossip, [ring, topology.ring(5)]),
    case("one_peer: no workers", "num_workers is 0", rs.one_peer_exponential, 0),
    case("one_peer: rounds", "rounds is 0", rs.one_peer_exponential, N, rounds=0),
    case("all_reduce: no workers", "num_workers is 0", rs.all_reduce, 0),
    case("all_reduce: a graph", "expected an integer", rs.all_reduce, ring),
    case("deal: nothing", "one or more", rs.deal, []),
    case("deal: different n", r"\[4, 5\] workers", rs.deal, [rs.all_reduce(4), rs.all_reduce(5)]),
    *(
        case(f"{mixer.__name__}: drop {drop}", r"drop is .*\[0, 1\]", mixer, argument, drop=drop)
        for mixer, argument in (
            (rs.relay_sum, chain),
            (rs.gossip, ring),
            (rs.push, ring),
            (rs.one_peer_exponential, N),
        )
        for drop in drops
    ),
]

FAULTS = [
    *(case(f"bursts: probability {p}", r"probability is .*\[0, 1\]", faults.bursts, p, 2.0) for p in drops),
    *(
        case(f"bursts: length {length}", r"length is .*at least 1", faults.bursts, 0.1, length)
        for length in (0.5, float("nan"), float("inf"))
    ),
    case("bursts: too many for their length", r"0.7 in bursts of 2, expected at most", faults.bursts, 0.7, 2),
    case("outage: no workers", "workers is empty", faults.Outage, [], 0, 1),
    case("outage: worker", "workers holds -1", faults.Outage, [1, -1], 0, 1),
    case("outage: first", "first is 0.5", faults.Outage, [1], 0.5, 1),
    case("outage: last", "last is 3, expected a step after first = 3", faults.Outage, [1], 3, 3),
    case("pause: worker", "of worker 4, but there are 4", lambda: faults.pause(method(), outage_of_4)),
    *(
        case(f"{mixer.__name__}: {name}", message, mixer, argument, drop=drop)
        for mixer, argument in ((rs.relay_sum, chain), (rs.one_peer_exponential, N))
        for name, message, drop in (
            ("outage of a worker too many", "of worker 4, but there are 4", outage_of_4),
            ("a name", r"drop is 'bursts', expected a probability in \[0, 1\] or", "bursts"),
            ("one of several", r"drop is 1.5, expected .*\[0, 1\]", [0.1, 1.5]),
        )
    ),
]

METHODS = [
    *(
        case(f"{build.__name__}: {name}", message, build, *args)
        for build in (
            rs.allreduce,
            rs.d2,
            rs.dpsgd,
            rs.gradient_tracking,
            rs.push_sum,
            rs.quasi_global_momentum,
            rs.relaysgd,
            rs.relaysgd_grad,
        )
        for name, message, args in (
            ("a graph, not a mixer", "mixer is Topology.* a way to communicate", (never, ring, sgd)),
            ("a number, not an optimizer", "optimizer is 0.1.*optax", (never, rs.all_reduce(N), 0.1)),
            ("a task, not its gradient", "grad is 'task'.*function", ("task", rs.all_reduce(N), sgd)),
        )
    ),
    *(
        case(
            f"beta {beta}",
            r"beta is .*\[0, 1\)",
            rs.quasi_global_momentum,
            never,
            rs.gossip(ring),
            sgd,
            beta=beta,
        )
        for beta in (-0.1, 1.0, float("nan"))
    ),
]

RUNS = [
    case("not a method", "algorithm is .*expected a method", simulate, algorithm=never),
    case("number of workers", r"params has shape \(5, 3\), expected \(4, ...\)", simulate, jnp.ones((5, 3))),
    case("one leaf's workers", r"params\['b'\] has shape \(\)", simulate, {"w": start, "b": jnp.ones(())}),
    case("no arrays", "params holds no arrays", simulate, {}),
    case("integers", "params holds int32, expected floating", simulate, jnp.ones((N, 3), jnp.int32)),
    case("not finite", "params is not finite at worker 2", simulate, nan_at_2),
    case("one leaf not finite", r"params\['b'\] .* worker 2", simulate, {"a": start, "b": nan_at_2}),
    case("no multiple", "num_steps is 10, expected a multiple of every = 4", simulate, num_steps=10, every=4),
    case("no steps", "num_steps is 0", simulate, num_steps=0),
    case("half a step", "num_steps is 2.5", simulate, num_steps=2.5),
    case("every 0", "every is 0", simulate, every=0),
    case("every negative", "every is -2", simulate, every=-2),
    case("checkpoint: every 0", "every is 0", rs.Checkpoint, "out", 0),
    case(
        "checkpoint: no multiple",
        "checkpoint.every is 3, expected a multiple of every = 2",
        simulate,
        every=2,
        checkpoint=rs.Checkpoint("out", 3),
    ),
    case(
        "a task for others",
        r"params has shape \(4, 3\).*\(5, 3\)",
        lambda: simulate(
            algorithm=method(rs.tasks.quadratics(np.tile(np.eye(3), (5, 1, 1)), np.ones((5, 3))).grad)
        ),
    ),
]

A, b = np.tile(np.eye(3), (N, 1, 1)), np.ones((N, 3))
random_quadratics = functools.partial(rs.tasks.random_quadratics, key)

TASKS = [
    case(
        "A does not fit b", r"A has shape \(4, 3, 3\) and b \(5, 3\)", rs.tasks.quadratics, A, np.ones((5, 3))
    ),
    case("b is a vector", r"expected \(n, m, d\) and \(n, m\)", rs.tasks.quadratics, A, np.ones(N)),
    case("A and b do not fit", r"expected \(n, m, d\) and \(n, m\)", rs.tasks.quadratics, A[:, :2], b),
    case("A not finite", "A holds", rs.tasks.quadratics, A + np.inf, b),
    case("b not finite", "b holds", rs.tasks.quadratics, A, b * np.nan),
    case("noise negative", "noise is -1", rs.tasks.quadratics, A, b, noise=-1.0),
    case("noise not finite", "noise holds", rs.tasks.quadratics, A, b, noise=float("nan")),
    case("random: no workers", "num_workers is 0", random_quadratics, 0, 3),
    case("random: no dimension", "dim is 0", random_quadratics, N, 0),
    case("random: half a dimension", "dim is 2.5", random_quadratics, N, 2.5),
    case("random: zeta2", "zeta2 is -1", random_quadratics, N, 3, zeta2=-1.0),
    case("random: mu 0", "mu is 0", random_quadratics, N, 3, mu=0.0),
    case("random: mu above 1", "mu is 1.5", random_quadratics, N, 3, mu=1.5),
    case("random: r0", "r0 is -1", random_quadratics, N, 3, r0=-1.0),
    case("random: noise", "noise is -1", random_quadratics, N, 3, noise=-1.0),
]


@pytest.mark.parametrize(("call", "message"), MIXERS + FAULTS + METHODS + RUNS + TASKS)
def test_refused_with_a_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sound_run_gets_as_far_as_the_gradient():
    with pytest.raises(AssertionError, match="the gradient was called"):
        simulate()
