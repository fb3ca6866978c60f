"""Incomplete Cholesky factors on grids: pivots and triangular sweeps in lexicographic order, rows vectorised.

Arrays are (planes, rows, columns). `u0`, `u1`, `u2` hold the entries a_{c, c+1} of the matrix along each axis; the last
layer couples the last cell with the first one (zero unless the axis is periodic).
"""

from typing import no_type_check

import numpy as np
from numba import njit

from sciops.numerics.compiled.system_kernels import FAST

BREAKDOWN = 1e-12
"""A pivot below this part of the diagonal is replaced by the diagonal."""


@njit(cache=True, error_model="numpy")
@no_type_check
def pivots(diagonal, u0, u1, u2, tau, least):
    """1/D with D_i = a_ii − Σ_{j<i} a_ij (a_ij + τ Σ_{k>j, k≠i} a_jk)/D_j; 0 in rows without a diagonal."""
    planes, rows, columns = diagonal.shape
    inverse = np.zeros(diagonal.shape)
    # Σ_{k>j} a_jk of every cell j, wrapped neighbours included.
    later = u0 + u1 + u2
    for i in range(planes):
        for j in range(rows):
            later[i, j, columns - 1] -= u2[i, j, columns - 1]
            later[i, j, 0] += u2[i, j, columns - 1]
        for k in range(columns):
            later[i, rows - 1, k] -= u1[i, rows - 1, k]
            later[i, 0, k] += u1[i, rows - 1, k]
    for j in range(rows):
        for k in range(columns):
            later[planes - 1, j, k] -= u0[planes - 1, j, k]
            later[0, j, k] += u0[planes - 1, j, k]
    for i in range(planes):
        for j in range(rows):
            for k in range(columns):
                d = diagonal[i, j, k]
                if i:
                    a = u0[i - 1, j, k]
                    d -= a * (a + tau * (later[i - 1, j, k] - a)) * inverse[i - 1, j, k]
                if j:
                    a = u1[i, j - 1, k]
                    d -= a * (a + tau * (later[i, j - 1, k] - a)) * inverse[i, j - 1, k]
                if k:
                    a = u2[i, j, k - 1]
                    d -= a * (a + tau * (later[i, j, k - 1] - a)) * inverse[i, j, k - 1]
                if i == planes - 1 and i > 0:
                    a = u0[i, j, k]
                    d -= a * (a + tau * (later[0, j, k] - a)) * inverse[0, j, k]
                if j == rows - 1 and j > 0:
                    a = u1[i, j, k]
                    d -= a * (a + tau * (later[i, 0, k] - a)) * inverse[i, 0, k]
                if k == columns - 1 and k > 0:
                    a = u2[i, j, k]
                    d -= a * (a + tau * (later[i, j, 0] - a)) * inverse[i, j, 0]
                if d <= least * diagonal[i, j, k]:
                    d = diagonal[i, j, k]
                inverse[i, j, k] = 1.0 / d if d > 0 else 0.0
    return inverse


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def _take(line, u, z):
    """line −= u z."""
    for k in range(line.size):
        line[k] -= u[k] * z[k]


@njit(cache=True, error_model="numpy", fastmath=FAST)
@no_type_check
def solve(inverse, u0, u1, u2, r, z):
    """z = (D + Lᵀ)⁻¹ D (D + L)⁻¹ r."""
    planes, rows, columns = r.shape
    line = np.empty(columns)
    last = columns - 1
    for i in range(planes):
        for j in range(rows):
            line[:] = r[i, j]
            if i:
                _take(line, u0[i - 1, j], z[i - 1, j])
            if j:
                _take(line, u1[i, j - 1], z[i, j - 1])
            if i == planes - 1 and i > 0:
                _take(line, u0[i, j], z[0, j])
            if j == rows - 1 and j > 0:
                _take(line, u1[i, j], z[i, 0])
            out, d, u = z[i, j], inverse[i, j], u2[i, j]
            value = line[0] * d[0]
            out[0] = value
            for k in range(1, columns):
                value = line[k] * d[k] - (u[k - 1] * d[k]) * value
                out[k] = value
            if last > 0 and u[last] != 0:
                out[last] -= d[last] * u[last] * out[0]
    for i in range(planes - 1, -1, -1):
        for j in range(rows - 1, -1, -1):
            line[:] = 0.0
            if i < planes - 1:
                _take(line, u0[i, j], z[i + 1, j])
            if j < rows - 1:
                _take(line, u1[i, j], z[i, j + 1])
            if i == 0 and planes > 1:
                _take(line, u0[planes - 1, j], z[planes - 1, j])
            if j == 0 and rows > 1:
                _take(line, u1[i, rows - 1], z[i, rows - 1])
            out, d, u = z[i, j], inverse[i, j], u2[i, j]
            value = out[last] + line[last] * d[last]
            out[last] = value
            for k in range(last - 1, -1, -1):
                value = (out[k] + line[k] * d[k]) - (u[k] * d[k]) * value
                out[k] = value
            if last > 0 and u[last] != 0:
                out[0] -= d[0] * u[last] * out[last]
