"""A step length that satisfies the strong Wolfe conditions, by bracketing and safeguarded cubic interpolation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """A step length with the loss, the slope along the direction and the gradient there."""

    length: float
    loss: float
    slope: float
    gradient: Tensor

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.slope)


def strong_wolfe(
    evaluate: Callable[[float], Trial],
    start: Trial,
    first: float,
    sufficient: float = 1e-4,
    curvature: float = 0.9,
    most: int = 25,
) -> Trial:
    """φ(α) ≤ φ(0) + c₁αφ′(0) and |φ′(α)| ≤ c₂|φ′(0)| with c₁ `sufficient`, c₂ `curvature`.

    Method: lengthen the step until an interval holds a solution, then shrink it by the minimiser of the cubic through
    both ends' values and slopes, kept off the ends. Infinite or NaN losses count as too high.
    After `most` evaluations the lowest trial with a loss below the start is returned, or `start` where there is none.
    Reference: Nocedal & Wright 2006, algorithms 3.5 and 3.6.
    """
    slope = start.slope
    if not (math.isfinite(slope) and slope < 0):
        return start
    low, high, trial = start, None, evaluate(first)
    best = start
    for _ in range(most):
        if trial.finite and trial.loss < best.loss:
            best = trial
        too_high = (
            not trial.finite
            or trial.loss > start.loss + sufficient * trial.length * slope
            or (trial.loss >= low.loss and (high is not None or low is not start))
        )
        if too_high:
            high = trial
        elif abs(trial.slope) <= -curvature * slope:
            return trial
        elif high is None:
            if trial.slope >= 0:
                low, high = trial, low
            else:
                step = _cubic(low, trial)
                longest = 10 * trial.length
                length = step if step is not None and step > trial.length else 2 * trial.length
                low, trial = trial, evaluate(min(max(length, 1.1 * trial.length), longest))
                continue
        else:
            if trial.slope * (high.length - low.length) >= 0:
                high = low
            low = trial
        assert high is not None
        width = high.length - low.length
        if abs(width) <= 1e-15 * max(abs(high.length), abs(low.length)):
            break
        step = _cubic(low, high) if high.finite else None
        share = 0.5 if step is None else (step - low.length) / width
        # A minimiser outside the interval or at its ends would not shrink it.
        trial = evaluate(low.length + width * min(max(share, 0.05), 0.95))
    return best


def _cubic(a: Trial, b: Trial) -> float | None:
    """Minimiser of the cubic with the values and slopes of both trials; None where it has none."""
    width = b.length - a.length
    if width == 0 or not (a.finite and b.finite):
        return None
    d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
    inside = d1 * d1 - a.slope * b.slope
    if not inside >= 0:
        return None
    d2 = math.copysign(math.sqrt(inside), width)
    bottom = b.slope - a.slope + 2 * d2
    return b.length - width * (b.slope + d2 - d1) / bottom if bottom != 0 else None
