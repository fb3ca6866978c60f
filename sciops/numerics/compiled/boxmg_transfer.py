"""Residual with restriction, and prolongation (kernels).

The residual is summed from differences, r = b − s x_i − Σ_j a_ij (x_j − x_i) with s the row sum: what rounding does to
a flux then cancels between its two ends, and a float32 cycle stays right where stiff parts float in soft ones.
"""

from typing import no_type_check

import numpy as np
from numba import njit

FAST = {"contract", "nsz"}


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def residual_faces(x, b, off, sums, k, j, nx, deep, t):
    for i in range(1, nx + 1):
        c = x[k, j, i]
        along = off[0, k, j, i] * (x[k, j, i + 1] - c) + off[0, k, j, i - 1] * (x[k, j, i - 1] - c)
        t[i] = b[k, j, i] - sums[k, j, i] * c - along
    for i in range(1, nx + 1):
        c = x[k, j, i]
        t[i] -= off[1, k, j, i] * (x[k, j + 1, i] - c) + off[1, k, j - 1, i] * (x[k, j - 1, i] - c)
    if deep:
        for i in range(1, nx + 1):
            c = x[k, j, i]
            t[i] -= off[2, k, j, i] * (x[k + 1, j, i] - c) + off[2, k - 1, j, i] * (x[k - 1, j, i] - c)


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def residual_stencil(x, b, off, sums, k, j, nx, deep, t):
    for i in range(1, nx + 1):
        c = x[k, j, i]
        along = off[0, k, j, i] * (x[k, j, i + 1] - c) + off[0, k, j, i - 1] * (x[k, j, i - 1] - c)
        t[i] = b[k, j, i] - sums[k, j, i] * c - along
    for pair in range(4 if deep else 1):
        m = 1 + 3 * pair
        dz, dy = (0, 1) if pair == 0 else (1, pair - 2)
        for i in range(1, nx + 1):
            c = x[k, j, i]
            ahead = off[m, k, j, i] * (x[k + dz, j + dy, i - 1] - c)
            ahead += off[m + 1, k, j, i] * (x[k + dz, j + dy, i] - c)
            ahead += off[m + 2, k, j, i] * (x[k + dz, j + dy, i + 1] - c)
            t[i] -= ahead
        for i in range(1, nx + 1):
            c = x[k, j, i]
            behind = off[m, k - dz, j - dy, i + 1] * (x[k - dz, j - dy, i + 1] - c)
            behind += off[m + 1, k - dz, j - dy, i] * (x[k - dz, j - dy, i] - c)
            behind += off[m + 2, k - dz, j - dy, i - 1] * (x[k - dz, j - dy, i - 1] - c)
            t[i] -= behind


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def restrict_residual(x, b, off, sums, gz, space, faces, parities, corners, starts, weights, out):
    """out = Pᵀ(b − A x), row by row; the residual itself is never stored."""
    nz, ny, nx = space
    deep = gz == 1
    coarse = (nx + 1) // 2
    t = np.zeros(nx + 4, dtype=x.dtype)
    out[:] = 0
    for kf in range(nz):
        for jf in range(ny):
            if faces:
                residual_faces(x, b, off, sums, kf + gz, jf + 1, nx, deep, t)
            else:
                residual_stencil(x, b, off, sums, kf + gz, jf + 1, nx, deep, t)
            kc, jc = kf // 2, jf // 2
            for p in range(parities.shape[0]):
                if parities[p, 0] != kf % 2 or parities[p, 1] != jf % 2:
                    continue
                px = parities[p, 2]
                if p == 0:
                    for i in range(coarse):
                        out[kc + gz, jc + 1, i + 1] += t[2 * i + 1]
                    continue
                # Beyond the last odd point the weights are zero, and t ends in zeros.
                for w in range(starts[p], starts[p + 1]):
                    z, y, shift = kc + gz + corners[w, 1], jc + 1 + corners[w, 2], corners[w, 3]
                    if shift:
                        for i in range(coarse):
                            out[z, y, i + 2] += weights[w, kc + gz, jc + 1, i + 1] * t[2 * i + 2]
                    else:
                        for i in range(coarse):
                            out[z, y, i + 1] += weights[w, kc + gz, jc + 1, i + 1] * t[2 * i + px + 1]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def prolong(coarse_x, x, factor, gz, space, parities, corners, starts, weights):
    """x += factor · P coarse_x."""
    nz, ny, nx = space
    half = (nx + 1) // 2
    sums = np.zeros((2, half), dtype=x.dtype)
    for kf in range(nz):
        for jf in range(ny):
            kc, jc = kf // 2 + gz, jf // 2 + 1
            sums[:] = 0
            for p in range(parities.shape[0]):
                if parities[p, 0] != kf % 2 or parities[p, 1] != jf % 2:
                    continue
                u = sums[parities[p, 2]]
                if p == 0:
                    for i in range(half):
                        u[i] = coarse_x[kc, jc, i + 1]
                    continue
                for w in range(starts[p], starts[p + 1]):
                    source = coarse_x[kc + corners[w, 1], jc + corners[w, 2], corners[w, 3] + 1 :]
                    for i in range(half):
                        u[i] += weights[w, kc, jc, i + 1] * source[i]
            row = x[kf + gz, jf + 1]
            for i in range(nx // 2):
                row[2 * i + 1] += factor * sums[0, i]
                row[2 * i + 2] += factor * sums[1, i]
            if nx & 1:
                row[nx] += factor * sums[0, half - 1]


@njit(cache=True, error_model="numpy")
@no_type_check
def largest(r):
    """max |r|."""
    size = 0.0
    for i in range(r.size):
        size = max(size, abs(r[i]))
    return size


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def load(r, scale, gz, active, b):
    """b ← scale · r where `active` is not zero, into an array with ghosts."""
    nz, ny, nx = r.shape
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                value = r[k, j, i] * scale
                b[k + gz, j + 1, i + 1] = value if active[k + gz, j + 1, i + 1] != 0 else 0.0


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def unload(x, scale, gz, active, z):
    """z ← scale · x where `active` is not zero, else 0, out of an array with ghosts."""
    nz, ny, nx = z.shape
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                value = x[k + gz, j + 1, i + 1] * scale
                z[k, j, i] = value if active[k + gz, j + 1, i + 1] != 0 else 0.0
