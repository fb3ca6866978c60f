"""How long a rollout stays with the truth, frame by frame."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.metrics.base import FunctionMetric, Metric, difference, float64_pair, mean_square, median, unit_weights
from sciops.metrics.pointwise import over_truth


def correlation(pred: Field, true: Field) -> Float[Tensor, "n t"]:
    """Pearson correlation in space with quadrature weights, averaged over channels.

    NaN where prediction or truth is constant in space or not finite.
    """
    p, y = (x.flatten(3) for x in float64_pair(pred, true))
    w = unit_weights(true.domain, y).flatten()
    p, y = (x - (w * x).sum(-1, keepdim=True) for x in (p, y))
    covariance = (w * p * y).sum(-1)
    return (covariance / ((w * p * p).sum(-1) * (w * y * y).sum(-1)).sqrt()).mean(2)


@dataclass(frozen=True)
class CorrelationTime(Metric):
    """First time at which the Pearson correlation drops below the threshold, linear in between.

    `per_case` gives (time since the first frame, 1 if it never dropped and the time is therefore capped at the
    end). A correlation that does not exist (constant or non-finite fields) counts as dropped, at the last frame
    that was fine. `capped`: report the share of capped cases instead of the median time; read the two
    together, because a median of capped times is only a lower bound.
    """

    name: str
    threshold: float = 0.8
    capped: bool = False
    lower_is_better: bool = False

    @property
    def convention(self) -> str:  # type: ignore[override]
        what = "share of cases that never drop" if self.capped else "median time of dropping"
        return f"{what} below a Pearson correlation of {self.threshold}, linear between frames"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n 2"]:
        r = correlation(pred, true)
        times = torch.tensor(true.times, dtype=torch.float64, device=r.device) - true.times[0]
        below = ~(r >= self.threshold)
        never = ~below.any(1)
        after = below.to(torch.int64).argmax(1)
        before = (after - 1).clamp(min=0)
        r0, r1 = (r.gather(1, i[:, None])[:, 0] for i in (before, after))
        share = ((r0 - self.threshold) / (r0 - r1)).nan_to_num(nan=0.0)
        share = torch.where(after == 0, 0.0, share)
        crossing = torch.lerp(times[before], times[after], share)
        return torch.stack([torch.where(never, times[-1], crossing), never.double()], dim=1)

    def reduce(self, stacked: Float[Tensor, "n 2"]) -> Float[Tensor, ""]:
        return stacked[:, 1].mean() if self.capped else median(stacked[:, 0])

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        return None if len(field.times) > 1 else "needs two frames or more; the field is steady"


def frame_errors(pred: Field, true: Field) -> Float[Tensor, "n t"]:
    """sqrt(Σ_{c,x} w Δ²) / sqrt(Σ_{c,x} w y²) of every frame; NaN where the truth of a frame is zero."""
    delta, y = difference(pred, true)
    squares = [mean_square(x, true.domain).sum(2) for x in (delta, y)]
    return over_truth(squares[0].sqrt(), squares[1].sqrt())


def last_frame_error(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """The relative L² error of the last frame."""
    return frame_errors(last_frame(pred), last_frame(true))[:, 0]


def last_frame(field: Field) -> Field:
    """The field at its last time."""
    return replace(field, values=field.values[:, -1:], times=field.times[-1:])


@dataclass(frozen=True)
class FrameErrors(Metric):
    """Relative L² error frame by frame: `curve` is its mean over cases at every time, the number its mean over frames.

    Not the error of all frames as one block (`rel_l2`): frames of small amplitude count as much as the others here.
    """

    name: str = "rel_l2_frames"
    convention: str = "relative L2 error of every frame by itself, mean over frames and cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n t"]:
        return frame_errors(pred, true)

    def curve(self, stacked: Float[Tensor, "n t"]) -> Float[Tensor, " t"]:
        """One value per frame."""
        return stacked.mean(0)


METRICS: tuple[Metric, ...] = tuple(
    CorrelationTime(f"corr_time_{threshold}{'_capped' if capped else ''}", threshold, capped)
    for threshold in (0.8, 0.9, 0.95)
    for capped in (False, True)
)
METRICS += (
    FrameErrors(),
    FunctionMetric("rel_l2_last", "relative L2 error of the last frame, mean over cases", last_frame_error),
)
