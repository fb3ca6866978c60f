"""Compact stencils of −∇·(K∇u) with a full tensor K, as the second derivative of a discrete energy."""

from collections.abc import Sequence
from itertools import product

from jaxtyping import Float
from torch import Tensor

from sciops.core.grid import Grid
from sciops.core.stencil_operator import offsets


def tensor_stencil(k: Sequence[Sequence[Tensor]], grid: Grid) -> Float[Tensor, "n m *s"]:
    """Stencil of A = ∂²E/∂u², E(u) = ½ Σ_cells 2⁻ᵈ Σ_{σ ∈ {±1}ᵈ} gᵀ K g, per volume; u = 0 on the walls.

    Each cell is cut into 2ᵈ quadrants with its own one-sided differences, g_a = σ_a (u_{c+σ_a e_a} − u_c)/h_a; at a
    wall the neighbour is the wall itself, h_a/2 away. E is a sum of squares where K is positive, so A is symmetric
    positive definite whatever K does. For K a multiple of the identity it is the five- or seven-point star with
    arithmetic means; a full K couples the diagonal neighbours (9 points, 19 in 3-D). Second order for smooth K.
    `k[a][b]` (n, *s): entries of K per cell. Memory: the 3ᵈ arrays of the stencil and four more.
    Reference: Aavatsmark, Comput. Geosci. 6 (2002), for the family of such schemes.
    """
    ndim, (n, *space) = len(k), k[0][0].shape
    places = offsets(ndim)
    stencil = k[0][0].new_zeros((n, len(places), *space))
    origin: tuple[int, ...] = (0,) * ndim
    for sigma in product((-1, 1), repeat=ndim):
        for a, b in product(range(ndim), repeat=2):
            weight = k[a][b] * (sigma[a] * sigma[b] / (2**ndim * grid.spacing[a] * grid.spacing[b]))
            for axis in (a, b):  # twice the slope where the neighbour is the wall
                weight.select(axis + 1, 0 if sigma[axis] < 0 else -1).mul_(2.0)
            ends = [(origin, 1.0), (_unit(a, sigma, ndim), -1.0)]
            others = [(origin, 1.0), (_unit(b, sigma, ndim), -1.0)]
            for (row, sign), (column, other) in product(ends, others):
                # What leaves the box is a wall, where u = 0.
                source, target = _inside(row, column, space)
                place = places.index(tuple(q - p for p, q in zip(row, column, strict=True)))
                stencil[:, place][target].add_(weight[source], alpha=sign * other)
    return stencil


def _unit(axis: int, sigma: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    return tuple(sigma[axis] if j == axis else 0 for j in range(ndim))


def _inside(
    row: tuple[int, ...], column: tuple[int, ...], space: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Cells c for which c + row and c + column lie in the box, and the cells c + row."""
    source, target = [slice(None)], [slice(None)]
    for p, q, size in zip(row, column, space, strict=True):
        first, last = max(0, -p, -q), size - max(0, p, q)
        source.append(slice(first, last))
        target.append(slice(first + p, last + p))
    return tuple(source), tuple(target)
