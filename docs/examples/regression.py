"""A regression with a loss and a metric of one's own, among workers that hold more or less of the data."""

import jax, jax.numpy as jnp, optax, relaysim as rs

def huber(outputs, y):
    return optax.huber_loss(outputs[:, 0], y, delta=0.5)

def within_half(outputs, y):
    return jnp.abs(outputs[:, 0] - y) < 0.5

data = rs.tasks.datasets.from_sklearn("diabetes")
shares = rs.tasks.partition.power_law(jax.random.key(0), len(data.train_y), num_workers=8)
task = rs.tasks.supervised(
    rs.models.MLP((16,), 1), data, shares, loss=huber, metrics={"within_half": within_half},
    regulariser=rs.tasks.losses.l2(1e-3), batch_size=[16] * 4 + [8] * 4)

optimizer = rs.per_worker(optax.sgd, learning_rate=[0.1] * 4 + [0.05] * 4)
method = rs.d2(task.grad, rs.gossip(rs.topology.ring(8), lazy=True), optimizer)
params = task.init(jax.random.key(1))
trace = rs.simulate(jax.random.key(2), method, params, num_steps=300, every=100, measure=task.measure)
print(trace.metrics["test_loss"].mean(1), trace.metrics["within_half"].mean(1))
print(task.predict(trace.params, data.test_x[:2]).shape)  # (8, 2, 1): what each worker says of two patients
