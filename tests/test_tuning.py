"""The searches, many at once, against their plain twin, one row and one step at a time."""

import jax
import numpy as np
import optax
import published_tuner
import pytest

import relaysim as rs
from relaysim import tuning

N, DIM = 6, 4


@pytest.fixture(autouse=True)
def in_float64(x64):
    pass


def problems(zeta2, seeds=3, r0=10.0):
    keys = jax.random.split(jax.random.key(0), seeds)
    return tuning.stack([rs.tasks.random_quadratics(key, N, DIM, zeta2=zeta2, r0=r0) for key in keys])


def d2(task, rate):
    return rs.d2(task.grad, rs.gossip(rs.topology.ring(N)), optax.sgd(rate))


def dpsgd(task, rate):
    return rs.dpsgd(task.grad, rs.gossip(rs.topology.ring(N)), optax.sgd(rate))


def twin_of(search, name, tasks, **options):
    """The twin's (steps, rate, runs) for each problem."""
    found = []
    for A, b, x_star in zip(*map(np.asarray, (tasks.A, tasks.b, tasks.x_star)), strict=True):

        def run(rate, A=A, b=b, x_star=x_star):
            for x in published_tuner.models(name, "ring", A, b, rate):
                yield np.mean(np.sum((A @ (x.mean(0) - x_star)) ** 2, 1))

        with np.errstate(all="ignore"):
            found.append(search(run, **options))
    return found


@pytest.mark.parametrize("zeta2", [0.0, 1.0])
def test_fastest_equals_its_twin(zeta2):
    tasks, options = problems(zeta2), {"target": 1e-6, "start": 10.0, "max_steps": 2000}
    tuned = tuning.fastest(d2, tasks, **options)
    steps, half_of_rate, runs = np.transpose(twin_of(published_tuner.fastest, "D2", tasks, **options))
    np.testing.assert_array_equal((tuned.steps, tuned.runs), (steps, runs))
    np.testing.assert_allclose(tuned.learning_rate, 2 * half_of_rate)


def test_plateau_equals_its_twin():
    tasks, options = problems(0.01), {"target": 1e-4, "start": 100.0, "max_steps": 5000}
    tuned = tuning.plateau(dpsgd, tasks, **options)
    expected = twin_of(published_tuner.plateau, "Gossip", tasks, **options)
    np.testing.assert_allclose(np.stack(tuned, 1), expected)
    assert np.isfinite(tuned.steps).all()


def test_a_problem_is_tuned_alike_alone_and_among_others():
    tasks = problems(1.0)
    together = tuning.fastest(d2, tasks, target=1e-5, start=10.0)
    alone = tuning.fastest(d2, jax.tree.map(lambda leaf: leaf[1:2], tasks), target=1e-5, start=10.0)
    assert [column[1] for column in together] == [column[0] for column in alone]


def test_each_problem_may_have_its_own_target_and_search():
    tasks = problems(1.0)
    loose = tuning.fastest(d2, tasks, target=[1e-2, 1e-4, 1e-6], start=10.0).steps
    assert (np.diff(loose) > 0).all()
    searches = [tuning.fastest_search(target, 10.0) for target in (1e-2, 1e-4, 1e-6)]
    np.testing.assert_array_equal(tuning.tune(d2, tasks, searches).steps, loose)


def test_a_target_out_of_reach_is_said_so():
    tuned = tuning.fastest(dpsgd, problems(1.0, seeds=1), target=1e-12, start=10.0, max_steps=50)
    assert np.isinf(tuned.steps).all() and np.isnan(tuned.learning_rate).all()


def test_points_are_those_of_the_published_tuner():
    for max_steps in (1, 10, 20_000):
        assert set(tuning.points(max_steps)) == published_tuner.points(max_steps)


@pytest.mark.parametrize("search", [tuning.fastest_search, tuning.plateau_search])
def test_searches_end(search):
    """Whatever the runs do, within 30 of them, at positive rates."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        going, runs = search(1e-6, 10.0), 1
        trial = next(going)
        for event in rng.choice(["reached", "slow", "too high", "flat", "out of steps"], 100):
            assert trial.rate > 0
            try:
                trial = going.send(
                    tuning.Outcome(str(event), int(rng.integers(1, 100)), rng.uniform(0, 2e-6))
                )
                runs += 1
            except StopIteration:
                break
        else:
            pytest.fail("the search goes on and on")
        assert runs <= tuning.MAX_RUNS


BAD = {
    "target": ({"target": 0.0}, "target is .*0.0.*, expected a finite number in"),
    "start": ({"start": [1.0, 2.0]}, "start has shape"),
    "max_steps": ({"max_steps": 0}, "max_steps is 0"),
    "metric": ({"metric": "accuracy"}, "metric is 'accuracy', expected one of"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        tuning.fastest(d2, problems(1.0), **({"target": 1e-6, "start": 10.0} | options))


def test_tasks_and_make_are_checked():
    with pytest.raises(ValueError, match="tasks has leaves"):
        tuning.tune(d2, problems(1.0), [tuning.fastest_search(1e-6, 1.0)])
    with pytest.raises(ValueError, match="make returned"):
        tuning.fastest(lambda task, rate: None, problems(1.0), target=1e-6, start=1.0)
