"""The checks can fail: each broken class below is caught by the clause that it breaks, in one sentence."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from sciops.compare.check import CheckResult, check, check_metric, check_problem, check_solver
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget, Solution
from sciops.metrics.base import FunctionMetric, Metric
from sciops.metrics.pointwise import relative_l2
from sciops.problems.poisson import Poisson
from sciops.solvers.fast_poisson import FastPoisson
from sciops.solvers.plain_cg import PlainCG


def failures(results: list[CheckResult]) -> dict[str, str]:
    found = {r.name: r.message for r in results if not r.passed}
    assert all(message and "\n" not in message for message in found.values())
    return found


class Forgetful(PlainCG):
    """Calls everything OK."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, out, budget)
        return Solution(solution.field, [Status.OK] * len(cases))


class Restless(FastPoisson):
    """Carries something from one solve into the next."""

    calls = 0

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, out, budget)
        self.calls += 1
        return replace(solution, field=solution.field * (1 + 1e-3 * self.calls))


class Averaging(FastPoisson):
    """Mixes the cases of a batch."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, out, budget)
        mixed = solution.field.values + 0.01 * solution.field.values.mean(0, keepdim=True)
        return replace(solution, field=replace(solution.field, values=mixed))


class Greedy(FastPoisson):
    """Overwrites its input."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, out, budget)
        cases.inputs.values.mul_(1.5)
        return solution


class Raising(FastPoisson):
    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        if budget is not None and budget.maxiter == 1:
            raise RuntimeError("no convergence\nat all")
        return super().solve(cases, out, budget)


class Stuck(FastPoisson):
    """Answers on its own grid, whatever was asked, with an offset that no linear map has."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, Grid.box(17, ndim=2), budget)
        return replace(solution, field=solution.field + 1.0)


class Short(FastPoisson):
    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        return replace(solution := super().solve(cases, out, budget), status=solution.status[:1])


class Accepting(PlainCG):
    def refuses(self, problem, grid):
        return None


@pytest.mark.parametrize(
    ("solver", "clauses"),
    [
        (Forgetful, ["reports one iteration honestly", "keeps a NaN input to its own case"]),
        (Restless, ["gives the same answer twice"]),
        (Averaging, ["solves cases together as it solves them alone"]),
        (Greedy, ["leaves the cases as they were"]),
        (Raising, ["reports one iteration honestly"]),
        (Stuck, ["answers on a finer grid", "is linear in the right-hand side"]),
        (Short, ["answers on the asked grid, one status per case"]),
        (Accepting, ["says in a sentence what it refuses"]),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "",
)
def test_broken_solvers_are_caught(solver: type, clauses: list[str]) -> None:
    found = failures(check_solver(solver))
    assert set(clauses) <= set(found), found


def test_a_solver_that_refuses_the_problem_fails_with_its_reason() -> None:
    from sciops.core.problem import DataOnly

    assert "needs system" in failures(check_solver(PlainCG, DataOnly()))["runs on a problem"]


@dataclass(frozen=True)
class BatchSeed(Poisson):
    """−Δu = f, every case drawn from the first seed."""

    def sample(self, seeds, grid, dtype=torch.float64, device="cpu"):
        return (
            super().sample([seeds[0] + i for i in range(len(seeds))], grid, dtype, device)
            if len(seeds) == 1
            else (super().sample([seeds[0] * 7 + i for i in range(len(seeds))], grid, dtype, device))
        )


@dataclass(frozen=True)
class WrongLinear(Poisson):
    """−Δu + u³ = f, called linear."""

    def residual(self, d, u, c):
        return -d.laplacian(u) + u * u * u - c.f


@dataclass(frozen=True)
class WrongTruth(Poisson):
    """−Δu = f with the answer of another equation."""

    def reference(self, cases, tol=1e-10):
        solution = super().reference(cases, tol)
        return replace(solution, field=solution.field * -1.0)


@dataclass(frozen=True)
class WrongSystem(Poisson):
    """−Δu = f with a fast system that lost its factor."""

    def system(self, cases):
        A, b = super().system(cases)
        return A, 2 * b


class Thawed(Poisson):
    """−Δu = f without the decorator: its new argument is not in the files."""

    def __init__(self, extra: float = 1.0) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("problem", "clause"),
    [
        (BatchSeed(), "one seed is one case, in any batch"),
        (WrongLinear(), "is as linear as it says"),
        (WrongTruth(), "the reference solves the equation"),
        (WrongSystem(), "the system is the residual"),
        (Thawed(), "is a frozen dataclass that files can name"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Poisson) else "",
)
def test_broken_problems_are_caught(problem: Poisson, clause: str) -> None:
    found = failures(check_problem(problem))
    assert clause in found, found


class Coupled(Metric):
    name, convention = "coupled", "error relative to the largest error of the batch"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None):
        error = relative_l2(pred, true)
        return error / error.max()


def ordered(stacked: torch.Tensor) -> torch.Tensor:
    return stacked[0]


@pytest.mark.parametrize(
    ("metric", "clause"),
    [
        (Coupled(), "is independent of chunks and of the order of the cases"),
        (
            FunctionMetric("first", "the first case", relative_l2, ordered),
            "is independent of chunks and of the order of the cases",
        ),
        (
            FunctionMetric("up", "relative L2", relative_l2, lower_is_better=False),
            "calls the truth the best prediction",
        ),
        (FunctionMetric("", "relative L2", relative_l2), "has a name and a convention in one sentence"),
        (
            FunctionMetric("flat", "one number", lambda p, y: relative_l2(p, y).mean()),
            "keeps one row per case and leaves the fields as they were",
        ),
    ],
)
def test_broken_metrics_are_caught(metric: Metric, clause: str) -> None:
    found = failures(check_metric(metric))
    assert clause in found, found


def test_check_guesses_the_kind_from_a_path(tmp_path: Path) -> None:
    file = tmp_path / "mine_checked.py"
    file.write_text(
        "from sciops.metrics.base import Metric\n"
        "from sciops.metrics.pointwise import relative_l2\n"
        "class Mine(Metric):\n"
        "    name, convention = 'mine', 'relative L2 error, mean over cases'\n"
        "    def per_case(self, pred, true, cases=None):\n"
        "        return relative_l2(pred, true)\n"
        "class NeedsMore(Metric):\n"
        "    def __init__(self, q): self.q = q\n"
        "    def per_case(self, pred, true, cases=None): return 0\n",
        encoding="utf8",
    )
    assert not failures(check(f"{file}:Mine"))
    assert not failures(check("sciops.solvers.plain_cg.PlainCG"))
    assert not failures(check("sciops.problems.darcy.Darcy"))
    with pytest.raises(UsageError, match="without arguments"):
        check(f"{file}:NeedsMore")
    with pytest.raises(UsageError, match="no Solver, Problem or Metric"):
        check("sciops.core.grid.Grid")
    with pytest.raises(UsageError, match="did you mean Darcy"):
        check("sciops.problems.darcy.Darci")
