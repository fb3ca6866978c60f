"""The metrics of PDEBench, under their own convention: equal weights per point, channel and time.

Reference: Takamoto et al., PDEBench (NeurIPS 2022 datasets and benchmarks), appendix B.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import Metric, Reduction, difference, grid_of, mean, needs_grid

Function = Callable[[Tensor, Tensor, Grid], Tensor]


def root_over_cases(stacked: Float[Tensor, "n *rest"]) -> Float[Tensor, ""]:
    """sqrt(mean over cases), then the mean over everything that is left."""
    return stacked.mean(0).sqrt().mean()


def max_over_cases(stacked: Float[Tensor, "n t c"]) -> Float[Tensor, ""]:
    """Largest over cases per time and channel, then their mean."""
    return stacked.amax(0).mean()


def rmse(delta: Tensor, y: Tensor, grid: Grid) -> Float[Tensor, "n t c"]:
    """sqrt(mean_x Δ²)."""
    return delta.square().flatten(3).mean(-1).sqrt()


def nrmse(delta: Tensor, y: Tensor, grid: Grid) -> Float[Tensor, "n t c"]:
    """sqrt(mean_x Δ²) / sqrt(mean_x y²), without ε."""
    return rmse(delta, y, grid) / rmse(y, y, grid)


def squared_sum(delta: Tensor, y: Tensor, grid: Grid) -> Float[Tensor, "n t c"]:
    """(Σ_x Δ / N)²; the root follows after the mean over cases."""
    return delta.flatten(3).mean(-1).square()


def largest(delta: Tensor, y: Tensor, grid: Grid) -> Float[Tensor, "n t c"]:
    """max_x |Δ|."""
    return delta.abs().flatten(3).amax(-1)


def brmse(delta: Tensor, y: Tensor, grid: Grid) -> Float[Tensor, "n t c"]:
    """RMS over the faces of the box; corners and edges count once per face.

    In 3-D the sum runs over all channels as published, about √C too large.
    """
    total, points = torch.zeros_like(delta.flatten(3)[..., 0]), 0
    for axis, n in enumerate(grid.shape):
        for end in (0, n - 1):
            total = total + delta.narrow(axis + 3, end, 1).flatten(3).square().sum(-1)
        points += 2 * grid.size // n
    if grid.ndim == 3:
        total = total.sum(2, keepdim=True)
    return (total / points).sqrt()


def shell_squares(delta: Tensor, lengths: tuple[float, ...]) -> Float[Tensor, "n t c k"]:
    """(ΠL/N)² Σ_shell |Δ̂|², k = floor(|index|); the root follows after the mean over cases.

    1-D: every mode of the real transform is a shell. 2-D and 3-D: only the octant of indices 0 ≤ i < n/2 is used, and
    shells from min(n)//2 on are dropped, as published.
    """
    shape = tuple(delta.shape[3:])
    scale = (math.prod(lengths) / math.prod(shape)) ** 2
    if len(shape) == 1:
        return torch.fft.rfft(delta, dim=-1).abs().square() * scale
    energy = torch.fft.fftn(delta, dim=tuple(range(3, delta.dim()))).abs().square()
    squares = torch.zeros((), dtype=torch.float64, device=delta.device)
    for axis, n in enumerate(shape):
        energy = energy.narrow(axis + 3, 0, n // 2)
        index = torch.arange(n // 2, dtype=torch.float64, device=delta.device)
        squares = squares[..., None] + index.square()
    shell = squares.sqrt().floor().long().flatten()
    count = min(shape) // 2
    keep = shell < count
    out = energy.new_zeros((*energy.shape[:3], count))
    return out.index_add_(-1, shell[keep], energy.flatten(3)[..., keep]) * scale


@dataclass(frozen=True)
class PDEBench(Metric):
    """A published metric after dropping the first `initial_step` frames.

    On Darcy files, which stack coefficient and solution along time, `initial_step=1` removes the input.
    `legacy_batches=m` reproduces figures of the released evaluation loop over m equal batches: it adds up the batch
    results and divides by m − 1, the index of the last batch. Use it for nothing else.
    """

    name: str
    convention: str
    function: Function
    reduction: Reduction = mean
    initial_step: int = 0
    legacy_batches: int | None = None

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n ..."]:
        delta, y = difference(pred, true)
        return self.function(delta[:, self.initial_step :], y[:, self.initial_step :], grid_of(true))

    def reduce(self, stacked: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        if self.legacy_batches is None:
            return self.reduction(stacked)
        batches = stacked.split(-(-len(stacked) // self.legacy_batches))
        if len(batches) != self.legacy_batches or len(batches) < 2:
            raise UsageError(
                f"legacy_batches needs 2 batches or more of equal size (the last may be shorter); got "
                f"{self.legacy_batches} for {len(stacked)} cases."
            )
        return torch.stack([self.reduction(batch) for batch in batches]).sum() / (len(batches) - 1)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return needs_grid(field)
        if len(field.times) <= self.initial_step:
            return f"initial_step={self.initial_step} leaves none of the {len(field.times)} frame(s)"
        return None

    def legacy(self, batches: int) -> "PDEBench":
        """The same metric as the released evaluation loop prints it for this many batches."""
        return replace(self, legacy_batches=batches)


@dataclass(frozen=True)
class FourierRMSE(PDEBench):
    """fRMSE in one band: mean over its shells of e_k = sqrt(mean_b Σ_shell |Δ̂|²)·ΠL/N, then over c and t.

    `cuts` are the first shells of the mid and the high band: (4, 12) in PDEBench, (5, 13) in PINNacle. `lengths` are
    those of the grid unless given; the released evaluation leaves them at 1 whatever the domain.
    """

    function: Function = squared_sum
    band: str = "low"
    cuts: tuple[int, int] = (4, 12)
    lengths: tuple[float, ...] | None = None

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n t c k"]:
        grid = grid_of(true)
        delta, _ = difference(pred, true)
        squares = shell_squares(delta[:, self.initial_step :], self.lengths or grid.lengths)
        return squares[..., self.shells(grid)]

    def shells(self, grid: Grid) -> slice:
        """Shells of the band on this grid."""
        count = min(grid.shape) // 2 + (grid.ndim == 1)
        edges = (0, *self.cuts, count)
        i = ("low", "mid", "high").index(self.band)
        return slice(edges[i], min(edges[i + 1], count))

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        reason = super().applies(field, cases)
        if reason:
            return reason
        band = self.shells(grid_of(field))
        if band.stop <= band.start:
            return f"{field.domain.describe()} has no shell of {band.start} or more, the {self.band} band is empty"
        return None


def fourier_bands(tag: str, cuts: tuple[int, int]) -> tuple[FourierRMSE, ...]:
    """Low, mid and high fRMSE under a convention's tag."""
    return tuple(
        FourierRMSE(
            f"frmse_{band}@{tag}",
            f"Fourier-space RMSE, mean over the {band} shells with cuts {cuts}, time and channel",
            reduction=root_over_cases,
            band=band,
            cuts=cuts,
        )
        for band in ("low", "mid", "high")
    )


METRICS = (
    PDEBench("rmse@pdebench", "RMSE over space, mean over cases, times and channels", rmse),
    PDEBench("nrmse@pdebench", "RMSE over RMS of the truth per case, time and channel, then mean", nrmse),
    PDEBench("crmse@pdebench", "RMS over cases of the mean error in space, then mean", squared_sum, root_over_cases),
    PDEBench(
        "max@pdebench", "largest error over cases and space, mean over times and channels", largest, max_over_cases
    ),
    PDEBench("brmse@pdebench", "RMSE over the faces of the box, mean over cases, times and channels", brmse),
    *fourier_bands("pdebench", (4, 12)),
)
