"""Convolution with a kernel function of fixed physical width."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space.extension import check_extension, check_grid, check_ndim, extended
from sciops.models.vcycle import convolve


class HatConv(nn.Module):
    """g(y) = ∫ K(x − y) f(x) dx + b,  K(z) = Σ_k W_k Π_a hat(z_a/H_a − k_a)/H_a,  k centred on 0.

    W is the weight of a k-tap convolution at the spacing H; hats between the taps make it a piecewise linear function,
    so that it means the same on every grid: its support (kernel_size + 1)·H is in the unit of the coordinates. Each
    hat is normalised on the grid, so that Σ of the stencil is Σ W at any spacing, multiple of H or not. On grids
    coarser than H the hats widen to the grid's spacing and W acts on linearly interpolated values. At spacing H with
    odd kernel_size this is `torch.nn.Conv`, the trapezoid factor ½ of the walls with "zeros" on node grids aside.

    spacing    H, one number or one per axis: about the spacing of the coarsest training grid
    extension  beyond the walls of non-periodic axes: "even" keeps constants, "odd", or "zeros": the integral over the
               domain alone. Periodic axes wrap
    Order 2 in h; the limit smears the k-tap convolution by a hat, f + (H²/12) f″ per axis. Cost per point
    O(c_in c_out/groups · Π (s(k+1) − 1)), s = H/h: use it for s up to about 4 in 2-D.
    Liu-Schiaffini et al., "Neural operators with localized integral and differential kernels", ICML 2024.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        spacing: float | Sequence[float],
        ndim: int = 2,
        extension: str = "even",
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.ndim, self.groups = check_ndim(ndim), groups
        self.spacing = (float(spacing),) * ndim if isinstance(spacing, int | float) else tuple(map(float, spacing))
        if len(self.spacing) != ndim or min(self.spacing) <= 0 or kernel_size < 1:
            raise UsageError(
                f"HatConv takes a kernel_size of 1 or more and a positive spacing, or one per axis ({ndim}); got "
                f"kernel_size={kernel_size}, spacing={spacing!r}."
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise UsageError(f"groups must divide both channel counts; got {in_channels}, {out_channels}, {groups}.")
        self.extension = check_extension(extension)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *(kernel_size,) * ndim))
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, "n c_out *s"]:
        check_grid(x, grid, self.ndim)
        for axis, kind in enumerate(grid.layout):
            if kind == "node" and self.extension == "zeros":
                ends = x.new_ones(grid.shape[axis])
                ends[0] = ends[-1] = 0.5
                x = x * ends.view([-1 if a == axis else 1 for a in range(self.ndim)])
        kernel = self.stencil(grid)
        for axis, kind in enumerate(grid.layout):
            x = extended(x, axis + 2, (kernel.shape[axis + 2] - 1) // 2, kind, self.extension)
        return convolve[self.ndim](x, kernel, self.bias, groups=self.groups)

    def stencil(self, grid: Grid) -> Float[Tensor, "c_out c_in *m"]:
        """Weights of the grid points around y, an odd number per axis."""
        kernel: Tensor = self.weight
        for axis, (H, h) in enumerate(zip(self.spacing, grid.spacing, strict=True)):
            hats = hat_values(kernel.shape[axis + 2], H, h).to(kernel)
            kernel = torch.movedim(torch.movedim(kernel, axis + 2, -1) @ hats, -1, axis + 2)
        return kernel


def hat_values(taps: int, H: float, h: float) -> Float[Tensor, "k m"]:
    """hat((j h − z_k)/max(H, h)) at the grid offsets j = −r … r, every row with the sum one."""
    width = max(H, h)
    z = (torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2) * H
    reach = max(math.ceil(((taps - 1) / 2 * H + width) / h - 1e-9) - 1, 0)
    j = torch.arange(-reach, reach + 1, dtype=torch.float64) * h
    hats = (1 - (j - z[:, None]).abs() / width).clamp(min=0)
    return hats / hats.sum(1, keepdim=True)
