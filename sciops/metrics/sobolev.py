"""Errors that count derivatives."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import FunctionMetric, difference, grid_of, mean_square
from sciops.metrics.pointwise import over_truth

# Wavenumbers from here on do not count in MgNO's published loss.
MGNO_CUT = 20


def derivative(x: Float[Tensor, "n t c *s"], grid: Grid, axis: int) -> Float[Tensor, "n t c *s"]:
    """∂x/∂(axis): spectral on periodic axes, second-order differences (one-sided at the ends) elsewhere.

    The Nyquist mode of an even periodic axis has no real derivative and is dropped. Non-periodic axes need
    three points or more. Exact for trigonometric polynomials on periodic axes and for quadratics elsewhere.
    """
    dim, n = axis + 3, grid.shape[axis]
    if grid.layout[axis] != "periodic":
        return torch.gradient(x, spacing=grid.spacing[axis], dim=dim, edge_order=2)[0]
    k = torch.arange(n // 2 + 1, dtype=x.dtype, device=x.device) * (2 * torch.pi / grid.lengths[axis])
    if n % 2 == 0:
        k[-1] = 0.0
    k = k.reshape(-1, *(1,) * (grid.ndim - 1 - axis))
    return torch.fft.irfft(1j * k * torch.fft.rfft(x, dim=dim), n=n, dim=dim)


def h1_square(x: Float[Tensor, "n t c *s"], grid: Grid) -> Float[Tensor, "n t c"]:
    """Σ_x w (x² + ‖∇x‖²)."""
    total = mean_square(x, grid)
    for axis in range(grid.ndim):
        total = total + mean_square(derivative(x, grid, axis), grid)
    return total


def relative_h1(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """sqrt(Σ_{t,c,x} w (Δ² + ‖∇Δ‖²)) / same of y, in the coordinates of the grid."""
    delta, y = difference(pred, true)
    grid = grid_of(true)
    squares = [h1_square(x, grid).sum((1, 2)).sqrt() for x in (delta, y)]
    return over_truth(squares[0], squares[1])


def truncated_fourier_h1(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """‖ω Δ̂‖ / ‖ω ŷ‖, ω = sqrt(1 + Σ_j k_j²), integer k_j (no 2π), with |k_j| ≥ 20 counted as 0.

    The FFT is taken whatever the layout, as published: on non-periodic data the jump at the ends enters.
    Reference: He, Liu & Xu, MgNO (ICLR 2024), released training loss.
    """
    delta, y = difference(pred, true)
    grid = grid_of(true)
    squares = torch.ones((), dtype=torch.float64, device=y.device)
    for n in grid.shape:
        k = torch.fft.fftfreq(n, d=1.0 / n, dtype=torch.float64, device=y.device)
        squares = squares[..., None] + torch.where(k.abs() >= MGNO_CUT, 0.0, k).square()
    axes = tuple(range(3, y.dim()))
    norms = [(squares * torch.fft.fftn(x, dim=axes).abs().square()).flatten(1).sum(1).sqrt() for x in (delta, y)]
    return over_truth(norms[0], norms[1])


class RelativeH1(FunctionMetric):
    """`relative_h1` where differences fit: a grid with three points or more on every non-periodic axis."""

    def applies(self, field: Field, cases: object = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return super().applies(field)
        short = [n for n, kind in zip(field.domain.shape, field.domain.layout, strict=True) if kind != "periodic"]
        if min(short, default=3) < 3:
            return f"second-order differences need 3 points per axis, got {field.domain.describe()}"
        return None


METRICS = (
    RelativeH1(
        "rel_h1",
        "relative H1 error, derivatives spectral on periodic axes and second-order differences elsewhere, "
        "mean over cases",
        relative_h1,
        grid_only=True,
    ),
    FunctionMetric(
        "h1_fft@mgno",
        "relative H1 error by FFT with integer wavenumbers, those of 20 and more counted as 0, mean over cases",
        truncated_fourier_h1,
        grid_only=True,
    ),
)
