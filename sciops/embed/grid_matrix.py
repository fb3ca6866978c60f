"""Sparse matrices of structured grids as fields: the diagonal and one coupling per axis, or one sentence why not."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from sciops.core.errors import UsageError

ROUNDING = 1e-9
"""Entries this small beside the diagonals of their row and column are rounding; so are differences from symmetry."""


def grid_matrix(
    csr: tuple[Any, Any, Any],
    shape: Sequence[int],
    cells: np.ndarray | None = None,
    compact: bool = False,
    remedy: str = "",
) -> np.ndarray:
    """(1 + ndim, *shape): diag A, then per axis the coupling −A[i, i + e] ≥ 0 of each point with the next along it.

    `csr`: row pointers, columns and values of a symmetric matrix with positive diagonal. Unknown k sits at grid point k
    in C order (last index fastest), or at `cells[k]`, a flat C-order index or a row of `ndim` indices; other points are
    no unknowns and hold zeros.
    `compact`: entries between diagonal neighbours (bilinear elements, 9 or 27 points) are allowed and spread over the
    edges of the box that they span. That keeps row sums and, on smooth vectors, the energy; for bilinear elements on
    squares A lies between ⅓ and 1 times the result, which is then the matrix of a preconditioner, not A.
    Rows that hold their diagonal alone (boundary values kept in the system) may have entries in their columns: those
    are left out, which is the block-triangular preconditioner.
    `remedy`: what the caller's user can do about entries between other points, in his own options.
    Refuses other neighbours (hence periodic wraps), lack of symmetry, negative diagonals and negative couplings.
    """
    shape = tuple(int(m) for m in shape)
    place = places(cells, shape, len(csr[0]) - 1)
    row, col, value = _entries(csr)
    n = len(place)
    diagonal = np.zeros(n)
    on = row == col
    diagonal[row[on]] = value[on]
    _check_values(value, diagonal)
    row, col, value = _without_boundary_columns(row, col, value, n)
    on, size = row == col, np.sqrt(np.abs(diagonal[row] * diagonal[col]))
    _check_symmetry(row, col, value, size, n)
    keep = ~on & (np.abs(value) > ROUNDING * size)
    row, col, value = row[keep], col[keep], value[keep]
    here, there = (np.stack(np.unravel_index(place[k], shape)) for k in (row, col))
    step = there - here
    reach = np.abs(step)
    _check_neighbours(row, col, here, there, reach, shape, compact, remedy)
    out = np.zeros((1 + len(shape), *shape))
    out[0].flat[place] = diagonal
    order = np.abs(step).sum(0)
    for axis in range(len(shape)):
        others = [a for a in range(len(shape)) if a != axis]
        once = (reach[axis] == 1) & (row < col)  # the transposed entry says the same
        for corner in np.ndindex(*(2,) * len(others)):
            # The edges along `axis` of the box between the two points, each by its lower end.
            low, valid = np.minimum(here, there)[:, once], np.ones(int(once.sum()), bool)
            for a, bit in zip(others, corner, strict=True):
                low[a] += bit
                valid &= (reach[a][once] == 1) | (bit == 0)
            share = -value[once] / 2.0 ** (order[once] - 1)
            np.add.at(out[1 + axis], tuple(low[:, valid]), share[valid])
    if bool((reach.sum(0) > 1).any()):
        sums = diagonal + np.bincount(row, weights=value, minlength=n)
        _rebuild_diagonal(out, place, sums)
    _check_couplings(out, shape)
    return out


def _rebuild_diagonal(out: np.ndarray, place: np.ndarray, sums: np.ndarray) -> None:
    """Row sums plus the new couplings; those with points that are no unknowns count in the diagonal alone."""
    unknown = np.zeros(out.shape[1:], bool)
    unknown.flat[place] = True
    out[0].flat[place] = sums
    for axis in range(len(out) - 1):
        low: list[slice] = [slice(None)] * (len(out) - 1)
        high = list(low)
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        edge = out[1 + axis][tuple(low)]
        out[0][tuple(low)] += edge
        out[0][tuple(high)] += edge
        edge *= unknown[tuple(low)] & unknown[tuple(high)]
    out[0] *= unknown


def places(cells: np.ndarray | None, shape: tuple[int, ...], n: int) -> np.ndarray:
    """The flat grid index of every unknown."""
    grid = "×".join(map(str, shape))
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise UsageError(f"The shape has {len(shape)} axes ({grid}); embedded solvers take grids of 2 or 3 axes.")
    if cells is None:
        if prod(shape) != n:
            raise UsageError(
                f"The matrix has {n} rows but a {grid} grid has {prod(shape)} points; give the shape with the fastest "
                "index last, or `cells` (the grid point of each unknown) where some points are no unknowns."
            )
        return np.arange(n)
    place = np.asarray(cells)
    if place.ndim == 2 and place.shape[1] == len(shape):
        bad = bool(((place < 0) | (place >= np.array(shape))).any())
        place = np.zeros(len(place), int) if bad else np.ravel_multi_index(tuple(place.T), shape)
    else:
        bad = place.ndim != 1 or bool(((place < 0) | (place >= prod(shape))).any())
    if bad or place.dtype.kind not in "iu" or len(place) != n or len(np.unique(place)) != n:
        raise UsageError(
            f"cells has shape {np.shape(cells)}; it must name a different point of the {grid} grid for each of the {n} "
            f"unknowns, as flat C-order integers or as rows of {len(shape)} indices."
        )
    return place


def _entries(csr: tuple[Any, Any, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, column, value) without explicit zeros, sorted by row and column, duplicates added."""
    pointer, col, value = (np.asarray(part) for part in csr)
    n = len(pointer) - 1
    row, col = np.repeat(np.arange(n), np.diff(pointer)), col.astype(np.int64)
    if len(col) and (col.min() < 0 or col.max() >= n):
        raise UsageError(f"The matrix has {n} rows and a column {int(col.max()) + 1}; it must be square.")
    keep = value != 0
    key, inverse = np.unique(row[keep] * n + col[keep], return_inverse=True)
    summed = np.bincount(inverse, weights=value[keep].astype(np.float64), minlength=len(key))
    return key // n, key % n, summed


def _without_boundary_columns(
    row: np.ndarray, col: np.ndarray, value: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries except those in the columns of rows that hold their diagonal alone."""
    alone = np.bincount(row[row != col], minlength=n) == 0
    keep = (row == col) | ~alone[col]
    return row[keep], col[keep], value[keep]


def _check_values(value: np.ndarray, diagonal: np.ndarray) -> None:
    if not np.isfinite(value).all():
        raise UsageError("The matrix has entries that are NaN or infinite; assemble it anew from finite coefficients.")
    if (diagonal < 0).any():
        i = int(np.argmin(diagonal))
        remedy = "solve (−A) x = −b instead" if (diagonal <= 0).all() else "it is not positive definite"
        raise UsageError(
            f"The matrix has the wrong sign: A[{i}, {i}] = {diagonal[i]:.3g}, a positive diagonal is needed; {remedy}."
        )
    if not (diagonal > 0).any():
        raise UsageError("The matrix has no positive diagonal entry; assemble it before the preconditioner is set up.")


def _check_symmetry(row: np.ndarray, col: np.ndarray, value: np.ndarray, size: np.ndarray, n: int) -> None:
    key, turned = row * n + col, col * n + row
    order = np.argsort(turned, kind="stable")
    if np.array_equal(turned[order], key):
        difference = np.abs(value - value[order])
    else:
        at = np.minimum(np.searchsorted(key, turned), len(key) - 1)
        difference = np.abs(value - np.where(key[at] == turned, value[at], 0.0))
    if (wrong := difference > ROUNDING * size + 1e-300).any():
        k = int(np.argmax(np.where(wrong, difference, 0.0)))
        i, j = int(row[k]), int(col[k])
        raise UsageError(
            f"The matrix is not symmetric: A[{i}, {j}] and A[{j}, {i}] differ by {difference[k]:.3g}; eliminate "
            "boundary values from rows and columns alike, or precondition with a symmetric part of it."
        )


def _check_neighbours(
    row: np.ndarray,
    col: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    reach: np.ndarray,
    shape: tuple[int, ...],
    compact: bool,
    remedy: str,
) -> None:
    wrong = (reach.max(0) > 1) if compact else (reach.sum(0) > 1)
    if not wrong.any():
        return
    k = int(np.argmax(wrong))
    a, b = (tuple(int(x) for x in side[:, k]) for side in (here, there))
    points, grid = 2 * len(shape) + 1, "×".join(map(str, shape))
    corner = not compact and not (reach.max(0) > 1).any()
    spread = f"pass compact=True to precondition with the {points}-point matrix of equal energy on smooth vectors"
    turn = "give the shape with the fastest index last, or `cells` for another numbering; periodic grids have no map"
    remedy = remedy or (spread if corner else turn)
    raise UsageError(
        f"A[{int(row[k])}, {int(col[k])}] joins the points {a} and {b}, which are no neighbours in a {points}-point "
        f"stencil on a {grid} grid; {remedy}."
    )


def _check_couplings(out: np.ndarray, shape: tuple[int, ...]) -> None:
    couplings = out[1:]
    scale = out[0].max()
    if (couplings < -ROUNDING * scale).any():
        axis, *point = (int(i) for i in np.unravel_index(np.argmin(couplings), couplings.shape))
        raise UsageError(
            f"The coupling −A[i, i + e] of point {tuple(point)} along axis {axis} is {couplings[(axis, *point)]:.3g}; "
            "off-diagonal entries must not be positive (an M-matrix, as finite volumes give)."
        )
    np.maximum(couplings, 0.0, out=couplings)
