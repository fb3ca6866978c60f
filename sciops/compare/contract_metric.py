"""The contract of metrics."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sciops.compare.contract import CheckResult, Clauses, instance, require, run, same, small_grid
from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid, PointSet
from sciops.metrics.base import Metric, scores
from sciops.problems.poisson import Poisson


def check_metric(metric: Metric | type[Metric]) -> list[CheckResult]:
    """Name and convention, refusals, first axis = case, order and chunks of cases, the truth as best prediction."""
    metric = instance(metric) if isinstance(metric, type) else metric
    return run(_MetricClauses(metric).all())


class _MetricClauses:
    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        problem = Poisson(modes=8)
        cases = problem.sample(list(range(31, 37)), small_grid(problem, 33))
        truth = problem.reference(cases).field
        draw = torch.Generator().manual_seed(0)
        if metric.applies(truth, cases):  # then it may want a trajectory
            grid, times = Grid.box(32, ndim=2, layout="periodic"), tuple(0.1 * k for k in range(32))
            values = torch.randn(6, 32, 1, 32, 32, generator=draw, dtype=torch.float64).cumsum(1)
            truth, cases = Field(values, grid, ("u",), times), None  # type: ignore[assignment]
        noise = torch.randn(truth.values.shape, generator=draw, dtype=torch.float64)
        self.cases: Cases | None = cases
        self.truth = truth
        self.pred = replace(truth, values=truth.values + 0.5 * truth.values.std() * noise)
        self.std = replace(truth, values=torch.full_like(truth.values, 0.5 * float(truth.values.std())))

    def all(self) -> Clauses:
        clauses = [
            ("has a name and a convention in one sentence", self.names),
            ("says in a sentence where it does not apply", self.refusals),
        ]
        if self.metric.applies(self.truth, self.cases) is None:
            clauses += [
                ("keeps one row per case and leaves the fields as they were", self.rows),
                ("is independent of chunks and of the order of the cases", self.chunks),
            ]
            if not self.metric.needs_std:
                clauses.append(("calls the truth the best prediction", self.truth_is_best))
        return clauses

    def per_case(self, pred: Field, index: Any = slice(None)) -> Tensor:
        cases = None if self.cases is None else self.cases[index]
        return scores(self.metric, pred[index], self.truth[index], cases, self.std[index])

    def names(self) -> None:
        for fact in ("name", "convention"):
            text = getattr(self.metric, fact, None)
            require(isinstance(text, str) and bool(text) and "\n" not in text, f"{fact} must be one line of text.")

    def refusals(self) -> None:
        points = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        scattered = Field.steady(torch.ones(6, 1, 50, dtype=torch.float64), PointSet.equal_weights(points), ("u",))
        for field in (self.truth, scattered):
            for cases in (self.cases, None):
                reason = self.metric.applies(field, cases)
                good = reason is None or (isinstance(reason, str) and reason.strip() and "\n" not in reason)
                require(bool(good), f"applies() must give None or one sentence; got {reason!r}.")

    def rows(self) -> None:
        before = self.pred.values.clone(), self.truth.values.clone()
        stacked = self.per_case(self.pred)
        require(stacked.shape[:1] == (6,), f"per_case of 6 cases has shape {tuple(stacked.shape)}; row i is case i.")
        value = self.metric.combine(stacked)
        require(isinstance(value, float), f"combine must give a float; got {type(value).__name__}.")
        kept = torch.equal(before[0], self.pred.values) and torch.equal(before[1], self.truth.values)
        require(kept, "per_case changed the fields that it was given.")

    def chunks(self) -> None:
        whole = self.per_case(self.pred)
        parts = torch.cat([self.per_case(self.pred, slice(i, i + 2)) for i in (0, 2, 4)])
        require(same(parts, whole, 1e-9), "per_case of a case depends on the other cases in its batch.")
        value, mixed = self.metric.combine(whole), self.metric.combine(whole[[3, 0, 5, 1, 4, 2]])
        close = abs(value - mixed) <= 1e-9 * abs(value) or value != value
        require(close, f"combine depends on the order of the cases: {value} against {mixed}.")

    def truth_is_best(self) -> None:
        best, worse = (self.metric.combine(self.per_case(p)) for p in (self.truth, self.pred))
        if best != best or worse != worse:  # shares of nothing are NaN: no order to check
            return
        good = best <= worse if self.metric.lower_is_better else best >= worse
        require(good, f"the truth scores {best:.3g} and a noisy field {worse:.3g}; is lower_is_better right?")
