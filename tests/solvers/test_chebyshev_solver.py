"""ChebyshevCollocation on problems with known answers: errors, estimates, statuses, anytime curves, budgets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.darcy import Darcy
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.manufactured import Manufactured
from sciops.problems.poisson import Poisson
from sciops.solvers.chebyshev import ChebyshevCollocation
from sciops.solvers.collocation import Answer, Equation, relative_residual

WAVES = 2 * math.pi


@dataclass(frozen=True)
class Tilted(Manufactured):
    """(2 + sin x) u_xx + u_yy + ½ u_xy + y u_x − 3u = f: variable coefficients, a mixed derivative."""

    exact_solution: str = "sin(5*x)*exp(y)"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ndim = 2

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        x, y = d.x[..., 0], d.x[..., 1]
        second = (2 + torch.sin(x)) * d.partial(u, (2, 0)) + d.partial(u, (0, 2)) + 0.5 * d.partial(u, (1, 1))
        return second + y * d.partial(u, (1, 0)) - 3.0 * u


@dataclass(frozen=True)
class Reaction(Manufactured):
    """−Δu + 10 u = f with conditions of any kind on the faces."""

    exact_solution: str = "sin(6*x + 1)*cos(4*y)"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ndim: int = 2
    kinds: tuple[tuple[str, str], ...] = (("dirichlet", "neumann"), ("neumann", "neumann"))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "boundary", Boundary(self.kinds))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return 10.0 * u - d.laplacian(u)


@dataclass(frozen=True)
class Burgers(Manufactured):
    """−u″/20 + u u′ = f: a nonlinear term with a derivative."""

    exact_solution: str = "-tanh(10*x - 5)"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ndim = 1
    linear = False

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return u * d.partial(u, (1,)) - 0.05 * d.laplacian(u)


def solved(
    problem: Problem, length: float = 1.0, seconds: float | None = None, **settings: Any
) -> tuple[Answer, float]:
    """The answer and its relative error at random points."""
    cases = problem.sample([0], Grid.box((9,) * problem.ndim, 0.0, length))
    answer = ChebyshevCollocation(**settings).solve_case(Equation(cases), Budget(seconds))
    random = torch.Generator().manual_seed(5)
    x = length * torch.rand(1000, problem.ndim, generator=random, dtype=torch.float64)
    exact = problem.exact(cases, x[None])
    assert exact is not None
    return answer, float((answer.u(x) - exact[0, 0]).norm() / exact.norm())


# Bounds are a few times the condition of the problem with respect to rounded points: ε·2π·ω for a wave sin ωx, times
# (ω/2)² where a smooth part of the rounded forcing is integrated twice.
CASES: dict[str, tuple[Problem, float, float]] = {
    "single": (Poisson(ndim=1, exact_solution="sin(100*x)"), WAVES, 5e-10),
    "times x": (Poisson(ndim=1, exact_solution="x*sin(200*x)"), WAVES, 2e-9),
    "hidden parabola": (Poisson(ndim=1, exact_solution="sin(500*x) - 2*(x - 0.5)**2"), 1.0, 1e-9),
    "chirp": (Poisson(ndim=1, exact_solution="sin(150*x**2)"), 1.0, 1e-11),
    "Helmholtz": (Helmholtz(), 1.0, 1e-12),
    "layers": (BoundaryLayer(), 1.0, 1e-13),
    "thin layers": (BoundaryLayer(eps=1e-8), 1.0, 1e-12),
    "two scales": (Homogenisation(), 1.0, 1e-11),
    "Neumann, 1-D": (Reaction(ndim=1, exact_solution="sin(6*x + 1)", kinds=(("neumann", "neumann"),)), 1.0, 1e-12),
    "Allen–Cahn": (AllenCahn(exact_solution="sin(100*x)"), WAVES, 5e-10),
    "Burgers": (Burgers(), 1.0, 1e-10),
    "added": (Poisson(exact_solution="sin(6*x)*cos(20*x) + sin(6*y)*cos(20*y)"), WAVES, 1e-11),
    "mixed conditions": (Reaction(), 1.0, 1e-12),
    "mixed derivative": (Tilted(), 1.0, 1e-12),
    "harmonic": (Poisson(exact_solution="sin(20*x)*exp(20*(y - 1))"), 1.0, 1e-12),
    "Helmholtz, 2-D": (Helmholtz(ndim=2, exact_solution="sin(20*x + 0.3)*cos(3*y)", wavenumber=15.0), 1.0, 1e-11),
    "Allen–Cahn, 2-D": (AllenCahn(ndim=2, exact_solution="(sin(x) + cos(30*x))*sin(20*y)"), 1.0, 1e-11),
    "advection": (Advection(beta=20.0), 1.0, 1e-12),
    "3-D": (Poisson(ndim=3, exact_solution="sin(8*x)*sin(7*y)*cos(6*z)"), 1.0, 1e-12),
    "3-D, nonlinear": (AllenCahn(ndim=3, exact_solution="sin(4*x)*sin(3*y)*cos(2*z)"), 1.0, 1e-12),
}


@pytest.mark.parametrize("name", CASES)
def test_reaches_rounding_and_says_how_far_it_is(name: str) -> None:
    problem, length, bound = CASES[name]
    answer, error = solved(problem, length)
    assert answer.status is Status.OK, answer.advice
    assert error < bound
    assert answer.error_estimate is not None and error < 10 * answer.error_estimate
    assert answer.error_estimate < 1e-8
    assert 0 < answer.residual < 1e-6
    assert answer.points > 0 and answer.iterations > 0 and answer.trace


def test_hundred_waves_per_axis_in_two_dimensions() -> None:
    answer, error = solved(Poisson(exact_solution="sin(100*x)*sin(100*y)"), WAVES)
    assert answer.status is Status.OK and error < 1e-11
    assert answer.points < 500**2  # π points per wave are 315², the rest resolves to rounding


def test_frequencies_1_20_and_100_in_two_dimensions_nonlinear() -> None:
    m = "(sin({0}) + 0.1*sin(20*{0}) + cos(100*{0}))"
    answer, error = solved(AllenCahn(ndim=2, exact_solution=m.format("x") + "*" + m.format("y")))
    assert answer.status is Status.OK and error < 1e-11


@pytest.mark.parametrize("points", [12, 24, 36])
def test_fixed_sizes_say_how_far_they_are(points: int) -> None:
    problems = [Poisson(ndim=1, exact_solution="sin(10*x)"), Poisson(exact_solution="sin(10*x)*cos(8*y)")]
    for problem in [*problems, AllenCahn(exact_solution="sin(10*x)")]:
        answer, error = solved(problem, points=points)
        assert answer.error_estimate is not None
        assert error < 30 * answer.error_estimate
        assert (answer.status is Status.OK) == (answer.error_estimate <= 1e-8)


def test_too_many_waves_are_unresolved_not_wrong() -> None:
    problems = [Poisson(ndim=1, exact_solution="sin(300*x)"), Poisson(exact_solution="sin(300*x)*y")]
    for problem in [*problems, AllenCahn(exact_solution="sin(300*x)"), Advection(beta=300.0)]:
        answer, error = solved(problem, max_points=40)
        assert error > 1e-2
        assert answer.status in (Status.UNRESOLVED, Status.MAX_ITER)
        assert "max_points" in answer.advice or answer.status is Status.MAX_ITER
        assert answer.error_estimate is not None and answer.error_estimate > 0.1 * min(error, 1.0)


def test_a_rough_coefficient_is_unresolved() -> None:
    cases = Darcy().sample([0], Grid.box(17, ndim=2))
    answer = ChebyshevCollocation(max_points=24).solve_case(Equation(cases), Budget())
    assert answer.status is not Status.OK and answer.advice
    assert answer.error_estimate is None  # inputs are interpolated


def test_the_trace_ends_in_the_answer_and_improves() -> None:
    problem = BoundaryLayer(eps=1e-6)
    cases = problem.sample([0], Grid.box(101))
    solution = ChebyshevCollocation().solve(cases, cases.domain)
    exact = problem.reference(cases).field.values
    assert solution.trace is not None and len(solution.trace) >= 3
    errors = [float((f.values - exact).norm() / exact.norm()) for f in solution.trace]
    assert torch.equal(solution.trace[-1].values, solution.field.values)
    assert errors[-1] < 1e-12 < 1e-4 < errors[0]
    seconds = solution.stats["trace_seconds"]
    assert seconds == sorted(seconds)


def test_a_budget_ends_the_growth_with_the_best_answer_so_far() -> None:
    answer, _ = solved(BoundaryLayer(eps=1e-10), seconds=1e-9)
    assert answer.status is Status.BUDGET and len(answer.trace) >= 1
    cases = AllenCahn(exact_solution="sin(9*x)").sample([0], Grid.box(9))
    answer = ChebyshevCollocation().solve_case(Equation(cases), Budget(maxiter=1))
    assert answer.status is Status.MAX_ITER


def test_the_shared_residual_measures_against_the_forcing_or_the_terms() -> None:
    cases = Poisson(ndim=1, exact_solution="sin(5*x)").sample([0], Grid.box(9))
    equation = Equation(cases)
    x = equation.interior_points(50, torch.Generator().manual_seed(0))
    values = torch.sin(5 * x[:, 0])

    def off(order: tuple[int, ...]) -> torch.Tensor:
        return values if order == (0,) else -25 * 1.1 * values

    assert relative_residual(equation, x, off) == pytest.approx(0.1)
    equation = Equation(Advection(beta=3.0).sample([0], Grid.box(9, ndim=2)))
    x = equation.interior_points(50, torch.Generator().manual_seed(0))
    slopes = {
        (0, 0): x[:, 0],
        (1, 0): torch.ones(50, dtype=torch.float64),
        (0, 1): -2.0 * torch.ones(50, dtype=torch.float64),
    }
    assert relative_residual(equation, x, slopes.__getitem__) == pytest.approx((3 - 2) / (3 + 2))


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    for settings in ({"points": 2}, {"max_points": 4}, {"tol": 0.0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            ChebyshevCollocation(**settings)
    assert len({rung.name for rung in ChebyshevCollocation().ladder()}) == len(ChebyshevCollocation().ladder())
