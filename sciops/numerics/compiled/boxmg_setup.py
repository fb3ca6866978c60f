"""Operator-dependent interpolation and Galerkin products, row by row (kernels).

Arrays carry one layer of zeros around the grid (none in z on 2-D grids, `gz` = 0): a point (k, j, i) is stored at
(k + gz, j + 1, i + 1). Couplings that leave the box must be zero. All arithmetic is in the dtype of the input.
"""

from typing import no_type_check

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}
NO_LINK = 1e-200
BLOCK = 512
"""Points per pass: long enough to hide what a pass costs, short enough for the second-level cache."""


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def _read_block(off, diag, slots, k, j, py, px, fine, coarse, count, block):
    """Full stencils of the points (2J + py, 2I + px) of `count` coarse rows from j on: block[o, row·width + I + 1].

    Entries beyond the grid are zero.
    """
    ny, nx = fine
    width = coarse + 2
    filled = min(coarse, (nx - px + 1) // 2)
    block[:, : count * width] = 0
    for row in range(count):
        jf = 2 * (j + row) + py
        if jf >= ny:
            continue
        base = row * width + 1
        # Slices that start where the loop does: an index that might be negative would keep it from being vectorised.
        centre, target = diag[k, jf + 1, px + 1 :], block[13, base:]
        for i in range(filled):
            target[i] = centre[2 * i]
        for m in range(13):
            s = slots[m]
            if s < 0:
                continue
            number = 14 + m
            dz, dy, dx = number // 9 - 1, number // 3 % 3 - 1, number % 3 - 1
            ahead, behind = off[s, k, jf + 1, px + 1 :], off[s, k - dz, jf + 1 - dy, px + 1 - dx :]
            up, down = block[14 + m, base:], block[12 - m, base:]
            for i in range(filled):
                up[i] = ahead[2 * i]
            for i in range(filled):
                down[i] = behind[2 * i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def interpolate_class(
    off, diag, slots, present, gz, space, coarse, parity, collapse, steps, weights, first, last, scale, detours
):
    """Weights of the points of one class; classes come in the order edges, faces, bodies.

    Let S be the axes on which the class is odd. The stencil is summed over the other axes, which leaves a stencil T in
    S; T u = 0 is solved for the centre with the neighbours already interpolated, so that the flux ∂u/∂n stays
    continuous where coefficients jump. first, last: the weights of this class. `scale` (weights, Z, Y, X) multiplies
    them, the sum kept, or is empty. Work goes by blocks of coarse rows laid end to end, ghosts included.
    """
    nz, ny, nx = space
    cz, cy, cx = coarse
    pz, py, px = parity
    width = cx + 2
    most = max(1, min(cy, BLOCK // width))
    block = np.zeros((27, most * width), dtype=diag.dtype)
    collapsed = np.zeros((27, most * width), dtype=diag.dtype)
    factor = np.zeros(most * width, dtype=diag.dtype)
    flat = weights.reshape(weights.shape[0], weights.shape[1], -1)
    for kc in range(cz):
        if 2 * kc + pz >= nz:
            continue
        for jc in range(0, cy, most):
            count = min(most, cy - jc)
            size = count * width - 1
            k = 2 * kc + pz + gz
            _read_block(off, diag, slots, k, jc, py, px, (ny, nx), cx, count, block)
            collapsed[:] = 0
            for o in present:
                target, source = collapsed[collapse[o]], block[o]
                for i in range(size):
                    target[i] += source[i]
            if detours:
                for row in range(count):
                    if 2 * (jc + row) + py < ny:
                        _add_detours(off, slots, k, 2 * (jc + row) + py + 1, px, nx, cx, parity, row * width, collapsed)
            total, centre = collapsed[13], block[13]
            for i in range(size):
                # No link along the odd axes at all: leave the point to the smoother instead of dividing by rounding.
                usable = total[i] > 1e-10 * centre[i]
                factor[i] = -1.0 / total[i] if usable else 0.0
            for n in range(steps.shape[0]):
                along, source_weight, sz, sy, sx, target_weight = steps[n]
                link = collapsed[along]
                start = (jc + 1) * width
                target = flat[target_weight, kc + gz, start:]
                if source_weight < 0:
                    for i in range(size):
                        target[i] += factor[i] * link[i]
                else:
                    source = flat[source_weight, kc + sz + gz, start + sy * width + sx :]
                    for i in range(size):
                        target[i] += factor[i] * link[i] * source[i]
            if scale.shape[0]:
                for row in range(count):
                    _rescale(weights, scale, first, last, kc + gz, jc + row + 1, cx)


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
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
@no_type_check
def _line(off, slots, k, j, i, dz, dy, dx):
    """Couplings of the points (k, j, i …) to their neighbours at (dz, dy, dx)."""
    number = 9 * dz + 3 * dy + dx
    if number > 0:
        return off[slots[number - 1], k, j, i:]
    return off[slots[-number - 1], k + dz, j + dy, i + dx :]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def _add_detours(off, slots, k, j, px, nx, count, parity, base, collapsed):
    """Edge points: add the paths point → sideways → along → back, three conductances −a_ij in series.

    A point whose only strong link leads sideways then follows the coarse point that it is really connected to.
    """
    az, ay, ax = parity
    filled = min(count, (nx - px + 1) // 2)
    x = px + 1
    for axis in range(3):
        uz, uy, ux = int(axis == 0), int(axis == 1), int(axis == 2)
        if parity[axis] or slots[9 * uz + 3 * uy + ux - 1] < 0:
            continue
        for side in (-1, 1):
            tz, ty, tx = side * uz, side * uy, side * ux
            for ahead in (-1, 1):
                hz, hy, hx = ahead * az, ahead * ay, ahead * ax
                first = _line(off, slots, k, j, x, tz, ty, tx)
                second = _line(off, slots, k + tz, j + ty, x + tx, hz, hy, hx)
                third = _line(off, slots, k + hz, j + hy, x + hx, tz, ty, tx)
                target = collapsed[13 + 9 * hz + 3 * hy + hx, base + 1 :]
                centre = collapsed[13, base + 1 :]
                for i in range(filled):
                    a, b, c = max(-first[2 * i], 0.0), max(-second[2 * i], 0.0), max(-third[2 * i], 0.0)
                    path = a * b * c / (a * b + b * c + c * a + NO_LINK)
                    target[i] -= path
                    centre[i] += path


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
def galerkin(
    off, diag, slots, gz, space, coarse, parities, products, product_start, restrict, restrict_start, weights, out
):
    """PᵀAP: out[0] its diagonal, out[1 + m] entry m of HALF, both with ghosts, zero on entry. By blocks of rows."""
    nz, ny, nx = space
    cz, cy, cx = coarse
    width = cx + 2
    most = max(1, min(cy, BLOCK // width))
    block = np.zeros((27, most * width), dtype=diag.dtype)
    product = np.zeros((27, most * width), dtype=diag.dtype)
    flat = weights.reshape(weights.shape[0], weights.shape[1], -1)
    sums = out.reshape(out.shape[0], out.shape[1], -1)
    for kc in range(cz):
        for jc in range(0, cy, most):
            count = min(most, cy - jc)
            # The first and the last entry of a block are ghosts: neighbours one to the left or right stay in range.
            size = count * width - 2
            start = (jc + 1) * width + 1
            for p in range(parities.shape[0]):
                pz, py, px = parities[p]
                if 2 * kc + pz >= nz:
                    continue
                _read_block(off, diag, slots, 2 * kc + pz + gz, jc, py, px, (ny, nx), cx, count, block)
                product[:] = 0
                for n in range(product_start[p], product_start[p + 1]):
                    o, weight, sz, sy, sx, reach = products[n]
                    entry, target = block[o, 1:], product[reach, 1:]
                    if weight < 0:
                        # The neighbour is a coarse point; beyond the box its coupling is zero.
                        for i in range(size):
                            target[i] += entry[i]
                    else:
                        near = flat[weight, kc + sz + gz, start + sy * width + sx :]
                        for i in range(size):
                            target[i] += entry[i] * near[i]
                for n in range(restrict_start[p], restrict_start[p + 1]):
                    weight, z, y, x, reach, entry_number = restrict[n]
                    row, source = sums[entry_number, kc + z + gz, start + y * width + x :], product[reach, 1:]
                    if weight < 0:
                        for i in range(size):
                            row[i] += source[i]
                    else:
                        back = flat[weight, kc + gz, start:]
                        for i in range(size):
                            row[i] += back[i] * source[i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
@no_type_check
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
