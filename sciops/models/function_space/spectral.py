"""Fourier convolution on node, cell and periodic axes, of any size, in single and double precision."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space.extension import check_grid, check_ndim


class SpectralConv(nn.Module):
    """g = F⁻¹ (R_k F f), |k_a| < n_modes: an integral operator with a smooth translation-invariant kernel.

    Fourier coefficients are integrals over a period, so R means the same on every grid. A periodic axis is its own
    period. Any other axis is continued evenly (mirrored on its walls) to the period 2L, k counting half waves πk/L:
    the period does not depend on the number of points, as it does for padding by a fixed number. The Nyquist frequency
    of even sizes is dropped; modes beyond it are left out on coarse grids.
    n_modes  one number or one per axis
    Parameters c_in c_out Π(2 n_modes − 1), last axis n_modes, complex numbers kept as pairs of real ones: `.double()`
    works. Cost O(2^(walled axes) N log N). Fails to resolve non-smooth kernels: add `HatConv` or `DifferentialConv`.
    Li et al., "Fourier neural operator for parametric partial differential equations", ICLR 2021.
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: int | Sequence[int] = 12, ndim: int = 2):
        super().__init__()
        self.ndim = check_ndim(ndim)
        self.modes = (n_modes,) * ndim if isinstance(n_modes, int) else tuple(n_modes)
        if len(self.modes) != ndim or min(self.modes) < 1:
            raise UsageError(f"n_modes takes one positive number, or one per axis ({ndim}); got {n_modes!r}.")
        sizes = (*(2 * m - 1 for m in self.modes[:-1]), self.modes[-1])
        scale = (2 / (in_channels + out_channels)) ** 0.5
        self.weight = nn.Parameter(scale * torch.randn(in_channels, out_channels, *sizes, 2) / 2**0.5)

    def forward(self, x: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, "n c_out *s"]:
        check_grid(x, grid, self.ndim)
        shape = x.shape[2:]
        for axis, kind in enumerate(grid.layout):
            if kind != "periodic":
                mirror = x.flip(axis + 2)
                x = torch.cat([x, mirror.narrow(axis + 2, 1, shape[axis] - 2) if kind == "node" else mirror], axis + 2)
        sizes = x.shape[2:]
        dims = tuple(range(2, x.dim()))
        spectrum = torch.fft.rfftn(x, dim=dims, norm="forward")
        kept = [min(m, (n + 1) // 2) for m, n in zip(self.modes, sizes, strict=True)]
        # Non-negative frequencies lie at the front of an axis, negative ones at its end, in data and weights alike.
        halves = [[(0, m), (1 - m, m - 1)] if m > 1 else [(0, 1)] for m in kept[:-1]]
        R = torch.view_as_complex(self.weight)
        out = spectrum.new_zeros(spectrum.shape[0], R.shape[1], *spectrum.shape[2:])
        for block in itertools.product(*halves):
            place = tuple(slice(start, start + m) if start >= 0 else slice(start, None) for start, m in block)
            part = (..., *place, slice(0, kept[-1]))
            out[part] = torch.einsum("nc...,co...->no...", spectrum[part], R[part])
        if self.ndim > 1:
            out = torch.fft.ifftn(out, dim=dims[:-1], norm="forward")
        # The mean along the last axis is real; backends differ in what they make of another one.
        out = torch.cat([out[..., :1].real.to(out.dtype), out[..., 1:]], dim=-1)
        y = torch.fft.irfft(out, n=sizes[-1], dim=-1, norm="forward")
        for axis, n in enumerate(shape):
            y = y.narrow(axis + 2, 0, n)
        return y
