"""Any solver's answer, a network's for example, as the start of a linear solver that certifies it."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.config import build, resolve_class
from sciops.core.dataset import Dataset
from sciops.core.grid import Grid
from sciops.core.linear import LinearSolution, LinearSolver
from sciops.core.problem import Problem
from sciops.core.solver import Budget, FitReport, Solution, Solver
from sciops.solvers.discrete import Discrete


class Assisted(Discrete):
    """A linear solver that another solver, `first`, helps; training, weights and files are those of `first`."""

    def __init__(
        self, first: Solver | dict[str, Any], linear: LinearSolver | dict[str, Any], seed: int, **options: Any
    ) -> None:
        super().__init__(linear, **options)
        self.first = built(first, seed)
        self.needs = self.needs | self.first.needs
        self.trained = self.first.trained

    @property
    def workdir(self) -> Path | None:
        """Where an interrupted training of `first` is resumed from."""
        return getattr(self.first, "workdir", None)

    @workdir.setter
    def workdir(self, folder: Path | None) -> None:
        if hasattr(self.first, "workdir"):
            self.first.workdir = folder

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        return super().refuses(problem, grid) or self.first.refuses(problem, grid)

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        return self.first.fit(train, val, budget)

    def parameters(self) -> int:
        return self.first.parameters()

    def save(self, path: Path) -> None:
        self.first.save(path)

    def load(self, path: Path) -> None:
        self.first.load(path)

    def prepare(self, cases: Cases, out: Grid) -> None:
        super().prepare(cases, out)
        self.first.prepare(cases, out)

    def unclocked(self, cases: Cases, out: Grid, solution: Solution, budget: Budget | None = None) -> dict[str, Any]:
        """iterations_cold and iterations_saved per case, from one more solve without the help of `first`."""
        cold = self.unassisted().solve(cases, out, budget).stats
        if "iterations" not in cold or "iterations" not in solution.stats:
            return {}
        taken = cold["iterations"]
        return {"iterations_cold": taken, "iterations_saved": taken - solution.stats["iterations"]}

    def unassisted(self) -> Discrete:
        """The same linear solver by itself, to count what the help saves."""
        return Discrete(self.linear, self.resolution, self.tol, self.maxiter, self.batch)

    def answer_of_first(self, cases: Cases, out: Grid) -> Tensor:
        """u of `first` on `out` in the shape of the problem's unknowns."""
        values = self.first.solve(cases.on(self.first.input_grid(cases.domain, out)), out).field.values[:, 0]
        return values if cases.problem.stacked else values[:, 0]


class Warm(Assisted):
    """A u = b by `linear`, started from x₀ = the answer of `first` on the same cases.

    Method: `first` (a trained OperatorSolver, a coarse classical solver, …) answers on the grid of the system, inside
    the clock; its values at the unknowns start the iteration, which stops at ‖b − A x‖ ≤ tol·‖b‖ as without it. An
    answer that is not finite is not used.
    stats: iterations, residual, start_residual ‖b − A x₀‖/‖b‖; with `count_saved` also iterations_cold and
    iterations_saved, at the price of a second solve in every call (the comparison counts them outside of its clocks
    by itself).
    A start saves about log(start_residual)/log(tol) of the iterations, fewer where its error is smooth. Refuses what
    `first` or the linear system refuses.
    """

    def __init__(
        self,
        first: Solver | dict[str, Any],
        linear: LinearSolver | dict[str, Any],
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
        count_saved: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(first, linear, seed, resolution=resolution, tol=tol, maxiter=maxiter, batch=batch)
        self.count_saved = count_saved

    @property
    def method(self) -> str:
        return f"{self.first.name} → {type(self.linear).__name__}"

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        solution = super().solve(cases, out, budget)
        if self.count_saved:
            solution.stats |= self.unclocked(cases, out, solution, budget)
        return solution

    def solve_cases(self, state: Any, cases: Cases, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        u = self.answer_of_first(cases, cases.domain).to(b)
        x0 = cases.problem.unknowns(cases.domain, u)
        sound = torch.isfinite(x0).flatten(1).all(1)
        x0 = torch.where(sound.reshape(-1, *(1,) * (x0.dim() - 1)), x0, 0.0)
        answer = self.linear.solve(state, b, x0=x0, tol=tol, maxiter=maxiter)
        answer.stats["start_residual"] = answer.history[0]
        return answer


def built(first: Solver | dict[str, Any], seed: int) -> Solver:
    """The solver that {class_path, init_args} describes; the seed of the comparison is passed on where it is taken."""
    if isinstance(first, Solver):
        return first
    arguments = dict(first.get("init_args") or {})
    if "class_path" in first and "seed" in inspect.signature(resolve_class(first["class_path"])).parameters:
        arguments.setdefault("seed", seed)
    return build(first | {"init_args": arguments}, Solver)
