"""Pooling over windows of fixed physical width, from any grid to any grid of the same box."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.interpolate import resample

REDUCTIONS = ("mean", "max")


class PhysicalPool(nn.Module):
    """g(y) = ∫_{W(y)} f / |W(y)|, or sup of f over W(y), W(y) = D ∩ (y + [−width/2, width/2]^d) in physical units.

    Means integrate the cell averages of a cell grid, or the linear interpolant of node and periodic values, over the
    window: constants are kept, weights positive, order 2 in h, for any width and any target grid of the same box (its
    points are the centres y). The supremum is over the grid points in
    the window (the nearest one if there is none): order 1, and it caps the rate of a network.
    width    one number or one per axis; on periodic axes at most the period
    target   of `forward`: the grid of y, by default that of f
    Cost: means O(n m) per line of n points and m targets (one dense product per axis); suprema O(m · width/h).
    """

    def __init__(self, width: float | Sequence[float], reduction: str = "mean"):
        super().__init__()
        self.width = (float(width),) if isinstance(width, int | float) else tuple(float(w) for w in width)
        if not self.width or not all(w > 0 and math.isfinite(w) for w in self.width):
            raise UsageError(f"width must be a positive length, or one per axis; got {width!r}.")
        if reduction not in REDUCTIONS:
            raise UsageError(f"reduction must be one of {', '.join(REDUCTIONS)}; got '{reduction}'.")
        self.reduction = reduction

    def forward(self, x: Float[Tensor, "n c *s"], grid: Grid, target: Grid | None = None) -> Float[Tensor, "n c *t"]:
        target = target or grid
        if tuple(x.shape[2:]) != grid.shape or not grid.same_box(target):
            raise UsageError(
                f"PhysicalPool got a field on {tuple(x.shape[2:])} points, its grid {grid.describe()} and the target "
                f"{target.describe()}: field and grid must match, and the boxes and periodic axes of both grids."
            )
        widths = self.width * grid.ndim if len(self.width) == 1 else self.width
        if len(widths) != grid.ndim:
            raise UsageError(f"PhysicalPool has {len(widths)} widths, the grid {grid.ndim} axes.")
        for axis, width in enumerate(widths):
            dim = axis + 2
            if grid.layout[axis] == "periodic" and width > grid.lengths[axis] * (1 + 1e-12):
                raise UsageError(f"The window {width} is longer than the period {grid.lengths[axis]} of axis {axis}.")
            if self.reduction == "mean":
                matrix = overlaps(grid, target, axis, width).to(x)
                x = torch.movedim(torch.movedim(x, dim, -1) @ matrix.T, -1, dim)
            else:
                index = windows(grid, target, axis, width).to(x.device)
                x = x.index_select(dim, index.flatten()).unflatten(dim, tuple(index.shape)).amax(dim + 1)
        return x


def to_lattice(x: Float[Tensor, "n c *s"], grid: Grid, lattice: Grid) -> Float[Tensor, "n c *t"]:
    """f on a fixed lattice: means over its cells along axes finer than it, cubic interpolation along the others."""
    if tuple(x.shape[2:]) != grid.shape or not grid.same_box(lattice):
        raise UsageError(
            f"Cannot move a field on {tuple(x.shape[2:])} points and the grid {grid.describe()} to the lattice "
            f"{lattice.describe()}: the boxes or their periodic axes differ."
        )
    for axis in range(grid.ndim):
        step = Grid(
            (*lattice.shape[: axis + 1], *grid.shape[axis + 1 :]),
            grid.lower,
            grid.upper,
            (*lattice.layout[: axis + 1], *grid.layout[axis + 1 :]),
        )
        if grid.spacing[axis] < lattice.spacing[axis] * (1 - 1e-9):
            matrix = overlaps(grid, lattice, axis, lattice.spacing[axis]).to(x)
            x = torch.movedim(torch.movedim(x, axis + 2, -1) @ matrix.T, -1, axis + 2)
        else:
            before = Grid(
                (*lattice.shape[:axis], *grid.shape[axis:]),
                grid.lower,
                grid.upper,
                (*lattice.layout[:axis], *grid.layout[axis:]),
            )
            x = resample(x, before, step)
    return x


def overlaps(grid: Grid, target: Grid, axis: int, width: float) -> Float[Tensor, "m n"]:
    """Integrals over the window around every target point of the functions that grid values stand for, rows of sum one.

    A cell value is the mean of its cell: its share is the overlap of cell and window. Point values are joined linearly:
    their shares are integrals of hats, and the rule is the trapezoid rule on windows that end at points.
    """
    x, h, length = grid.axis(axis), grid.spacing[axis], grid.lengths[axis]
    y = target.axis(axis)[:, None]
    low, high = y - width / 2, y + width / 2
    shifts: tuple[float, ...] = (-length, 0.0, length)
    if grid.layout[axis] != "periodic":
        shifts, low, high = (0.0,), low.clamp(min=grid.lower[axis]), high.clamp(max=grid.upper[axis])
    below = _box_below if grid.layout[axis] == "cell" else _hat_below
    share = torch.zeros(len(y), len(x), dtype=x.dtype)
    for shift in shifts:
        share = share + below((high - x - shift) / h) - below((low - x - shift) / h)
    share = share.clamp(min=0)
    return share / share.sum(1, keepdim=True)


def _box_below(t: Tensor) -> Tensor:
    """∫ of the box of width one around 0, up to t."""
    return (t + 0.5).clamp(0, 1)


def _hat_below(t: Tensor) -> Tensor:
    """∫ of the hat of width two around 0, up to t."""
    return ((1 + t).clamp(0, 1).square() + 1 - (1 - t).clamp(0, 1).square()) / 2


def windows(grid: Grid, target: Grid, axis: int, width: float) -> Int[Tensor, "m w"]:
    """Indices of the grid points in the window around every target point, the last one repeated to equal lengths."""
    h = grid.spacing[axis]
    place = (target.axis(axis) - grid.axis(axis)[0]) / h
    low = torch.ceil(place - width / (2 * h) - 1e-9).long()
    high = torch.floor(place + width / (2 * h) + 1e-9).long()
    nearest = place.round().long()
    low, high = torch.where(high < low, nearest, low), torch.where(high < low, nearest, high)
    n = grid.shape[axis]
    if grid.layout[axis] != "periodic":
        low, high = low.clamp(0, n - 1), high.clamp(0, n - 1)
    # Lengths from numbers, not from tensors, so that torch.export can follow.
    index = low[:, None] + torch.arange(min(math.floor(width / h + 1e-8) + 1, n))
    return torch.minimum(index, high[:, None]).remainder(n)
