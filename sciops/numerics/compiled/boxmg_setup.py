"""Operator-dependent interpolation and Galerkin products, row by row (kernels).

Arrays carry one layer of zeros around the grid (none in z on 2-D grids, `gz` = 0): a point (k, j, i) is stored at
(k + gz, j + 1, i + 1). Couplings that leave the box must be zero. All arithmetic is in the dtype of the input.
"""

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}
NO_LINK = 1e-50


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _read_rows(off, diag, slots, k, j, px, nx, rows, count):
    """Full stencils of the points 2I + px of one fine row: rows[o, I + 1]."""
    filled = min(count, (nx - px + 1) // 2)
    centre = diag[k, j, px + 1 :]
    for i in range(filled):
        rows[13, i + 1] = centre[2 * i]
    for i in range(filled, count):
        rows[13, i + 1] = 0
    for m in range(13):
        s = slots[m]
        if s < 0:
            continue
        number = 14 + m
        dz, dy, dx = number // 9 - 1, number // 3 % 3 - 1, number % 3 - 1
        # Slices that start where the loop does: an index that might be negative would keep it from being vectorised.
        ahead, behind = off[s, k, j, px + 1 :], off[s, k - dz, j - dy, px + 1 - dx :]
        for i in range(filled):
            rows[14 + m, i + 1] = ahead[2 * i]
            rows[12 - m, i + 1] = behind[2 * i]
        for i in range(filled, count):
            rows[14 + m, i + 1] = 0
            rows[12 - m, i + 1] = 0


@njit(cache=True, fastmath=FAST, error_model="numpy")
def interpolate_class(
    off, diag, slots, present, gz, space, coarse, parity, collapse, steps, weights, first, last, scale, detours
):
    """Weights of the points of one class (see `interpolation`); classes come in the order edges, faces, bodies.

    first, last: the weights of this class. `scale` (weights, Z, Y, X) multiplies them, the sum kept, or is empty.
    """
    nz, ny, nx = space
    cz, cy, cx = coarse
    pz, py, px = parity
    rows = np.zeros((27, cx + 2), dtype=diag.dtype)
    collapsed = np.zeros((27, cx + 2), dtype=diag.dtype)
    factor = np.zeros(cx + 2, dtype=diag.dtype)
    for kc in range(cz):
        if 2 * kc + pz >= nz:
            continue
        for jc in range(cy):
            if 2 * jc + py >= ny:
                continue
            k, j = 2 * kc + pz + gz, 2 * jc + py + 1
            _read_rows(off, diag, slots, k, j, px, nx, rows, cx)
            collapsed[:] = 0
            for o in present:
                target = collapsed[collapse[o]]
                source = rows[o]
                for i in range(1, cx + 1):
                    target[i] += source[i]
            if detours:
                _add_detours(off, slots, k, j, px, nx, cx, parity, rows, collapsed)
            total, centre = collapsed[13], rows[13]
            for i in range(1, cx + 1):
                # No link along the odd axes at all: leave the point to the smoother instead of dividing by rounding.
                usable = total[i] > 1e-10 * centre[i]
                factor[i] = -1.0 / total[i] if usable else 0.0
            for n in range(steps.shape[0]):
                along, source_weight, sz, sy, sx, target_weight = steps[n]
                link = collapsed[along]
                target = weights[target_weight, kc + gz, jc + 1]
                if source_weight < 0:
                    for i in range(1, cx + 1):
                        target[i] += factor[i] * link[i]
                else:
                    source = weights[source_weight, kc + sz + gz, jc + sy + 1, sx:]
                    for i in range(1, cx + 1):
                        target[i] += factor[i] * link[i] * source[i]
            if scale.shape[0]:
                _rescale(weights, scale, first, last, kc + gz, jc + 1, cx)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _rescale(weights, scale, first, last, k, j, count):
    """Multiply the weights by `scale` and bring their sum back."""
    for i in range(1, count + 1):
        before, after = 0.0, 0.0
        for w in range(first, last):
            before += weights[w, k, j, i]
            after += weights[w, k, j, i] * scale[w, k, j, i]
        back = before / after if abs(after) > 1e-6 * abs(before) else 0.0
        for w in range(first, last):
            weights[w, k, j, i] *= scale[w, k, j, i] * back if back else 1.0


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _entry(off, slots, k, j, i, dz, dy, dx):
    """The coupling of (k, j, i) to its neighbour at (dz, dy, dx)."""
    number = 9 * dz + 3 * dy + dx
    if number > 0:
        return off[slots[number - 1], k, j, i]
    return off[slots[-number - 1], k + dz, j + dy, i + dx]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _add_detours(off, slots, k, j, px, nx, count, parity, rows, collapsed):
    """Edge points: add the paths point → sideways → along → back, three conductances −a_ij in series.

    A point whose only strong link leads sideways then follows the coarse point that it is really connected to.
    """
    az, ay, ax = parity
    filled = min(count, (nx - px + 1) // 2)
    for axis in range(3):
        if parity[axis]:
            continue
        uz, uy, ux = int(axis == 0), int(axis == 1), int(axis == 2)
        if slots[9 * uz + 3 * uy + ux - 1] < 0:
            continue
        for side in (-1, 1):
            tz, ty, tx = side * uz, side * uy, side * ux
            for ahead in (-1, 1):
                hz, hy, hx = ahead * az, ahead * ay, ahead * ax
                first = rows[13 + 9 * tz + 3 * ty + tx]
                target, centre = collapsed[13 + 9 * hz + 3 * hy + hx], collapsed[13]
                for i in range(filled):
                    x = 2 * i + px + 1
                    a = -first[i + 1]
                    if a <= NO_LINK:
                        continue
                    b = -_entry(off, slots, k + tz, j + ty, x + tx, hz, hy, hx)
                    c = -_entry(off, slots, k + hz, j + hy, x + hx, tz, ty, tx)
                    if b > NO_LINK and c > NO_LINK:
                        path = a * b * c / (a * b + b * c + c * a)
                        target[i + 1] -= path
                        centre[i + 1] += path


@njit(cache=True, fastmath=FAST, error_model="numpy")
def galerkin(
    off, diag, slots, gz, space, coarse, parities, products, product_start, restrict, restrict_start, weights, out
):
    """PᵀAP: out[0] its diagonal, out[1 + m] entry m of HALF, both with ghosts, zero on entry."""
    nz, ny, nx = space
    cz, cy, cx = coarse
    rows = np.zeros((27, cx + 2), dtype=diag.dtype)
    product = np.zeros((27, cx + 2), dtype=diag.dtype)
    for kc in range(cz):
        for jc in range(cy):
            for p in range(parities.shape[0]):
                pz, py, px = parities[p]
                if 2 * kc + pz >= nz or 2 * jc + py >= ny:
                    continue
                _read_rows(off, diag, slots, 2 * kc + pz + gz, 2 * jc + py + 1, px, nx, rows, cx)
                product[:] = 0
                for n in range(product_start[p], product_start[p + 1]):
                    o, weight, sz, sy, sx, reach = products[n]
                    entry, target = rows[o], product[reach]
                    if weight < 0:
                        # The neighbour is a coarse point; beyond the box its coupling is zero.
                        for i in range(1, cx + 1):
                            target[i] += entry[i]
                    else:
                        near = weights[weight, kc + sz + gz, jc + sy + 1, sx + 1 :]
                        for i in range(cx):
                            target[i + 1] += entry[i + 1] * near[i]
                for n in range(restrict_start[p], restrict_start[p + 1]):
                    weight, z, y, x, reach, entry_number = restrict[n]
                    row, source = out[entry_number, kc + z + gz, jc + y + 1, x:], product[reach]
                    if weight < 0:
                        for i in range(1, cx + 1):
                            row[i] += source[i]
                    else:
                        back = weights[weight, kc + gz, jc + 1]
                        for i in range(1, cx + 1):
                            row[i] += back[i] * source[i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def row_sums(off, diag, slots, gz, space, out):
    """Σ_j a_ij of each row, to be stored beside the couplings: what is left of the diagonal where all is Neumann."""
    nz, ny, nx = space
    for kk in range(nz):
        for jj in range(ny):
            k, j = kk + gz, jj + 1
            row, centre = out[k, j], diag[k, j]
            for i in range(1, nx + 1):
                row[i] = centre[i]
            for m in range(13):
                s = slots[m]
                if s < 0:
                    continue
                number = 14 + m
                dz, dy, dx = number // 9 - 1, number // 3 % 3 - 1, number % 3 - 1
                ahead, behind = off[s, k, j, 1:], off[s, k - dz, j - dy, 1 - dx :]
                for i in range(nx):
                    row[i + 1] += ahead[i] + behind[i]
