"""Where in wavenumber the error lives."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import Metric, difference, float64_pair, grid_of, median, needs_grid, unit_weights
from sciops.numerics.transforms import dct

# Shells below the first cut are low, from the second on high: the cuts of PDEBench, on house shells.
CUTS = (4, 12)
BANDS = ("low", "mid", "high")
# Below this share of the truth's energy (float32 rounding) a shell holds noise, and a ratio to it means nothing.
NOISE = 1e-12


def shell_index(grid: Grid, device: torch.device | None = None) -> Int[Tensor, "*s"]:
    """Isotropic shell k = round(|κ|·L_max) of every mode, κ in cycles per unit length.

    Periodic axes carry Fourier modes κ = m/L; node and cell axes cosine modes κ = m/(2L), the modes of the
    evenly extended field, so that no artificial jump at the ends leaks into high shells.
    """
    total = torch.zeros((), dtype=torch.float64, device=device)
    for n, length, kind in zip(grid.shape, grid.lengths, grid.layout, strict=True):
        if kind == "periodic":
            k = torch.fft.fftfreq(n, d=1.0 / n, dtype=torch.float64, device=device) / length
        else:
            k = torch.arange(n, dtype=torch.float64, device=device) / (2 * length)
        total = total[..., None] + k.square()
    return torch.round(total.sqrt() * max(grid.lengths)).long()


def shell_energies(x: Float[Tensor, "n t c *s"], grid: Grid) -> Float[Tensor, "n t c k"]:
    """Energy per shell; the sum over shells is exactly Σ_x w x² (Parseval with the grid's own weights).

    Cost: one FFT or cosine transform per axis.
    """
    y = x.double() * unit_weights(grid, x).sqrt()
    for axis, kind in enumerate(grid.layout):
        if kind != "periodic":
            y = dct(y, 1 if kind == "node" else 2, axes=(axis + 3,), orthonormal=True)
    periodic = [axis + 3 for axis, kind in enumerate(grid.layout) if kind == "periodic"]
    energy = (torch.fft.fftn(y, dim=periodic, norm="ortho").abs() if periodic else y).square().flatten(3)
    shells = shell_index(grid, x.device).flatten()
    out = energy.new_zeros((*energy.shape[:3], int(shells.max()) + 1))
    return out.index_add_(-1, shells, energy)


@dataclass(frozen=True)
class Band(Metric):
    """Energy of the error in one band of shells: low k < 4, mid 4 ≤ k < 12, high k ≥ 12, mean over cases.

    Averaged over times and channels, so low + mid + high = MSE. With `share` divided by that sum: the
    three add up to one, and an exact prediction has none (NaN).
    """

    name: str
    band: str
    share: bool = False

    @property
    def convention(self) -> str:  # type: ignore[override]
        what = "share of the mean square error" if self.share else "part of the mean square error"
        return f"{what} in the {self.band} shells, cuts at wavenumbers {CUTS[0]} and {CUTS[1]}, mean over cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, " n"]:
        delta, _ = difference(pred, true)
        energy = shell_energies(delta, grid_of(true)).mean((1, 2))
        edges = (0, *CUTS, energy.shape[-1])
        i = BANDS.index(self.band)
        part = energy[:, edges[i] : edges[i + 1]].sum(-1)
        return part / energy.sum(-1) if self.share else part

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return needs_grid(field)
        first = (0, *CUTS)[BANDS.index(self.band)]
        if int(shell_index(field.domain).max()) < first:
            return f"{field.domain.describe()} has no wavenumber of {first} or more"
        return None


@dataclass(frozen=True)
class Spectrum(Metric):
    """Shell energy of the prediction over that of the truth, summed over times and channels.

    `per_case` gives the ratio per shell (n, k), `curve` its 10, 50 and 90 % quantiles over cases for plots, and
    `combine` the median over cases of mean_k |log10 ratio|: how many decades the spectrum is off.
    Shells in which the truth has no energy are NaN and do not count.
    """

    name: str = "spectrum"
    convention: str = "mean over shells of |log10| of predicted over true shell energy, median over cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n k"]:
        grid = grid_of(true)
        e_p, e_y = (shell_energies(x, grid).sum((1, 2)) for x in float64_pair(pred, true))
        return torch.where(e_y > NOISE * e_y.sum(-1, keepdim=True), e_p / e_y, torch.nan)

    def curve(self, stacked: Float[Tensor, "n k"]) -> Float[Tensor, "3 k"]:
        """10 %, 50 % and 90 % quantiles over cases, per shell."""
        return torch.nanquantile(stacked, stacked.new_tensor([0.1, 0.5, 0.9]), dim=0)

    def reduce(self, stacked: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        return median(stacked.log10().abs().nanmean(-1))

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        return needs_grid(field)


@dataclass(frozen=True)
class LogSpectral(Metric):
    """sqrt(mean_k (log10 E_p(k) − log10 E_y(k))²) of the last frame, E the shell energies summed over channels:
    how many decades the spectrum is off where a rollout ends, in the root mean square over shells.

    Shells in which the truth has no energy do not count; a prediction's energy counts as at least the noise level.
    """

    name: str = "log_spectral_last"
    convention: str = "root mean square over shells of log10(predicted/true shell energy) at the last frame, mean"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, " n"]:
        grid = grid_of(true)
        e_p, e_y = (shell_energies(x[:, -1:], grid).sum((1, 2)) for x in float64_pair(pred, true))
        floor = NOISE * e_y.sum(-1, keepdim=True)
        distance = (torch.maximum(e_p, floor) / torch.maximum(e_y, floor)).log10().square()
        return torch.where(e_y > floor, distance, torch.nan).nanmean(-1).sqrt()

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        return needs_grid(field)


METRICS = (
    *(Band(f"band_{band}", band) for band in BANDS),
    *(Band(f"band_share_{band}", band, share=True) for band in BANDS),
    Spectrum(),
    LogSpectral(),
)
