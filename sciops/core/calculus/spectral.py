"""Spectral derivatives: Fourier on periodic axes, sine or cosine series through parity extension."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.calculus.base import Calculus
from sciops.core.errors import UsageError
from sciops.core.grid import Grid


class Spectral(Calculus):
    """u: values (n, *s). Axes with Dirichlet (Neumann) walls are extended oddly (evenly) to a periodic array.

    Exponentially accurate when the extended function is smooth: periodic fields, sine and cosine series.
    Homogeneous boundary data only. Coefficients are extended evenly. Products are not dealiased.
    Cost: O(N log N) with N doubled along every walled axis.
    """

    def __init__(self, grid: Grid, boundary: Boundary, data: Mapping[str, Tensor] | None = None) -> None:
        boundary.check(grid)
        if any(bool((g != 0).any()) for g in (data or {}).values()):
            raise UsageError("Spectral calculus needs homogeneous boundary data; subtract a lift first.")
        for lo, up in boundary.kinds:
            if "free" in (lo, up):
                raise UsageError("Spectral calculus has no series for an axis with a free face; use Stencil.")
            if lo != up:
                raise UsageError(f"Spectral calculus needs the same condition at both ends of an axis; got {lo}/{up}.")
        self.grid, self.boundary = grid, boundary

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    def _extend(self, u: Tensor, coefficient: bool = False) -> Tensor:
        for axis, ((kind, _), layout) in enumerate(zip(self.boundary.kinds, self.grid.layout, strict=True)):
            dim, n = axis + 1, u.shape[axis + 1]
            if layout == "periodic":
                continue
            odd = kind == "dirichlet" and not coefficient
            mirror = u.narrow(dim, 1, n - 2).flip(dim) if layout == "node" else u.flip(dim)
            if odd and layout == "node":
                wall = torch.zeros_like(u.narrow(dim, 0, 1))
                u = torch.cat([wall, u.narrow(dim, 1, n - 2), wall, -mirror], dim)
            else:
                u = torch.cat([u, -mirror if odd else mirror], dim)
        return u

    def _crop(self, u: Tensor) -> Tensor:
        return u[(slice(None), *(slice(0, n) for n in self.grid.shape))]

    def _derive(self, u: Tensor, axis: int, times: int) -> Tensor:
        """(i k)^times in Fourier space along one axis of an extended array."""
        dim = axis + 1
        m = u.shape[dim]
        k = 2 * torch.pi * torch.fft.rfftfreq(m, self.grid.spacing[axis], dtype=u.dtype, device=u.device)
        multiplier = (1j * k) ** times
        if times % 2 and m % 2 == 0:
            multiplier[-1] = 0  # the Nyquist mode has no odd derivative on the grid
        shape = [-1 if d == dim else 1 for d in range(u.dim())]
        return torch.fft.irfft(torch.fft.rfft(u, dim=dim) * multiplier.reshape(shape), n=m, dim=dim)

    def partial(self, u: Float[Tensor, "n *s"], order: tuple[int, ...]) -> Float[Tensor, "n *s"]:
        v = self._extend(u)
        for axis, times in enumerate(order):
            if times:
                v = self._derive(v, axis, times)
        return self._crop(v)

    def div_flux(self, a: Float[Tensor, "#n *#s"] | float, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        v = self._extend(u)
        b = self._extend(a.expand_as(u), coefficient=True) if isinstance(a, Tensor) else a
        total = torch.zeros_like(v)
        for axis in range(self.ndim):
            total = total + self._derive(b * self._derive(v, axis, 1), axis, 1)
        return self._crop(total)
