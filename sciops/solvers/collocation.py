"""Per-instance solvers: one case at a time, from its equation at points and its boundary data; nothing is trained."""

import time
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import face_axis
from sciops.core.calculus import Order, State
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import ADVICE, Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, Solution, Solver, View, checked

Function = Callable[[Tensor], Tensor]
"""Points (N, d) ↦ values (N,), of several unknowns (N, c)."""


@dataclass(frozen=True)
class Rows:
    """Σ_α terms[α](x_i) ∂^α u(x_i) = rhs_i at N points."""

    terms: dict[Order, Float[Tensor, " N"]]
    rhs: Float[Tensor, " N"]

    def apply(self, state: State) -> Float[Tensor, " N"]:
        """Left minus right side for given derivatives at the points."""
        total = -self.rhs
        for order, coefficient in self.terms.items():
            total = total + coefficient * state(order)
        return total


@dataclass(frozen=True)
class Face:
    """One side of the box with its condition: u = g ("dirichlet") or ∂u/∂n = g outward ("neumann")."""

    name: str
    axis: int
    side: int
    kind: str


class Equation:
    """One case as an equation at points, in float64: rows of L u = f, rows of the boundary, the residual.

    A `State` gives values of ∂^α u at the points that the call is about, shape (N,). Nonlinear equations are
    linearised there (`Problem.tangent`).
    """

    def __init__(self, case: Cases) -> None:
        self.case = case.to(dtype=torch.float64)
        self.problem: Problem = case.problem
        self.ndim, self.linear = case.problem.ndim, case.problem.linear
        domain = case.domain
        self.lower = torch.tensor(domain.lower, dtype=torch.float64, device=case.device)
        self.upper = torch.tensor(domain.upper, dtype=torch.float64, device=case.device)
        self.faces = [Face(*entry) for entry in case.problem.boundary.faces() if entry[3] != "free"]

    @property
    def lengths(self) -> Float[Tensor, " d"]:
        return self.upper - self.lower

    def rows(self, x: Float[Tensor, "N d"], state: State | None = None) -> Rows:
        """The equation at points; for a nonlinear one its tangent at `state`.

        Raises UsageError where it is nonlinear and no state is given, or not linearisable.
        """
        if state is None:
            if not self.linear:
                raise UsageError(f"{type(self.problem).__name__} is nonlinear: rows need the state to linearise at.")
            tangent = self.problem.symbol(self.case, x[None])
        else:
            tangent = self.problem.tangent(self.case, x[None], lambda order: state(order)[None])
        flat = {order: _flat(c, x) for order, c in tangent.terms.items()}
        return Rows(flat, -_flat(tangent.constant, x))

    def residual(self, x: Float[Tensor, "N d"], state: State) -> Float[Tensor, " N"]:
        """R(u) at points from the derivatives of u there."""
        return self.rows(x, state).apply(state)

    def boundary_rows(self, face: Face, x: Float[Tensor, "N d"]) -> Rows:
        """u = g or ∂u/∂n = g at points of a face."""
        one = torch.ones_like(x[:, 0])
        order = tuple(int(face.kind == "neumann" and j == face.axis) for j in range(self.ndim))
        sign = -1.0 if face.kind == "neumann" and face.side == 0 else 1.0
        return Rows({order: sign * one}, self.problem.boundary_at(self.case, face.name, x[None])[0])

    # ---- points

    def interior_points(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Uniform random points of the box."""
        u = torch.rand((n, self.ndim), generator=random, dtype=torch.float64).to(self.lower.device)
        return self.lower + u * self.lengths

    def face_points(self, face: Face, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Uniform random points of a face; one point where the face is a point."""
        x = self.interior_points(n if self.ndim > 1 else 1, random)
        x[:, face.axis] = (self.lower, self.upper)[face.side][face.axis]
        return x


def relative_residual(equation: Equation, x: Float[Tensor, "N d"], state: State) -> float:
    """‖R(u)‖₂/‖f‖₂ at points: how well u satisfies the equation there, the same measure for every solver.

    f = −R(0) is the part of the equation without u. Where it vanishes, or is rounding beside the terms of the
    equation, their size ‖Σ_α |c_α ∂^α u|‖₂ takes its place, or ‖Σ_α |c_α u|/L^α‖₂ where these are rounding themselves.
    """
    rows = equation.rows(x, state)
    terms = torch.stack([(c * state(order)).abs() for order, c in rows.terms.items()]).sum(0).norm()
    forcing = rows.rhs if equation.linear else equation.rows(x, lambda order: torch.zeros_like(rows.rhs)).rhs
    scale = forcing.norm()
    if not bool(torch.isfinite(scale)) or scale <= 1e-10 * terms:
        size = state((0,) * equation.ndim).abs()
        slow = [c.abs() * size / torch.prod(equation.lengths ** torch.tensor(order)) for order, c in rows.terms.items()]
        natural = torch.stack(slow).sum(0).norm()
        scale = terms if terms > 1e-8 * natural else natural
    return float(rows.apply(state).norm() / scale.clamp(min=torch.finfo(x.dtype).tiny))


@dataclass
class Answer:
    """What a per-instance solver found for one case.

    u, std           functions of points (N, d) → (N,), of several unknowns (N, c): the solution and, where known, its
                     standard deviation
    residual         ‖R(u)‖/‖f‖-like relative residual at points that were not used for the fit
    error_estimate   of the relative L² error of u, where the method makes one
    advice           what to do where the status is not OK
    points           collocation points used, boundary included
    trace            (seconds since the start, u) while it ran: the anytime curve
    """

    u: Function
    status: Status = Status.OK
    std: Function | None = None
    residual: float = float("nan")
    error_estimate: float | None = None
    advice: str = ""
    iterations: int = 0
    points: int = 0
    trace: list[tuple[float, Function]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)


class CollocationSolver(Solver):
    """Solves each case alone from its residual and boundary data. A subclass writes `solve_case`.

    Works in float64 whatever the cases are; float32 cases are promoted with a warning, because their rounding bounds
    what can be reached. Cases with values that are not finite end as NONFINITE, cases for which no time is left as
    BUDGET; both get NaN or zero fields and do not touch the others. Refuses periodic axes and several unknown fields
    unless the class says that it takes them (`periodic`, `several`).
    Facts in `Solution.stats`, one per case: residual, iterations, points, advice, error_estimate (NaN where the method
    makes none), facts; `trace` and `trace_seconds` of the first case hold its anytime curve.
    """

    needs = frozenset({View.RESIDUAL, View.BOUNDARY})
    kind = "per-instance"
    double = True
    periodic = False
    several = False
    chunk = 4096
    """Points at which an answer is evaluated at a time."""

    @abstractmethod
    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        """The solution of one case; `budget.seconds` is what is left."""

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is None and len(problem.outputs) > 1 and not self.several:
            return f"solves for one unknown field; {type(problem).__name__} has {len(problem.outputs)}"
        if reason is None and "periodic" in grid.layout and not self.periodic:
            return "has no basis for periodic axes; use FastPoisson or a Dirichlet or Neumann condition"
        if reason is None and problem.boundary.uniform == "neumann" and problem.linear:
            return "needs a Dirichlet face: with Neumann data alone the solution is known up to a constant only"
        return reason

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        budget, begun = budget or Budget(), time.perf_counter()
        _require_boundary(cases)
        if cases.dtype != torch.float64:
            warnings.warn(
                f"{self.name}: the cases are {str(cases.dtype).removeprefix('torch.')} and are promoted to float64; "
                "what their rounding lost stays lost, so give float64 cases where accuracy below 1e-6 matters.",
                stacklevel=2,
            )
        x = out.points(torch.float64, cases.device)
        answers = [self._attempt(cases[i], budget, begun) for i in range(len(cases))]
        count = len(cases.problem.outputs)
        values = x.new_zeros(0, len(x), count)
        if answers:
            values = torch.stack([self._evaluate(answer.u, x, count) for answer in answers])
        facts = ("residual", "iterations", "points")
        stats: dict[str, Any] = {key: torch.tensor([float(getattr(a, key)) for a in answers]) for key in facts}
        stats["error_estimate"] = torch.tensor(
            [float("nan") if a.error_estimate is None else a.error_estimate for a in answers], dtype=torch.float64
        )
        stats["advice"] = [a.advice or ADVICE[a.status] for a in answers]
        stats["facts"] = [a.stats for a in answers]
        names = [channel.name for channel in cases.problem.outputs]

        def on_grid(flat: Tensor) -> Field:
            return Field.steady(flat.transpose(1, 2).reshape(len(flat), count, *out.shape).to(cases.dtype), out, names)

        solution = Solution(on_grid(values), [a.status for a in answers], stats)
        if answers and all(a.std is not None for a in answers):
            bands = torch.stack([self._evaluate(a.std, x, count) for a in answers if a.std is not None])
            solution.std = on_grid(bands)
        if answers and answers[0].trace:
            stats["trace_seconds"] = [seconds for seconds, _ in answers[0].trace]
            solution.trace = [on_grid(self._evaluate(u, x, count)[None]) for _, u in answers[0].trace]
        return checked(solution)

    def _attempt(self, case: Cases, budget: Budget, begun: float) -> Answer:
        """`solve_case`, with failures turned into a status."""
        left = None if budget.seconds is None else budget.seconds - (time.perf_counter() - begun)
        if not _finite(case):
            return Answer(lambda p: torch.full_like(p[:, 0], torch.nan), Status.NONFINITE)
        if left is not None and left <= 0:
            return Answer(lambda p: torch.zeros_like(p[:, 0]), Status.BUDGET)
        started = time.perf_counter()
        try:
            answer = self.solve_case(Equation(case), Budget(left, budget.tol, budget.maxiter))
        except torch.linalg.LinAlgError as error:
            reason = f"The linear algebra failed: {' '.join(str(error).split())}"
            answer = Answer(lambda p: torch.full_like(p[:, 0], torch.nan), Status.FAILED, advice=reason)
        answer.stats["seconds"] = time.perf_counter() - started
        return answer

    def _evaluate(self, function: Function, x: Float[Tensor, "N d"], count: int = 1) -> Float[Tensor, "N c"]:
        values = torch.cat([function(part).detach() for part in x.split(self.chunk)])
        return values if values.dim() == 2 else values[:, None].expand(-1, count)


def _flat(c: Tensor | float, x: Tensor) -> Float[Tensor, " N"]:
    """A coefficient as one number per point."""
    value = torch.as_tensor(c, dtype=x.dtype, device=x.device).detach()
    return value.reshape(-1).expand(len(x)) if value.numel() == 1 else value.reshape(len(x))


def _finite(case: Cases) -> bool:
    tensors = [case.inputs.values, *case.boundary.values(), *case.params.values()]
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _require_boundary(cases: Cases) -> None:
    """Raise UsageError, naming the face, where boundary data do not have the shape of their face."""
    for name, data in cases.boundary.items():
        axis, _ = face_axis(name)
        expected = (len(cases), *(n for j, n in enumerate(cases.domain.shape) if j != axis))
        if tuple(data.shape) != expected:
            raise UsageError(
                f"boundary['{name}'] must have shape {expected}, one value per point of the face for each case; got "
                f"{tuple(data.shape)}."
            )
