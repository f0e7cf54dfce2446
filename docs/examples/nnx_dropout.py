"""A flax.nnx network with dropout and batch normalization, trained by 8 workers on arrays of one's own."""

import jax, numpy as np, optax, relaysim as rs
from flax import nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(20, 32, rngs=rngs), nnx.Linear(32, 3, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(32, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

x = np.random.default_rng(0).normal(size=(1200, 20)).astype(np.float32)
y = x[:, :3].argmax(1)
data = rs.tasks.Dataset(x[:1000], y[:1000], x[1000:], y[1000:], num_classes=3)
shares = rs.tasks.partition.dirichlet(jax.random.key(0), data.train_y, num_workers=8, alpha=1.0)
task = rs.tasks.classification(rs.tasks.from_nnx(Net), data, shares, batch_size=16)

optimizer = rs.tasks.with_statistics(optax.adam(0.01))  # those of the batches, averaged with the models
method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(8)), optimizer)
params = task.init(jax.random.key(1))
trace = rs.simulate(jax.random.key(2), method, params, num_steps=200, every=50, measure=task.measure)
print(trace.metrics["accuracy"].mean(1))
