"""Finite elements of high degree with sparse factors: the classical bar for waves."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, Solution, Solver, checked
from sciops.numerics.finite_elements import high_degree
from sciops.problems.helmholtz_truth import fields, verdict

LADDER = (0.25, 0.5, 1.0, 2.0)


class FiniteElements(Solver):
    """A problem's weak form by elements of degree p on a mesh with about `resolution` times the asked grid's unknowns.

    The mesh has lines where the data jump; coefficients are evaluated at Gauss points from their closed form where the
    generator has one, else by interpolation; the answer is evaluated, not interpolated, at the points asked. Sparse
    LU, one case at a time, in float64.
    Error about (k h/2p)^{2p} in the phase: with six or more unknowns per wavelength degree 6 leaves bilinear elements
    behind by orders of magnitude at equal cost. stats: residual, resonance (distance of k² from an eigenvalue),
    advice.
    `ladder()`: resolutions ¼, ½, 1, 2. Refuses problems without a method `weak_form`. UNRESOLVED at a resonance.
    Reference: Ihlenburg, Babuška, SIAM J. Numer. Anal. 34 (1997), the h-p version for waves.
    """

    double = True

    def __init__(self, degree: int = 6, resolution: float = 1.0, tol: float = 1e-8) -> None:
        if not (degree >= 1 and resolution > 0):
            raise UsageError(f"FiniteElements needs degree ≥ 1 and resolution > 0; got {degree}, {resolution}.")
        self.degree, self.resolution, self.tol = degree, resolution, tol

    @property
    def name(self) -> str:
        own = f"FiniteElements degree {self.degree}"
        return own if self.resolution == 1 else f"{own} ×{self.resolution:g}"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is None and not hasattr(problem, "weak_form"):
            return f"needs a weak form; {type(problem).__name__} has none: use a solver of its linear system"
        return reason

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        return stored

    def ladder(self) -> Sequence[Solver]:
        return [self if r == self.resolution else FiniteElements(self.degree, r, self.tol) for r in LADDER]

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        budget, begun = budget or Budget(), time.perf_counter()
        tol = self.tol if budget.tol is None else budget.tol
        problem: Any = cases.problem
        elements = max(1, round((max(out.shape) - 1) * self.resolution / self.degree))
        outputs = len(problem.outputs)
        values = np.zeros((len(cases), outputs, *out.shape))
        status, advice = [Status.BUDGET] * len(cases), [""] * len(cases)
        facts = np.full((len(cases), 2), np.nan)
        for i in range(len(cases)):
            if budget.seconds is not None and time.perf_counter() - begun > budget.seconds:
                break
            case = cases[i : i + 1].to(dtype=torch.float64)
            if not bool(torch.isfinite(case.inputs.values).all()):
                values[i], status[i] = np.nan, Status.NONFINITE
                continue
            form = problem.weak_form(case)
            answer = high_degree(form.mesh_lines(elements), self.degree).solve(form)
            values[i] = fields(answer.on(out), outputs)
            facts[i] = answer.residual, answer.resonance
            status[i], advice[i] = verdict(answer.residual, answer.resonance, tol)
        field = Field.steady(
            torch.from_numpy(values).to(dtype=cases.dtype, device=cases.device), out, [c.name for c in problem.outputs]
        )
        residual, resonance = torch.from_numpy(facts).unbind(1)
        stats = {"residual": residual, "resonance": resonance, "advice": advice}
        return checked(Solution(field, status, stats))
