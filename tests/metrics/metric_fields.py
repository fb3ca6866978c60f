"""Small random fields for the metric tests."""

import torch

from sciops.core.field import Field
from sciops.core.grid import Grid

SHAPES = {1: (26,), 2: (7, 6), 3: (5, 4, 6)}


def grid_like(ndim: int, layout: str = "node", shape: tuple[int, ...] | None = None) -> Grid:
    """A box with a different length on every axis."""
    return Grid.box(shape or SHAPES[ndim], lower=-0.5, upper=[0.7, 1.9, 0.4][:ndim], layout=layout)


def pair(grid: Grid, n: int = 5, t: int = 3, c: int = 2, seed: int = 0, noise: float = 0.3) -> tuple[Field, Field]:
    """(prediction, truth): random values, correlated with each other."""
    draw = torch.Generator().manual_seed(seed)
    y = 1.0 + torch.randn(n, t, c, *grid.shape, generator=draw, dtype=torch.float64)
    p = y + noise * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    names, times = tuple("abcdefg"[:c]), tuple(0.5 * k for k in range(t))
    return Field(p, grid, names, times), Field(y, grid, names, times)
