"""Fused passes over the vectors of one system: matrix times vector with its inner product, and CG's updates.

Arrays are flat. A face array is zero where no face is, so the neighbour at distance ±stride of *any* cell that has one
inside the array may be read: where it belongs to another row its weight is zero. Only the first and the last `stride`
cells need a test.
"""

from typing import no_type_check

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered, so that loops vectorise; NaN and infinity keep their meaning."""


@njit(cache=True, error_model="numpy")
@no_type_check
def _guarded(x, w, stride, first, last, y):
    """y −= (coupling along one axis) x on cells first…last−1, with tests at both ends of the array."""
    for k in range(first, last):
        v = y[k]
        if k >= stride:
            v -= w[k - stride] * x[k - stride]
        if k + stride < x.size:
            v -= w[k] * x[k + stride]
        y[k] = v


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def matvec_dot_2d(x, diagonal, w0, w1, s0, y):
    """y = A x, returns xᵀy; w0 couples cells s0 apart, w1 cells 1 apart."""
    n = x.size
    a = min(s0, n)
    b = max(n - s0, a)
    for lo, hi in ((0, a), (b, n)):
        y[lo:hi] = diagonal[lo:hi] * x[lo:hi]
        _guarded(x, w1, 1, lo, hi, y)
        _guarded(x, w0, s0, lo, hi, y)
    total = 0.0
    for k in range(a):
        total += x[k] * y[k]
    for k in range(b, n):
        total += x[k] * y[k]
    m = b - a
    if m == 0:
        return total
    xc, xl, xr, xb, xf = x[a:b], x[a - 1 : b - 1], x[a + 1 : b + 1], x[:m], x[a + s0 :]
    dc, wr, wl, wf, wb = diagonal[a:b], w1[a:b], w1[a - 1 : b - 1], w0[a:b], w0[:m]
    yc = y[a:b]
    for k in range(m):
        v = dc[k] * xc[k] - wr[k] * xr[k] - wl[k] * xl[k] - wf[k] * xf[k] - wb[k] * xb[k]
        yc[k] = v
        total += v * xc[k]
    return total


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def matvec_dot_3d(x, diagonal, w0, w1, w2, s0, s1, y):
    """y = A x, returns xᵀy; w0, w1, w2 couple cells s0, s1, 1 apart."""
    n = x.size
    a = min(s0, n)
    b = max(n - s0, a)
    for lo, hi in ((0, a), (b, n)):
        y[lo:hi] = diagonal[lo:hi] * x[lo:hi]
        _guarded(x, w2, 1, lo, hi, y)
        _guarded(x, w1, s1, lo, hi, y)
        _guarded(x, w0, s0, lo, hi, y)
    total = 0.0
    for k in range(a):
        total += x[k] * y[k]
    for k in range(b, n):
        total += x[k] * y[k]
    m = b - a
    if m == 0:
        return total
    xc, xl, xr, xb, xf = x[a:b], x[a - 1 : b - 1], x[a + 1 : b + 1], x[:m], x[a + s0 :]
    xu, xd = x[a - s1 : b - s1], x[a + s1 : b + s1]
    dc, wr, wl, wf, wb = diagonal[a:b], w2[a:b], w2[a - 1 : b - 1], w0[a:b], w0[:m]
    wd, wu = w1[a:b], w1[a - s1 : b - s1]
    yc = y[a:b]
    for k in range(m):
        v = dc[k] * xc[k] - wr[k] * xr[k] - wl[k] * xl[k] - wf[k] * xf[k] - wb[k] * xb[k]
        v -= wd[k] * xd[k] + wu[k] * xu[k]
        yc[k] = v
        total += v * xc[k]
    return total


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def matvec_dot_rows(padded, starts, steps, coefficients, length, y):
    """y = Σ_k coefficients[k]·(x moved by steps[k]) row by row, returns xᵀy; x lies in a ghost-padded array."""
    total = 0.0
    for row in range(starts.size):
        begin = starts[row]
        out = y[row * length : (row + 1) * length]
        out[:] = 0.0
        for k in range(steps.size):
            c = coefficients[k, row * length : (row + 1) * length]
            moved = padded[begin + steps[k] : begin + steps[k] + length]
            for j in range(length):
                out[j] += c[j] * moved[j]
        centre = padded[begin : begin + length]
        for j in range(length):
            total += out[j] * centre[j]
    return total


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def step(alpha, p, q, x, r):
    """x += α p, r −= α q, returns rᵀr."""
    total = 0.0
    for k in range(x.size):
        x[k] += alpha * p[k]
        v = r[k] - alpha * q[k]
        r[k] = v
        total += v * v
    return total


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def two_dots(z, r, q):
    """zᵀr and zᵀq."""
    first, second = 0.0, 0.0
    for k in range(z.size):
        first += z[k] * r[k]
        second += z[k] * q[k]
    return first, second


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def turn(z, beta, p):
    """p = z + β p."""
    for k in range(z.size):
        p[k] = z[k] + beta * p[k]


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def remainder(b, y):
    """y = b − y, returns yᵀy."""
    total = 0.0
    for k in range(b.size):
        v = b[k] - y[k]
        y[k] = v
        total += v * v
    return total


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def off_components(x, labels, count):
    """x −= its mean over every component 1…count, and x = 0 where labels < 0 (cells without a row)."""
    sums = np.zeros(count + 1)
    sizes = np.zeros(count + 1)
    for k in range(x.size):
        label = labels[k]
        if label > 0:
            sums[label] += x[k]
            sizes[label] += 1.0
    for label in range(1, count + 1):
        sums[label] /= max(sizes[label], 1.0)
    for k in range(x.size):
        label = labels[k]
        x[k] = 0.0 if label < 0 else x[k] - sums[label]


@njit(cache=True, error_model="numpy")
@no_type_check
def narrow(wide, single):
    """Copy to single precision; returns False at the first block in which that changes a value."""
    block = 4096
    for first in range(0, wide.size, block):
        a, b = wide[first : first + block], single[first : first + block]
        changed = 0
        for k in range(a.size):
            b[k] = a[k]
            changed += b[k] != a[k]
        if changed:
            return False
    return True
