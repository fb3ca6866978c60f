"""The metrics of The Well: per case, time and channel, equal weights per point, ε = 1e-7 inside the ratio.

NaN in prediction or truth counts as zero, as upstream; look at `failures` beside these. Constant fields are not
scored there: leave their channels out. Reference: Ohana et al., The Well (NeurIPS 2024), appendix E.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import Metric, float64_pair, grid_of, needs_grid

EPS = 1e-7
BINS = 3
WINDOWS = ((6, 12), (13, 30))
Function = Callable[[Tensor, Tensor, float], Tensor]


def mse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """mean_x Δ²."""
    return (p - y).square().flatten(3).mean(-1)


def mae(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """mean_x |Δ|."""
    return (p - y).abs().flatten(3).mean(-1)


def linf(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """max_x |Δ|."""
    return (p - y).abs().flatten(3).amax(-1)


def nmse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """MSE / (mean_x y² + ε)."""
    return mse(p, y) / (y.square().flatten(3).mean(-1) + eps)


def nmae(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """MAE / (mean_x |y| + ε)."""
    return mae(p, y) / (y.abs().flatten(3).mean(-1) + eps)


def vmse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """MSE / (var_x y + ε), unbiased variance."""
    return mse(p, y) / (y.flatten(3).var(-1) + eps)


def rmse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """√MSE."""
    return mse(p, y).sqrt()


def nrmse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """√NMSE."""
    return nmse(p, y, eps).sqrt()


def vrmse(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """√VMSE, the table quantity of the paper: predicting the mean scores about 1."""
    return vmse(p, y, eps).sqrt()


def pearson(p: Tensor, y: Tensor, eps: float = EPS) -> Float[Tensor, "n t c"]:
    """Biased covariance / (product of unbiased deviations + ε): at most (N−1)/N."""
    p, y = p.flatten(3), y.flatten(3)
    centred = [x - x.mean(-1, keepdim=True) for x in (p, y)]
    return (centred[0] * centred[1]).mean(-1) / (p.std(-1) * y.std(-1) + eps)


def bin_index(shape: tuple[int, ...], device: torch.device | None = None) -> Int[Tensor, "*s"]:
    """Bin 0, 1 or 2 of every Fourier mode: |k| = |2π fftfreq| in grid units, edges log-spaced from 2π/max S to π√d."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for n in shape:
        total = total[..., None] + (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64, device=device)).square()
    low = math.log10(2 * math.pi / max(shape))
    high = math.log10(math.pi * math.sqrt(len(shape)) + 1e-6)
    edges = torch.logspace(low, high, BINS + 1, dtype=torch.float64, device=device)
    return torch.bucketize(total.sqrt(), edges[1:-1], right=True)


def bin_energies(x: Float[Tensor, "n t c *s"]) -> Float[Tensor, "n t c bins"]:
    """Σ_{k ∈ bin} |x̂|²/N² for the three bins; they add up to mean_x x²."""
    shape = tuple(x.shape[3:])
    energy = torch.fft.fftn(x, dim=tuple(range(3, x.dim())), norm="forward").abs().square().flatten(3)
    out = energy.new_zeros((*energy.shape[:3], BINS))
    return out.index_add_(-1, bin_index(shape, x.device).flatten(), energy)


def binned_mse(p: Tensor, y: Tensor, eps: float = EPS, band: int = 0) -> Float[Tensor, "n t c"]:
    """Spectral MSE of one bin."""
    return bin_energies(p - y)[..., band]


def binned_nmse(p: Tensor, y: Tensor, eps: float = EPS, band: int = 0) -> Float[Tensor, "n t c"]:
    """Spectral MSE of one bin over (the truth's energy in it + ε)."""
    return bin_energies(p - y)[..., band] / (bin_energies(y)[..., band] + eps)


@dataclass(frozen=True)
class Well(Metric):
    """A published metric, mean over cases, then times (of the rollout window, if any), then channels.

    `window` = (first, last+1) counts the frames of the field, which hold predicted steps only; the paper's windows are
    6:12 and 13:30. Upstream weighs batches equally; here every case weighs the same. Upstream ignores an `eps` given to
    VMSE and VRMSE; here it acts.
    """

    name: str
    convention: str
    function: Function
    window: tuple[int, int] | None = None
    eps: float = EPS
    lower_is_better: bool = True

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n t c"]:
        grid_of(true)
        frames = slice(*self.window) if self.window else slice(None)
        p, y = (torch.where(x.isnan(), 0.0, x)[:, frames] for x in float64_pair(pred, true))
        return self.function(p, y, self.eps)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return needs_grid(field)
        if self.window and len(field.times) < self.window[1]:
            return f"window {self.window[0]}:{self.window[1]} needs {self.window[1]} frames, got {len(field.times)}"
        return None


_FUNCTIONS: tuple[tuple[str, str, Function], ...] = (
    ("mse", "mean square error", mse),
    ("rmse", "root of the mean square error", rmse),
    ("mae", "mean absolute error", mae),
    ("linf", "largest absolute error", linf),
    ("nmse", "mean square error over mean square of the truth", nmse),
    ("nrmse", "root of the mean square error over mean square of the truth", nrmse),
    ("nmae", "mean absolute error over mean absolute truth", nmae),
    ("vmse", "mean square error over variance of the truth", vmse),
    ("vrmse", "root of the mean square error over variance of the truth", vrmse),
    ("pearson", "Pearson correlation", pearson),
    *(
        (f"spectral_mse_{i}", f"mean square error in wavenumber bin {i}", partial(binned_mse, band=i))
        for i in range(BINS)
    ),
    *(
        (
            f"spectral_nmse_{i}",
            f"mean square error over energy of the truth in wavenumber bin {i}",
            partial(binned_nmse, band=i),
        )
        for i in range(BINS)
    ),
)

METRICS = tuple(
    Well(
        f"{key}[{window[0]}:{window[1]}]@well" if window else f"{key}@well",
        f"{text}, mean over cases, {f'steps {window[0]}:{window[1]}' if window else 'times'} and channels",
        function,
        window,
        lower_is_better=key != "pearson",
    )
    for window in (None, *WINDOWS)
    for key, text, function in _FUNCTIONS
)
