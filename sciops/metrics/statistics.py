"""How sure a score is: bootstrap intervals and paired comparisons, both through the metric's own reduction."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.metrics.base import Metric

# Values gathered at once while resampling: bounds the memory, not the result.
CHUNK = 2_000_000


@dataclass(frozen=True)
class PairedTest:
    """combine(a) − combine(b) with its bootstrap interval and two-sided p value.

    `tie`: the interval holds zero, so the two may not be ranked. `better`: "a", "b" or None on a tie.
    """

    difference: float
    low: float
    high: float
    p_value: float
    better: str | None

    @property
    def tie(self) -> bool:
        return self.better is None


def bootstrap(
    metric: Metric, stacked: Float[Tensor, "n ..."], draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the metric: cases are drawn with replacement, `combine` runs on every draw.

    `stacked` are per-case values of the whole test set. The same seed draws the same cases, so intervals of
    several metrics and solvers belong together. Cost: draws × combine. Unreliable below about 20 cases and for
    extremes (a maximum can never exceed the observed one). Reference: Efron & Tibshirani, 1993, §13.3.
    """
    _check(level, stacked)
    values = torch.cat([_combined(metric, stacked, index) for index in _draws(stacked, draws, seed)])
    return _interval(values, level)


def paired_test(
    metric: Metric,
    a: Float[Tensor, "n ..."],
    b: Float[Tensor, "n ..."],
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Paired bootstrap of combine(a) − combine(b): the same cases are drawn for both.

    p = 2·min(P(d* ≤ 0), P(d* ≥ 0)) with one pseudo-draw on each side, so it never is exactly zero.
    """
    if a.shape != b.shape:
        raise UsageError(
            f"A paired test needs the same cases for both solvers; got shapes {tuple(a.shape)} and {tuple(b.shape)}."
        )
    _check(level, a)
    parts = [_combined(metric, a, index) - _combined(metric, b, index) for index in _draws(a, draws, seed)]
    gaps = torch.cat(parts)
    low, high = _interval(gaps, level)
    tail = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    gap = metric.combine(a) - metric.combine(b)
    better = None
    if low > 0 or high < 0:
        better = "a" if (high < 0) == metric.lower_is_better else "b"
    return PairedTest(gap, low, high, min(1.0, 2 * (tail + 1) / (len(gaps) + 1)), better)


def _check(level: float, stacked: Tensor) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1; got {level}.")
    if len(stacked) < 2:
        raise UsageError(f"A bootstrap needs at least 2 cases; got {len(stacked)}.")


def _draws(stacked: Tensor, draws: int, seed: int) -> Iterator[Int[Tensor, "k n"]]:
    n = len(stacked)
    index = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed)).to(stacked.device)
    yield from index.split(max(1, CHUNK // max(stacked.numel(), 1)))


def _combined(metric: Metric, stacked: Tensor, index: Int[Tensor, "k n"]) -> Float[Tensor, " k"]:
    if type(metric).combine is not Metric.combine:
        return torch.tensor([metric.combine(stacked[i]) for i in index], dtype=torch.float64)
    return torch.vmap(metric.reduce)(stacked[index]).cpu()


def _interval(values: Float[Tensor, " k"], level: float) -> tuple[float, float]:
    if bool(values.isnan().any()):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype))
    return float(low), float(high)
