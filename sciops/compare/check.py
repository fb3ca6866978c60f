"""`sciops check`: the contract of solvers, problems and metrics on any class, ours or a user's."""

from sciops.compare.contract import CheckResult, instance
from sciops.compare.contract_metric import check_metric
from sciops.compare.contract_problem import check_problem
from sciops.compare.contract_solver import check_solver
from sciops.core.config import resolve_class
from sciops.core.errors import UsageError
from sciops.core.problem import Problem
from sciops.core.solver import Solver
from sciops.metrics.base import Metric

__all__ = ["CheckResult", "check", "check_metric", "check_problem", "check_solver"]


def check(class_path: str) -> list[CheckResult]:
    """Run the contract that belongs to the class: solver, problem or metric, built with its default arguments."""
    cls = resolve_class(class_path)
    if issubclass(cls, Solver):
        return check_solver(instance(cls))
    if issubclass(cls, Problem):
        return check_problem(instance(cls))
    if issubclass(cls, Metric):
        return check_metric(instance(cls))
    raise UsageError(
        f"{class_path} is no Solver, Problem or Metric, so no contract applies; derive it from sciops.Solver, "
        "sciops.Problem or sciops.metrics.base.Metric."
    )
