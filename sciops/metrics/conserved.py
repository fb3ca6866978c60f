"""Do conserved quantities stay conserved?"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.metrics.base import Metric, float64_pair

Quantity = Callable[[Field], Tensor]


@dataclass(frozen=True)
class Drift(Metric):
    """max_t |Q(p)(t) − Q(y)(0)| / |Q(y)(0)| for each invariant Q that the problem declares, mean over all.

    Invariants come from `problem.invariants()`: name → callable(Field) → (n, t); a problem with fluxes through
    its walls returns Q minus their time integral. Where Q(y)(0) is zero up to rounding (against Q of |y|) the drift is
    absolute. `per_case` is (n, invariants); `invariant` picks one of them.
    """

    name: str = "drift"
    invariant: str | None = None
    convention: str = "largest drift over time of each declared invariant from its true initial value, mean"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, "n q"]:
        if cases is None:
            raise UsageError(f"Metric {self.name} needs the cases, because the problem declares its invariants.")
        p, y = float64_pair(pred, true)
        pred, true = replace(pred, values=p), replace(true, values=y)
        wanted = [q for name, q in cases.problem.invariants().items() if self.invariant in (None, name)]
        return torch.stack([self.distance(quantity, pred, true) for quantity in wanted], dim=1)

    def distance(self, quantity: Quantity, pred: Field, true: Field) -> Float[Tensor, " n"]:
        """Of one quantity, in float64."""
        start = quantity(true)[:, :1].abs()
        rounding = 1e-12 * size(quantity, true)[:, :1]
        gap = (quantity(pred) - quantity(true)[:, :1]).abs()
        return torch.where(start <= rounding, gap, gap / start).amax(1)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        names = list(cases.problem.invariants()) if cases is not None else []
        if not names:
            return "the problem declares no invariants"
        if self.invariant is not None and self.invariant not in names:
            return f"the problem declares the invariants {', '.join(names)}, not {self.invariant}"
        return None


def size(quantity: Quantity, field: Field) -> Float[Tensor, "n t"]:
    """|Q(|y|)|: how large a quantity would be if nothing in it cancelled."""
    return quantity(replace(field, values=field.values.abs())).abs()


@dataclass(frozen=True)
class DriftFromTruth(Drift):
    """max_t |Q(p)(t) − Q(y)(t)| / max_t |Q(y)(t)| for each quantity that the problem declares, mean over all.

    For quantities that forcing or viscosity change, where `drift` would blame a prediction for what the truth does.
    Where Q(y) is zero up to rounding at all times (against Q of |y|) the scale is max_t |Q(|y|)(t)|.
    """

    name: str = "drift_true"
    convention: str = "largest distance over time of each declared quantity from its true value, over its largest, mean"

    def distance(self, quantity: Quantity, pred: Field, true: Field) -> Float[Tensor, " n"]:
        known = quantity(true)
        absolute = size(quantity, true).amax(1)
        scale = known.abs().amax(1)
        # Stored in float32, a zero mean is one of its roundings.
        scale = torch.where(scale <= 1e-6 * absolute, absolute, scale)
        return (quantity(pred) - known).abs().amax(1) / scale


METRICS = (Drift(), DriftFromTruth())
