"""What a metric is: one tensor per case, and one exact way to turn the stacked cases into a number."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Domain, Grid

Reduction = Callable[[Tensor], Tensor]


class Metric(ABC):
    """score = combine(stack of per_case over all cases).

    `per_case` keeps what the reduction needs (a mean square, not its root, where a global root is due), so
    files can stream in any batches and the result never is an average of batch averages: `combine` sees every
    case once. Everything is float64 and stays on the device of the fields.

    `name` carries the convention's tag (`rel_l2`, `nrmse@pdebench`); `convention` says it in one sentence.
    `needs_std`: `per_case` takes the predicted standard deviation as keyword `std`.
    Override `reduce` for anything but the plain mean; overriding `combine` itself also works, only the
    bootstrap then loops over its draws instead of batching them.
    """

    name: str
    convention: str
    lower_is_better: bool = True
    needs_std: bool = False

    @abstractmethod
    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n ..."]:
        """What is kept of every case; the first axis is the case."""

    def reduce(self, stacked: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """The reduction over all cases as a tensor operation without data-dependent shapes."""
        return mean(stacked)

    def combine(self, stacked: Float[Tensor, "n ..."]) -> float:
        """One number from the stacked per-case values of the whole test set."""
        return float(self.reduce(stacked))

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        """Why the metric has no value for such a field or such cases; None if it has one."""
        return None


@dataclass(frozen=True)
class FunctionMetric(Metric):
    """A metric from a function of two fields and a reduction of the stacked results."""

    name: str
    convention: str
    function: Callable[[Field, Field], Tensor]
    reduction: Reduction = torch.mean
    lower_is_better: bool = True
    grid_only: bool = False

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n ..."]:
        return self.function(pred, true)

    def reduce(self, stacked: Float[Tensor, "n ..."]) -> Float[Tensor, ""]:
        return self.reduction(stacked)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        return needs_grid(field) if self.grid_only else None


def evaluate(metric: Metric, pred: Field, true: Field, cases: Cases | None = None, std: Field | None = None) -> float:
    """The metric over all cases at once.

    A non-finite prediction makes the value non-finite: select the cases without `failures` to score the rest,
    and report the share of failures beside it. Raises UsageError with the reason where the metric does not apply.
    """
    reason = metric.applies(true, cases)
    if reason:
        raise UsageError(f"Metric {metric.name} has no value here: {reason}.")
    return metric.combine(scores(metric, pred, true, cases, std))


def scores(
    metric: Metric, pred: Field, true: Field, cases: Cases | None = None, std: Field | None = None
) -> Float[Tensor, "n ..."]:
    """`per_case`, with the standard deviation handed to the metrics that need one."""
    if not metric.needs_std:
        return metric.per_case(pred, true, cases)
    if std is None:
        raise UsageError(f"Metric {metric.name} needs the predicted standard deviation; the solver gives none.")
    return metric.per_case(pred, true, cases, std=std)  # type: ignore[call-arg]


def failures(pred: Field) -> Bool[Tensor, " n"]:
    """True for each case whose prediction has a NaN or infinite value."""
    return ~torch.isfinite(pred.values).flatten(1).all(1)


def float64_pair(pred: Field, true: Field) -> tuple[Float[Tensor, "n t c *s"], Float[Tensor, "n t c *s"]]:
    """(p, y) in float64, after checking that they may be compared (else GridMismatch)."""
    if pred.n != true.n:
        raise UsageError(f"Prediction and truth must hold the same cases; got {pred.n} and {true.n} of them.")
    _ = pred[:0] - true[:0]  # the field's own check of domain, times and channels, on no data
    return pred.values.double(), true.values.double()


def difference(pred: Field, true: Field) -> tuple[Float[Tensor, "n t c *s"], Float[Tensor, "n t c *s"]]:
    """(Δ, y) = (prediction − truth, truth) in float64."""
    p, y = float64_pair(pred, true)
    return p - y, y


def unit_weights(domain: Domain, like: Tensor) -> Float[Tensor, "*s"]:
    """Quadrature weights that sum to one, on the device of `like`."""
    w = domain.weights(dtype=torch.float64, device=like.device)
    return w / w.sum()


def mean_square(x: Float[Tensor, "n t c *s"], domain: Domain) -> Float[Tensor, "n t c"]:
    """Σ_x w x² per case, time and channel."""
    return (unit_weights(domain, x) * x.square()).flatten(3).sum(-1)


def grid_of(field: Field) -> Grid:
    """The field's grid; UsageError on scattered points."""
    if not isinstance(field.domain, Grid):
        raise UsageError(f"This metric needs a grid; the field lives on {field.domain.describe()}.")
    return field.domain


def needs_grid(field: Field) -> str | None:
    """Reason for grid-only metrics to refuse scattered points."""
    return None if isinstance(field.domain, Grid) else f"needs a grid, got {field.domain.describe()}"


def mean(stacked: Float[Tensor, "*all"]) -> Float[Tensor, ""]:
    """Mean with equal weights over everything."""
    return stacked.mean()


def root_mean(stacked: Float[Tensor, "*all"]) -> Float[Tensor, ""]:
    """Root of the mean: the exact global RMS when the stack holds mean squares."""
    return stacked.mean().sqrt()


def maximum(stacked: Float[Tensor, "*all"]) -> Float[Tensor, ""]:
    """Largest value; NaN if any is NaN."""
    return stacked.amax()


def median(stacked: Float[Tensor, "*all"]) -> Float[Tensor, ""]:
    return quantile(stacked, 0.5)


def p95(stacked: Float[Tensor, "*all"]) -> Float[Tensor, ""]:
    return quantile(stacked, 0.95)


def quantile(stacked: Float[Tensor, "*all"], q: float) -> Float[Tensor, ""]:
    """Quantile with linear interpolation between order statistics; NaN if any value is NaN."""
    ordered = stacked.flatten().sort().values
    position = q * (ordered.shape[0] - 1)
    low = min(int(position), max(ordered.shape[0] - 2, 0))
    high = min(low + 1, ordered.shape[0] - 1)
    value = torch.lerp(ordered[low], ordered[high], position - low)
    return torch.where(stacked.isnan().any(), torch.nan, value)
