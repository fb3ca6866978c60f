"""Pointwise errors in the quadrature norms of the grid."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.field import Field
from sciops.metrics.base import FunctionMetric, difference, maximum, mean_square, median, p95, root_mean


def over_truth(error: Float[Tensor, "n ..."], size: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """error/size; NaN and a warning where the truth is zero, because no relative error exists there."""
    zero = size == 0
    if bool(zero.any()):
        warnings.warn(
            f"{int(zero.sum())} relative error(s) are NaN because the truth is zero; use an absolute metric.",
            stacklevel=2,
        )
    return torch.where(zero, torch.nan, error / size)


def relative_l2(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """sqrt(Σ_{t,c,x} w Δ²) / sqrt(Σ_{t,c,x} w y²), w the quadrature weights."""
    delta, y = difference(pred, true)
    squares = [mean_square(x, true.domain).sum((1, 2)) for x in (delta, y)]
    return over_truth(squares[0].sqrt(), squares[1].sqrt())


def case_mean_square(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """Σ_x w Δ², averaged over times and channels."""
    delta, _ = difference(pred, true)
    return mean_square(delta, true.domain).mean((1, 2))


def absolute_max(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """max_{t,c,x} |Δ|."""
    delta, _ = difference(pred, true)
    return delta.abs().flatten(1).amax(1)


def relative_max(pred: Field, true: Field) -> Float[Tensor, " n"]:
    """max_{t,c,x} |Δ| / max_{t,c,x} |y|."""
    delta, y = difference(pred, true)
    return over_truth(delta.abs().flatten(1).amax(1), y.abs().flatten(1).amax(1))


_REL = "relative L2 error over all times and channels with quadrature weights, {} over cases"

METRICS = (
    FunctionMetric("rel_l2", _REL.format("mean"), relative_l2),
    FunctionMetric("rel_l2_median", _REL.format("median"), relative_l2, median),
    FunctionMetric("rel_l2_p95", _REL.format("95th percentile"), relative_l2, p95),
    FunctionMetric("rmse", "root of the mean square error over all cases", case_mean_square, root_mean),
    FunctionMetric("max", "largest error over largest value of the truth, mean over cases", relative_max),
    FunctionMetric("max_worst", "largest error over largest value of the truth, worst case", relative_max, maximum),
    FunctionMetric("max_abs", "largest absolute error, mean over cases", absolute_max),
    FunctionMetric("max_abs_worst", "largest absolute error, worst case", absolute_max, maximum),
)
