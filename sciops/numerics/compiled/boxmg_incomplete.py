"""Incomplete Cholesky smoothing of 5/7- and 9/27-point stencils (kernels): for what point relaxation cannot smooth.

M = (D + L) D⁻¹ (D + Lᵀ) on the pattern of A. A dropped fill-in f between two points is made up for by |f| on both their
diagonals, so that M − A is positive semi-definite: the factorisation never breaks down and x ← x + ω M⁻¹(b − A x)
contracts in the energy norm for every 0 < ω < 2. On M-matrices M − A is a graph Laplacian, which leaves the slow,
nearly constant errors of stiff parts alone; weights that depend on the diagonals would not.
`lower[m]` at i is L_{i+o, i} / D_i with o the m-th offset of HALF; `inverse` is ω/D_i, 0 where there is no row.
Reference: Ajiz, Jennings, Int. J. Numer. Methods Eng. 20 (1984); as a smoother Wesseling, Lect. Notes Math. 960 (1982).
"""

from typing import no_type_check

import numpy as np
from numba import njit

from sciops.numerics.compiled.boxmg_smoothing import ahead_rows, behind_rows
from sciops.numerics.compiled.boxmg_transfer import residual_faces, residual_stencil

FAST = {"contract", "nsz"}


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def factorise(diag, reach, pairs, size, lower, pivots):
    """Turn `lower` (entries, cells), the couplings, and `pivots` (cells), the diagonal, into the factor, in place.

    Arrays with ghosts, flattened: entry m of cell i leads to cell i + reach[m]. `pairs`: entries m < n and the one that
    couples the cells they lead to, −1 if there is none. `size`: cells up to the last one with a row.
    """
    count = reach.shape[0]
    here = np.zeros(count, dtype=lower.dtype)
    for i in range(size):
        if diag[i] <= 0:
            continue
        # Rounding alone can bring a pivot below zero; rows without links keep their diagonal.
        pivot = max(pivots[i], 1e-8 * diag[i])
        pivots[i] = pivot
        back = 1.0 / pivot
        for m in range(count):
            v = lower[m, i]
            here[m] = v
            lower[m, i] = v * back
            pivots[i + reach[m]] -= v * v * back
        for n in range(pairs.shape[0]):
            m, between = pairs[n, 0], pairs[n, 2]
            f = here[m] * here[pairs[n, 1]] * back
            if between >= 0:
                lower[between, i + reach[m]] -= f
            else:
                pivots[i + reach[m]] += abs(f)
                pivots[i + reach[pairs[n, 1]]] += abs(f)


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def factorise_faces(diag, off, reach, size, lower, pivots):
    """`factorise` for 5- and 7-point stencils, whose every fill-in is dropped; `lower` may be in another precision."""
    deep = reach.shape[0] == 3
    first, second, third = reach[0], reach[1], reach[reach.shape[0] - 1]
    for i in range(size):
        if diag[i] <= 0:
            continue
        pivot = max(pivots[i], 1e-8 * diag[i])
        pivots[i] = pivot
        back = 1.0 / pivot
        a, b = off[0, i], off[1, i]
        c = off[2, i] if deep else 0.0
        x, y, z = abs(a), abs(b), abs(c)
        lower[0, i] = a * back
        lower[1, i] = b * back
        # −v² is the elimination; |v w| makes up for what is dropped.
        pivots[i + first] += x * back * (y + z - x)
        pivots[i + second] += y * back * (x + z - y)
        if deep:
            lower[2, i] = c * back
            pivots[i + third] += z * back * (x + y - z)


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def solve_forward(b, x, lower, gz, space, faces):
    """(I + L D⁻¹) x = b; x may be b."""
    nz, ny, nx = space
    deep = gz == 1
    t = np.zeros(nx + 2, dtype=x.dtype)
    for kk in range(nz):
        for jj in range(ny):
            k, j = kk + gz, jj + 1
            for i in range(1, nx + 1):
                t[i] = b[k, j, i]
            if faces:
                for i in range(1, nx + 1):
                    t[i] -= lower[1, k, j - 1, i] * x[k, j - 1, i]
                if deep:
                    for i in range(1, nx + 1):
                        t[i] -= lower[2, k - 1, j, i] * x[k - 1, j, i]
            else:
                behind_rows(x, lower, k, j, nx, deep, t)
            last = t[0]
            for i in range(1, nx + 1):
                last = t[i] - lower[0, k, j, i - 1] * last
                x[k, j, i] = last


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def solve_backward(x, lower, inverse, gz, space, faces, total, accumulate):
    """(D + Lᵀ) x = ω x in place; then total += x if asked for."""
    nz, ny, nx = space
    deep = gz == 1
    t = np.zeros(nx + 2, dtype=x.dtype)
    for kk in range(nz - 1, -1, -1):
        for jj in range(ny - 1, -1, -1):
            k, j = kk + gz, jj + 1
            for i in range(1, nx + 1):
                t[i] = x[k, j, i] * inverse[k, j, i]
            if faces:
                for i in range(1, nx + 1):
                    t[i] -= lower[1, k, j, i] * x[k, j + 1, i]
                if deep:
                    for i in range(1, nx + 1):
                        t[i] -= lower[2, k, j, i] * x[k + 1, j, i]
            else:
                ahead_rows(x, lower, k, j, nx, deep, t)
            last = t[0]
            for n in range(nx):
                # Unsigned: an index that might be negative costs a comparison each time.
                i = np.uint64(nx - n)
                last = t[i] - lower[0, k, j, i] * last
                x[k, j, i] = last
            if accumulate:
                for i in range(1, nx + 1):
                    total[k, j, i] += x[k, j, i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def to_residual(x, b, off, sums, gz, space, faces):
    """b ← b − A x."""
    nz, ny, nx = space
    deep = gz == 1
    t = np.zeros(nx + 2, dtype=x.dtype)
    for kk in range(nz):
        for jj in range(ny):
            k, j = kk + gz, jj + 1
            if faces:
                residual_faces(x, b, off, sums, k, j, nx, deep, t)
            else:
                residual_stencil(x, b, off, sums, k, j, nx, deep, t)
            for i in range(1, nx + 1):
                b[k, j, i] = t[i]
