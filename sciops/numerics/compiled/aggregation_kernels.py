"""The multigrid cycle of `aggregation`: red–black sweeps fused into one pass over memory per direction and level.

Storage. A grid (planes, rows, columns) keeps its red and its black cells apart: cell k of row j in plane i is red
where i + j + k is even, and lies at place k // 2 of its row's half. Neighbours of red cells are black and lie in the
same place of the rows around; in their own row at places m − 1 + s and m + s with s = parity of the row. So every loop
below is contiguous. A half row has `half` = ceil(columns/2) + 1 entries, the last one zero; before the first and after
the last row lie `rows` empty ones, so that no loop needs a test: what lies outside has weight zero.

All arrays of all levels lie in one `pool`. A level is a row of `table`: planes, rows, columns, half, offset of its
first array, size of an array. Its arrays, red then black: x, b, inverse diagonal, weights along planes, rows, columns.
Indices are unsigned, because numba tests signed ones for being negative, and such loops do not vectorise.

Passes. Sweep s may follow sweep s − 1 one plane behind it. One run over the planes does all of them while the planes
are in the cache.
"""

from typing import no_type_check

import numpy as np
from numba import njit, uint64

from sciops.numerics.compiled.system_kernels import FAST

ARRAYS = 12
X, B, INVERSE, PLANES, ROWS, COLUMNS = 0, 2, 4, 6, 8, 10


@njit(cache=True, error_model="numpy")
@no_type_check
def place(level, array, colour):
    """Where the first cell of row 0 lies in the pool."""
    return level[4] + (array + colour) * level[5] + level[1] * level[3] + 8


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def _first(pool, level, i):
    """Red sweep of plane i from x = 0."""
    n = level[1] * level[3]
    o = i * n
    x, b, d = uint64(place(level, X, 0) + o), uint64(place(level, B, 0) + o), uint64(place(level, INVERSE, 0) + o)
    for m in range(uint64(n)):
        pool[x + m] = pool[d + m] * pool[b + m]


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def _sweep(pool, level, i, colour):
    """x = D⁻¹(b + Σ w x_neighbour) on the cells of one colour in plane i."""
    rows, half = level[1], level[3]
    places, jump = uint64(half - 1), rows * half
    own, other = place(level, X, colour), place(level, X, 1 - colour)
    b, d = place(level, B, colour), place(level, INVERSE, colour)
    w0, w0o = place(level, PLANES, colour), place(level, PLANES, 1 - colour)
    w1, w1o = place(level, ROWS, colour), place(level, ROWS, 1 - colour)
    w2, w2o = place(level, COLUMNS, colour), place(level, COLUMNS, 1 - colour)
    for j in range(rows):
        o = (i * rows + j) * half
        s = (i + j + colour) & 1
        x, rhs, inverse = uint64(own + o), uint64(b + o), uint64(d + o)
        left, right, wl, wr = uint64(other + o - 1 + s), uint64(other + o + s), uint64(w2o + o - 1 + s), uint64(w2 + o)
        back, front, wb, wf = uint64(other + o - jump), uint64(other + o + jump), uint64(w0o + o - jump), uint64(w0 + o)
        if rows == 1:
            for m in range(places):
                t = pool[rhs + m] + pool[wl + m] * pool[left + m] + pool[wr + m] * pool[right + m]
                t += pool[wb + m] * pool[back + m] + pool[wf + m] * pool[front + m]
                pool[x + m] = pool[inverse + m] * t
        else:
            up, down, wu, wd = (
                uint64(other + o - half),
                uint64(other + o + half),
                uint64(w1o + o - half),
                uint64(w1 + o),
            )
            for m in range(places):
                t = pool[rhs + m] + pool[wl + m] * pool[left + m] + pool[wr + m] * pool[right + m]
                t += pool[wb + m] * pool[back + m] + pool[wf + m] * pool[front + m]
                t += pool[wu + m] * pool[up + m] + pool[wd + m] * pool[down + m]
                pool[x + m] = pool[inverse + m] * t


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def _residual(pool, level, i, buffer):
    """b − A x on the red cells of plane i, added to the row of `buffer` that belongs to their aggregate."""
    rows, half = level[1], level[3]
    places, jump = uint64(half - 1), rows * half
    own, other, b, d = place(level, X, 0), place(level, X, 1), place(level, B, 0), place(level, INVERSE, 0)
    w0, w0o = place(level, PLANES, 0), place(level, PLANES, 1)
    w1, w1o = place(level, ROWS, 0), place(level, ROWS, 1)
    w2, w2o = place(level, COLUMNS, 0), place(level, COLUMNS, 1)
    tiny = pool.dtype.type(1e-30)
    for j in range(rows):
        o = (i * rows + j) * half
        s = (i + j) & 1
        out = uint64((j >> 1) * half)
        x, rhs, inverse = uint64(own + o), uint64(b + o), uint64(d + o)
        left, right, wl, wr = uint64(other + o - 1 + s), uint64(other + o + s), uint64(w2o + o - 1 + s), uint64(w2 + o)
        back, front, wb, wf = uint64(other + o - jump), uint64(other + o + jump), uint64(w0o + o - jump), uint64(w0 + o)
        if rows == 1:
            for m in range(places):
                t = pool[rhs + m] + pool[wl + m] * pool[left + m] + pool[wr + m] * pool[right + m]
                t += pool[wb + m] * pool[back + m] + pool[wf + m] * pool[front + m]
                buffer[out + m] += t - pool[x + m] / max(pool[inverse + m], tiny)
        else:
            up, down, wu, wd = (
                uint64(other + o - half),
                uint64(other + o + half),
                uint64(w1o + o - half),
                uint64(w1 + o),
            )
            for m in range(places):
                t = pool[rhs + m] + pool[wl + m] * pool[left + m] + pool[wr + m] * pool[right + m]
                t += pool[wb + m] * pool[back + m] + pool[wf + m] * pool[front + m]
                t += pool[wu + m] * pool[up + m] + pool[wd + m] * pool[down + m]
                buffer[out + m] += t - pool[x + m] / max(pool[inverse + m], tiny)


@njit(cache=True, error_model="numpy")
@no_type_check
def _split(row, start, columns, pool, even, odd):
    """Columns 0, 2, … of a row to `even`, the others to `odd`."""
    first, second, begin = uint64(even), uint64(odd), uint64(start)
    for m in range(uint64(columns >> 1)):
        pool[first + m] = row[begin + m + m]
        pool[second + m] = row[begin + m + m + uint64(1)]
    if columns & 1:
        pool[first + uint64(columns >> 1)] = row[begin + uint64(columns - 1)]


@njit(cache=True, error_model="numpy")
@no_type_check
def _merge(row, start, columns, pool, even, odd):
    """The inverse of `_split`."""
    first, second, begin = uint64(even), uint64(odd), uint64(start)
    for m in range(uint64(columns >> 1)):
        row[begin + m + m] = pool[first + m]
        row[begin + m + m + uint64(1)] = pool[second + m]
    if columns & 1:
        row[begin + uint64(columns - 1)] = pool[first + uint64(columns >> 1)]


@njit(cache=True, error_model="numpy")
@no_type_check
def _load(pool, level, i, r):
    """b of plane i from the natural order."""
    rows, columns, half = level[1], level[2], level[3]
    for j in range(rows):
        o, s = (i * rows + j) * half, (i + j) & 1
        _split(r, (i * rows + j) * columns, columns, pool, place(level, B, s) + o, place(level, B, 1 - s) + o)


@njit(cache=True, error_model="numpy")
@no_type_check
def _store(pool, level, i, z):
    """x of plane i in the natural order."""
    rows, columns, half = level[1], level[2], level[3]
    for j in range(rows):
        o, s = (i * rows + j) * half, (i + j) & 1
        _merge(z, (i * rows + j) * columns, columns, pool, place(level, X, s) + o, place(level, X, 1 - s) + o)


@njit(cache=True, error_model="numpy")
@no_type_check
def _restrict(pool, coarse, i, buffer, width):
    """b of coarse plane i from the sums over aggregates; `width` is the buffer's row length. Empties the buffer."""
    rows, columns, half = coarse[1], coarse[2], coarse[3]
    for j in range(rows):
        o, s = (i * rows + j) * half, (i + j) & 1
        _split(buffer, j * width, columns, pool, place(coarse, B, s) + o, place(coarse, B, 1 - s) + o)
    buffer[:] = 0.0


@njit(cache=True, error_model="numpy")
@no_type_check
def _prolong(pool, fine, coarse, i, buffer):
    """x += the aggregate's value on the red cells of fine plane i (black ones are overwritten by the next sweep)."""
    rows, half = fine[1], fine[3]
    for j in range(rows):
        if j & 1 == 0:
            c, s = ((i >> 1) * coarse[1] + (j >> 1)) * coarse[3], ((i >> 1) + (j >> 1)) & 1
            _merge(buffer, 0, coarse[2], pool, place(coarse, X, s) + c, place(coarse, X, 1 - s) + c)
        x = uint64(place(fine, X, 0) + (i * rows + j) * half)
        for m in range(uint64(half - 1)):
            pool[x + m] += buffer[m]


@njit(cache=True, error_model="numpy")
@no_type_check
def _down(pool, table, depth, sweeps, r):
    """All smoothing before the coarse grid, and the restricted residual."""
    level, coarse = table[depth], table[depth + 1]
    planes, half = level[0], level[3]
    buffer = np.zeros(coarse[1] * half, pool.dtype)
    stages = 2 * sweeps
    for t in range(planes + stages):
        if t < planes:
            if depth == 0:
                _load(pool, level, t, r)
            _first(pool, level, t)
        for stage in range(1, stages):
            i = t - stage
            if 0 <= i < planes:
                _sweep(pool, level, i, stage & 1)
        i = t - stages
        if i >= 0:
            # After a black sweep the residual is zero on black cells.
            _residual(pool, level, i, buffer)
            if i & 1 == 1 or i == planes - 1:
                _restrict(pool, coarse, i >> 1, buffer, half)


@njit(cache=True, error_model="numpy")
@no_type_check
def _up(pool, table, depth, sweeps, z):
    """The correction of the coarse grid and all smoothing after it, in reversed order."""
    level, coarse = table[depth], table[depth + 1]
    planes = level[0]
    buffer = np.zeros(level[3], pool.dtype)
    stages = 2 * sweeps
    for t in range(planes + stages):
        if t < planes:
            _prolong(pool, level, coarse, t, buffer)
        for stage in range(1, stages + 1):
            i = t - stage
            if 0 <= i < planes:
                _sweep(pool, level, i, stage & 1)
        if depth == 0 and t >= stages:
            _store(pool, level, t - stages, z)


@njit(cache=True, error_model="numpy")
@no_type_check
def _solve_coarsest(pool, level, inverse):
    """x = (generalised inverse) b, dense."""
    rows, columns = level[0] * level[1], level[2]
    b = np.empty(rows * columns, pool.dtype)
    for row in range(rows):
        parity = (row // level[1] + row % level[1]) & 1
        for k in range(columns):
            b[row * columns + k] = pool[place(level, B, (parity + k) & 1) + row * level[3] + k // 2]
    for row in range(rows):
        parity = (row // level[1] + row % level[1]) & 1
        for k in range(columns):
            line = inverse[row * columns + k]
            total = pool.dtype.type(0)
            for m in range(b.size):
                total += line[m] * b[m]
            pool[place(level, X, (parity + k) & 1) + row * level[3] + k // 2] = total


@njit(cache=True, error_model="numpy")
@no_type_check
def cycle(pool, table, inverse, sweeps, r, z):
    """z = one V-cycle from zero for the right-hand side r; both flat."""
    depth = table.shape[0]
    if depth == 1:
        for i in range(table[0, 0]):
            _load(pool, table[0], i, r)
    for k in range(depth - 1):
        _down(pool, table, k, sweeps, r)
    _solve_coarsest(pool, table[depth - 1], inverse)
    for k in range(depth - 2, -1, -1):
        _up(pool, table, k, sweeps, z)
    if depth == 1:
        for i in range(table[0, 0]):
            _store(pool, table[0], i, z)


@njit(cache=True, error_model="numpy")
@no_type_check
def fill(pool, level, w0, w1, w2, sink, scale):
    """Weights and inverse diagonal of a level from natural arrays (planes, rows, columns), times `scale`."""
    planes, rows, columns, half = level[0], level[1], level[2], level[3]
    for i in range(planes):
        for j in range(rows):
            o = (i * rows + j) * half
            for k in range(columns):
                colour = (i + j + k) & 1
                m = o + (k >> 1)
                total = sink[i, j, k] + w0[i, j, k] + w1[i, j, k] + w2[i, j, k]
                if i:
                    total += w0[i - 1, j, k]
                if j:
                    total += w1[i, j - 1, k]
                if k:
                    total += w2[i, j, k - 1]
                pool[place(level, PLANES, colour) + m] = w0[i, j, k] * scale
                if rows > 1:
                    pool[place(level, ROWS, colour) + m] = w1[i, j, k] * scale
                pool[place(level, COLUMNS, colour) + m] = w2[i, j, k] * scale
                pool[place(level, INVERSE, colour) + m] = 1.0 / (total * scale) if total > 0 else 0.0


@njit(cache=True, error_model="numpy")
@no_type_check
def coarsen(w0, w1, w2, sink, factor):
    """Galerkin sums over aggregates of up to 2×2×2 cells, times `factor`."""
    planes, rows, columns = sink.shape
    shape = ((planes + 1) // 2, (rows + 1) // 2, (columns + 1) // 2)
    c0, c1 = np.zeros(shape, sink.dtype), np.zeros(shape, sink.dtype)
    c2, cs = np.zeros(shape, sink.dtype), np.zeros(shape, sink.dtype)
    for i in range(planes):
        for j in range(rows):
            for k in range(columns):
                a, b, c = i >> 1, j >> 1, k >> 1
                cs[a, b, c] += sink[i, j, k] * factor
                if i & 1:
                    c0[a, b, c] += w0[i, j, k] * factor
                if j & 1:
                    c1[a, b, c] += w1[i, j, k] * factor
                if k & 1:
                    c2[a, b, c] += w2[i, j, k] * factor
    return c0, c1, c2, cs
