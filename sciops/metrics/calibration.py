"""Do the predicted uncertainties mean what they say? Gaussian and ensemble predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.metrics.base import Metric, difference, unit_weights


def half_width(level: float) -> float:
    """z with P(|N(0,1)| ≤ z) = level."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def domain_mean(x: Float[Tensor, "n t c *s"], field: Field) -> Float[Tensor, " n"]:
    """Σ_x w x, averaged over times and channels."""
    return (unit_weights(field.domain, x) * x).flatten(3).sum(-1).mean((1, 2))


def _sigma(std: Field | None, true: Field, name: str) -> Float[Tensor, "n t c *s"]:
    if std is None:
        raise UsageError(f"Metric {name} needs the predicted standard deviation; the solver gives none.")
    _, sigma = difference(true, std)
    if bool((sigma < 0).any()):
        raise UsageError(f"Metric {name} needs standard deviations of zero or more; got a negative one.")
    return sigma


@dataclass(frozen=True)
class Coverage(Metric):
    """Share of the domain with |Δ| ≤ z σ, z the Gaussian half width of the level: best when equal to the level.

    Neither lower nor higher is better, so do not rank by it; rank by `crps`.
    """

    name: str
    level: float = 0.9
    lower_is_better: bool = False
    needs_std: bool = True

    @property
    def convention(self) -> str:  # type: ignore[override]
        return f"share of the domain inside the central {self.level:.0%} Gaussian interval, mean over cases"

    def per_case(
        self, pred: Field, true: Field, cases: Cases | None = None, std: Field | None = None
    ) -> Float[Tensor, " n"]:
        delta, _ = difference(pred, true)
        inside = delta.abs() <= half_width(self.level) * _sigma(std, true, self.name)
        # A non-finite prediction covers nothing, and must not pass for a badly calibrated one.
        return domain_mean(torch.where(delta.isfinite(), inside.double(), torch.nan), true)


@dataclass(frozen=True)
class GaussianCRPS(Metric):
    """σ [z (2Φ(z) − 1) + 2φ(z) − 1/√π], z = Δ/σ: the continuous ranked probability score of N(p, σ²).

    Equals |Δ| where σ = 0; in the units of the field. Reference: Gneiting & Raftery, JASA 2007, eq. (21).
    """

    name: str = "crps"
    convention: str = "Gaussian continuous ranked probability score in the units of the field, mean over cases"
    needs_std: bool = True

    def per_case(
        self, pred: Field, true: Field, cases: Cases | None = None, std: Field | None = None
    ) -> Float[Tensor, " n"]:
        delta, _ = difference(pred, true)
        sigma = _sigma(std, true, self.name)
        z = delta / torch.where(sigma > 0, sigma, 1.0)
        density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
        score = sigma * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
        return domain_mean(torch.where(sigma > 0, score, delta.abs()), true)


@dataclass(frozen=True)
class Sharpness(Metric):
    """Mean width 2 z σ of the central interval: among calibrated predictions, narrower is better."""

    name: str = "sharpness"
    level: float = 0.9
    needs_std: bool = True

    @property
    def convention(self) -> str:  # type: ignore[override]
        return f"mean width of the central {self.level:.0%} Gaussian interval, mean over cases"

    def per_case(
        self, pred: Field, true: Field, cases: Cases | None = None, std: Field | None = None
    ) -> Float[Tensor, " n"]:
        return domain_mean(2 * half_width(self.level) * _sigma(std, true, self.name), true)


def ensemble_crps(members: Sequence[Field], true: Field, fair: bool = False) -> Float[Tensor, " n"]:
    """mean_i |x_i − y| − ½ mean_ij |x_i − x_j|, averaged over the domain: CRPS of the members' empirical law.

    `fair` averages the second term over i ≠ j, which removes the bias against small ensembles. Cost: one sort
    over m members per point. Reference: Gneiting & Raftery 2007, eq. (20); Ferro, QJRMS 2014 (fair).
    """
    m = len(members)
    if m < (2 if fair else 1):
        raise UsageError(f"ensemble_crps needs {'2 members or more' if fair else 'a member'}; got {m}.")
    accuracy = torch.stack([difference(member, true)[0].abs() for member in members]).mean(0)
    ordered = torch.stack([member.values.double() for member in members]).sort(dim=0).values
    rank = 2 * torch.arange(m, dtype=torch.float64, device=ordered.device) - (m - 1)
    # Σ_ij |x_i − x_j| = 2 Σ_i (2i − m + 1) x_(i) over the order statistics, i from 0.
    spread = torch.tensordot(rank, ordered, dims=1) / (m * (m - 1) if fair else m * m)
    return domain_mean(accuracy - spread, true)


METRICS = (
    *(Coverage(f"coverage_{level}", level / 100) for level in (50, 90, 95)),
    GaussianCRPS(),
    Sharpness(),
)
