"""Rotary positions in physical coordinates."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain


class Rotary(nn.Module):
    """Pairs of channels turned by the angles ω_m x_a: products q(y)·k(x) then depend on y − x, in physical units.

    The channels of a head are shared out evenly to the axes; ω_m = 2πm/L_a on periodic axes (the products have the
    period of the domain exactly), πm/L_a on others, m = 1, 2, … No parameters, nothing counts grid points.
    Su et al., "RoFormer: enhanced transformer with rotary position embedding", Neurocomputing 568 (2024).
    """

    def __init__(
        self, channels: int, lengths: float | Sequence[float], periodic: bool | Sequence[bool] = False, ndim: int = 2
    ):
        super().__init__()
        if channels < 2 * ndim or channels % (2 * ndim):
            raise UsageError(f"Rotary turns pairs per axis: channels must be a multiple of {2 * ndim}; got {channels}.")
        sizes = [float(lengths)] * ndim if isinstance(lengths, int | float) else [float(v) for v in lengths]
        wraps = [periodic] * ndim if isinstance(periodic, bool) else list(periodic)
        if len(sizes) != ndim or len(wraps) != ndim or min(sizes) <= 0:
            raise UsageError(f"Rotary takes {ndim} positive lengths and periodic flags; got {lengths}, {periodic}.")
        self.channels, self.ndim = channels, ndim
        pairs = channels // (2 * ndim)
        self._omega = [
            [(2 if wrap else 1) * math.pi * m / size for m in range(1, pairs + 1)]
            for size, wrap in zip(sizes, wraps, strict=True)
        ]

    def forward(self, x: Float[Tensor, "n h N e"], domain: Domain) -> Float[Tensor, "n h N e"]:
        if domain.ndim != self.ndim:
            raise UsageError(f"Rotary was built for ndim={self.ndim}; got {domain.describe()}.")
        points = domain.points(dtype=x.dtype, device=x.device)
        angle = torch.cat([points[:, [a]] * points.new_tensor(omega) for a, omega in enumerate(self._omega)], dim=1)
        first, second = x.chunk(2, dim=-1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
