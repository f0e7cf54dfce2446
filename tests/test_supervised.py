"""Any model, any loss, any labels: against plain NumPy, and against classification."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from flax import nnx, struct

import relaysim as rs
from relaysim import tasks
from relaysim.tasks import Dataset, Model, losses, supervised
from relaysim.tasks.sampling import batch_indices

KEY = jax.random.key(0)
N, D = 4, 3
RNG = np.random.default_rng(0)
X, W = RNG.normal(size=(40, D)).astype(np.float32), RNG.normal(size=D).astype(np.float32)
Y = (X @ W + 0.1 * RNG.normal(size=40)).astype(np.float32)
LINE = Model(lambda key, x: {"w": jnp.zeros(D), "b": jnp.zeros(())}, lambda p, x: x @ p["w"] + p["b"])
DATA = Dataset(X, Y, X[:7], Y[:7])
SHARES = np.split(np.arange(40), [4, 10, 25])
SIZES = np.array([4, 6, 15, 15])
PARAMS = {"w": RNG.normal(size=(N, D)).astype(np.float32), "b": RNG.normal(size=N).astype(np.float32)}
gradient = jax.jit(lambda task, key, step, params: task.grad(key, step, params))
measure = jax.jit(lambda task, params: task.measure(params))


def line(**options):
    return supervised(LINE, DATA, SHARES, **({"loss": losses.squared_error, "batch_size": 5} | options))


def twin(i, batch, strength=0.0):
    """Worker i's loss and gradients on some samples, by hand."""
    w, b = PARAMS["w"][i].astype(float), float(PARAMS["b"][i])
    away = X[batch] @ w + b - Y[batch]
    value = (away**2).mean() / 2 + strength / 2 * (w @ w + b * b)
    return value, X[batch].T @ away / len(batch) + strength * w, away.mean() + strength * b


def agree(task, step, batches, strength=0.0):
    found, grads = gradient(task, KEY, step, PARAMS)
    for i, batch in enumerate(batches):
        value, w, b = twin(i, batch, strength)
        np.testing.assert_allclose(found[i], value, rtol=1e-5)
        np.testing.assert_allclose(grads["w"][i], w, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(grads["b"][i], b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_classification_is_a_case_of_it_bit_for_bit():
    data = tasks.datasets.digits()
    shares = tasks.partition.dirichlet(KEY, data.train_y, 6, 0.3, equal=False)
    model = rs.models.MLP((16,), 10)
    one = tasks.classification(model, data, shares, batch_size=8)
    apply = Model(lambda k, x: model.init(k, x)["params"], lambda p, x: model.apply({"params": p}, x))

    def cross_entropy(outputs, y):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y)

    def accuracy(outputs, y):
        return outputs.argmax(-1) == y

    other = supervised(
        apply, data, shares, loss=cross_entropy, metrics={"accuracy": accuracy}, batch_size=8
    )  # fmt: skip
    params = [task.init(KEY) for task in (one, other)]
    traces = [
        rs.simulate(
            KEY, rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(6)), optax.sgd(0.1)), x,
            num_steps=6, every=3, measure=task.measure,
        )
        for task, x in zip((one, other), params, strict=True)
    ]  # fmt: skip
    for a, b in zip(
        *(jax.tree.leaves((x, t.metrics, t.params)) for x, t in zip(params, traces, strict=True)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    of_classes = jax.jit(lambda task, params: task.class_accuracy(params))
    np.testing.assert_array_equal(*(of_classes(task, traces[0].params) for task in (one, other)))


def test_regression_against_numpy():
    task = line(regulariser=losses.l2(0.3), metrics={"error": losses.absolute_error})
    order = jax.random.fold_in(KEY, 0)
    places = np.asarray(batch_indices(order, 3, SIZES, 5))
    agree(task, 3, [share[p] for share, p in zip(SHARES, places, strict=True)], 0.3)
    found = measure(task, PARAMS)
    away = X[:7] @ PARAMS["w"].T + PARAMS["b"] - Y[:7, None]
    np.testing.assert_allclose(found["test_loss"], (away**2).mean(0) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["error"], np.abs(away).mean(0), rtol=1e-5)
    away = X[:7] @ PARAMS["w"].mean(0) + PARAMS["b"].mean() - Y[:7]
    np.testing.assert_allclose(found["mean_model_error"], np.abs(away).mean(), rtol=1e-5)


def test_batches_of_different_sizes():
    each = [4, 1, 5, 2]
    task = line(batch_size=each)
    assert task.batch_size == 5
    for step in (0, 7):
        order = jax.random.fold_in(KEY, 0)
        alone = [np.asarray(batch_indices(order, step, SIZES, b))[i, :b] for i, b in enumerate(each)]
        agree(task, step, [share[p] for share, p in zip(SHARES, alone, strict=True)])
    seen = [np.asarray(batch_indices(KEY, t, SIZES, 5, taken=jnp.array(each)))[3, :2] for t in range(15)]
    assert sorted(np.concatenate(seen)) == sorted(2 * list(range(15)))  # two whole epochs


def test_full_batches():
    for step in (0, 9):
        agree(line(batch_size="full"), step, SHARES)


def test_some_workers_get_the_gradients_that_they_get_among_all():
    workers, steps = jnp.array([2, 0]), jnp.array([5, 1])
    task = line(batch_size=[4, 1, 5, 2])
    gradient_at = jax.jit(lambda task, params: task.grad_at(KEY, workers, steps, params))
    some, grads = gradient_at(task, jax.tree.map(lambda x: x[workers], PARAMS))
    for k, (i, t) in enumerate(((2, 5), (0, 1))):
        loss, whole = gradient(task, KEY, t, PARAMS)
        np.testing.assert_allclose(some[k], loss[i], rtol=1e-6)
        np.testing.assert_allclose(grads["w"][k], whole["w"][i], rtol=1e-5)


def test_the_objective_and_what_is_held_back():
    task = line(regulariser=losses.nonconvex(0.2))
    w, b = PARAMS["w"].astype(float), PARAMS["b"].astype(float)
    away = X @ w.T + b - Y[:, None]
    means = np.mean([(away[share] ** 2).mean(0) / 2 for share in SHARES], 0)
    rule = 0.2 * ((w**2 / (1 + w**2)).sum(1) + b**2 / (1 + b**2))
    np.testing.assert_allclose(task.objective(PARAMS), means + rule, rtol=1e-5)
    held = task.held_back()
    assert len(held.indices) + len(held.test_y) == 40 and held.measure(PARAMS)["test_loss"].shape == (N,)


def test_test_sets_of_ones_own_and_parts_of_the_test_set():
    task = line(test_shares=[np.array([0, 3]), np.array([1]), np.array([], int), np.array([4, 5, 6])])
    losses_ = (X[:7] @ PARAMS["w"].T + PARAMS["b"] - Y[:7, None]) ** 2 / 2
    found = measure(task, PARAMS)
    expected = [losses_[[0, 3], 0].mean(), losses_[1, 1], np.nan, losses_[4:, 3].mean()]
    np.testing.assert_allclose(found["local_test_loss"], expected, rtol=1e-5)
    few = task.measure(PARAMS, workers=jnp.array([3, 1]))
    np.testing.assert_allclose(few["local_test_loss"], [expected[3], expected[1]], rtol=1e-5)
    part = task.measure(PARAMS, eval_size=3)
    np.testing.assert_allclose(part["test_loss"], losses_[[0, 2, 4]].mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        part["local_test_loss"], [losses_[0, 0], np.nan, np.nan, losses_[4, 3]], rtol=1e-5
    )


def test_predictions_are_scaled_as_the_training_was():
    data = Dataset(10 * X + 5, Y, mean=5.0, std=10.0)
    task = supervised(LINE, data, SHARES, loss=losses.squared_error)
    found = task.predict(PARAMS, 10 * X[:3] + 5)
    np.testing.assert_allclose(found, (X[:3] @ PARAMS["w"].T + PARAMS["b"]).T, rtol=1e-4, atol=1e-5)
    assert list(task.measure(PARAMS)) == ["consensus_distance"]  # there is no test set


def test_sparse_features_are_those_that_are_dense():
    dense = np.where(RNG.random((40, 9)) < 0.3, RNG.normal(size=(40, 9)), 0).astype(np.float32)
    linear = Model(lambda key, x: jnp.zeros(9), lambda w, x: x @ w)
    params = RNG.normal(size=(N, 9)).astype(np.float32)
    inputs = (dense, scipy.sparse.csr_array(dense))
    results = []
    for x in inputs:
        data = Dataset(x, np.sign(Y), x, np.sign(Y))
        how = {"metrics": {"accuracy": losses.sign_accuracy}, "batch_size": 6, "test_batch": 16}
        task = supervised(linear, data, SHARES, loss=losses.logistic, **how)
        results.append((*gradient(task, KEY, 2, params), measure(task, params), task.predict(params, x[:2])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def test_inputs_and_outputs_may_be_pytrees():
    data = Dataset({"a": X, "b": X[:, :1]}, {"y": Y, "weight": np.ones(40, np.float32)})
    model = (lambda key, x: jnp.ones(D), lambda w, x: {"mean": x["a"] @ w + x["b"][:, 0]})
    task = supervised(model, data, SHARES, loss=lambda out, y: y["weight"] * (out["mean"] - y["y"]) ** 2)
    params = task.init(KEY)
    value = np.mean((X[:4].sum(1) + X[:4, 0] - Y[:4]) ** 2)
    np.testing.assert_allclose(task.grad(KEY, 0, params)[0][0], value, rtol=1e-4)
    assert task.predict(params, {"a": X[:2], "b": X[:2, :1]})["mean"].shape == (N, 2)


@struct.dataclass
class Affine:
    """A module that is a pytree, as those of equinox."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return self.weight @ x + self.bias


def test_modules_that_are_pytrees():
    model = Model(lambda key, x: Affine(jnp.ones(D), jnp.zeros(())), lambda module, x: jax.vmap(module)(x))
    task = supervised(model, DATA, SHARES, loss=losses.squared_error)
    _, grads = task.grad(KEY, 0, task.init(KEY))
    assert isinstance(grads, Affine) and grads.weight.shape == (N, D)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(6)(x))
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class NoisyNnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(D, 6, rngs=rngs), nnx.Linear(6, 1, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


@pytest.mark.parametrize("model", [tasks.from_linen(Noisy()), tasks.from_nnx(NoisyNnx)], ids=["linen", "nnx"])
def test_dropout_and_batch_statistics(model):
    shares = np.split(np.arange(40), 4)
    task = supervised(model, DATA, shares, loss=losses.squared_error, batch_size="full")
    params = task.init(KEY)
    first, grads = gradient(task, KEY, 0, params)
    again, later = (gradient(task, KEY, t, params)[0] for t in (0, 1))
    assert (first == again).all() and (first != later).all()

    # The statistics go half of the way to those of the worker's batch, before the normalization.
    dense = {"nnx": "first"}.get("nnx" if "first" in params["params"] else "linen", "Dense_0")
    kernel, bias = (np.asarray(params["params"][dense][name][0]) for name in ("kernel", "bias"))
    (moved,) = [leaf for path, leaf in jax.tree.leaves_with_path(grads["batch_stats"]) if "mean" in str(path)]
    for i, share in enumerate(shares):
        np.testing.assert_allclose(moved[i], -(X[share] @ kernel + bias).mean(0) / 2, rtol=1e-4, atol=1e-5)


def test_batch_statistics_that_stay_each_workers_own():
    shares = np.split(np.arange(40), 4)
    task = supervised(tasks.from_linen(Noisy()), DATA, shares, loss=losses.squared_error, batch_size="full")
    params = task.init(KEY)
    mixer = rs.keep_local(rs.all_reduce(N), "batch_stats", params=params)
    method = rs.dpsgd(task.grad, mixer, tasks.with_statistics(optax.adam(0.05)))
    trace = rs.simulate(KEY, method, params, num_steps=30, every=15, measure=task.measure)
    assert (trace.metrics["test_loss"][-1] < 0.5 * np.mean(Y[:7] ** 2) / 2).all()
    spread = jax.tree.map(lambda x: float(x.std(0).max()), trace.params)
    assert all(value < 1e-5 for value in jax.tree.leaves(spread["params"]))
    assert all(value > 1e-3 for value in jax.tree.leaves(spread["batch_stats"]))
    size, kept = (sum(x[0].size for x in jax.tree.leaves(t)) for t in (params, params["batch_stats"]))
    whole = rs.all_reduce(N).sent()
    np.testing.assert_allclose(mixer.sent(), whole * (1 - kept / size))


def test_optimizers_that_would_train_statistics():
    """Forgotten `with_statistics` is told of, however the right optimizer is wrapped."""
    model = tasks.from_linen(Noisy())
    task = supervised(model, DATA, np.split(np.arange(40), 4), loss=losses.squared_error)
    params, mixer = task.init(KEY), rs.all_reduce(N)
    right = tasks.with_statistics(optax.sgd(0.1))
    for optimizer in (right, optax.chain(optax.identity(), right)):
        rs.dpsgd(task.grad, mixer, optimizer).init(KEY, params)
    rs.dpsgd(rs.local_steps(task.grad, right, 2), mixer, optax.sgd(1.0)).init(KEY, params)
    wrong = [
        rs.dpsgd(task.grad, mixer, optax.adam(0.1)),
        rs.d2(task.grad, mixer, rs.per_worker(optax.sgd, learning_rate=[0.1] * N)),
        rs.dpsgd(task.grad, mixer, tasks.with_statistics(optax.sgd(0.1), "other")),
        rs.dpsgd(rs.local_steps(task.grad, optax.sgd(0.1), 2), mixer, optax.sgd(1.0)),
    ]
    for method in wrong:
        with pytest.raises(ValueError, match=r"optimizer .*'batch_stats'.*with_statistics\(optimizer\)"):
            method.init(KEY, params)
    method, network = (
        rs.asynchronous.gossip(task.grad_at, rs.topology.ring(N), optax.sgd(0.1)),
        rs.timing.lan(1.0),
    )
    with pytest.raises(ValueError, match="with_statistics"):
        rs.asynchronous.simulate(KEY, method, network, params, seconds=3)
    plain = supervised(tasks.from_linen(Dropping(), "deterministic"), DATA, SHARES, loss=losses.squared_error)
    rs.dpsgd(plain.grad, mixer, optax.sgd(0.1)).init(KEY, plain.init(KEY))


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=deterministic)(x))


def test_dropout_without_batch_statistics():
    model = tasks.from_linen(Dropping(), train="deterministic")
    task = supervised(model, DATA, SHARES, loss=losses.squared_error, batch_size=20)
    params = task.init(KEY)
    first, later = (gradient(task, KEY, t, params) for t in (0, 1))
    assert list(first[1]) == ["params"] and (first[0] != later[0]).all()
    found = task.predict(params, X[:2])[0]
    dense = jax.tree.map(np.asarray, params["params"]["Dense_0"])
    np.testing.assert_allclose(found, X[:2] @ dense["kernel"][0] + dense["bias"][0], rtol=1e-5)


def test_dropout_is_each_workers_own():
    model = Model(
        lambda key, x: jnp.zeros(D),
        lambda w, x, key: x @ w + (0 if key is None else jax.random.normal(key, (len(x),))),
    )
    task = supervised(model, Dataset(X, 0 * Y), np.split(np.arange(40), 4), loss=losses.squared_error)
    drawn = np.concatenate([task.grad(KEY, t, task.init(KEY))[0] for t in range(3)])
    assert len(set(drawn.tolist())) == 12


def test_tasks_of_the_same_functions_are_one_program():
    traced = []

    def apply(params, x):
        traced.append(1)
        return x @ params

    model = Model(lambda key, x: jnp.zeros(D), apply)
    made = [
        supervised(model, DATA, tasks.partition.iid(jax.random.key(s), 40, N), loss=losses.squared_error,
                   regulariser=losses.l2(0.1), metrics={"error": losses.absolute_error})
        for s in range(3)
    ]  # fmt: skip
    params, before = jnp.ones((N, D)), len(traced)
    for task in made[:2]:
        gradient(task, KEY, 0, params)
    assert len(traced) == before + 1
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    together = jax.vmap(lambda task: task.measure(params))(stacked)
    for i, task in enumerate(made):
        np.testing.assert_allclose(together["error"][i], task.measure(params)["error"], rtol=1e-5)


def test_optimizers_whose_rates_differ_between_workers():
    rates = np.array([0.1, 0.0, 0.2, 0.4], np.float32)
    optimizer = rs.per_worker(optax.sgd, learning_rate=rates, momentum=0.9)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    state, moved = optimizer.init(PARAMS), PARAMS
    for _ in range(2):
        u, state = optimizer.update(grads, state, moved)
        moved = optax.apply_updates(moved, u)
    for i, rate in enumerate(rates):
        one, mine = optax.sgd(float(rate), momentum=0.9), jax.tree.map(lambda x, i=i: x[i], PARAMS)
        s = one.init(mine)
        for _ in range(2):
            u, s = one.update(jax.tree.map(jnp.ones_like, mine), s, mine)
            mine = optax.apply_updates(mine, u)
        np.testing.assert_allclose(moved["w"][i], mine["w"], rtol=1e-6)
    trace = rs.simulate(KEY, rs.dpsgd(line().grad, rs.all_reduce(N), optimizer), PARAMS, num_steps=4)
    assert not trace.divergence
    with pytest.raises(ValueError, match=r"learning_rate has shape \(4,\), expected .*one of 3 workers"):
        optimizer.init(jax.tree.map(lambda x: x[:3], PARAMS))


BAD = [
    ("model", nnx.Linear(3, 1, rngs=nnx.Rngs(0)), "model is .*expected an instance"),
    ("model", LINE.apply, "model is"),
    ("model", Noisy, "model is"),
    ("model", Model(lambda key, x: {}, LINE.apply), "model's init returned"),
    ("model", Model(lambda key, x: jnp.arange(3), LINE.apply), "model's init returned .*floating-point"),
    ("loss", "squared", "loss is 'squared', expected a function"),
    ("loss", lambda outputs, y: jnp.mean((outputs - y) ** 2), r"loss returned .*expected shape \(1,\)"),
    ("metrics", {"error": lambda outputs, y: 0.0}, r"metrics\['error'\] returned .*expected shape \(1,\)"),
    ("metrics", {"error": 3}, r"metrics\['error'\] is 3"),
    ("regulariser", 0.1, "regulariser is 0.1, expected a function"),
    ("regulariser", lambda p: p["w"], "regulariser returned"),
    ("batch_size", "half", "batch_size is 'half'"),
    ("batch_size", [1, 2], "batch_size is .*expected one for each of 4 workers"),
    ("batch_size", [1, 2, 0, 1], "batch_size is 0"),
    ("test_shares", [np.arange(7)], "test_shares holds 1 shares, expected one for each of 4"),
    ("test_shares", [np.arange(7), np.arange(2), [], []], "both hold sample 0"),
    ("dataset", DATA._replace(train_x=X[:3]), "train_x has 3 samples, expected 40 as in train_y"),
    ("dataset", DATA._replace(train_y=np.where(Y > 1, np.nan, Y)), "train_y holds numbers that are not fin"),
    ("dataset", DATA._replace(train_x=np.array([["a"]] * 40)), "train_x holds <U1, expected numbers"),
    ("dataset", DATA._replace(test_y=None), "test_x or test_y is None"),
    ("dataset", DATA._replace(test_x=X[:7, :2]), r"test_x has samples of shape \(2,\)"),
    ("dataset", Dataset(scipy.sparse.csr_array(X), Y, mean=1.0), "mean is 1.0 and std 1.0, expected 0 and"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_input(name, value, message):
    given = {"model": LINE, "dataset": DATA, "shares": SHARES, "loss": losses.squared_error}
    with pytest.raises(ValueError, match=message) as caught:
        supervised(**{**given, name: value})
    assert len(str(caught.value)) < 500


def test_bad_adapters_and_sizes():
    for call, message in (
        (lambda: tasks.from_linen(Noisy), "module is"),
        (lambda: tasks.from_linen(Noisy(), train="training"), "train is 'training', expected the name"),
        (lambda: tasks.from_nnx(nnx.Linear(3, 1, rngs=nnx.Rngs(0))), "build is Linear"),
        (lambda: line().measure(PARAMS, eval_size=0), "eval_size is 0"),
        (lambda: rs.keep_local(rs.all_reduce(N)), "names is empty"),
        (lambda: rs.keep_local(3, "batch_stats"), "mixer is 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
