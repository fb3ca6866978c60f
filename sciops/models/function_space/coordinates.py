"""Positions as channels: coordinates that are right on node, cell and periodic axes and at scattered points."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid


class CoordinateEmbedding(nn.Module):
    """f ↦ (f, p(x)): channels that are functions of the place, not of the index.

    Per axis: x̂ = (x − lower)/(upper − lower) and, for m = 1 … modes, sin(πm x̂) and cos(πm x̂); on periodic axes
    sin(2πm x̂) and cos(2πm x̂), m = 1 … max(modes, 1), and no x̂, which would jump at the seam. Grids give the
    places: node i/(n−1), cell (i+½)/n, periodic i/n. Nested grids agree at shared points to rounding.
    No parameters. `channels` is the number of channels it adds.
    """

    def __init__(
        self,
        lower: Sequence[float],
        upper: Sequence[float],
        periodic: Sequence[bool] | bool = False,
        modes: int = 0,
    ):
        super().__init__()
        wraps = [periodic] * len(lower) if isinstance(periodic, bool) else list(periodic)
        if not len(lower) == len(upper) == len(wraps) or any(b <= a for a, b in zip(lower, upper, strict=False)):
            raise UsageError(
                f"CoordinateEmbedding takes lower < upper and periodic, one per axis; got {lower}, {upper}, {periodic}."
            )
        if modes < 0:
            raise UsageError(f"modes must be 0 or more; got {modes}.")
        self.lower, self.upper, self.wraps = tuple(lower), tuple(upper), tuple(wraps)
        self.modes = modes
        self.channels = sum(2 * max(modes, 1) if wrap else 1 + 2 * modes for wrap in wraps)

    @classmethod
    def of(cls, grid: Grid, modes: int = 0) -> "CoordinateEmbedding":
        """For the box of a grid and its periodic axes."""
        return cls(grid.lower, grid.upper, [kind == "periodic" for kind in grid.layout], modes)

    def features(self, domain: Domain, like: Tensor) -> Float[Tensor, "p *s"]:
        """p(x) alone, in the dtype and on the device of `like`."""
        if domain.ndim != len(self.lower):
            raise UsageError(f"CoordinateEmbedding has {len(self.lower)} axes; got {domain.describe()}.")
        points = domain.points(torch.float64, torch.device("cpu"))  # formed in double: nested grids then agree
        rows = []
        for x, low, high, wrap in zip(points.T, self.lower, self.upper, self.wraps, strict=True):
            place = (x - low) / (high - low)
            if not wrap:
                rows.append(place)
            for m in range(1, max(self.modes, int(wrap)) + 1):
                angle = (2 if wrap else 1) * math.pi * m * place
                rows += [angle.sin(), angle.cos()]
        return torch.stack(rows).to(like).reshape(-1, *domain.shape)

    def forward(self, x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n c_out *s"]:
        p = self.features(domain, x)
        return torch.cat([x, p.expand(x.shape[0], *p.shape)], dim=1)
