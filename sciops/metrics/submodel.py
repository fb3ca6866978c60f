"""What a forecast of edge values is worth: the error inside the submodel that it drives."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.metrics.base import Metric, float64_pair


@dataclass(frozen=True)
class Inside(Metric):
    """‖v(p) − v(y)‖/‖v(y)‖ over all nodes inside and all times, v the submodel's answer to an edge trace, mean.

    The problem answers through `problem.inside(cases, trace)`; the edge itself does not count. Twice the cost of a
    submodel a case.
    """

    name: str = "inside"
    convention: str = "relative L2 error inside the submodel driven by the trace, against that of the true trace, mean"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, " n"]:
        if cases is None:
            raise UsageError(f"Metric {self.name} needs the cases, whose problem runs the submodel.")
        run = cases.problem.inside  # type: ignore[attr-defined]
        p, y = float64_pair(pred, true)
        v, w = (run(cases, replace(pred, values=z)).values[..., 1:-1, 1:-1].flatten(1) for z in (p, y))
        return (v - w).norm(dim=1) / w.norm(dim=1)

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        if cases is None or not hasattr(cases.problem, "inside"):
            return "the problem has no submodel (a method `inside`)"
        return None


METRICS = (Inside(),)
