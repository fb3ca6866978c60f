"""Any solver of linear systems as a solver of problems: grid, assembly, solve, resample."""

import copy
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, Solution, Solver, View, checked
from sciops.problems.reference import zero_mean

LADDER = (0.25, 0.5, 1.0, 2.0)
COARSEST = 8
"""Fewest points per axis that the ladder goes down to."""


class GridSolver(Solver):
    """A u = b of second-order differences on a grid with `resolution` times the intervals of the asked one.

    The cases move to that grid (made anew from their seeds where the generator can), the problem assembles its
    system, `solve_system` solves it in float64, and the answer is resampled to the asked grid by the output
    channel's rule. Solutions known up to a constant get zero mean. Where the matrix depends on the grid alone
    (`Problem.constant_coefficient`), it is made once, with all that the method prepares from it, and kept: `prepare`
    is that set-up. Cases with NaN or infinite inputs get the status NONFINITE and do not touch the others.
    `batch`: cases assembled at a time (memory; a time budget is checked between batches, what is left gets the
    status BUDGET). `ladder()`: resolutions ¼, ½, 1, 2 for work–precision curves. Error O(h²) for smooth
    coefficients. Refuses problems without a linear system or with several unknown fields.
    """

    needs = frozenset({View.SYSTEM})

    def __init__(self, resolution: float, tol: float, maxiter: int, batch: int) -> None:
        if not resolution > 0:
            raise UsageError(f"resolution must be positive; got {resolution}.")
        self.resolution, self.tol, self.maxiter, self.batch = resolution, tol, maxiter, batch
        self._kept: tuple[Any, dict[int, Any]] = (None, {})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": (None, {})}  # work arrays do not travel to other processes

    @property
    def method(self) -> str:
        """Name without the resolution."""
        return type(self).__name__

    @property
    def name(self) -> str:
        return self.method if self.resolution == 1 else f"{self.method} ×{self.resolution:g}"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is None and len(problem.outputs) > 1 and not problem.stacked:
            names = ", ".join(channel.name for channel in problem.outputs)
            return f"solves for one unknown field; {type(problem).__name__} has {names}; use a learned solver"
        return reason

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        """`out` with `resolution` times its intervals."""
        sizes = [
            round((n - 1) * self.resolution) + 1 if kind == "node" else round(n * self.resolution)
            for n, kind in zip(out.shape, out.layout, strict=True)
        ]
        return out.resized([max(size, min(n, COARSEST)) for size, n in zip(sizes, out.shape, strict=True)])

    def ladder(self) -> Sequence[Solver]:
        rungs = []
        for resolution in LADDER:
            rung = copy.copy(self)
            rung._kept = (None, {})
            rung.resolution = resolution
            rungs.append(self if resolution == self.resolution else rung)
        return rungs

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        budget = budget or Budget()
        sound = _finite_inputs(cases)
        if not bool(sound.all()):
            return self._solve_sound(cases, sound, out, budget)
        begun = time.perf_counter()
        parts: list[Tensor] = []
        status: list[Status] = []
        answers: list[LinearSolution] = []
        for first in range(0, len(cases), self.batch):
            part = cases[first : first + self.batch]
            if budget.seconds is not None and time.perf_counter() - begun > budget.seconds:
                shape = (len(part), len(cases.problem.outputs), *out.shape)
                parts.append(torch.zeros(shape, dtype=cases.dtype, device=cases.device))
                status += [Status.BUDGET] * len(part)
                continue
            u, answer = self._solve_part(part, out, budget)
            parts.append(u.to(cases.dtype))
            status += answer.status
            answers.append(answer)
        values = (
            torch.cat(parts) if parts else torch.zeros((0, len(cases.problem.outputs), *out.shape), dtype=cases.dtype)
        )
        stats: dict[str, Any] = {}
        if answers:
            stats["iterations"] = torch.cat([answer.iterations for answer in answers])
            stats["residual"] = torch.cat([answer.residual for answer in answers])
            stats["applications"] = sum(answer.applications for answer in answers)
            # matrix_setup_seconds: what depends on the matrix alone, paid anew with every new matrix.
            common = [key for key in answers[0].stats if all(key in answer.stats for answer in answers)]
            stats |= {key: _joined([answer.stats[key] for answer in answers]) for key in common}
        field = Field.steady(values, out, [channel.name for channel in cases.problem.outputs])
        return checked(Solution(field, status, stats))

    def _solve_sound(self, cases: Cases, sound: Tensor, out: Grid, budget: Budget) -> Solution:
        """Solve the cases with finite inputs; the others get NaN and the status NONFINITE."""
        rows = torch.nonzero(sound)[:, 0]
        part = self.solve(cases[rows], out, budget)
        values = part.field.values.new_full((len(cases), *part.field.values.shape[1:]), torch.nan)
        values[rows.to(values.device)] = part.field.values
        status = [Status.NONFINITE] * len(cases)
        for row, found in zip(rows.tolist(), part.status, strict=True):
            status[row] = found
        field = Field(values, out, part.field.channels, part.field.times)
        return Solution(field, status, part.stats)

    def prepare(self, cases: Cases, out: Grid) -> None:
        """The matrix and its set-up, where they depend on the grid alone."""
        if cases.problem.constant_coefficient is not None:
            self._state(self._at_work(cases, out))

    def right_hand_side(self, cases: Cases) -> Tensor:
        """b of the system that is solved."""
        return cases.problem.right_hand_side(cases)

    @abstractmethod
    def set_up(self, A: LinearOperator, cases: Cases) -> Any:
        """Everything that depends on the matrix of these cases alone."""

    def solve_cases(self, state: Any, cases: Cases, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        """`solve_system` for methods that look at the cases as well, for a start or a preconditioner."""
        return self.solve_system(state, b, tol, maxiter)

    @abstractmethod
    def solve_system(self, state: Any, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        """Solve to ‖b − A u‖ ≤ tol·‖b‖ with what `set_up` returned."""

    def _at_work(self, cases: Cases, out: Grid) -> Cases:
        return cases.to(dtype=torch.float64).on(self.input_grid(cases.domain, out))

    def _state(self, work: Cases) -> tuple[bool, Any]:
        """(is the solution known up to a constant only, what `set_up` returned)."""
        if work.problem.constant_coefficient is None:
            return self._fresh(work)
        owner, states = self._kept
        if owner != (work.problem, work.domain, work.device):
            states = {}
            self._kept = ((work.problem, work.domain, work.device), states)
        if len(work) not in states:
            states[len(work)] = self._fresh(work)
        return states[len(work)]

    def _fresh(self, work: Cases) -> tuple[bool, Any]:
        A = work.problem.matrix(work)
        return A.nullspace == "constant", self.set_up(A, work)

    def _solve_part(self, part: Cases, out: Grid, budget: Budget) -> tuple[Tensor, LinearSolution]:
        work = self._at_work(part, out)
        problem = part.problem
        tol = self.tol if budget.tol is None else budget.tol
        maxiter = self.maxiter if budget.maxiter is None else budget.maxiter
        begun = time.perf_counter()
        singular, state = self._state(work)
        set_up = time.perf_counter() - begun
        answer = self.solve_cases(state, work, self.right_hand_side(work), tol, maxiter)
        answer.stats["matrix_setup_seconds"] = set_up
        u = problem.embed(work, answer.x)
        u = u if problem.stacked else u[:, None]
        u = resample(u, work.domain, out, problem.outputs[0].interpolation, problem.boundary)
        if singular:
            u = zero_mean(u.flatten(0, 1), out).reshape(u.shape)
        return u, answer


def _joined(parts: list[Any]) -> Any:
    """One fact of all batches: per-case tensors and lists are concatenated, numbers added."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], list):
        return [entry for part in parts for entry in part]
    return sum(parts) if isinstance(parts[0], (int, float)) else parts[0]


def _finite_inputs(cases: Cases) -> Tensor:
    """(n,) bool on the CPU: are all inputs and boundary data of the case finite?"""
    tensors = [cases.inputs.values, *cases.boundary.values()]
    return torch.stack([torch.isfinite(t).reshape(len(t), -1).all(1).cpu() for t in tensors]).all(0)


class Discrete(GridSolver):
    """Any LinearSolver as a solver of problems; `linear` may be given as {class_path, init_args}."""

    def __init__(
        self,
        linear: LinearSolver | dict[str, Any],
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
    ) -> None:
        super().__init__(resolution, tol, maxiter, batch)
        if isinstance(linear, dict):
            built: LinearSolver = build(linear, LinearSolver)  # type: ignore[type-abstract]
            linear = built
        self.linear = linear

    @property
    def method(self) -> str:
        return type(self.linear).__name__ if type(self) is Discrete else type(self).__name__

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is None and not problem.definite and "positive" in getattr(self.linear, "requires", ()):
            return (
                f"needs a positive definite system; that of {type(problem).__name__} is indefinite; use GMRES, "
                "SparseDirect or FiniteElements"
            )
        return reason

    def set_up(self, A: LinearOperator, cases: Cases) -> Any:
        return self.linear.setup(A)

    def solve_system(self, state: Any, b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        return self.linear.solve(state, b, tol=tol, maxiter=maxiter)
