"""Convex problems: their least value against scikit-learn's and NumPy's, and methods that come down to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from sklearn.datasets import dump_svmlight_file
from sklearn.linear_model import LogisticRegression

import relaysim as rs
from relaysim.tasks import Dataset, datasets, losses

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, D, TOTAL = 4, 5, 60
X = RNG.normal(size=(TOTAL, D)) * (RNG.random((TOTAL, D)) < 0.6)
Y = np.where(X @ RNG.normal(size=D) + RNG.normal(size=TOTAL) > 0, 3, 1)
SHARES = np.split(np.arange(TOTAL), N)
LOGISTIC = Dataset(X, Y, X[:9], Y[:9])


def value(w, strength):
    return np.log1p(np.exp(-(2.0 * (Y == 3) - 1) * (X @ w))).mean() + strength / 2 * w @ w


@pytest.mark.parametrize("x", [X, scipy.sparse.csr_array(X)], ids=["dense", "sparse"])
def test_logistic_regression_against_scikit_learn(x, x64):
    task = rs.tasks.logistic_regression(Dataset(x, Y, x[:9], Y[:9]), SHARES, regulariser=losses.l2(0.05))
    how = {"fit_intercept": False, "tol": 1e-12, "solver": "newton-cholesky"}
    theirs = LogisticRegression(C=1 / (0.05 * TOTAL), **how)
    w = theirs.fit(X, Y).coef_[0]
    np.testing.assert_allclose(task.optimum, value(w, 0.05), rtol=1e-12)
    found = task.measure(jnp.asarray(np.stack([w, w, 0 * w, w])))
    np.testing.assert_allclose(found["worker_suboptimality"][2], np.log(2) - task.optimum, rtol=1e-9)
    np.testing.assert_allclose(found["accuracy"][0], (theirs.predict(X[:9]) == Y[:9]).mean())
    np.testing.assert_allclose(found["suboptimality"], value(w * 3 / 4, 0.05) - task.optimum, rtol=1e-9)
    assert np.abs(found["worker_suboptimality"][0]) < 1e-14 and task.held_back() is task


def test_methods_come_down_to_the_optimum(x64):
    task = rs.tasks.logistic_regression(LOGISTIC, SHARES, regulariser=losses.l2(0.1))
    tracking = rs.gradient_tracking(task.grad, rs.gossip(rs.topology.ring(N)), optax.sgd(1.0))
    trace = rs.simulate(KEY, tracking, task.init(KEY), num_steps=200, every=50, measure=task.measure)
    values = trace.metrics["suboptimality"]
    assert values[0] < 1e-2 and values[-1] < 1e-11 and (values > -1e-15).all()
    assert trace.metrics["squared_gradient_norm"][-1] < 1e-11


def test_the_objective_weighs_workers_alike(x64):
    shares = np.split(np.arange(TOTAL), [2, 10, 40])
    task = rs.tasks.least_squares(Dataset(X, Y.astype(float)), shares)
    each = np.concatenate([np.full(len(s), 1 / np.sqrt(len(s))) for s in shares])[:, None]
    w = np.linalg.lstsq(X * each, Y * each[:, 0])[0]
    least = np.mean([((X[s] @ w - Y[s]) ** 2).mean() / 2 for s in shares])
    np.testing.assert_allclose(task.optimum, least, rtol=1e-12)


def test_a_regulariser_that_is_not_convex(x64):
    task = rs.tasks.logistic_regression(LOGISTIC, SHARES, regulariser=losses.nonconvex(0.02))
    method = rs.allreduce(task.grad, rs.all_reduce(N), optax.sgd(4.0))
    trace = rs.simulate(KEY, method, task.init(KEY), num_steps=1000, every=1000, measure=task.measure)
    assert abs(trace.metrics["suboptimality"][-1]) < 1e-12
    assert trace.metrics["squared_gradient_norm"][-1] < 1e-12


def test_where_no_minimum_is_found_there_is_an_error():
    signs = Dataset(X, np.sign(Y - 2))
    task = rs.tasks.supervised(rs.tasks.convex.linear, signs, SHARES, loss=losses.logistic)
    with pytest.raises(ValueError, match=r"task has a gradient of norm .* after 1 of max_steps = 1 steps"):
        rs.tasks.with_optimum(task, max_steps=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Dataset(X, np.arange(TOTAL)), "train_y holds labels of 60 kinds, expected two"),
        (LOGISTIC._replace(test_y=np.full(9, 2)), "test_y holds labels of 1 kinds, expected .*as in train_y"),
    ],
)
def test_bad_labels(data, message):
    with pytest.raises(ValueError, match=message):
        rs.tasks.logistic_regression(data, SHARES)


def test_rectangular_least_squares(x64):
    A, b = RNG.normal(size=(N, 7, 3)), RNG.normal(size=(N, 7))
    task = rs.tasks.quadratics(A, b, noise=0.1)
    np.testing.assert_allclose(task.x_star, np.linalg.lstsq(A.reshape(-1, 3), b.ravel())[0], rtol=1e-10)
    x = jnp.asarray(RNG.normal(size=(N, 3)))
    loss, g = rs.tasks.quadratics(A, b).grad(KEY, 0, x)
    residual = np.einsum("nij,nj->ni", A, x) - b
    np.testing.assert_allclose(loss, (residual**2).sum(1) / 2)
    np.testing.assert_allclose(g, np.einsum("nij,ni->nj", A, residual))
    some = task.grad_at(KEY, jnp.array([2]), jnp.array([5]), x[2:3])[1]
    np.testing.assert_allclose(some[0], task.grad(KEY, 5, x)[1][2], rtol=1e-10)
    assert task.init(KEY).shape == (N, 3) and task.zeta2 > 0


def test_files_of_libsvm(tmp_path):
    for name, part in (("train", slice(9, TOTAL)), ("test", slice(9))):
        dump_svmlight_file(X[part], Y[part], str(tmp_path / name), zero_based=False)
    data = datasets.libsvm(tmp_path / "train", tmp_path / "test", num_features=D)
    np.testing.assert_allclose(data.train_x.toarray(), X[9:], rtol=1e-6)
    np.testing.assert_array_equal(data.test_y, Y[:9])
    assert data.train_y.dtype == np.int32 and data.name == "train"
    (tmp_path / "broken").write_text("yes no\n")
    for path in (tmp_path / "broken", tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as LIBSVM's format"):
            datasets.libsvm(path)


def test_tables_of_scikit_learn():
    data = datasets.from_sklearn("diabetes")
    assert data.train_x.shape == (353, 10) and data.num_classes == 0 and data.train_y.dtype == np.float32
    np.testing.assert_allclose((data.train_x - data.mean).std(0) / data.std, 1, rtol=1e-4)
    assert datasets.from_sklearn("iris", 0.5).num_classes == 3
    for call, message in (("mnist", 0.2), "name is 'mnist'"), (("iris", 1.0), "test_fraction is 1.0"):
        with pytest.raises(ValueError, match=message):
            datasets.from_sklearn(*call)
