"""Indicators of islands extended into the soft cells around them, and sparse columns (kernels).

Everything is flat. The last layer of every axis has weight zero, so that an index never wraps into the next row.
Columns are stored one after the other: those of number k are the entries starts[k] … starts[k + 1] − 1.
"""

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
@no_type_check
def stiff_cells(w0, w1, w2, strides, sink, limits):
    """1 where a face of the cell is above the limit of its axis, or the sink above the last limit."""
    size = sink.size
    out = np.zeros(size, np.uint8)
    for c in range(size):
        out[c] |= (w0[c] > limits[0]) | (w1[c] > limits[1]) | (w2[c] > limits[2]) | (sink[c] > limits[3])
    for c in range(size - strides[0]):
        out[c + strides[0]] |= w0[c] > limits[0]
    for c in range(size - strides[1]):
        out[c + strides[1]] |= w1[c] > limits[1]
    for c in range(size - strides[2]):
        out[c + strides[2]] |= w2[c] > limits[2]
    return out


@njit(cache=True, error_model="numpy", inline="always")
@no_type_check
def _neighbours(w0, w1, w2, strides, c, other, weight):
    """Fill in the cells beside c and the weights to them; how many there are."""
    s0, s1, s2, size = strides[0], strides[1], strides[2], w0.size
    n = 0
    if c >= s0:
        other[n], weight[n] = c - s0, w0[c - s0]
        n += weight[n] > 0
    if c + s0 < size:
        other[n], weight[n] = c + s0, w0[c]
        n += weight[n] > 0
    if c >= s1:
        other[n], weight[n] = c - s1, w1[c - s1]
        n += weight[n] > 0
    if c + s1 < size:
        other[n], weight[n] = c + s1, w1[c]
        n += weight[n] > 0
    if c >= s2:
        other[n], weight[n] = c - s2, w2[c - s2]
        n += weight[n] > 0
    if c + s2 < size:
        other[n], weight[n] = c + s2, w2[c]
        n += weight[n] > 0
    return n


@njit(cache=True, error_model="numpy")
@no_type_check
def extend(starts, members, w0, w1, w2, strides, sink, stiff, margins, sweeps, omega):
    """Columns of Z and of AZ: one on island k, 0 on other stiff cells, nearly harmonic in `margin` soft layers around.

    members[starts[k]:starts[k + 1]]: cells of island k. Layer n starts from 1 − n/(margin + 1); `sweeps` sweeps of
    successive over-relaxation, outwards and inwards by turns, follow. Unused axes have as stride the number of cells.
    """
    count, size = starts.size - 1, sink.size
    mark, u, near = np.zeros(size, np.int32), np.zeros(size), np.empty(size, np.int32)
    other, weight = np.empty(7, np.int64), np.empty(7)
    room = 2 * members.size + 64
    cells, values = np.empty(room, np.int32), np.empty(room, np.float32)
    rows, products = np.empty(room, np.int32), np.empty(room, np.float32)
    ends, row_ends = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    for k in range(count):
        own, island, margin = k + 1, members[starts[k] : starts[k + 1]], margins[k]
        for c in island:
            mark[c], u[c] = own, 1.0
        # near: the rim of the island and the layers around it, outwards; from its end backwards: cells beyond these.
        n, beyond = 0, size
        for c in island:
            inside = sink[c] == 0
            for s in strides:
                inside &= (c < s or mark[c - s] == own) and (c + s >= size or mark[c + s] == own)
            if not inside:
                near[n] = c
                n += 1
        begin, rim = 0, n
        for layer in range(margin + 1):
            end = n
            for e in range(begin, end):
                for m in range(_neighbours(w0, w1, w2, strides, near[e], other, weight)):
                    c = other[m]
                    if mark[c] == own:
                        continue
                    mark[c] = own
                    if layer < margin and stiff[c] == 0:
                        near[n], u[c] = c, 1 - (layer + 1) / (margin + 1)
                        n += 1
                    else:
                        beyond -= 1
                        near[beyond] = c
            begin = end
        for sweep in range(sweeps):
            for e in range(rim, n):
                c = near[e if sweep % 2 == 0 else n - 1 - (e - rim)]
                total, diagonal = 0.0, sink[c]
                for m in range(_neighbours(w0, w1, w2, strides, c, other, weight)):
                    total += weight[m] * u[other[m]]
                    diagonal += weight[m]
                u[c] += omega * (total / diagonal - u[c])
        for e in range(n):
            # Rounded as it is stored, so that A Z is the product with what is stored.
            u[near[e]] = np.float32(u[near[e]])
        for e in range(size - beyond):
            near[n + e] = near[beyond + e]
        beyond = n + size - beyond
        first, filled = ends[k], ends[k] + island.size + n - rim
        ends[k + 1] = filled
        cells, values = _room(cells, values, first, filled)
        cells[first : first + island.size] = island
        values[first : first + island.size] = 1.0
        for e in range(rim, n):
            at = first + island.size + e - rim
            cells[at], values[at] = near[e], u[near[e]]
        first = row_ends[k]
        rows, products = _room(rows, products, first, first + beyond)
        for e in range(beyond):
            c = near[e]
            total = sink[c] * u[c]
            for m in range(_neighbours(w0, w1, w2, strides, c, other, weight)):
                total += weight[m] * (u[c] - u[other[m]])
            rows[first + e], products[first + e] = c, total
        row_ends[k + 1] = first + beyond
        for e in range(beyond):
            u[near[e]] = 0.0
        for c in island:
            u[c] = 0.0
    filled, row_filled = ends[count], row_ends[count]
    return ends, cells[:filled].copy(), values[:filled].copy(), row_ends, rows[:row_filled], products[:row_filled]


@njit(cache=True, error_model="numpy")
@no_type_check
def _room(cells, values, filled, needed):
    """The same entries in arrays with room for as many as needed."""
    if needed <= cells.size:
        return cells, values
    size = max(needed, 2 * cells.size)
    more, longer = np.empty(size, np.int32), np.empty(size, np.float32)
    more[:filled], longer[:filled] = cells[:filled], values[:filled]
    return more, longer


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
@no_type_check
def dots(starts, cells, values, v, out):
    """out_k = Σ of column k times v."""
    for k in range(starts.size - 1):
        total = 0.0
        for e in range(starts[k], starts[k + 1]):
            total += values[e] * v[cells[e]]
        out[k] = total


@njit(cache=True, error_model="numpy", fastmath={"contract", "nsz"})
@no_type_check
def combine(starts, cells, values, y, out):
    """out += Σ_k y_k · column k."""
    for k in range(starts.size - 1):
        factor = y[k]
        for e in range(starts[k], starts[k + 1]):
            out[cells[e]] += factor * values[e]
