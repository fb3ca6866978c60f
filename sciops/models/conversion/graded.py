"""Fields on tensor grids whose coordinates are not equally spaced: to an equally spaced grid and back.

Local Lagrange polynomials of degree 3 per axis (order 4 in the largest spacing; one-sided next to walls).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sciops.core.grid import Grid
from sciops.models.conversion.layout import ConversionError


def check(coords: Sequence[Tensor], shape: Sequence[int], grid: Grid) -> list[Tensor]:
    """One increasing coordinate per point and axis, inside the domain."""
    axes = [torch.as_tensor(x, dtype=torch.float64) for x in coords]
    for j, (x, n) in enumerate(zip(axes, shape, strict=False)):
        low, high = grid.lower[j], grid.upper[j]
        if x.shape != (n,) or bool((x.diff() <= 0).any()) or float(x[0]) < low - 1e-9 or float(x[-1]) > high + 1e-9:
            raise ConversionError(
                f"coords[{j}] must be {n} increasing numbers in [{low:g}, {high:g}], one per point of the axis; got "
                f"shape {tuple(x.shape)} in [{float(x.min()):g}, {float(x.max()):g}]; scattered points need an "
                "operator of sciops.models.function_space."
            )
    if len(axes) != len(shape):
        raise ConversionError(f"coords must hold one tensor per axis ({len(shape)}); got {len(axes)}.")
    return axes


def matrix(source: Tensor, target: Tensor, period: float | None) -> Tensor:
    """(m, n): values at `source` to values at `target`."""
    n, p = len(source), min(4, len(source))
    if period is not None:
        nodes = torch.cat([source[-3:] - period, source, source[:3] + period]) if n >= 3 else source
        index = torch.arange(-3, n + 3) % n if n >= 3 else torch.arange(n)
    else:
        nodes, index = source, torch.arange(n)
    first = (torch.searchsorted(nodes, target, right=True) - 1 - (p - 1) // 2).clamp(0, len(nodes) - p)
    stencil = first[:, None] + torch.arange(p)
    x = nodes[stencil]
    out = torch.zeros((len(target), n), dtype=torch.float64)
    for i in range(p):
        weight = torch.ones(len(target), dtype=torch.float64)
        for k in range(p):
            if k != i:
                weight = weight * (target - x[:, k]) / (x[:, i] - x[:, k])
        out.scatter_add_(1, index[stencil[:, i]][:, None], weight[:, None])
    return out


def moved(x: Tensor, sources: Sequence[Tensor], targets: Sequence[Tensor], grid: Grid) -> Tensor:
    """(…, *n) at the coordinates `sources` to (…, *m) at `targets`."""
    d = len(sources)
    for j, (a, b) in enumerate(zip(sources, targets, strict=True)):
        period = grid.upper[j] - grid.lower[j] if grid.layout[j] == "periodic" else None
        dim = x.dim() - d + j
        x = torch.tensordot(x, matrix(a, b, period).to(x), dims=([dim], [1])).movedim(-1, dim)
    return x.contiguous()
