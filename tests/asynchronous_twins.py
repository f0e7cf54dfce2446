"""Slow, obvious twins of the methods without barriers: a queue of events, models in NumPy.

How long gradients take, latencies and whom workers choose is drawn by the same calls with the same keys as
in `relaysim.asynchronous`. All else is done anew: when things happen, in which order, and what it does to the
models.
"""

import heapq
import itertools

import numpy as np

from relaysim.asynchronous.events import choices, compute_times, latencies


class Wires:
    """Messages of `size` bytes: they leave one after the other, and come in one after the other."""

    def __init__(self, key, network, n, size):
        self.latency = latencies(network, key, *np.indices((n, n)))
        self.up, self.down = (np.full(n, size / np.asarray(v)) for v in (network.upload, network.download))
        self.leaves, self.comes = np.zeros(n), np.zeros(n)

    def leave(self, now, i, j):
        """When a message that i sends to j now stands before j's door."""
        self.leaves[i] = max(now, self.leaves[i]) + self.up[i]
        return self.leaves[i] + self.latency[i, j]

    def come(self, now, j):
        """When one that stands before j's door now is there."""
        self.comes[j] = max(now, self.comes[j]) + self.down[j]
        return self.comes[j]


class Hours:
    """When workers are there: always, or as `churn` says."""

    def __init__(self, n, churn):
        everybody = [(i, 0.0, np.inf) for i in range(n)]
        self.sessions = [[] for _ in range(n)]
        for i, first, last in everybody if churn is None else churn.sessions.tolist():
            self.sessions[int(i)].append((first, last))

    def there(self, i, now):
        """When i is there next."""
        return next((max(now, first) for first, last in self.sessions[i] if now < last), np.inf)

    def after(self, i, now, work):
        """When i has been there for so long since now."""
        for first, last in self.sessions[i]:
            if last <= now:
                continue
            here = max(now, first)
            if here + work < last:
                return here + work
            work -= last - here
        return np.inf

    def returns(self):
        """All (time, worker)."""
        return [(first, i) for i, own in enumerate(self.sessions) for first, _ in own if first > 0]

    def sources(self, i, now, neighbours, start):
        """Whose models i starts from that is back now."""
        just_before = np.nextafter(now, 0)
        near = [j for j in range(len(neighbours)) if i in neighbours[j]]
        stayed = [j for j in near if self.there(j, now) == now and self.there(j, just_before) == just_before]
        return {"own": [], "neighbour": stayed[:1], "mean": stayed}[start]


def one_way(worker, key, network, neighbours, steps, num_events, size, churn=None, start="own"):
    """Workers that send and go on.

    Args:
      worker: the method: `done(i)` reads what is there, updates, and returns {receiver: message};
        `arrive(i, sender, message)` when one is there.
      neighbours: of each worker, those that it sends to, ascending.

    Yields after each event: (time, worker).
    """
    n = len(neighbours)
    compute = compute_times(network, key, n, steps)
    wires, number, hours = Wires(key, network, n, size), itertools.count(), Hours(n, churn)
    queue = [(hours.after(i, 0, compute[i, 0]), 1, i, "done", 0) for i in range(n)]
    queue += [(time, -1, i, "back", None) for time, i in hours.returns()]
    heapq.heapify(queue)
    events = 0
    while events < num_events:
        now, _, i, what, told = heapq.heappop(queue)
        if what == "done":
            for j, message in worker.done(i).items():
                door = wires.leave(now, i, j)
                heapq.heappush(queue, (door, 0, next(number), "door", (j, i, now, message)))
            soonest = wires.leaves[i] if neighbours[i] else now
            computed = hours.after(i, now, compute[i, told + 1])
            heapq.heappush(queue, (max(computed, hours.there(i, soonest)), 1, i, "done", told + 1))
            events += 1
            yield now, i
        elif what == "back":
            if sources := hours.sources(i, now, neighbours, start):
                worker.restart(i, worker.models()[sources].mean(0))
        elif what == "door":
            there = wires.come(now, told[0])
            # what leaves and arrives at the same instant is not there for steps of that instant
            heapq.heappush(queue, (there, 0 if there > told[2] else 2, next(number), "there", told))
        else:
            receiver, sender, _, message = told
            worker.arrive(receiver, sender, message)


class PushSum:
    def __init__(self, x, grad, rate, neighbours):
        self.x, self.w, self.grad, self.rate, self.neighbours = (
            x.copy(),
            np.ones(len(x)),
            grad,
            rate,
            neighbours,
        )
        self.inbox = [[] for _ in x]

    def done(self, i):
        u = -self.rate * self.grad(i, self.x[i] / self.w[i])
        for x, w in self.inbox[i]:
            self.x[i] += x
            self.w[i] += w
        self.inbox[i] = []
        self.x[i] += self.w[i] * u
        share = 1 / (1 + len(self.neighbours[i]))
        self.x[i] *= share
        self.w[i] *= share
        return {j: (self.x[i].copy(), self.w[i]) for j in self.neighbours[i]}

    def arrive(self, i, sender, message):
        self.inbox[i].append(message)

    def models(self):
        return self.x / self.w[:, None]

    def restart(self, i, model):
        self.x[i] = self.w[i] * model


class Swift:
    def __init__(self, x, grad, rate, neighbours, influence=None):
        p = np.ones(len(x)) if influence is None else influence
        each = [p[i] / (1 + len(neighbours[i])) for i in range(len(x))]
        self.W = [{j: min(each[i], each[j]) / p[i] for j in neighbours[i]} for i in range(len(x))]
        self.x, self.grad, self.rate, self.neighbours = x.copy(), grad, rate, neighbours
        self.last = [{j: x[j].copy() for j in neighbours[i]} for i in range(len(x))]

    def done(self, i):
        u = -self.rate * self.grad(i, self.x[i])
        away = sum(w * (self.last[i][j] - self.x[i]) for j, w in self.W[i].items())
        self.x[i] += away + u
        return {j: self.x[i].copy() for j in self.neighbours[i]}

    def arrive(self, i, sender, message):
        self.last[i][sender] = message

    def models(self):
        return self.x.copy()

    def restart(self, i, model):
        self.x[i] = model


class RelaySGD:
    def __init__(self, x, grad, rate, neighbours):
        self.origin, self.x = x.mean(0), x.copy()
        self.grad, self.rate, self.neighbours = grad, rate, neighbours
        self.last = [{j: np.zeros(x.shape[1]) for j in neighbours[i]} for i in range(len(x))]

    def done(self, i):
        y = self.x[i] - self.rate * self.grad(i, self.x[i]) - self.origin
        self.x[i] = self.origin + (y + sum(self.last[i].values())) / len(self.x)
        return {j: y + sum(m for k, m in self.last[i].items() if k != j) for j in self.neighbours[i]}

    def arrive(self, i, sender, message):
        self.last[i][sender] = message

    def models(self):
        return self.x.copy()

    def restart(self, i, model):
        self.x[i] = model


class RelaySGDGrad:
    def __init__(self, x, grad, rate, neighbours):
        self.x, self.grad, self.rate, self.neighbours = x.copy(), grad, rate, neighbours
        self.since = [{j: 0.0 for j in neighbours[i]} for i in range(len(x))]

    def done(self, i):
        u = -self.rate * self.grad(i, self.x[i])
        self.x[i] += (u + sum(self.since[i].values())) / len(self.x)
        out = {j: u + sum(m for k, m in self.since[i].items() if k != j) for j in self.neighbours[i]}
        self.since[i] = dict.fromkeys(self.neighbours[i], 0.0)
        return out

    def arrive(self, i, sender, message):
        self.since[i][sender] = self.since[i][sender] + message

    def models(self):
        return self.x.copy()

    def restart(self, i, model):
        self.x[i] = model


def exchange(
    x,
    grad,
    rate,
    calls,
    key,
    network,
    steps,
    num_events,
    size,
    *,
    copy=True,
    neighbours=(),
    churn=None,
    start="own",
):
    """Averages of two. The order at the same time: by event, and in an event step, offers, answers.

    Args:
      calls: (i, k) -> {partner: weight}, ascending.
      copy: whether each event has models of its own, or all the last ones.

    Yields after each event and all that is over at the same instant: (time, worker, models).
    """
    n, x = len(x), x.copy()
    compute = compute_times(network, key, n, steps)
    wires = Wires(key, network, n, size)
    hours = Hours(n, churn)
    computed = [hours.after(i, 0, compute[i, 0]) for i in range(n)]
    begin, waits_for = x.copy(), np.zeros(n, int)
    queue = [(computed[i], np.inf, i, "done", 0) for i in range(n)]
    queue += [(time, -1, i, "back", None) for time, i in hours.returns()]
    heapq.heapify(queue)
    events, told_of, last, who = 0, 0, None, None

    def go_on(now, i, k):
        heapq.heappush(queue, (max(hours.there(i, now), computed[i]), np.inf, i, "done", k + 1))

    while True:
        now, _, i, what, told = heapq.heappop(queue)
        if told_of < events and (what == "done" or now > last):
            yield last, who, x.copy() if copy else x
            told_of = events
        if what == "done":
            if events == num_events:
                return
            k, offer = told, x[i].copy()
            x[i] -= rate * grad(i, begin[i])
            begin[i] = x[i]
            computed[i] = hours.after(i, now, compute[i, k + 1])
            partners = calls(i, k)
            waits_for[i] = len(partners)
            for j, weight in partners.items():
                call = (i, j, k, weight, now, events)
                heapq.heappush(queue, (wires.leave(now, i, j), events, j, "offer outside", (call, offer)))
            if not partners:
                go_on(now, i, k)
            events, last, who = events + 1, now, i
            continue
        if what == "back":
            if sources := hours.sources(i, now, neighbours, start):
                x[i] = begin[i] = x[sources].mean(0)
            continue
        call, told = told
        caller, j, k, weight, began, event = call
        if what == "offer outside":
            heapq.heappush(queue, (wires.come(now, j), event, j, "offer", (call, told)))
        elif what == "offer":
            delta = weight * (told - x[j]) * (hours.there(j, now) == now)
            x[j] += delta
            heapq.heappush(
                queue, (wires.leave(now, j, caller), event, n + j, "answer outside", (call, delta))
            )
        elif what == "answer outside":
            heapq.heappush(queue, (wires.come(now, caller), event, n + j, "answer", (call, told)))
        else:
            x[caller] -= told
            if now == began:
                begin[caller] = x[caller]
            waits_for[caller] -= 1
            if not waits_for[caller]:
                go_on(now, caller, k)


def random_partners(key, neighbours, steps):
    """AD-PSGD's choices: (i, k) -> {partner: 1/2}."""
    uniform = choices(key, len(neighbours), steps)
    return lambda i, k: {neighbours[i][int(uniform[i, k] * len(neighbours[i]))]: 0.5}
