"""Transposed convolution between functions, by sharp phases."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space.extension import check_extension, check_grid, check_ndim, take


class SharpTranspose(nn.Module):
    """g(y) = Σ_j W_{α(y)+rj}ᵀ f(y − (α(y) + rj − p) H/r) + b,  α(y) = (⌊y r/H⌋ + p) mod r: synthesis by phases.

    H is the spacing at which the layer is `torch.nn.ConvTranspose` with stride r and padding p: there and on a target
    of spacing H/r it gives the same values. At other spacings f is interpolated linearly and the phase belongs to the
    place, so that the answer has one limit. It is piecewise smooth in y, with the jumps between phases that the
    discrete layer has between its outputs; where they are unwanted, resample and use `HatConv`.

    spacing    H of the input, one number or one per axis
    target     of `forward`: the grid of y, by default that of f split r times
    extension  beyond the walls of non-periodic axes: "zeros" (as the discrete layer), "even", "odd"
    Order 2 in h between the jumps. Cost O(c_in c_out · (kernel_size/stride)^d) per target point. Periods must hold a
    whole number of H, or the phase has a seam: UsageError.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        spacing: float | Sequence[float],
        ndim: int = 2,
        padding: int = 0,
        extension: str = "zeros",
        bias: bool = True,
    ):
        super().__init__()
        self.ndim, self.stride, self.padding = check_ndim(ndim), stride, padding
        self.spacing = (float(spacing),) * ndim if isinstance(spacing, int | float) else tuple(map(float, spacing))
        if stride < 1 or kernel_size < stride or padding < 0 or len(self.spacing) != ndim or min(self.spacing) <= 0:
            raise UsageError(
                "SharpTranspose takes stride ≥ 1, kernel_size ≥ stride, padding ≥ 0 and a positive spacing, or one "
                f"per axis ({ndim}); got {stride}, {kernel_size}, {padding}, {spacing!r}."
            )
        self.extension = check_extension(extension)
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, *(kernel_size,) * ndim))
        bound = 1 / math.sqrt(in_channels * (kernel_size / stride) ** ndim)
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(
        self, x: Float[Tensor, "n c *s"], grid: Grid, target: Grid | None = None
    ) -> Float[Tensor, "n c_out *t"]:
        check_grid(x, grid, self.ndim)
        target = target or grid.refined(self.stride)
        if not grid.same_box(target):
            raise UsageError(f"The target {target.describe()} lies on another box than the field, or wraps otherwise.")
        phases = [self._phases(grid, target, axis) for axis in range(self.ndim)]
        out = x.new_zeros(x.shape[0], self.weight.shape[1], *target.shape)
        k = self.weight.shape[2]
        for alpha in itertools.product(range(self.stride), repeat=self.ndim):
            index = [torch.tensor([i for i, b in enumerate(phases[axis]) if b == a]) for axis, a in enumerate(alpha)]
            if any(len(i) == 0 for i in index):
                continue
            part = x.new_zeros(())
            for taps in itertools.product(*(range(a, k, self.stride) for a in alpha)):
                tap = self.weight.flatten(2)[:, :, sum(t * k**i for i, t in enumerate(reversed(taps)))]
                part = part + torch.einsum("nc...,co->no...", self._moved(x, grid, target, index, taps), tap)
            mesh = torch.meshgrid(*(i.to(x.device) for i in index), indexing="ij")
            place: Any = (slice(None), slice(None), *mesh)
            out[place] = part
        return out if self.bias is None else out + self.bias.view(-1, *(1,) * self.ndim)

    def _phases(self, grid: Grid, target: Grid, axis: int) -> list[int]:
        """α of every target point along an axis, counted from the lower wall; numbers, for torch.export."""
        cells = grid.lengths[axis] / self.spacing[axis]
        if grid.layout[axis] == "periodic" and abs(cells - round(cells)) > 1e-6 * cells:
            raise UsageError(f"The period {grid.lengths[axis]} of axis {axis} holds no whole number of spacings H.")
        step = target.spacing[axis] * self.stride / self.spacing[axis]
        start = 0.5 if target.layout[axis] == "cell" else 0.0
        places = (math.floor((i + start) * step + 1e-9) for i in range(target.shape[axis]))
        return [(place + self.padding) % self.stride for place in places]

    def _moved(
        self, x: Tensor, grid: Grid, target: Grid, index: Sequence[Tensor], taps: Sequence[int]
    ) -> Float[Tensor, "n c *m"]:
        """f at the chosen target points moved by the taps, linear between grid points."""
        for axis, (chosen, tap) in enumerate(zip(index, taps, strict=True)):
            H = self.spacing[axis]
            y = target.axis(axis)[chosen] - (tap - self.padding) * H / self.stride
            if target.layout[axis] == "cell":
                y = y + (H - H / self.stride) / 2  # centres of a coarse cell and of its parts do not coincide
            place = (y - grid.axis(axis)[0]) / grid.spacing[axis]
            low = torch.floor(place + 1e-9)
            share = (place - low).clamp(min=0).to(x).view([-1 if a == axis + 2 else 1 for a in range(x.dim())])
            near = low.long().to(x.device)
            kind, ext = grid.layout[axis], self.extension
            x = torch.lerp(take(x, axis + 2, near, kind, ext), take(x, axis + 2, near + 1, kind, ext), share)
        return x
