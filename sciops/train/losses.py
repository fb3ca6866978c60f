"""Training losses between fields in physical units; size-free: the grid comes with every call.

Every loss is `loss(pred, true, grid)` with one value per case (`per_case`) and a reduction over the batch. The MgNO
code *sums*. With coupled weight decay (`torch.optim.Adam`) the reduction is not a matter of taste: the mean of a batch
of n has an n times smaller gradient, so the same `weight_decay` pulls n times harder against it. Going from "sum" to
"mean", divide `weight_decay` by the batch size to keep the balance. Values are formed in float32 or better, also
under autocast: bfloat16 has no FFT and 3 digits, and the targets are errors of 0.2 to 0.4 %.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.metrics.sobolev import derivative

REDUCTIONS = ("sum", "mean")


class Loss(nn.Module):
    """reduction over the batch of one value per case; subclasses write `per_case`."""

    def __init__(self, reduction: str = "sum") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UsageError(f"loss reduction must be one of {', '.join(REDUCTIONS)}; got '{reduction}'.")
        self.reduction = reduction

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        """The loss of every case."""
        raise UsageError(f"{type(self).__name__} must define per_case(pred, true, grid).")

    def forward(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, ""]:
        with torch.autocast(pred.device.type, enabled=False):
            values = self.per_case(_full(pred), _full(true), grid)
        return values.sum() if self.reduction == "sum" else values.mean()


class RelativeL2(Loss):
    """‖û − u‖₂ / ‖u‖₂ per case, equal weights on all points and channels.

    The published loss of the pipe and Navier–Stokes sets. NaN where u is zero. Cost O(N).
    Reference: He, Liu, Xu, MgNO, ICLR 2024 (released code).
    """

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        return _norm(pred - true) / _norm(true)


class RelativeIntegralL2(Loss):
    """sqrt(∫ ‖û − u‖² dx) / sqrt(∫ ‖u‖² dx) per case, by the quadrature weights of the grid, all channels together.

    The norm of a function: the same value on node, cell and periodic grids of any size up to O(h²), where `RelativeL2`
    counts walls of node grids twice; use it to train at several resolutions. NaN where u is zero. Cost O(N).
    """

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        root = grid.weights(true.dtype, true.device).sqrt()
        return _norm((pred - true) * root) / _norm(true * root)


class RelativeH1FFT(Loss):
    """‖w F(û − u)‖₂ / ‖w F(u)‖₂ per case, w = sqrt(1 + Σ_j k_j²), k_j integer wavenumbers, |k_j| ≥ cut counted as 0.

    The published Darcy loss. It is not the H¹ norm: no 2π, no wavenumbers from `cut` on, and the FFT is taken of data
    that is not periodic; hence the name of its own. Cost O(N log N).
    Reference: He, Liu, Xu, MgNO, ICLR 2024 (released code).
    """

    def __init__(self, reduction: str = "sum", cut: int = 20) -> None:
        super().__init__(reduction)
        self.cut = cut

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        weight = self._weight(true)
        axes = tuple(range(2, true.dim()))
        return _norm(weight * torch.fft.rfftn(pred - true, dim=axes)) / _norm(weight * torch.fft.rfftn(true, dim=axes))

    def _weight(self, like: Float[Tensor, "n c *s"]) -> Float[Tensor, "*m"]:
        """w on the half spectrum; conjugate pairs enter once, so their weight is √2 larger."""
        shape = like.shape[2:]
        square = torch.ones((), dtype=like.dtype, device=like.device)
        for n in shape[:-1]:
            square = square[..., None] + self._kept(torch.fft.fftfreq(n, 1 / n, dtype=like.dtype, device=like.device))
        k = torch.arange(shape[-1] // 2 + 1, dtype=like.dtype, device=like.device)
        alone = (k == 0) | (2 * k == shape[-1])
        return ((square[..., None] + self._kept(k)) * torch.where(alone, 1.0, 2.0)).sqrt()

    def _kept(self, k: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        return torch.where(k.abs() >= self.cut, 0.0, k).square()


class RelativeH1(Loss):
    """sqrt(∫ (û − u)² + ‖∇(û − u)‖²) / sqrt(∫ u² + ‖∇u‖²) per case, in the coordinates of the grid.

    Derivatives by layout: spectral on periodic axes, second-order differences (one-sided at the ends) elsewhere;
    integrals by the quadrature weights of the grid. The same quantity as the metric `rel_h1`. Cost O(N log N).
    """

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        return (_h1_square(pred - true, grid) / _h1_square(true, grid)).sqrt()


class AbsoluteH1(Loss):
    """sqrt(Σ_x weight·e² + ‖∇e‖²) per case, e = û − u, with spacing 1/n per axis and no quadrature factor.

    The published Helmholtz objective (weight 10; the code takes the mean over the batch). It is absolute and grows
    with the number of points: never compare it with a relative error. Second-order differences, one-sided at the
    ends. Cost O(N).
    Reference: He, Liu, Xu, MgNO, ICLR 2024 (released code).
    """

    def __init__(self, reduction: str = "mean", weight: float = 10.0) -> None:
        super().__init__(reduction)
        self.weight = weight

    def per_case(self, pred: Float[Tensor, "n c *s"], true: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
        e = pred - true
        total = self.weight * e.square()
        for axis, n in enumerate(e.shape[2:], start=2):
            total = total + torch.gradient(e, spacing=1 / n, dim=axis, edge_order=2)[0].square()
        return total.flatten(1).sum(1).sqrt()


def _h1_square(x: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, " n"]:
    weights = grid.weights(x.dtype, x.device)
    total = x.square()
    for axis in range(grid.ndim):
        total = total + derivative(x.unsqueeze(1), grid, axis).squeeze(1).square()
    return (total * weights).flatten(1).sum(1)


def _norm(x: Tensor) -> Float[Tensor, " n"]:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
