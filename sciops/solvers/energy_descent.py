"""Classical minimisation of a problem's energy in a spectral basis."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Autodiff
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import ADVICE, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, View
from sciops.numerics.energy_spaces import EnergySpace, LegendreSpace, SineSpace
from sciops.numerics.preconditioned_energy import Descent, EnergyFunctional, h1_descent, newton
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function, relative_residual
from sciops.solvers.energy_lift import fields_of, lift_of, refusal

MODES = {1: 256, 2: 64, 3: 20}
"""Default largest number of modes per axis."""

FIRST = 8


class EnergyDescent(CollocationSolver):
    """min ∫ L(x, u, ∇u) over u = g + Σ c_k φ_k, φ_k zero on the faces, by (−Δ)⁻¹-preconditioned steps.

    Modes double from 8 per axis, each level starting at the answer of the last, until the answer changes by less than
    `tol` or `modes` is reached. "newton" (default): Newton's method, inner conjugate gradients preconditioned with
    (−Δ)⁻¹. "gradient": u ← u − (1/M)(−Δ)⁻¹ DE(u) with M from the curvature at the iterate; linear, but
    mesh-independent.

    basis       legendre: spectral for any smooth data | sine: by fast transforms, spectral for odd continuations only
    modes       largest number per axis (256, 64, 20 in 1, 2, 3 dimensions)
    tol         of the change between the last two levels, relative L²; that change is the error estimate, a cautious
                one, since it is the error of the level before
    Works on CPU. Cost O(modes^{d+1}) per inner iteration (legendre), O(N log N) (sine). Two or three decimal digits
    only where the solution has a singular point (p-Laplace with ε → 0). UNRESOLVED where the last level still changed
    it.
    """

    needs = frozenset({View.ENERGY, View.BOUNDARY})
    kind = "classical"

    def __init__(
        self,
        basis: str = "legendre",
        method: str = "newton",
        modes: int | None = None,
        tol: float = 1e-6,
        maxiter: int = 60,
    ) -> None:
        if basis not in ("legendre", "sine") or method not in ("newton", "gradient"):
            raise UsageError(
                f"EnergyDescent takes basis legendre or sine and method newton or gradient; got {basis}, {method}."
            )
        if modes is not None and modes < 2:
            raise UsageError(f"EnergyDescent modes must be 2 or more per axis; got {modes}.")
        if not tol > 0:
            raise UsageError(f"EnergyDescent tol must be positive; got {tol}.")
        self.basis, self.method, self.modes, self.tol, self.maxiter = basis, method, modes, tol, maxiter

    @property
    def name(self) -> str:
        parts = [self.basis] * (self.basis != "legendre") + [self.method] * (self.method != "newton")
        return " ".join([type(self).__name__, *parts, *([f"n={self.modes}"] if self.modes else [])])

    def ladder(self) -> Sequence["EnergyDescent"]:
        rungs = [EnergyDescent(self.basis, self.method, n, self.tol, self.maxiter) for n in (8, 12, 16, 24, 32)]
        return (*(rung for rung in rungs if rung.modes != self.modes), self)

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid) or refusal(problem, grid)
        if reason is None and grid.ndim > 3:
            return f"works on tensor-product bases in up to 3 dimensions; got {grid.ndim}: use DeepRitz"
        return reason

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        begun, equation = time.perf_counter(), Equation(equation.case.to(device="cpu"))
        deadline = math.inf if budget.seconds is None else begun + budget.seconds
        lift = lift_of(equation)
        lower, upper = equation.lower.tolist(), equation.upper.tolist()
        check = equation.interior_points(1000, torch.Generator().manual_seed(1))
        last, tol = self.modes or MODES[equation.ndim], budget.tol or self.tol
        trace: list[tuple[float, Function]] = []
        answer: _Series | None = None
        change, iterations, inner, status, found = math.inf, 0, 0, "ok", None
        n = min(FIRST, last)
        while True:
            space: EnergySpace = (
                LegendreSpace(lower, upper, n) if self.basis == "legendre" else SineSpace(lower, upper, n)
            )
            fields = None if lift is None else fields_of(lift, space.points)
            functional = EnergyFunctional(equation.case, space, fields)
            start = torch.zeros(space.shape, dtype=torch.float64)
            if answer is not None:
                corner = tuple(slice(0, k) for k in answer.c.shape)
                start[corner] = answer.c
            found = self._minimise(functional, start, tol, budget, deadline)
            iterations, inner, status = iterations + found.iterations, inner + found.inner, found.status
            fresh = _Series(space, found.c, lift)
            values = fresh(check)
            size = float(values.norm())
            if answer is not None:
                change = float((values - answer(check)).norm()) / size if size else 0.0
            answer = fresh
            trace.append((time.perf_counter() - begun, fresh))
            if status != "ok" or n >= last or change <= tol:
                break
            n = min(2 * n, last)
        return self._answer(equation, answer, found, change, iterations, inner, n, tol, trace)

    def _minimise(
        self, functional: EnergyFunctional, start: Tensor, tol: float, budget: Budget, deadline: float
    ) -> Descent:
        steps = budget.maxiter or self.maxiter
        if self.method == "newton":
            return newton(functional, start, min(1e-3 * tol, 1e-10), steps, deadline=deadline)
        found = Descent(start)
        total = 0
        while total < 20 * steps and time.perf_counter() < deadline:
            # M from the curvature where we are; doubled where the energy rises anyway.
            _, _, _, curvature = functional.hessian(found.c)
            top = float(torch.linalg.eigvalsh(curvature[1:, 1:].permute(2, 0, 1))[:, -1].max())
            reaction = float(curvature[0, 0].clamp(min=0).max())
            lower = functional.space.points.amin(0)
            lengths = functional.space.points.amax(0) - lower
            M = top + reaction / float((math.pi / lengths).square().sum())
            while True:
                part = h1_descent(functional, found.c, M, 10, 0.0)
                if part.status != "diverged" or M > 1e12:
                    break
                M *= 2
            first = (found.slopes or part.slopes)[0]
            found.c, found.energies, found.slopes = part.c, found.energies + part.energies, found.slopes + part.slopes
            found.iterations += part.iterations
            total += part.iterations or 1
            if part.slopes[-1] <= max(tol, 1e-12) * first:
                return found
        found.status = "max_iter" if time.perf_counter() < deadline else "budget"
        return found

    def _answer(
        self,
        equation: Equation,
        u: "_Series",
        found: Descent,
        change: float,
        iterations: int,
        inner: int,
        n: int,
        tol: float,
        trace: list[tuple[float, Function]],
    ) -> Answer:
        states = {"nonfinite": Status.NONFINITE, "budget": Status.BUDGET, "max_iter": Status.MAX_ITER}
        status = states.get(found.status, Status.OK)
        advice = ADVICE[status]
        if status is Status.OK and not change <= tol:
            status = Status.UNRESOLVED
            advice = f"The answer changed by {change:.1e} between the last two numbers of modes: raise modes."
        return Answer(
            u,
            status,
            residual=self._residual(equation, u),
            error_estimate=change if math.isfinite(change) else None,
            advice=advice,
            iterations=iterations,
            points=len(u.space.points),
            trace=trace,
            stats={"modes": n, "energy": found.energies[-1], "inner": inner, "ended": found.status},
        )

    @staticmethod
    def _residual(equation: Equation, u: "_Series") -> float:
        x = equation.interior_points(300, torch.Generator().manual_seed(2))
        d = Autodiff(x[None])
        values = u(d.x[0])[None]
        return relative_residual(equation, x, lambda order: d.partial(values, order)[0].detach())


@dataclass(frozen=True)
class _Series:
    """g + Σ c_k φ_k as a function of points."""

    space: EnergySpace
    c: Tensor
    lift: Function | None

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        points = x.to("cpu", torch.float64)
        u = self.space.evaluate(self.c, points)
        return (u if self.lift is None else u + self.lift(points)[:, 0]).to(x.device)
