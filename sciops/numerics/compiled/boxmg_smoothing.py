"""Point Gauss–Seidel sweeps (kernels): red-black for 5/7-point stencils, by rows for 9/27-point ones.

`inverse` is ω/a_ii, 0 where there is no row; ω may differ from point to point, and then `keep` is 1 − ω. A sweep with
`forward` false visits the points in the opposite order: it is the adjoint of the forward sweep, so that a cycle with
one of each is symmetric.
"""

from typing import no_type_check

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def _relax_row_faces(x, b, off, inverse, keep, k, j, nx, start, deep, t):
    """x += (ω/a)(b − A x) at i ≡ start (mod 2) of one row; `keep` is 1 − ω, or empty where ω = 1."""
    for i in range(1, nx + 1):
        t[i] = b[k, j, i] - off[0, k, j, i] * x[k, j, i + 1] - off[0, k, j, i - 1] * x[k, j, i - 1]
    for i in range(1, nx + 1):
        t[i] -= off[1, k, j, i] * x[k, j + 1, i] + off[1, k, j - 1, i] * x[k, j - 1, i]
    if deep:
        for i in range(1, nx + 1):
            t[i] -= off[2, k, j, i] * x[k + 1, j, i] + off[2, k - 1, j, i] * x[k - 1, j, i]
    if keep.shape[0]:
        for i in range(1, nx + 1):
            new = t[i] * inverse[k, j, i] + keep[k, j, i] * x[k, j, i]
            x[k, j, i] = new if (i - start) & 1 == 0 else x[k, j, i]
        return
    for i in range(1, nx + 1):
        new = t[i] * inverse[k, j, i]
        x[k, j, i] = new if (i - start) & 1 == 0 else x[k, j, i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def smooth_faces(x, b, off, inverse, keep, gz, space, forward, from_zero):
    """One red-black sweep; the second colour follows the first as closely as it may, so that memory is read once."""
    nz, ny, nx = space
    deep = gz == 1
    lag = ny if deep else 1
    first = 0 if forward else 1
    t = np.zeros(nx + 2, dtype=x.dtype)
    for row in range(nz * ny + lag):
        if row < nz * ny:
            k, j = row // ny, row % ny
            start = (k + j + first) & 1
            if from_zero:
                for i in range(nx + 2):
                    due = (i - 1 - start) & 1 == 0
                    new = b[k + gz, j + 1, i] * inverse[k + gz, j + 1, i]
                    x[k + gz, j + 1, i] = new if due else t[0]
            else:
                _relax_row_faces(x, b, off, inverse, keep, k + gz, j + 1, nx, start + 1, deep, t)
        if row >= lag:
            k, j = (row - lag) // ny, (row - lag) % ny
            _relax_row_faces(x, b, off, inverse, keep, k + gz, j + 1, nx, ((k + j + first + 1) & 1) + 1, deep, t)


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def ahead_rows(x, off, k, j, nx, deep, t):
    """t −= Σ a x over the rows after this one (entries of HALF other than +x)."""
    for pair in range(4 if deep else 1):
        m = 1 + 3 * pair
        dz, dy = (0, 1) if pair == 0 else (1, pair - 2)
        for i in range(1, nx + 1):
            ahead = off[m, k, j, i] * x[k + dz, j + dy, i - 1]
            ahead += off[m + 1, k, j, i] * x[k + dz, j + dy, i]
            ahead += off[m + 2, k, j, i] * x[k + dz, j + dy, i + 1]
            t[i] -= ahead


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def behind_rows(x, off, k, j, nx, deep, t):
    """t −= Σ a x over the rows before this one."""
    for pair in range(4 if deep else 1):
        m = 1 + 3 * pair
        dz, dy = (0, 1) if pair == 0 else (1, pair - 2)
        for i in range(1, nx + 1):
            behind = off[m, k - dz, j - dy, i + 1] * x[k - dz, j - dy, i + 1]
            behind += off[m + 1, k - dz, j - dy, i] * x[k - dz, j - dy, i]
            behind += off[m + 2, k - dz, j - dy, i - 1] * x[k - dz, j - dy, i - 1]
            t[i] -= behind


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def smooth_stencil(x, b, off, inverse, keep, gz, space, forward):
    """One sweep: rows in lexicographic order, in each row the even points and then the odd ones."""
    nz, ny, nx = space
    deep = gz == 1
    damped = keep.shape[0] > 0
    t = np.zeros(nx + 2, dtype=x.dtype)
    for n in range(nz * ny):
        row = n if forward else nz * ny - 1 - n
        k, j = row // ny + gz, row % ny + 1
        for i in range(1, nx + 1):
            t[i] = b[k, j, i]
        ahead_rows(x, off, k, j, nx, deep, t)
        behind_rows(x, off, k, j, nx, deep, t)
        for half in range(2):
            start = (half + 1) if forward else (2 - half)
            for i in range(start, nx + 1, 2):
                new = t[i] - off[0, k, j, i] * x[k, j, i + 1] - off[0, k, j, i - 1] * x[k, j, i - 1]
                old = keep[k, j, i] * x[k, j, i] if damped else 0
                x[k, j, i] = new * inverse[k, j, i] + old
