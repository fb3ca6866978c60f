"""A tanh perceptron with derivative channels, forward and backward, a block of points at a time in the cache.

With h = tanh z: φ′ = 1 − h², φ″ = −2hφ′, φ‴ = φ′(6h² − 2), so that of every layer the value h and the channels of z are
kept, and nothing else. Channels come in the order value, `first` first derivatives, one second derivative per pair of
them, and a collapsed sum, if any. Parameters are one vector, every layer its weights (m, p), then its biases.
"""

from typing import no_type_check

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered, so that loops vectorise; NaN and infinity keep their meaning."""

CHUNK = 256
"""Entries of all channels that stay in the first-level cache."""

MAGIC = 6755399441055744.0
"""1.5 · 2⁵²: added to a small number it leaves the nearest integer in the last bits."""


@njit(cache=True, error_model="numpy", fastmath={"contract"})
@no_type_check
def tanh(v):
    """In place, to a few units in the last place: −q/(2 + q) with q = e^{−2|v|} − 1 = 2ᵏ(e^r − 1) + (2ᵏ − 1), e^r − 1
    by its series for |r| ≤ ½ ln 2. Branch-free, so that it vectorises."""
    scale, rest = np.empty(CHUNK, np.float64), np.empty(CHUNK, np.float64)
    bits = scale.view(np.int64)
    for a in range(0, v.size, CHUNK):
        x = v[a : a + CHUNK]
        n = x.size
        for e in range(n):
            y = -2.0 * abs(np.float64(x[e]))
            y = -50.0 if y < -50.0 else y
            scale[e] = y * 1.4426950408889634 + MAGIC
            k = scale[e] - MAGIC
            rest[e] = (y - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
        for e in range(n):
            bits[e] = (bits[e] << 52) + (1023 << 52)
        for e in range(n):
            r = rest[e]
            p = 1 / 6227020800.0
            p = p * r + 1 / 479001600.0
            p = p * r + 1 / 39916800.0
            p = p * r + 1 / 3628800.0
            p = p * r + 1 / 362880.0
            p = p * r + 1 / 40320.0
            p = p * r + 1 / 5040.0
            p = p * r + 1 / 720.0
            p = p * r + 1 / 120.0
            p = p * r + 1 / 24.0
            p = p * r + 1 / 6.0
            p = p * r + 0.5
            p = p * r * r + r
            q = scale[e] * p + (scale[e] - 1.0)
            h = -q / (2.0 + q)
            x[e] = h if x[e] >= 0 else -h


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def bend(z, out, first, pairs, collapsed):
    """Behind the activation: h;  φ′ z_i;  second: φ′ z + φ″ z_i z_j;  collapsed: φ′ z + φ″ Σ z_i². z[0] is h."""
    channels, size = z.shape
    one, two = z.dtype.type(1), z.dtype.type(2)
    slope, curve = np.empty(CHUNK, z.dtype), np.empty(CHUNK, z.dtype)
    for a in range(0, size, CHUNK):
        v, y = z[0, a : a + CHUNK], out[0, a : a + CHUNK]
        n = v.size
        for e in range(n):
            y[e] = v[e]
            slope[e] = one - v[e] * v[e]
            curve[e] = -two * v[e] * slope[e]
        for c in range(1, channels):
            x, y = z[c, a : a + n], out[c, a : a + n]
            for e in range(n):
                y[e] = slope[e] * x[e]
        for r in range(len(pairs)):
            x, x2, y = z[pairs[r, 0], a : a + n], z[pairs[r, 1], a : a + n], out[1 + first + r, a : a + n]
            for e in range(n):
                y[e] += curve[e] * x[e] * x2[e]
        if collapsed:
            y = out[channels - 1, a : a + n]
            for i in range(1, first + 1):
                x = z[i, a : a + n]
                for e in range(n):
                    y[e] += curve[e] * x[e] * x[e]


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def unbend(z, g, first, pairs, collapsed):
    """Cotangents behind the activation become those in front of it, in place."""
    channels, size = z.shape
    one, two, six = z.dtype.type(1), z.dtype.type(2), z.dtype.type(6)
    slope, total, lift = np.empty(CHUNK, z.dtype), np.empty(CHUNK, z.dtype), np.empty(CHUNK, z.dtype)
    twist = np.empty((len(pairs) + 1, CHUNK), z.dtype)  # φ″ times the cotangents of second derivatives
    for a in range(0, size, CHUNK):
        v, into = z[0, a : a + CHUNK], g[0, a : a + CHUNK]
        n = v.size
        for e in range(n):
            slope[e] = one - v[e] * v[e]
            total[e] = 0
            lift[e] = 0
        for c in range(1, channels):
            x, y = z[c, a : a + n], g[c, a : a + n]
            for e in range(n):
                y[e] *= slope[e]
                total[e] += y[e] * x[e]
        # From here the cotangents hold φ′: φ″ = −2h φ′, φ‴ = (6h² − 2) φ′.
        for r in range(len(pairs)):
            x, x2, y = z[pairs[r, 0], a : a + n], z[pairs[r, 1], a : a + n], g[1 + first + r, a : a + n]
            t = twist[r]
            for e in range(n):
                lift[e] += y[e] * x[e] * x2[e]
                t[e] = -two * v[e] * y[e]
        if collapsed:
            y, t = g[channels - 1, a : a + n], twist[len(pairs)]
            for e in range(n):
                t[e] = -two * two * v[e] * y[e]
            for i in range(1, first + 1):
                x, dx = z[i, a : a + n], g[i, a : a + n]
                for e in range(n):
                    lift[e] += y[e] * x[e] * x[e]
                    dx[e] += t[e] * x[e]
        for r in range(len(pairs)):
            i, j, t = pairs[r, 0], pairs[r, 1], twist[r]
            x, x2, dx, dx2 = z[i, a : a + n], z[j, a : a + n], g[i, a : a + n], g[j, a : a + n]
            for e in range(n):
                dx[e] += t[e] * x2[e]
            for e in range(n):
                dx2[e] += t[e] * x[e]
        for e in range(n):
            into[e] = slope[e] * into[e] - two * v[e] * total[e] + (six * v[e] * v[e] - two) * lift[e]


@njit(cache=True)
@no_type_check
def _product(a, b, out):
    """out = a b by the linear algebra library: in a function of its own it is compiled once for each layout."""
    np.dot(a, b, out)


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
@no_type_check
def forward(x, t, theta, sizes, first, pairs, collapsed, block, store, out):
    """All channels (1 + k, N, c) into `out`. `t` (k, N or 1, d) are the channels of x; `store` keeps what `backward`
    needs, (1 + k) N Σ widths numbers, or has room for one block alone."""
    depth, channels, count = len(sizes) - 1, len(t) + 1, len(x)
    hidden = sizes[1:depth].sum()
    keep = store.size >= channels * count * hidden
    spread = np.empty(channels * block * sizes[1:].max(), x.dtype)
    last = np.empty(max(channels * block * sizes[depth], sizes[1]), x.dtype)
    turned = np.empty(theta.size, x.dtype)  # transposed weights: products of plain arrays are the fastest
    o = 0
    for k in range(depth):
        p, m = sizes[k], sizes[k + 1]
        turned[o : o + m * p].reshape(p, m)[:] = theta[o : o + m * p].reshape(m, p).T
        o += m * p + m
    for a in range(0, count, block):
        n = min(block, count - a)
        at = channels * a * hidden if keep else 0
        o = 0
        for k in range(depth):
            p, m = sizes[k], sizes[k + 1]
            W, b = turned[o : o + m * p].reshape(p, m), theta[o + m * p : o + m * p + m]
            o += m * p + m
            size = channels * n * m
            z = store[at : at + size] if k < depth - 1 else last[:size]
            at += size
            rows = z.reshape(channels * n, m)
            if k:
                _product(spread[: channels * n * p].reshape(channels * n, p), W, rows)
            else:
                _product(x[a : a + n], W, rows[:n])
                for c in range(1, channels):
                    if t.shape[1] == count:
                        _product(t[c - 1, a : a + n], W, rows[c * n : c * n + n])
                    else:
                        for j in range(m):
                            total = t[c - 1, 0, 0] * W[0, j]
                            for q in range(1, p):
                                total += t[c - 1, 0, q] * W[q, j]
                            last[j] = total
                        for i in range(c * n, c * n + n):
                            for j in range(m):
                                rows[i, j] = last[j]
            for i in range(n):
                for j in range(m):
                    rows[i, j] += b[j]
            if k < depth - 1:
                tanh(z[: n * m])
                bend(z.reshape(channels, n * m), spread[:size].reshape(channels, n * m), first, pairs, collapsed)
            else:
                out[:, a : a + n] = z.reshape(channels, n, m)


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
@no_type_check
def backward(x, t, theta, sizes, first, pairs, collapsed, block, store, slopes, gradient):
    """Adds the gradient in all parameters for the cotangents `slopes` (1 + k, N, c)."""
    depth, channels, count = len(sizes) - 1, len(t) + 1, len(x)
    hidden = sizes[1:depth].sum()
    room = channels * block * sizes[1:].max()
    spread, above, below = np.empty(room, x.dtype), np.empty(room, x.dtype), np.empty(room, x.dtype)
    product = np.empty(sizes[1:].max() * sizes.max(), x.dtype)
    total = np.empty(sizes[1], x.dtype)
    for a in range(0, count, block):
        n = min(block, count - a)
        at = channels * a * hidden + channels * n * hidden
        above[: channels * n * sizes[depth]].reshape(channels, n, sizes[depth])[:] = slopes[:, a : a + n]
        o = theta.size
        for k in range(depth - 1, -1, -1):
            p, m = sizes[k], sizes[k + 1]
            o -= m * p + m
            W, into = theta[o : o + m * p].reshape(m, p), gradient[o : o + m * p].reshape(m, p)
            b = gradient[o + m * p : o + m * p + m]
            g = above[: channels * n * m].reshape(channels * n, m)
            for i in range(n):
                for j in range(m):
                    b[j] += g[i, j]
            dW = product[: m * p].reshape(m, p)
            if k:
                size = channels * n * p
                at -= size
                z = store[at : at + size].reshape(channels, n * p)
                bend(z, spread[:size].reshape(channels, n * p), first, pairs, collapsed)
                _product(g.T, spread[:size].reshape(channels * n, p), dW)
                into += dW
                _product(g, W, below[:size].reshape(channels * n, p))
                unbend(z, below[:size].reshape(channels, n * p), first, pairs, collapsed)
                above, below = below, above
                continue
            _product(g[:n].T, x[a : a + n], dW)
            into += dW
            for c in range(1, channels):
                own = g[c * n : c * n + n]
                if t.shape[1] == count:
                    _product(own.T, t[c - 1, a : a + n], dW)
                    into += dW
                else:
                    total[:] = 0
                    for i in range(n):
                        for j in range(m):
                            total[j] += own[i, j]
                    for j in range(m):
                        for q in range(p):
                            into[j, q] += total[j] * t[c - 1, 0, q]
