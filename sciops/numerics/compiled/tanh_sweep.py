"""A tanh perceptron with derivative channels, forward and backward, a panel of points at a time in the cache.

With h = tanh z: φ′ = 1 − h², φ″ = −2hφ′, φ‴ = φ′(6h² − 2), so that of every layer the value h and the channels of z are
kept, and nothing else. Channels come in the order value, `first` first derivatives, one second derivative per pair of
them, and a collapsed sum, if any. Parameters are one vector, every layer its weights (m, p), then its biases. A panel
holds one row of points per neuron, a layer one panel per channel (`tiles.py`).
"""

import math
from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from sciops.numerics.compiled.tiles import BYTES, combine, correlate
from sciops.numerics.compiled.vectors import INTEGER, Lanes, Value, Variable, counted, pointer

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be reordered, so that loops vectorise; NaN and infinity keep their meaning."""

EXPONENTS = {
    64: (52, 1023, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13, 50.0),
    32: (23, 127, 0.693359375, -2.12194440e-4, 7, 25.0),
}
"""By the bits of a number: where its exponent begins and what is added to it; ln 2 in two parts, the first one short;
terms of the series of e^r for |r| ≤ ½ ln 2; from where on 1 − tanh is below rounding."""


@intrinsic  # type: ignore[untyped-decorator]
def _tanh(typing: Any, v: Any, size: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes = Lanes(context, builder, v)
        data, size = pointer(context, builder, v, given[0]), Value(builder, given[1])
        shift, bias, high, low, terms, most = EXPONENTS[lanes.bits]
        magic = 1.5 * 2.0**shift  # added to a small number it leaves the nearest integer in the last bits
        integers = ir.VectorType(ir.IntType(lanes.bits), lanes.count)
        with counted(size, lanes.count) as e:
            x = lanes.load(data, e)
            y = x.chosen(">", 0.0, x * -2.0, x * 2.0)
            y = y.chosen("<", -2 * most, -2 * most, y)
            shifted = y * (1 / math.log(2)) + magic
            k = shifted - magic
            r = (y - k * high) - k * low
            bits = Value(builder, builder.bitcast(shifted.raw, integers))
            bits = Value(builder, builder.shl(bits.raw, bits.like(shift).raw)) + (bias << shift)
            scale = Value(builder, builder.bitcast(bits.raw, lanes.vector))
            p = lanes.constant(1 / math.factorial(terms))
            for n in range(terms - 1, 1, -1):
                p = p * r + 1 / math.factorial(n)
            p = p * r * r + r
            q = scale * p + (scale - 1.0)
            h = q / (q + 2.0)
            lanes.store(x.chosen(">", 0.0, 0.0 - h, h), data, e)
        return context.get_dummy_value()

    return types.void(v, size), emit


@njit(cache=True, error_model="numpy")
@no_type_check
def tanh(v):
    """In place, to a few units in the last place: −q/(2 + q) with q = e^{−2|v|} − 1 = 2ᵏ(e^r − 1) + (2ᵏ − 1), e^r − 1
    by its series. Whole vectors of 64 bytes."""
    _tanh(v, v.size)


@intrinsic  # type: ignore[untyped-decorator]
def bend(typing: Any, z: Any, out: Any, size: Any, first: Any, pairs: Any, collapsed: Any) -> Any:
    """Behind the activation: h;  φ′ z_i;  second: φ′ z + φ″ z_i z_j;  collapsed: φ′ z + φ″ Σ z_i². z[0] is h.

    Channels are `size` entries apart in flat arrays; pairs are a flat array of channels.
    """
    kinds = (z, out, size, first, pairs, collapsed)

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes, layer = Lanes(context, builder, z), _Layer(context, builder, kinds, given)
        out = pointer(context, builder, kinds[1], given[1])
        with counted(layer.size, lanes.count) as e:
            v = lanes.load(layer.z, e)
            slope = 1.0 - v * v
            curve = v * slope * -2.0
            lanes.store(v, out, e)
            squares = Variable(lanes.constant(0.0))
            with counted(layer.first) as i:
                at = e + (i + 1) * layer.size
                x = lanes.load(layer.z, at)
                squares.add(x * x)
                lanes.store(slope * x, out, at)
            with counted(layer.second) as r:
                i, j = layer.pair(r)
                at = e + (r + layer.first + 1) * layer.size
                product = lanes.load(layer.z, e + i * layer.size) * lanes.load(layer.z, e + j * layer.size)
                lanes.store(slope * lanes.load(layer.z, at) + curve * product, out, at)
            with counted(layer.collapsed):
                at = e + layer.last * layer.size
                lanes.store(slope * lanes.load(layer.z, at) + curve * squares.get(), out, at)
        return context.get_dummy_value()

    return types.void(*kinds), emit


@intrinsic  # type: ignore[untyped-decorator]
def unbend(typing: Any, z: Any, out: Any, size: Any, first: Any, pairs: Any, collapsed: Any, g: Any) -> Any:
    """Cotangents g behind the activation become those in front of it, in place; `out` is what `bend` makes."""
    kinds = (z, out, size, first, pairs, collapsed, g)

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes, layer = Lanes(context, builder, z), _Layer(context, builder, kinds, given)
        out, g = (pointer(context, builder, kinds[k], given[k]) for k in (1, 6))
        with counted(layer.size, lanes.count) as e:
            v = lanes.load(layer.z, e)
            slope = 1.0 - v * v
            curve = v * slope * -2.0
            lanes.store(v, out, e)
            squares, total, lift = (Variable(lanes.constant(0.0)) for _ in range(3))
            # Cotangents are multiplied by φ′ first: φ″ = −2h φ′, φ‴ = (6h² − 2) φ′.
            with counted(layer.first) as i:
                at = e + (i + 1) * layer.size
                x, y = lanes.load(layer.z, at), slope * lanes.load(g, at)
                squares.add(x * x)
                total.add(x * y)
                lanes.store(y, g, at)
                lanes.store(slope * x, out, at)
            with counted(layer.second) as r:
                i, j = layer.pair(r)
                at, a, b = e + (r + layer.first + 1) * layer.size, e + i * layer.size, e + j * layer.size
                x, y = lanes.load(layer.z, at), slope * lanes.load(g, at)
                total.add(x * y)
                lanes.store(y, g, at)
                left, right, twist = lanes.load(layer.z, a), lanes.load(layer.z, b), v * y * -2.0
                product = left * right
                lift.add(y * product)
                lanes.store(slope * x + curve * product, out, at)
                lanes.store(lanes.load(g, a) + twist * right, g, a)
                lanes.store(lanes.load(g, b) + twist * left, g, b)
            with counted(layer.collapsed):
                at = e + layer.last * layer.size
                x, y = lanes.load(layer.z, at), slope * lanes.load(g, at)
                total.add(x * y)
                lift.add(y * squares.get())
                twist = v * y * -4.0
                lanes.store(y, g, at)
                lanes.store(slope * x + curve * squares.get(), out, at)
                with counted(layer.first) as i:
                    at = e + (i + 1) * layer.size
                    lanes.store(lanes.load(g, at) + twist * lanes.load(layer.z, at), g, at)
            towards = (v * v * 6.0 - 2.0) * lift.get() - v * total.get() * 2.0
            lanes.store(slope * lanes.load(g, e) + towards, g, e)
        return context.get_dummy_value()

    return types.void(*kinds), emit


class _Layer:
    """What `bend` and `unbend` are told of the channels."""

    def __init__(self, context: Any, builder: Any, kinds: Any, given: Any) -> None:
        self.builder = builder
        self.z, self.pairs = (pointer(context, builder, kinds[k], given[k]) for k in (0, 4))
        self.size, self.first, self.collapsed = (Value(builder, given[k]) for k in (2, 3, 5))
        count = context.make_array(kinds[4])(context, builder, given[4]).nitems
        self.second = Value(builder, builder.sdiv(count, ir.Constant(INTEGER, 2)))
        self.last = self.first + self.second + self.collapsed

    def pair(self, r: Value) -> tuple[Value, Value]:
        places = [self.builder.gep(self.pairs, [(r * 2 + k).raw]) for k in (0, 1)]
        i, j = (Value(self.builder, self.builder.load(place)) for place in places)
        return i, j


@njit(cache=True, error_model="numpy")
@no_type_check
def _room(count, like):
    """Numbers that begin where a cache line does."""
    made = np.empty(count + 64, like.dtype)
    return made[-made.ctypes.data % 64 // like.itemsize :][:count]


@njit(cache=True, error_model="numpy")
@no_type_check
def _gather(rows, a, out):
    """Rows a, a + 1, … become columns of a panel; zeros where there are no more."""
    points = BYTES // out.itemsize
    n = min(points, len(rows) - a)
    for q in range(rows.shape[1]):
        panel = out[q * points : (q + 1) * points]
        for i in range(n):
            panel[i] = rows[a + i, q]
        panel[n:] = 0


@njit(cache=True, error_model="numpy")
@no_type_check
def _open(t, theta, p, m, out):
    """Derivatives behind the first layer that are the same at all points: W t in every panel."""
    points = BYTES // out.itemsize
    for c in range(len(t)):
        for j in range(m):
            total = t[c, 0, 0] * theta[j * p]
            for q in range(1, p):
                total += t[c, 0, q] * theta[j * p + q]
            out[((c + 1) * m + j) * points : ((c + 1) * m + j + 1) * points] = total


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
@no_type_check
def forward(x, t, theta, sizes, first, pairs, collapsed, store, out):
    """All channels (1 + k, N, c) into `out`, of one hidden layer or more. `t` (k, N or 1, d) are the channels of x;
    `store` keeps what `backward` needs: 1 + k numbers a neuron and point, one in the first layer where the channels are
    the same at all points; N rounded up to whole panels."""
    depth, channels, count, points = len(sizes) - 1, len(t) + 1, len(x), BYTES // x.itemsize
    each, varying = channels * points, t.shape[1] == count
    opened = (each if varying else points) * sizes[1]
    hidden = opened + each * sizes[2:depth].sum()
    inputs, spread = _room(points * sizes[0], x), _room(each * sizes[1:].max(), x)
    opening, last = _room(each * sizes[1], x), _room(each * sizes[depth], x)
    none, zero, one = np.zeros(sizes.max(), x.dtype), np.int64(0), np.int64(1)  # literals would compile calls again
    p, m = sizes[0], sizes[1]
    if not varying:
        _open(t, theta, p, m, opening)
    for a in range(0, count, points):
        n, at, o = min(points, count - a), a // points * hidden, zero
        for k in range(depth):
            p, m = sizes[k], sizes[k + 1]
            z = opening if k == 0 else last if k == depth - 1 else store[at : at + each * m]
            for c in range(channels):
                own = z[c * m * points : (c + 1) * m * points]
                bias, b = (none, zero) if c else (theta, o + m * p)
                if k:
                    below = spread[c * p * points : (c + 1) * p * points]
                    combine(theta, o, p, one, m, p, bias, b, below, own)
                elif varying or c == 0:
                    _gather(t[c - 1] if c else x, a, inputs)
                    combine(theta, o, p, one, m, p, bias, b, inputs, own)
            o += m * p + m
            if k == depth - 1:
                for c in range(channels):
                    for j in range(m):
                        for i in range(n):
                            out[c, a + i, j] = z[(c * m + j) * points + i]
                continue
            tanh(z[: m * points])
            bend(z, spread, m * points, first, pairs, collapsed)
            if k == 0:
                store[at : at + opened] = opening[:opened]
            at += each * m if k else opened


@njit(cache=True, error_model="numpy", nogil=True, fastmath=FAST)
@no_type_check
def backward(x, t, theta, sizes, first, pairs, collapsed, store, slopes, gradient):
    """Adds the gradient in all parameters for the cotangents `slopes` (1 + k, N, c)."""
    depth, channels, count, points = len(sizes) - 1, len(t) + 1, len(x), BYTES // x.itemsize
    each, varying = channels * points, t.shape[1] == count
    opened = (each if varying else points) * sizes[1]
    hidden, room = opened + each * sizes[2:depth].sum(), each * sizes[1:].max()
    inputs, opening, spread = _room(points * sizes[0], x), _room(each * sizes[1], x), _room(room, x)
    above, below, none = _room(room, x), _room(room, x), np.zeros(sizes.max(), x.dtype)
    ones, totals = np.ones(points, x.dtype), np.zeros(channels * sizes[1], x.dtype)
    zero, one = np.int64(0), np.int64(1)  # literals would compile calls again
    p, m = sizes[0], sizes[1]
    if not varying:
        _open(t, theta, p, m, opening)
    for a in range(0, count, points):
        n, at, o = min(points, count - a), (a // points + 1) * hidden, theta.size
        m = sizes[depth]
        for c in range(channels):
            for j in range(m):
                own = above[(c * m + j) * points : (c * m + j + 1) * points]
                for i in range(n):
                    own[i] = slopes[c, a + i, j]
                own[n:] = 0
        for k in range(depth - 1, -1, -1):
            p, m = sizes[k], sizes[k + 1]
            o -= m * p + m
            correlate(above, m, ones, one, one, gradient, o + m * p)
            if k:
                at -= opened if k == 1 else each * p
                for c in range(channels):
                    g = above[c * m * points : (c + 1) * m * points]
                    combine(theta, o, one, p, p, m, none, zero, g, below[c * p * points : (c + 1) * p * points])
                z = opening if k == 1 else store[at : at + each * p]
                if k == 1:
                    opening[:opened] = store[at : at + opened]
                unbend(z, spread, p * points, first, pairs, collapsed, below)
                correlate(above, m, spread, p, channels, gradient, o)
                above, below = below, above
                continue
            for c in range(channels):
                own = above[c * m * points : (c + 1) * m * points]
                if varying or c == 0:
                    _gather(t[c - 1] if c else x, a, inputs)
                    correlate(own, m, inputs, p, one, gradient, o)
                else:
                    correlate(own, m, ones, one, one, totals, c * m)
    p, m = sizes[0], sizes[1]
    if not varying:
        for c in range(1, channels):
            for j in range(m):
                for q in range(p):
                    gradient[j * p + q] += totals[c * m + j] * t[c - 1, 0, q]
