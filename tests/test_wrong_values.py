"""One table of (function, argument, wrong values): each gets one clear error that names the argument."""

from decimal import Decimal
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from matplotlib.figure import Figure

import relaysim as rs
from relaysim import faults, plot, recipe, timing, topology

N = 4
sgd, key = optax.sgd(0.1), jax.random.key(0)
ring, chain = topology.ring(N), topology.chain(N)
data = rs.tasks.datasets.digits()
shares = rs.tasks.partition.iid(key, len(data.train_y), N)


def never(key, step, params):
    raise AssertionError("the gradient was called")


method = rs.dpsgd(never, rs.gossip(ring), sgd)
gossip = partial(rs.quasi_global_momentum, never, rs.gossip(ring), sgd)
top = rs.compress.top_k(2)
of_gossip = {"grad": never, "mixer": rs.gossip(ring), "optimizer": sgd}
choco = partial(rs.choco_sgd, **of_gossip)
quadratics = partial(rs.tasks.random_quadratics, num_workers=N, dim=3)
simulate = partial(rs.simulate, key, method, np.ones((N, 3), np.float32), num_steps=2)
simulate_with = partial(rs.simulate, key, params=np.ones((N, 3), np.float32), num_steps=2)
tuned = partial(
    rs.tuning.fastest,
    lambda task, rate: rs.dpsgd(task.grad, rs.gossip(ring), optax.sgd(rate)),
    rs.tuning.stack([quadratics(key=key)]),
)
supervised = partial(rs.tasks.supervised, dataset=data, shares=shares, loss=rs.tasks.losses.cross_entropy)
classification = partial(rs.tasks.classification, rs.models.MLP((), 10), data, shares)

NO_NUMBERS = ["1", None, float("nan"), 1j, True, Fraction(1, 2), Decimal("0.5"), np.ones(2), [1]]
NO_COUNTS = ["2", None, 2.0, True, np.float32(2), -1, 0, [2]]
NO_WORKERS = [*NO_COUNTS, 2**33]
NO_NAMES = ["other", None, 3, np.array(["a", "b"]), ["a"]]
NO_KEYS = [0, None, "0", np.uint32([0, 1]), jax.random.PRNGKey(0), jax.random.split(key, 2)]
NO_FLAGS = ["no", "False", None, 0, 1, [True]]
NO_LISTS = ["12", None, 2, [0], [1.5], [True], ["a"], {1: 2}, np.ones(2), [[1]]]
NO_GRAPHS = ["ring", None, 5, np.eye(N), np.zeros((N, 3)), {0: 1}]

trace = rs.Trace(np.array([1, 2]), {"loss": np.ones((2, N))}, np.ones((N, 3)), None, rs.Divergence(-1, -1), 2)
runs, swept = (
    {"a": trace},
    pd.DataFrame({"rate": [0.1], "step": 1, "metric": "loss", "worker": 0, "value": 1.0}),
)
one_way = topology.from_edges(N, [(0, 1), (1, 2), (2, 3), (3, 0)], directed=True)
tilted = np.eye(N) / 2 + np.roll(np.eye(N), 1, 1) / 2


def waitless(method=None, network=None, seconds=1.0, **options):
    method = rs.asynchronous.ad_psgd(never, ring, sgd) if method is None else method
    network = timing.Network(compute=1.0) if network is None else network
    return rs.asynchronous.lay_out(key, method, network, np.ones((N, 3)), seconds=seconds, **options)


everybody = faults.Churn(N, [(i, 0, np.inf) for i in range(N)])
dadao = rs.asynchronous.dadao(never, N, mu=1.0, L=1.0, chi1=1.0)

TABLE = [
    ("drop", rs.gossip, {"topology": ring}, NO_NUMBERS[:-1]),
    ("drop", rs.relay_sum, {"trees": chain}, ["0.1", None, 1j, True, Fraction(1, 2), -1, 2, np.ones(2)]),
    ("drop", rs.one_peer_exponential, {"num_workers": N}, ["0.1", None, True, Decimal(0)]),
    ("lazy", rs.gossip, {"topology": ring}, NO_FLAGS),
    ("topology", rs.gossip, {}, NO_GRAPHS),
    ("topology", rs.push, {}, NO_GRAPHS),
    ("trees", rs.relay_sum, {}, NO_GRAPHS),
    (
        "matrices",
        rs.time_varying,
        {},
        [
            *(
                None,
                [],
                "base",
                3,
                ring,
                [np.ones((N, 2))],
                [np.eye(N), np.eye(3)],
                [np.eye(N)],
                [np.ones((N, N))],
            ),
            *([ring, "chain"], [np.full((N, N), np.nan)], [topology.exponential(N), np.tri(N)]),
        ],
    ),
    ("push", rs.time_varying, {"matrices": [ring]}, NO_FLAGS),
    ("drop", rs.time_varying, {"matrices": [ring]}, NO_NUMBERS[:-1]),
    ("topology", rs.robust.median, {}, [*NO_GRAPHS, topology.exponential(5)]),
    ("attackers", rs.robust.clipped_gossip, {"topology": ring}, NO_COUNTS),
    ("radius", rs.robust.clipped_gossip, {"topology": ring}, [*NO_NUMBERS[:1], *NO_NUMBERS[2:], -1.0]),
    ("attackers", rs.robust.trimmed_mean, {"topology": ring}, ["1", None, -1, 1]),
    ("attackers", rs.robust.krum, {"topology": ring}, ["1", None, -1, 1]),
    ("drop", rs.robust.median, {"topology": ring}, ["0.1", None, -1, 2]),
    ("mesh", rs.robust.median, {"topology": ring}, [4, "workers"]),
    ("iterations", rs.robust.geometric_median, {"topology": ring}, NO_COUNTS),
    ("smoothing", rs.robust.geometric_median, {"topology": ring}, [*NO_NUMBERS, 0.0]),
    ("mask", partial(rs.attack.sign_flip, method), {}, ["all", None, [1, 0, 0, 0], [True], [True] * N]),
    ("method", rs.attack.alie, {"mask": [True] + [False] * 3}, [None, never, ring]),
    ("scale", partial(rs.attack.noise, method, [True] + [False] * 3), {}, [*NO_NUMBERS, -1.0]),
    ("weights", partial(rs.attack.dissensus, method, [True] + [False] * 3), {}, [np.eye(3), "W", None]),
    ("rates", partial(rs.theory.resistance, ring), {}, ["1", -1.0, np.ones(3), [np.nan] * 4]),
    ("pairs", partial(rs.theory.effective_resistance, ring), {}, [[0, 1], [(0, 4)], [(0.5, 1)], "01"]),
    ("weights", rs.theory.mixing, {}, ["W", np.ones((2, 3)), np.ones((2, 2)), np.roll(np.eye(3), 1, 0)]),
    ("decay", partial(rs.theory.effective_neighbours, ring), {}, [*NO_NUMBERS, -0.1, 1.0]),
    ("method", rs.theory.rate, {}, [None, ring, never]),
    ("params", rs.theory.rate, {"method": method}, [None]),
    ("num_workers", topology.hyper_hypercube, {"degree": 2}, [*NO_COUNTS, 5]),
    *(
        (
            name,
            build,
            {"num_workers": N, "degree": 2} | ({"seed": 0} if build is topology.equistatic else {}),
            NO_COUNTS,
        )
        for build in (topology.base, topology.simple_base, topology.equistatic)
        for name in ("num_workers", "degree")
    ),
    ("eta", topology.equidynamic, {"num_workers": N}, [*NO_NUMBERS, 0.0, 1.1]),
    ("num_phases", topology.equidynamic, {"num_workers": N}, NO_COUNTS),
    ("starts", topology.equidynamic_phases, {"num_workers": N, "shifts": [1, 2]}, [[1], [[1, 2]]]),
    ("peers", topology.ceca, {"num_workers": N}, [*NO_COUNTS[:7], 3]),
    ("num_workers", topology.ceca, {"peers": 1}, [*NO_WORKERS, 5]),
    ("fill", rs.relay_sum, {"trees": chain}, ["zero", None, 0]),
    ("mixers", rs.deal, {}, [None, "mixers", [ring], rs.gossip(ring), np.eye(N)]),
    ("mixer", rs.keep_local, {}, [ring, None, "gossip", np.eye(N)]),
    ("num_workers", rs.all_reduce, {}, NO_WORKERS),
    ("schedule", rs.all_reduce, {"num_workers": N}, NO_NAMES),
    ("num_workers", rs.one_peer_exponential, {}, NO_WORKERS),
    ("rounds", rs.one_peer_exponential, {"num_workers": N}, NO_COUNTS),
    ("probability", faults.independent, {}, [*NO_NUMBERS, -0.1, 1.1]),
    ("probability", faults.bursts, {"length": 2}, [*NO_NUMBERS, -0.1, 1.1]),
    ("length", faults.bursts, {"probability": 0.1}, [*NO_NUMBERS[:4], 0.5, np.inf]),
    (
        "workers",
        faults.Outage,
        {"first": 0, "last": 1},
        [3, None, "34", [], [True], [-1], [2**31], [0.5], np.array([0.5]), np.eye(2)],
    ),
    ("first", faults.Outage, {"workers": [1], "last": 9}, ["0", None, True, -1, 2**31, 0.5]),
    ("last", faults.Outage, {"workers": [1], "first": 1}, ["2", None, True, 1, 2**31, 2.5]),
    ("outages", partial(faults.pause, method), {}, [[], None, 3, "all", [3], np.eye(N), [np.eye(N)]]),
    ("method", faults.pause, {"outages": faults.Outage([1], 0, 1)}, [None, never, 3, np.eye(N)]),
    ("start", partial(faults.pause, method, faults.Outage([1], 0, 1)), {}, NO_NAMES),
    ("topology", partial(faults.pause, method, faults.Outage([1], 0, 1), start="mean"), {}, NO_GRAPHS),
    (
        "sessions",
        partial(faults.Churn, N),
        {},
        [
            *(None, 3, "all", [], {0: (0, 1)}, [(0, 1)], [(N, 0, 1)], [(0.5, 0, 1)], [("a", 0, 1)]),
            *([(0, 1, 1)], [(0, -1, 1)], [(0, np.nan, 1)], [(0, 0, 2), (0, 1, 3)]),
        ],
    ),
    ("num_workers", faults.Churn, {"sessions": [(0, 0, 1)]}, NO_WORKERS),
    ("key", partial(faults.Churn.random, num_workers=N, until=9, present=1, absent=1), {}, NO_KEYS),
    ("until", partial(faults.Churn.random, key, N), {"present": 1, "absent": 1}, [0, -1, np.inf, "9"]),
    ("present", partial(faults.Churn.random, key, N, 9), {"absent": 1}, [0, -1, np.inf, "9"]),
    ("share", partial(faults.Churn.diurnal, key, N, 9), {"period": 3}, [0, 1, -0.1, "0.5"]),
    ("churn", rs.relay_sum, {"trees": chain}, [3, "random", faults.Outage([1], 0, 1)]),
    ("churn", rs.relay_sum, {"trees": chain}, [faults.Churn(N + 1, [(0, 0, 1)])]),
    ("starts", partial(rs.relay_sum, [chain, chain]), {}, [0, [0], [1, 2], [0, 0], [0, 1.5], "01"]),
    ("mesh", partial(rs.relay_sum, chain, starts=[0]), {}, ["mesh"]),
    ("beta", gossip, {}, [*NO_NUMBERS, -0.1, 1.0]),
    ("variant", gossip, {}, NO_NAMES),
    ("beta", partial(rs.decentlam, **of_gossip), {}, [*NO_NUMBERS, -0.1, 1.0]),
    ("beta", partial(rs.gt_hsgd, **of_gossip), {}, [*NO_NUMBERS, -0.1, 1.1]),
    ("beta", partial(rs.momentum_tracking, **of_gossip), {}, [*NO_NUMBERS, -0.1, 1.0]),
    ("exact_start", partial(rs.momentum_tracking, **of_gossip), {}, NO_FLAGS),
    ("beta", partial(rs.led, local_steps=2, **of_gossip), {}, ["1", 0.0, -1, np.inf, True]),
    ("local_steps", partial(rs.led, **of_gossip), {}, NO_COUNTS),
    ("local_steps", partial(rs.k_gt, **of_gossip), {}, NO_COUNTS),
    ("server_rate", partial(rs.k_gt, local_steps=2, **of_gossip), {}, [*NO_NUMBERS, 0.0, -1, np.inf]),
    ("local_steps", partial(rs.diloco, **of_gossip), {}, ["2", 2.0, True, 0]),
    ("outer_rate", partial(rs.diloco, local_steps=2, **of_gossip), {}, [*NO_NUMBERS, 0.0]),
    ("outer_momentum", partial(rs.noloco, local_steps=2, **of_gossip), {}, [*NO_NUMBERS, 1.0]),
    ("gamma", partial(rs.noloco, local_steps=2, **of_gossip), {}, ["1", 0.0, -1, True]),
    ("probability", partial(rs.prox_skip, **of_gossip), {}, [*NO_NUMBERS, 0.0, 1.1]),
    ("relaxation", partial(rs.prox_skip, probability=0.5, **of_gossip), {}, [*NO_NUMBERS, 0.0, 1.1]),
    ("draw", partial(rs.prox_skip, probability=0.5, **of_gossip), {}, [3, "coins", [True]]),
    ("variant", partial(rs.gta, **of_gossip), {}, [*NO_COUNTS, 4]),
    ("mixings", partial(rs.gta, **of_gossip), {}, NO_COUNTS),
    ("local_steps", partial(rs.gta, **of_gossip), {}, NO_COUNTS),
    ("share", partial(rs.extra, **of_gossip), {}, [*NO_NUMBERS, 0.0, -1]),
    ("mixer", partial(rs.exact_diffusion, grad=never, optimizer=sgd), {}, [ring, None, "gossip"]),
    ("inner_steps", partial(rs.destress, **of_gossip), {}, NO_COUNTS),
    ("outer_mixings", partial(rs.destress, **of_gossip), {}, NO_COUNTS),
    ("contraction", partial(rs.destress, **of_gossip), {}, ["1", 0.0, 1.0, True]),
    ("theta", partial(rs.moniqua, **of_gossip), {}, [*NO_NUMBERS, 0.0, -1, np.inf]),
    ("gamma", partial(rs.moniqua, theta=1.0, **of_gossip), {}, [*NO_NUMBERS, 0.0, 1.1]),
    ("num_workers", partial(rs.btpp, grad=never, optimizer=sgd), {}, NO_COUNTS),
    ("branching", partial(rs.btpp, never, 4, sgd), {}, NO_COUNTS),
    ("num_workers", partial(rs.ceca, grad=never, optimizer=sgd), {}, NO_WORKERS),
    ("num_workers", partial(rs.ceca, grad=never, optimizer=sgd, peers=1), {}, [3, 5]),
    ("peers", partial(rs.ceca, never, 4, sgd), {}, [*NO_COUNTS, 3]),
    ("num_workers", partial(rs.teleportation, **of_gossip), {}, [*NO_WORKERS, 3]),
    ("gamma", partial(choco, compressor=top), {}, [*NO_NUMBERS, 0.0, 1.1]),
    ("order", partial(choco, compressor=top, gamma=0.5), {}, NO_NAMES),
    ("compressor", partial(choco, gamma=0.5), {}, ["top", None, 2, np.eye(N), rs.compress.top_k]),
    ("compressor", partial(rs.beer, gamma=0.5, **of_gossip), {}, ["top", None, 2]),
    ("momentum", partial(rs.motef, compressor=top, gamma=0.5, **of_gossip), {}, [*NO_NUMBERS, 0.0, 1.1]),
    ("k", rs.compress.top_k, {}, ["2", None, True, 0, -1, 0.0, 1.5, [2]]),
    ("k", rs.compress.random_k, {}, ["2", None, True, 0, -1, 0.0, 1.5, [2]]),
    ("each", rs.compress.top_k, {"k": 2}, NO_NAMES),
    ("bits", rs.compress.quantize, {}, [*NO_COUNTS, 1, 32]),
    ("draw", rs.compress.quantize, {"bits": 4}, [3, "uniform"]),
    ("rank", rs.compress.low_rank, {}, NO_COUNTS),
    ("each", rs.compress.sign, {}, NO_NAMES),
    ("chunk", rs.compress.in_cosines, {"compressor": top}, NO_COUNTS),
    ("mixer", partial(rs.compress.error_feedback, compressor=top), {}, [ring, None, "gossip"]),
    ("of", partial(rs.compress.error_feedback, rs.gossip(ring), top), {}, NO_NAMES),
    ("trees", partial(rs.compress.relay_sum, compressor=top), {}, NO_GRAPHS),
    ("of", partial(rs.compress.relay_sum, chain, top), {}, NO_NAMES),
    ("num_workers", rs.random_matching, {}, NO_WORKERS),
    ("peers", rs.epidemic, {"num_workers": N}, NO_COUNTS),
    ("oracle", rs.epidemic, {"num_workers": N}, NO_FLAGS),
    ("optimizer", partial(rs.dpsgd, never, rs.gossip(ring)), {}, [0.1, None, "sgd", never, np.eye(N)]),
    ("mixer", partial(rs.dpsgd, never, optimizer=sgd), {}, [ring, None, "gossip", N, np.eye(N)]),
    ("grad", partial(rs.dpsgd, mixer=rs.gossip(ring), optimizer=sgd), {}, [None, 3, "grad", np.eye(N)]),
    ("steps", partial(rs.local_steps, never, sgd), {}, NO_COUNTS),
    ("grad", partial(rs.gt_hsgd, mixer=rs.gossip(ring), optimizer=sgd), {}, [rs.local_steps(never, sgd, 2)]),
    ("grad", partial(rs.destress, mixer=rs.gossip(ring), optimizer=sgd), {}, [rs.local_steps(never, sgd, 2)]),
    (
        "grad",
        lambda grad: simulate_with(algorithm=rs.dpsgd(grad, rs.gossip(ring), sgd)),
        {},
        [
            lambda key, step, x: x,
            lambda key, step, x: (x, x),
            lambda key, step, x: (x[:, 0], x[:, :2]),
            lambda key, step, x: x.sum(),
        ],
    ),
    ("key", quadratics, {}, NO_KEYS),
    ("zeta2", quadratics, {"key": key}, [*NO_NUMBERS, -1.0, np.inf]),
    ("mu", quadratics, {"key": key}, [*NO_NUMBERS[:6], 0.0, 1.5]),
    ("r0", quadratics, {"key": key}, [*NO_NUMBERS, -1.0]),
    ("noise", quadratics, {"key": key}, [*NO_NUMBERS, -1.0]),
    ("num_workers", partial(rs.tasks.random_quadratics, key, dim=3), {}, NO_WORKERS),
    ("key", partial(rs.simulate, algorithm=method, params=np.ones((N, 3)), num_steps=2), {}, NO_KEYS),
    (
        "algorithm",
        partial(rs.simulate, key, params=np.ones((N, 3)), num_steps=2),
        {},
        [None, never, "dpsgd", ring],
    ),
    ("num_steps", partial(rs.simulate, key, method, np.ones((N, 3))), {}, [*NO_COUNTS, 2**31, 10**400]),
    ("every", simulate, {}, ["1", None, True, 0, -1, [2, 1], [0.5, 2], [], "often"]),
    ("measure", simulate, {}, [3, "accuracy", {}]),
    ("until", simulate, {}, [3, "never"]),
    ("callback", simulate, {}, [3, "print"]),
    ("progress", simulate, {}, [3, None, [True]]),
    ("checkpoint", simulate, {}, ["out", 3, True]),
    ("state", simulate, {}, [3, "last", np.ones((N, 3))]),
    (
        "rate",
        partial(rs.sweep, never),
        {},
        ["fast", ["a", "b"], [], [None], 0.1, None, {1}, [[1], [1, 2]], Fraction(1, 2), 10**400, object()],
    ),
    ("run", partial(rs.sweep, rate=[0.1]), {}, [None, 3, "run", [never]]),
    ("together", partial(rs.sweep, never, rate=[0.1]), {}, NO_COUNTS),
    ("progress", partial(rs.sweep, never, rate=[0.1]), {}, NO_FLAGS),
    ("table", partial(rs.best, metric="loss", over="rate"), {}, [None, 3, "table", [1], {"metric": 1}]),
    ("metric", partial(rs.best, swept, over="rate"), {}, [None, 3, "accuracy", ["loss"], np.ones(2)]),
    ("over", partial(rs.best, swept, "loss"), {}, [None, 3, "worker", [], [["rate"]], np.ones(2)]),
    ("within", partial(rs.best, swept, "loss", over="rate"), {}, [None, 3, "task", [None]]),
    ("highest", partial(rs.best, swept, "loss", over="rate"), {}, NO_FLAGS),
    ("table", partial(rs.io.save_table, path="t.csv"), {}, [None, 3, "table", [1]]),
    ("path", partial(rs.io.save_table, swept), {}, [None, 3, b"t.csv", "t", "t.xls"]),
    ("trace", rs.io.tidy, {}, [None, 3, "trace", swept]),
    ("traces", rs.io.unstack, {}, [None, 3, [trace], trace]),
    ("devices", rs.sharding.mesh, {}, [3, "cpu", [], [None], [[1], [1, 2]], jax.devices()[0]]),
    ("axis", rs.sharding.mesh, {}, [None, 3, ["workers"]]),
    ("mesh", partial(rs.sharding.place, np.ones((4, 2))), {}, [None, 4, "workers"]),
    ("on", lambda on: rs.sharding.described(on), {}, [None, 3, "h1", ["cpu"], {}]),
    ("stacked", partial(rs.sharding.place, mesh=rs.sharding.mesh()), {}, [3.0, {"w": 1.0}]),
    ("num_classes", rs.models.CNN, {}, NO_COUNTS),
    ("channels", partial(rs.models.CNN, 10), {}, NO_LISTS),
    ("kernel_size", partial(rs.models.CNN, 10), {}, NO_COUNTS),
    ("hidden", partial(rs.models.MLP, num_classes=10), {}, NO_LISTS),
    ("num_classes", partial(rs.models.MLP, (8,)), {}, NO_COUNTS),
    ("num_classes", rs.models.VGG11, {}, NO_COUNTS),
    ("hidden", partial(rs.models.VGG11, 10), {}, NO_LISTS),
    ("blocks", partial(rs.models.ResNet, 10, channels=(8,), wide_stem=False), {}, [*NO_LISTS, (), (1, 1)]),
    ("channels", partial(rs.models.ResNet, 10, (1,), wide_stem=False), {}, [*NO_LISTS, (), (48,)]),
    ("wide_stem", partial(rs.models.ResNet, 10, (1,), (8,)), {}, NO_FLAGS),
    ("num_classes", rs.models.resnet20, {}, NO_COUNTS),
    *(
        (name, rs.models.CausalTransformer, {"vocabulary": 9, "max_length": 8}, NO_COUNTS)
        for name in ("vocabulary", "max_length", "width", "heads", "layers")
    ),
    ("width", partial(rs.models.Transformer, 2, 9, 8, heads=4), {}, [10]),
    ("module", rs.tasks.from_linen, {}, [None, 3, "mlp", rs.models.MLP]),
    (
        "traces",
        partial(plot.curves, metric="loss"),
        {},
        [None, 3, {}, trace, {"a": None}, {"a": []}, {"a": [3]}],
    ),
    ("metric", partial(plot.curves, runs), {}, [None, 3, "accuracy", ["loss"], np.ones(2)]),
    ("x", partial(plot.curves, runs, "loss"), {}, [None, 3, "seconds", ["step"], np.ones(2)]),
    ("steps_per_epoch", partial(plot.curves, runs, "loss", x="epoch"), {}, NO_COUNTS),
    ("band", partial(plot.curves, runs, "loss"), {}, ["some", None, 3, np.array(["range", "none"])]),
    ("log", partial(plot.curves, runs, "loss"), {}, ["no", 0, [True]]),
    ("log_x", partial(plot.curves, runs, "loss"), {}, NO_FLAGS),
    ("ax", partial(plot.curves, runs, "loss"), {}, [3, "ax", [None]]),
    ("groups", partial(plot.panels, metric="loss"), {}, [None, {}, runs, {"a": {"b": 3}}, 3]),
    ("columns", partial(plot.panels, {"a": runs}, "loss"), {}, NO_COUNTS),
    ("curves", partial(plot.comparison, metric="loss"), {}, [None, 3, runs, swept]),
    (
        "counts",
        plot.partition,
        {},
        [None, "1", [1, 2], [], [[-1, 1]], [[0, 0]], [[np.nan]], [["a"]], [[1], [1, 2]]],
    ),
    ("values", plot.class_accuracy, {}, [None, "1", [1.0], [], [[2.0]], [["a"]], [[1j]]]),
    ("graph", plot.topology, {}, [*NO_GRAPHS[:3], NO_GRAPHS[-1], [], [ring, topology.ring(5)]]),
    ("values", partial(plot.topology, ring), {}, [3, "1", [1, 2], ["a"] * N, [1j] * N]),
    ("norm", partial(plot.topology, ring, np.ones(N)), {}, [3, "log"]),
    ("graphs", partial(plot.animation, values={"a": np.ones((2, N))}), {}, [None, {}, ring, {"a": "ring"}]),
    (
        "values",
        partial(plot.animation, {"a": ring}),
        {},
        [None, {}, {"b": np.ones((2, N))}, {"a": np.ones(N)}],
    ),
    ("steps", partial(plot.animation, {"a": ring}, {"a": np.ones((2, N))}), {}, [3, "1", [1], ["a", "b"]]),
    ("figure", partial(plot.save, path="f.png"), {}, [None, 3, "figure", swept]),
    ("path", partial(plot.save, Figure()), {}, [None, 3, b"f.png", "f", "f.docx"]),
    ("key", partial(rs.tasks.partition.iid, num_samples=9, num_workers=3), {}, NO_KEYS),
    (
        "key",
        partial(rs.tasks.partition.dirichlet, labels=data.train_y, num_workers=N, alpha=1.0),
        {},
        NO_KEYS,
    ),
    (
        "labels",
        partial(rs.tasks.partition.dirichlet, key, num_workers=2, alpha=1.0),
        {},
        [None, "ab", [], [0.5]],
    ),
    (
        "num_workers",
        partial(rs.tasks.partition.dirichlet, key, data.train_y, alpha=1.0),
        {},
        [*NO_COUNTS, 10**6],
    ),
    ("alpha", partial(rs.tasks.partition.dirichlet, key, data.train_y, N), {}, [*NO_NUMBERS, 0, -1, np.inf]),
    ("equal", partial(rs.tasks.partition.dirichlet, key, data.train_y, N, 1.0), {}, NO_FLAGS),
    (
        "shares",
        partial(rs.tasks.partition.check_shares, num_samples=9),
        {},
        [None, 3, "01", [], [[0.5]], {0: [1]}],
    ),
    ("warmup", partial(recipe.schedule, 0.1, 10, 10), {}, [1e9]),
    ("target", tuned, {"start": 1.0}, [0.0, -1.0, np.inf, np.nan, [1.0, 2.0]]),
    ("start", tuned, {"target": 1.0}, [0.0, -1.0, np.inf, np.nan, [1.0, 2.0]]),
    ("batch_size", classification, {}, NO_COUNTS),
    ("test_batch", classification, {}, NO_COUNTS),
    ("group", classification, {}, [c for c in NO_COUNTS if c is not None]),
    ("compute", timing.Network, {}, ["1", None, -1, np.nan, np.inf, True, [1, -1], np.ones((2, 2, 2))]),
    ("latency", timing.Network, {}, ["1", None, -1, np.ones(2), np.ones((2, 3)), -np.ones((2, 2))]),
    ("upload", timing.Network, {}, ["1", None, 0, -1, np.nan, True, [1, 0], np.ones((2, 2))]),
    ("download", timing.Network, {}, ["1", None, 0, -1, np.nan, True, [1, 0], np.ones((2, 2))]),
    ("timeout", timing.Network, {"drop": 0.1}, ["1", None, -1, np.inf]),
    ("drop", timing.Network, {"timeout": 1.0}, ["0.1", None, -1, 2]),
    ("mean", timing.lognormal, {"sigma": 1}, [*NO_NUMBERS, -1]),
    ("sigma", timing.lognormal, {"mean": 1}, [*NO_NUMBERS, -1]),
    ("shift", timing.shifted_exponential, {"mean": 1}, [*NO_NUMBERS, -1]),
    ("share", timing.stragglers, {"factor": 2}, [*NO_NUMBERS, -0.1, 1.1]),
    ("factor", timing.stragglers, {"share": 0.5}, [*NO_NUMBERS, -1]),
    ("value", timing.constant, {}, ["1", None, -1, np.inf, -np.ones(2), np.ones((2, 2))]),
    ("distribution", timing.of_worker, {}, [1.0, None, "lognormal"]),
    ("cloud", timing.regions, {"places": 3}, NO_NAMES),
    (
        "places",
        timing.regions,
        {"cloud": "gcp"},
        ["us-east1", None, 0, 2.0, ["moon"], [3], [np.ones(2)]],
    ),
    ("network", simulate, {}, [3, "wan", timing.wan]),
    ("compute", lambda compute: simulate(network=timing.Network(compute)), {}, [np.ones(3), np.ones((2, 3))]),
    ("latency", lambda latency: simulate(network=timing.Network(1, latency)), {}, [np.ones((3, 3))]),
    (
        "method",
        partial(timing.seconds, key, timing.wan(), params=np.ones((N, 3)), num_steps=1),
        {},
        [never, 3],
    ),
    (
        "classes_per_worker",
        partial(rs.tasks.partition.by_classes, key, data.train_y, N),
        {},
        [*NO_COUNTS, 11],
    ),
    ("key", partial(rs.tasks.skew.noise, dataset=data, shares=shares, variance=1.0), {}, NO_KEYS),
    ("key", classification().init, {}, NO_KEYS),
    (
        "dataset",
        partial(rs.tasks.classification, rs.models.MLP((), 10), shares=shares),
        {},
        [None, data[:4], 3],
    ),
    ("dataset", partial(rs.tasks.logistic_regression, shares=shares), {}, [None, data[:4], data.train_x]),
    ("dataset", partial(rs.tasks.least_squares, shares=shares), {}, [None, data[:4]]),
    ("dataset", partial(rs.tasks.skew.noise, key, shares=shares, variance=1.0), {}, [None, data[:4]]),
    ("shares", partial(rs.tasks.classification, rs.models.MLP((), 10), data), {}, [None, 3, "iid", never]),
    ("metrics", partial(supervised, rs.models.MLP((), 10)), {}, [[never], never, "accuracy"]),
    (
        "workers",
        partial(quadratics(key=key).measure, np.ones((N, 3))),
        {},
        [np.eye(N, dtype=int), 0, ["a"], [0.5], [True]],
    ),
    ("optimizer", partial(rs.per_worker, learning_rate=[0.1] * N), {}, [sgd, rs.per_worker(sgd), None, 0.1]),
    ("num_workers", partial(rs.tasks.partition.by_owner, data.train_y), {}, [c for c in NO_COUNTS if c]),
    ("exponent", partial(rs.tasks.partition.power_law, key, 9, 3), {}, [*NO_NUMBERS, -1]),
    ("variance", partial(rs.tasks.skew.noise, key, data, shares), {}, [*NO_NUMBERS, -1]),
    ("degrees", partial(rs.tasks.skew.rotation, data, shares), {}, NO_NUMBERS),
    ("strength", rs.tasks.losses.l2, {}, [*NO_NUMBERS, -1]),
    ("strength", rs.tasks.losses.nonconvex, {}, [*NO_NUMBERS, -1]),
    ("length", partial(rs.tasks.texts.language_model, ["text"], ["me"]), {}, NO_COUNTS),
    ("tokens", partial(rs.tasks.texts.language_model, ["text"], ["me"], length=2), {}, NO_NAMES),
    ("name", rs.tasks.datasets.from_sklearn, {}, NO_NAMES),
    ("mask", partial(rs.metrics.of_workers, never), {}, ["all", None, [1, 0], np.eye(N) > 0, [False]]),
    ("topology", partial(rs.asynchronous.ad_psgd, never, optimizer=sgd), {}, [*NO_GRAPHS, one_way]),
    ("topology", partial(rs.asynchronous.gossip, never, optimizer=sgd), {}, [*NO_GRAPHS, one_way]),
    ("topology", partial(rs.asynchronous.push_sum, never, optimizer=sgd), {}, NO_GRAPHS),
    ("topology", partial(rs.asynchronous.swift, never, optimizer=sgd), {}, [*NO_GRAPHS, one_way]),
    ("topology", partial(rs.asynchronous.relaysgd, never, optimizer=sgd), {}, [*NO_GRAPHS, ring]),
    ("topology", partial(rs.asynchronous.relaysgd_grad, never, optimizer=sgd), {}, [*NO_GRAPHS, ring]),
    ("optimizer", partial(rs.asynchronous.ad_psgd, never, ring), {}, [0.1, None, "sgd", never]),
    ("grad", partial(rs.asynchronous.swift, topology=ring, optimizer=sgd), {}, [None, 3, "grad"]),
    ("weights", partial(rs.asynchronous.gossip, never, ring, sgd), {}, ["even", np.eye(3), tilted]),
    (
        "influence",
        partial(rs.asynchronous.swift, never, ring, sgd),
        {},
        ["even", 0, np.eye(N), np.ones(3), np.zeros(N)],
    ),
    ("method", waitless, {}, [method, never, "ad_psgd", np.eye(N)]),
    ("network", waitless, {}, ["wan", 3, np.eye(N), timing.Network(drop=0.1, timeout=1)]),
    ("compute", lambda compute: waitless(network=timing.Network(compute=compute)), {}, [0.0, -1.0, "1"]),
    ("upload", lambda upload: waitless(network=timing.Network(compute=1.0, upload=upload)), {}, [0, -1, "1"]),
    ("latency", lambda latency: waitless(network=timing.Network(1.0, latency)), {}, [-1.0, np.ones((3, 3))]),
    ("num_events", partial(waitless, seconds=None), {}, [*NO_COUNTS, 2**0.5]),
    ("seconds", waitless, {}, [0.0, -1.0, np.inf, "1", [1.0], 1e12]),
    ("every", partial(waitless, seconds=1.0), {}, [0.0, -1.0, "1", 0.3, 2.0, [0.5]]),
    ("every", partial(waitless, seconds=None, num_events=6), {}, [0, 4, 7, 0.5, "1"]),
    ("churn", waitless, {}, [3, "random", faults.Outage([1], 0, 1), faults.Churn(N + 1, [(0, 0, 1)])]),
    ("churn", partial(waitless, dadao, [[0.5, 0, -1]]), {}, [everybody]),
    ("start", partial(waitless, churn=everybody), {}, NO_NAMES),
    ("num_events", partial(waitless, seconds=None, churn=faults.Churn(N, [(0, 0, 3.5)])), {}, [4]),
    ("mu", partial(rs.asynchronous.dadao, never, N, L=1.0, chi1=1.0), {}, [*NO_NUMBERS, 0.0]),
    (
        "events",
        lambda events: waitless(dadao, events),
        {},
        [
            3,
            "events",
            timing.wan(),
            np.ones((2, 2)),
            [[0.0, 4, -1]],
            [[0.0, 1, 1]],
            [[1.0, 0, -1], [0.5, 0, -1]],
        ],
    ),
]
CASES = [
    pytest.param(function, {**given, name: value}, name, id=f"{row} {name} {k}: {type(value).__name__}")
    for row, (name, function, given, values) in enumerate(TABLE)
    for k, value in enumerate(values)
]


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_a_wrong_value_gets_one_clear_error(function, arguments, name):
    with pytest.raises(ValueError) as caught:
        function(**arguments)
    message = str(caught.value)
    assert name in message and "\n" not in message and len(message) < 500


def test_graphs_of_networkx_and_matrices_will_do():
    import networkx as nx

    x = jnp.arange(8.0).reshape(N, 2)
    for mixer, same in (
        (rs.gossip(nx.cycle_graph(N)), rs.gossip(ring)),
        (rs.gossip(nx.to_numpy_array(nx.cycle_graph(N))), rs.gossip(ring)),
        (rs.relay_sum(nx.to_scipy_sparse_array(nx.path_graph(N))), rs.relay_sum(chain)),
        (rs.relay_sum(nx.path_graph(N)), rs.relay_sum(chain)),
        (
            rs.push(nx.cycle_graph(N, create_using=nx.DiGraph)),
            rs.push(topology.from_edges(N, [(0, 1), (1, 2), (2, 3), (3, 0)], directed=True)),
        ),
        (
            rs.push(np.roll(np.eye(N), 1, 0)),
            rs.push(topology.from_edges(N, [(0, 1), (1, 2), (2, 3), (3, 0)], directed=True)),
        ),
    ):
        found, expected = (m.mix(key, 0, m.init(x), x)[1] for m in (mixer, same))
        np.testing.assert_array_equal(found, expected)
