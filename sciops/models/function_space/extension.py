"""Values beyond the walls: wrapped, mirrored, set to zero, or continued by a polynomial."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid

EXTENSIONS = ("even", "odd", "zeros")


def check_extension(extension: str) -> str:
    if extension not in EXTENSIONS:
        raise UsageError(f"extension must be one of {', '.join(EXTENSIONS)}; got '{extension}'.")
    return extension


def check_ndim(ndim: int) -> int:
    if ndim not in (1, 2, 3):
        raise UsageError(f"ndim must be 1, 2 or 3; got {ndim}.")
    return ndim


def check_grid(x: Float[Tensor, "n c *s"], grid: Grid, ndim: int) -> None:
    """Refuse a field that does not live on the grid, or a grid of another dimension than the layer's."""
    if grid.ndim != ndim:
        raise UsageError(f"This layer was built for ndim={ndim}; got a grid of {grid.ndim} axes, {grid.describe()}.")
    if tuple(x.shape[2:]) != grid.shape:
        raise UsageError(
            f"A field on {tuple(x.shape[2:])} points came with the grid {grid.describe()}: they must match."
        )


def take(x: Tensor, dim: int, index: Tensor, layout: str, extension: str) -> Tensor:
    """x at any integer positions of one axis: periodic ones wrap; others go on beyond the walls by `extension`.

    Mirrors stand on the end nodes (node) or on the end faces (cell): in both cases on the walls of the domain.
    """
    n = x.shape[dim]
    factor = None
    if layout == "periodic":
        inside = index.remainder(n)
    elif extension == "zeros":
        inside = index.clamp(0, n - 1)
        factor = inside == index
    else:
        period = 2 * (n - 1) if layout == "node" else 2 * n
        inside = index.remainder(period)
        beyond = inside >= n
        inside = torch.where(beyond, (period if layout == "node" else period - 1) - inside, inside)
        if extension == "odd":
            factor = 1 - 2 * beyond.to(x.dtype)
    y = x.index_select(dim, inside)
    return y if factor is None else y * factor.to(x.dtype).view([-1 if a == dim else 1 for a in range(x.dim())])


def extended(x: Tensor, dim: int, reach: int, layout: str, extension: str) -> Tensor:
    """x with `reach` more points at both ends of an axis."""
    index = torch.arange(-reach, x.shape[dim] + reach, device=x.device)
    return take(x, dim, index, layout, extension)


def extrapolated(x: Tensor, dim: int, reach: int, degree: int) -> Tensor:
    """x with `reach` more points at both ends, on the polynomial through the degree + 1 points next to each end."""
    n, p = x.shape[dim], degree + 1
    if n < p:
        raise UsageError(f"Continuing a field beyond a wall needs {p} points on that axis; got {n}.")
    rows = []
    for position in range(-reach, 0):
        row = []
        for i in range(p):
            value = 1.0
            for j in range(p):
                value *= (position - j) / (i - j) if i != j else 1.0
            row.append(value)
        rows.append(row)
    matrix = x.new_tensor(rows)
    near, far = torch.movedim(x.narrow(dim, 0, p), dim, -1), torch.movedim(x.narrow(dim, n - p, p), dim, -1)
    low, high = near @ matrix.T, (far.flip(-1) @ matrix.T).flip(-1)
    return torch.cat([torch.movedim(low, -1, dim), x, torch.movedim(high, -1, dim)], dim=dim)
