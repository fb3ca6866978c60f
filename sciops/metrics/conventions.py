"""How other projects spell the same words, each under its own tag."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.metrics.base import FunctionMetric, Metric, difference, float64_pair, grid_of, needs_grid
from sciops.metrics.pdebench import fourier_bands

NEURALOP_EPS = 1e-8


def fno_l2(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """‖Δ‖₂/‖y‖₂ over everything but the case, no ε (also Geo-FNO, LSM, MgNO, Transolver, NSL)."""
    delta, y = difference(pred, true)
    return delta.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)


def neuralop_l2(pred: Field, true: Field) -> Float[Tensor, "n t c"]:
    """‖Δ‖/(‖y‖ + 1e-8) over space, per case, time and channel."""
    delta, y = difference(pred, true)
    return delta.flatten(3).norm(dim=-1) / (y.flatten(3).norm(dim=-1) + NEURALOP_EPS)


def neuralop_derivative(x: Float[Tensor, "n t c *s"], axis: int, h: float, periodic: bool) -> Float[Tensor, "n t c *s"]:
    """Central differences, wrapped; or with third-order one-sided differences at both ends."""
    dim = axis + 3
    central = (x.roll(-1, dim) - x.roll(1, dim)) / (2 * h)
    if periodic:
        return central
    last = x.shape[dim] - 1
    for sign, first in ((1.0, 0), (-1.0, last)):
        near = [x.select(dim, first + int(sign) * k) for k in range(4)]
        slope = sign * (-11 * near[0] + 18 * near[1] - 9 * near[2] + 2 * near[3]) / (6 * h)
        central.select(dim, first).copy_(slope)
    return central


@dataclass(frozen=True)
class NeuralopH1(Metric):
    """sqrt(ΣΔ² + Σ_jΣ(∂_jΔ)²) / (same of y + 1e-8) per case, time and channel; mean over all.

    Central differences with h = L/n on every layout, wrapped around unless `periodic` is False. The published loss
    takes L = 1 by default; here L comes from the grid unless `lengths` says otherwise.
    """

    name: str = "rel_h1@neuralop"
    convention: str = "relative H1 norm by periodic central differences, h = L/n, mean over cases and channels"
    periodic: bool = True
    lengths: tuple[float, ...] | None = None

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n t c"]:
        grid = grid_of(true)
        norms = []
        for x in difference(pred, true):
            total = x.square().flatten(3).sum(-1)
            for axis, length in enumerate(self.lengths or grid.lengths):
                slope = neuralop_derivative(x, axis, length / grid.shape[axis], self.periodic)
                total = total + slope.square().flatten(3).sum(-1)
            norms.append(total.sqrt())
        return norms[0] / (norms[1] + NEURALOP_EPS)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if not isinstance(field.domain, Grid):
            return needs_grid(field)
        if not self.periodic and min(field.domain.shape) < 4:
            return f"one-sided differences need 4 points per axis, got {field.domain.describe()}"
        return None


def pdearena_mse(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """Mean over space, sum over times and channels."""
    delta, _ = difference(pred, true)
    return delta.square().flatten(3).mean(-1).sum((1, 2))


def pdearena_pearson(pred: Field, true: Field) -> Float[Tensor, "n t"]:
    """Pearson correlation per frame with all channels and points in one vector, biased moments."""
    p, y = (x.flatten(2) - x.flatten(2).mean(-1, keepdim=True) for x in float64_pair(pred, true))
    return (p * y).mean(-1) / (p.square().mean(-1).sqrt() * y.square().mean(-1).sqrt())


def pdearena_steps(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """Number of frames with correlation above 0.8, wherever they lie: not the first crossing."""
    return (pdearena_pearson(pred, true) > 0.8).double().sum(1)


@dataclass(frozen=True)
class ApebenchNRMSE(Metric):
    """Σ_c ‖Δ_c‖/‖y_c‖ per frame, mean over cases: one value per rollout step, see `curve`.

    `combine` gives the value at `step` (counted from 0), or the mean over all steps.
    """

    name: str = "nrmse@apebench"
    step: int | None = None

    @property
    def convention(self) -> str:  # type: ignore[override]
        where = "mean over steps" if self.step is None else f"at step {self.step}"
        return f"relative L2 error summed over channels, mean over cases, {where}"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n t"]:
        delta, y = difference(pred, true)
        return (delta.flatten(3).norm(dim=-1) / y.flatten(3).norm(dim=-1)).sum(2)

    def curve(self, stacked: Float[Tensor, "n t"]) -> Float[Tensor, " t"]:
        """The published quantity, one value per step."""
        return stacked.mean(0)

    def reduce(self, stacked: Float[Tensor, "n t"]) -> Float[Tensor, ""]:
        curve = self.curve(stacked)
        return curve.mean() if self.step is None else curve[self.step]

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if self.step is not None and self.step >= len(field.times):
            return f"step {self.step} is beyond the {len(field.times)} frame(s)"
        return None


def sums_of_squares(pred: Field, true: Field) -> Float[Tensor, "n 2"]:
    """(ΣΔ², Σy²) per case: what a global ratio needs."""
    return torch.stack([x.square().flatten(1).sum(1) for x in difference(pred, true)], dim=1)


def global_ratio(stacked: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
    """sqrt(Σ_b ΣΔ² / Σ_b Σy²): one ratio over the whole test set."""
    total = stacked.sum(0)
    return (total[0] / total[1]).sqrt()


def absolute_mean_error(pred: Field, true: Field) -> Float[Tensor, "n t c"]:
    """|mean_x Δ|."""
    delta, _ = difference(pred, true)
    return delta.flatten(3).mean(-1).abs()


_GLOBAL = "one ratio of Frobenius norms over the whole test set"

METRICS = (
    FunctionMetric("rel_l2@fno", "relative L2 norm of all values of a case, mean over cases", fno_l2),
    FunctionMetric(
        "rel_l2@neuralop", "relative L2 norm per channel, ε = 1e-8, mean over cases and channels", neuralop_l2
    ),
    NeuralopH1(),
    FunctionMetric("mse@pdearena", "mean over space, sum over times and channels, mean over cases", pdearena_mse),
    FunctionMetric(
        "pearson@pdearena",
        "correlation per frame of all channels in one vector, mean over cases and frames",
        pdearena_pearson,
        lower_is_better=False,
    ),
    FunctionMetric(
        "corr_steps_0.8@pdearena",
        "number of frames with correlation above 0.8, mean over cases",
        pdearena_steps,
        lower_is_better=False,
    ),
    ApebenchNRMSE(),
    FunctionMetric("l2@deepxde", _GLOBAL, sums_of_squares, global_ratio),
    FunctionMetric("mean_l2@deepxde", "relative L2 norm per case, mean over cases", fno_l2),
    FunctionMetric("l2re@pinnacle", _GLOBAL, sums_of_squares, global_ratio),
    FunctionMetric(
        "crmse@pinnacle", "absolute mean error in space, mean over cases, times and channels", absolute_mean_error
    ),
    *fourier_bands("pinnacle", (5, 13)),
)
