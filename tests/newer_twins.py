"""More slow, obvious twins (see `twins`): methods as published, with gradients and a learning rate."""

import jax
import numpy as np
from numpy.polynomial.chebyshev import chebval

from relaysim.mixing import random_peers


def draws(key):
    """The key of what a method or a mixer draws besides lost messages."""
    return jax.random.fold_in(key, 1)


# Compressors, (key, x) -> C(x)


def top_k(k):
    def compress(key, x):
        kept = np.argsort(-np.abs(x), axis=1, kind="stable")[:, :k]
        out = np.zeros_like(x)
        np.put_along_axis(out, kept, np.take_along_axis(x, kept, axis=1), axis=1)
        return out

    return compress


def random_k(k):
    def compress(key, x):
        uniform = np.asarray(jax.random.uniform(key, x.shape))
        return x * (top_k(k)(key, uniform) != 0)

    return compress


def quantize(bits):
    def compress(key, x):
        levels, out = 2 ** (bits - 1) - 1, np.zeros_like(x)
        uniform = np.asarray(jax.random.uniform(key, x.shape))
        for i, row in enumerate(x):
            norm = np.sqrt(sum(row**2))
            if norm > 0:
                out[i] = norm * np.sign(row) * np.floor(levels * abs(row) / norm + uniform[i]) / levels
        return out

    return compress


# Mixers


def random_matching(n):
    def mix(key, x):
        order, mixed = jax.random.permutation(draws(key), n).tolist(), x.copy()
        for i, j in zip(order[0 : n - 1 : 2], order[1::2], strict=True):
            mixed[i] = mixed[j] = (x[i] + x[j]) / 2
        return mixed

    return mix


def epidemic(n, peers):
    def mix(key, x):
        s = min(peers, n - 1)
        targets = random_peers._others(draws(key), 0, (n, s)).tolist()
        got = {i: [x[i]] for i in range(n)}
        for i in range(n):
            for j in targets[i]:
                got[j].append(x[i])
        return np.stack([sum(got[i]) / len(got[i]) for i in range(n)])

    return mix


def compressed_relay_sum(tree, x0, compress):
    """Of updates: what compression leaves out of a message goes with the next one on the same link."""
    n = tree.num_workers
    neighbours = {i: tree.neighbours(i).tolist() for i in range(n)}
    links = [(i, j) for i in range(n) for j in neighbours[i]]
    heard = {link: np.zeros_like(x0) for link in links}
    left = {link: np.zeros_like(x0) for link in links}

    def mix(key, x):
        nonlocal heard
        arrived = {}
        for i, j in links:
            message = x[i] + sum(heard[k, i] for k in neighbours[i] if k != j) + left[i, j]
            arrived[i, j] = compress(key, message[None])[0]
            left[i, j] = message - arrived[i, j]
        heard = arrived
        return np.stack([x[i] + sum(heard[j, i] for j in neighbours[i]) for i in range(n)]) / n

    return mix


# Methods


def exact_diffusion(mix, grad, lr, x, keys, *, first_is_mixed=True):
    """x'' = (I + W)/2 (2 x' − x − γ (g' − g)); with NIDS the first step is not mixed."""
    last_x = last_g = None
    for t, key in enumerate(keys):
        g = grad(t, x)
        moved = x - lr * g if t == 0 else 2 * x - last_x - lr * (g - last_g)
        mixed = (moved + mix(key, moved)) / 2 if t > 0 or first_is_mixed else moved
        last_x, last_g, x = x, g, mixed
        yield x


def extra(mix, grad, lr, x, keys):
    last_x = last_wx = last_g = None
    for t, key in enumerate(keys):
        g, wx = grad(t, x), mix(key, x)
        new = wx - lr * g if t == 0 else x + wx - (last_x + last_wx) / 2 - lr * (g - last_g)
        last_x, last_wx, last_g, x = x, wx, g, new
        yield x


def decentlam(mix, grad, lr, x, keys, *, beta):
    m = np.zeros_like(x)
    for t, key in enumerate(keys):
        m = beta * m + (x - mix(key, x - lr * grad(t, x))) / lr
        x = x - lr * m
        yield x


def momentum_tracking(mix, grad, lr, x, keys, *, beta):
    for t, key in enumerate(keys):
        g = grad(t, x)
        if t == 0:
            c = m = (g - g.mean(0, keepdims=True)) / (1 - beta)
        m = beta * m + g
        x = mix(key, x) - lr * (m - c)
        c = m - mix(key, m - c)
        yield x


def gt_hsgd(mix, grad, lr, x, keys, *, beta):
    y, last_v, last_x = np.zeros_like(x), np.zeros_like(x), None
    for t, key in enumerate(keys):
        v = grad(t, x) if t == 0 else grad(t, x) + (1 - beta) * (last_v - grad(t, last_x))
        y = mix(key, y + v - last_v)
        last_x, last_v, x = x, v, mix(key, x - lr * y)
        yield x


def destress(w, grad, lr, x, keys, *, inner, k_in, k_out):
    values, vectors = np.linalg.eigh(w)
    alpha = np.linalg.norm(w - 1 / len(w), 2)

    def accelerated(k):
        if alpha < 1e-12:
            return w
        t_k = [0] * k + [1]
        return vectors @ np.diag(chebval(values / alpha, t_k) / chebval(1 / alpha, t_k)) @ vectors.T

    p_in, p_out = accelerated(k_in), accelerated(k_out)
    x, s, last_g = np.stack([x.mean(0)] * len(x)), None, None
    for t in range(len(keys)):
        g = grad(t, x)
        s = np.stack([g.mean(0)] * len(x)) if t == 0 else p_out @ (s + g - last_g)
        y, v, last_g = x, s, g
        for k in range(inner):
            after = p_in @ (y - lr * v)
            v = p_in @ (v + grad(t * inner + k, after) - grad(t * inner + k, y))
            y = after
        x = y
        yield x


def gta(w, grad, lr, x, keys, *, variant, mixings, local_steps):
    p, i = np.linalg.matrix_power(w, mixings), 0
    x = x if variant == 1 else p @ x
    y = g = grad(0, x)
    for _ in keys:
        for k in range(local_steps):
            a, b, c = {1: (p, 1, 1), 2: (p, p, 1), 3: (p, p, p)}[variant] if k == 0 else (1, 1, 1)
            times = lambda m, v: v if isinstance(m, int) else m @ v  # noqa: E731
            x = times(a, x) - lr * times(b, y)
            i += 1
            if k == local_steps - 1:
                yield x
            new = grad(i, x)
            y = times(c, y + new - g) if variant == 3 else times(a, y) + new - g
            g = new


def k_gt(mix, grad, lr, x, keys, *, steps, rate):
    c = np.zeros_like(x)
    for t, key in enumerate(keys):
        u = x
        for k in range(steps):
            u = u - lr * (grad(t * steps + k, u) + c)
        z = (x - u) / (steps * lr)
        c = c - z + mix(key, z)
        x = mix(key, x - steps * lr * rate * z)
        yield x


def led(mix, grad, lr, x, keys, *, steps, beta):
    y = np.zeros_like(x)
    for t, key in enumerate(keys):
        u = x
        for k in range(steps):
            u = u - lr * grad(t * steps + k, u) - beta * y
        x = mix(key, u)
        y = y + u - x
        yield x


def prox_skip(mix, grad, lr, x, keys, *, probability, relaxation):
    h = np.zeros_like(x)
    for t, key in enumerate(keys):
        u = x - lr * (grad(t, x) - h)
        x = u
        if jax.random.bernoulli(draws(key), probability):
            x = u + relaxation * (mix(key, u) - u)
            h = h + probability / lr * (x - u)
        yield x


def choco_sgd(mix, grad, lr, x, keys, *, compress, gamma, order):
    h = np.zeros_like(x)
    for t, key in enumerate(keys):
        u = x - lr * grad(t, x)
        if order == "together":
            x = u + gamma * (mix(key, h) - h)
            h = h + compress(draws(key), x - h)
        else:
            h = h + compress(draws(key), u - h)
            x = u + gamma * (mix(key, h) - h)
        yield x


def motef(mix, grad, lr, x, keys, *, compress, gamma, momentum):
    h = q = np.zeros_like(x)
    m = v = grad(0, x)
    for t, key in enumerate(keys):
        x = x + gamma * (mix(key, h) - h) - lr * v
        h = h + compress(None, x - h)
        yield x
        new_m = (1 - momentum) * m + momentum * grad(t + 1, x)
        v = v + gamma * (mix(key, q) - q) + new_m - m
        q, m = q + compress(None, v - q), new_m


def moniqua(w, grad, lr, x, keys, *, theta, gamma):
    def reduced(v, period):
        return (v + period / 2) % period - period / 2

    b, n = 6 * theta, len(x)
    for t, key in enumerate(keys):
        y = x - lr * grad(t, x)
        u = np.asarray(jax.random.uniform(draws(key), x.shape))
        q = np.floor((reduced(y / b, 1) + 1 / 2) * 3 + u) / 3 - 1 / 2
        own, x = q * b - reduced(y, b), y.copy()
        for i in range(n):
            for j in range(n):
                x[i] += gamma * w[i, j] * (reduced(q[j] * b - y[i], b) - own[i])
        yield x


def btpp(grad, lr, x, keys, *, branching):
    n = len(x)
    r = np.zeros((n, n))
    r[0, 0] = 1
    for i in range(1, n):
        r[i, (i - 1) // branching] = 1
    y = g = grad(0, x)
    for t in range(len(keys)):
        x = r @ (x - lr / n * y)
        yield x
        new = grad(t + 1, x)
        y, g = r.T @ y + new - g, new


def ceca(grad, lr, x, keys, *, peers):
    n, a, c, k, digit = len(x), x, x, 0, 0
    digits = [int(digit) for digit in bin(n - 1)[2:]]
    for t in range(len(keys)):
        k = 0 if t % len(digits) == 0 else 2 * k + digit
        digit = digits[t % len(digits)]
        heard = []
        for i in range(n):
            if peers == 2:
                heard.append((i - (k + digit)) % n)
            else:
                heard.append((i + 2 * k + 1 if i % 2 else i - 2 * k - 1) % n)
        at = a if digit else c
        step = -lr * grad(t, at)
        h = at + step
        h_s = h[heard]
        if digit:
            a, c = (h + h_s) / 2, ((k + 1) * h_s + k * (c + step)) / (2 * k + 1)
        else:
            c, a = (h + h_s) / 2, ((k + 1) * (a + step) + k * h_s) / (2 * k + 1)
        yield a


def inner_steps(grad, lr, x, t, steps):
    for k in range(steps):
        x = x - lr * grad(t * steps + k, x)
    return x


def diloco(mix, grad, lr, x, keys, *, steps, rate, momentum):
    m = np.zeros_like(x)
    for t, key in enumerate(keys):
        progress = inner_steps(grad, lr, x, t, steps) - x
        m = momentum * m + progress
        x = mix(key, x + rate * (progress + momentum * m))
        yield x


def noloco(mix, grad, lr, x, keys, *, steps, rate, momentum):
    m = np.zeros_like(x)
    for t, key in enumerate(keys):
        progress = inner_steps(grad, lr, x, t, steps) - x
        m = momentum * m + rate * mix(key, progress) + rate * (mix(key, x) - x)
        x = x + m
        yield x


def decoupled_momentum(mix, grad, lr, x, keys, *, compress, beta):
    m = np.zeros_like(x)
    for t, key in enumerate(keys):
        m = beta * m - lr * grad(t, x)
        q = compress(draws(key), m)
        m, x = m - q, x + mix(key, q)
        yield x


def teleportation(mix, k, grad, lr, x, keys):
    models = [x[j] for j in range(k)]
    for t, key in enumerate(keys):
        active = jax.random.permutation(draws(key), len(x)).tolist()[:k]
        x = x.copy()
        for j, i in enumerate(active):
            x[i] = models[j]
        g = grad(t, x)
        models = mix(key, np.stack([models[j] - lr * g[i] for j, i in enumerate(active)]))
        for j, i in enumerate(active):
            x[i] = models[j]
        yield x
