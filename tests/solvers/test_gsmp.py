"""GSMP: published and other problems to near rounding from few points; honest where it cannot."""

import math
from dataclasses import dataclass, replace
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
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.homogenisation import Homogenisation
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Answer, Equation
from sciops.solvers.gsmp import GSMP
from sciops.solvers.gsmp_lines import Signal, find_lines
from sciops.solvers.gsmp_search import Search

ROUND = 2 * math.pi


def equation(problem: Problem, length: float = 1.0) -> Equation:
    return Equation(problem.sample([0], Grid.box(33, 0.0, length, ndim=problem.ndim)))


def error(given: Equation, answer: Answer) -> float:
    x = given.interior_points(3000, torch.Generator().manual_seed(77))
    exact = given.problem.exact(given.case, x[None])
    assert exact is not None
    return float((answer.u(x) - exact[0, 0]).norm() / exact.norm())


PUBLISHED = {  # problem, box, most points: one per wavelength, at least 100; 5 000 in 2-D
    "single": (Poisson(ndim=1, exact_solution="sin(100*x)"), ROUND, 100),
    "sincos": (Poisson(ndim=1, exact_solution="sin(6*x)*cos(100*x)"), ROUND, 106),
    "mix": (Poisson(ndim=1, exact_solution="sin(x) + 0.1*sin(20*x) + 0.05*cos(100*x)"), 1.0, 100),
    "xsin": (Poisson(ndim=1, exact_solution="x*sin(200*x)"), ROUND, 200),
    "x2": (Poisson(ndim=1, exact_solution="sin(500*x) - 2*(x-0.5)**2"), 1.0, 100),
    "allen-cahn": (AllenCahn(exact_solution="sin(6*x)*cos(100*x)"), ROUND, 106),
    "sinsin": (Poisson(ndim=2, exact_solution="sin(100*x)*sin(100*y)"), ROUND, 5000),
    "add": (Poisson(ndim=2, exact_solution="sin(6*x)*cos(20*x) + sin(6*y)*cos(20*y)"), ROUND, 5000),
    "advection": (Advection(), 1.0, 5000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_problems_from_few_points_with_one_configuration(name: str) -> None:
    problem, length, most = PUBLISHED[name]
    given = equation(problem, length)
    answer = GSMP(fallback=None).solve_case(given, Budget())
    found = error(given, answer)
    assert answer.status is Status.OK and answer.points <= most
    assert found < 1e-9
    assert answer.error_estimate is not None and 0.1 < answer.error_estimate / found < 10


def test_three_dimensions_without_a_grid() -> None:
    """At four points per wave a grid would have 6e7 points."""
    given = equation(Poisson(ndim=3, exact_solution="sin(100*x)*sin(100*y)*sin(100*z)"), ROUND)
    answer = GSMP(fallback=None).solve_case(given, Budget())
    assert answer.status is Status.OK and answer.points < 20_000 and error(given, answer) < 1e-8


def test_the_ceiling_finds_itself() -> None:
    found = []
    for cycles in (5.0, 100.0, 1500.0):
        given = equation(Poisson(ndim=1, exact_solution=f"sin({cycles * 2 * math.pi}*x + 0.3)"))
        answer = GSMP(fallback=None).solve_case(given, Budget())
        assert answer.status is Status.OK and error(given, answer) < 1e-9
        assert min(abs(nu - cycles) for nu in answer.stats["lines"][0]) < 0.4
        found.append(answer.stats["ceiling"])
    assert found == [32.0, 128.0, 2048.0]


def test_a_resonance_of_which_the_forcing_shows_nothing_is_found_in_what_is_left() -> None:
    given = equation(Helmholtz())
    answer = GSMP(fallback=None).solve_case(given, Budget())
    assert answer.status is Status.OK and answer.stats["rounds"] > 1 and error(given, answer) < 1e-10
    assert min(abs(nu - 150 / ROUND) for nu in answer.stats["lines"][0]) < 1e-3
    assert len(answer.trace) == answer.stats["rounds"]
    assert error(given, Answer(answer.trace[0][1])) > 0.1 > 1e-9 > error(given, Answer(answer.trace[-1][1]))


def test_a_coefficient_that_oscillates() -> None:
    given = equation(Homogenisation())
    answer = GSMP(fallback=None).solve_case(given, Budget())
    assert answer.status is Status.OK and error(given, answer) < 1e-9


def test_translation_and_scaling_of_the_box_leave_the_answer() -> None:
    problem = Poisson(ndim=1, exact_solution="sin(100*(x-5)/3) + (x-5)/3")
    grid = Grid.box(33, 5.0, 5.0 + 3 * ROUND)
    moved = GSMP(fallback=None).solve_case(Equation(problem.sample([0], grid)), Budget())
    here = GSMP(fallback=None).solve_case(equation(Poisson(ndim=1, exact_solution="sin(100*x) + x"), ROUND), Budget())
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    assert torch.allclose(moved.u(5 + 3 * ROUND * x), here.u(ROUND * x), atol=1e-9)


def test_neumann_data() -> None:
    @dataclass(frozen=True)
    class Mixed(Poisson):
        """−u'' = f, u given at the lower, u' at the upper end."""

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "boundary", Boundary((("dirichlet", "neumann"),)))

    given = equation(Mixed(ndim=1, exact_solution="sin(300*x) + x**2"))
    assert [face.kind for face in given.faces] == ["dirichlet", "neumann"]
    answer = GSMP(fallback=None).solve_case(given, Budget())
    assert answer.status is Status.OK and error(given, answer) < 1e-9


def test_what_is_not_lines_is_not_resolved_and_says_so() -> None:
    given = equation(Poisson(ndim=1, exact_solution="abs(x-0.3)**3"))
    answer = GSMP(fallback=None).solve_case(given, Budget())
    assert answer.status is Status.UNRESOLVED
    assert f"{answer.residual:.0e}" in answer.advice and answer.advice.endswith("points.")
    assert answer.residual > 1e-6


def test_the_fallback_answers_and_is_named() -> None:
    given = equation(Poisson(ndim=1, exact_solution="sin(150*x**2)"))
    answer = GSMP().solve_case(given, Budget())
    assert answer.status is Status.OK and error(given, answer) < 1e-9
    assert answer.stats["fallback"] == "chebyshev" and answer.stats["residual_before"] > 1e-6
    seconds = [when for when, _ in answer.trace]
    assert seconds == sorted(seconds)


def test_too_few_points_for_the_lines() -> None:
    given = equation(Poisson(ndim=1, exact_solution="sin(300*x) + sin(700*x) + sin(1100*x) + sin(1500*x)"))
    answer = GSMP(points=14).solve_case(given, Budget())  # a number of points rules the fallback out
    assert answer.status is Status.UNRESOLVED and answer.points <= 14 + answer.stats["check_points"] * 4
    assert "points" in answer.advice


def test_the_band_holds_the_truth_about_as_often_as_it_says() -> None:
    """Rounding of f is the noise; with 10 random cases the mean coverage of 95 % bands must lie well inside."""
    inside, cases = 0.0, 10
    for seed in range(cases):
        draw = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        formula = f"sin({50 + 400 * float(draw[0])}*x + {float(draw[1])}) + {float(draw[2])}*x**3"
        given = equation(Poisson(ndim=1, exact_solution=formula))
        answer = GSMP(fallback=None, seed=seed).solve_case(given, Budget())
        x = given.interior_points(300, torch.Generator().manual_seed(1))
        exact = given.problem.exact(given.case, x[None])
        assert exact is not None and answer.std is not None
        std = answer.std(x)
        assert bool((std >= 0).all())
        inside += float(((answer.u(x) - exact[0, 0]).abs() <= 1.96 * std).double().mean()) / cases
    assert 0.8 < inside <= 1.0


def test_newton_stopped_early_is_not_called_ok() -> None:
    problem = AllenCahn(exact_solution="1.5*sin(100*x)")
    given = equation(problem)
    full, short = (GSMP(fallback=None).solve_case(given, Budget(maxiter=n)) for n in (None, 1))
    assert full.status is Status.OK and error(given, full) < 1e-9
    assert short.status is not Status.OK or error(given, short) < 1e-5


def test_equal_seeds_give_equal_answers_and_others_agree() -> None:
    given = equation(Poisson(ndim=1, exact_solution="sin(100*x) + exp(-x)"))
    first, again, other = (GSMP(seed=s).solve_case(given, Budget()) for s in (0, 0, 1))
    x = given.interior_points(100, torch.Generator())
    assert torch.equal(first.u(x), again.u(x))
    assert not torch.equal(first.u(x), other.u(x)) and torch.allclose(first.u(x), other.u(x), atol=1e-9)


def test_an_equation_without_data_has_the_answer_zero() -> None:
    answer = GSMP().solve_case(equation(Poisson(ndim=1, exact_solution="0*x")), Budget())
    assert answer.status is Status.OK and float(answer.u(torch.rand(9, 1, dtype=torch.float64)).abs().max()) == 0.0


def test_random_fields_are_answered_or_refused_in_seconds() -> None:
    cases = Poisson().sample([4], Grid.box(33, ndim=2))
    solution = GSMP().solve(cases, cases.domain)
    truth = cases.problem.reference(cases).field.values
    if solution.ok:
        assert float((solution.field.values - truth).norm() / truth.norm()) < 1e-3
    else:
        assert solution.status == [Status.UNRESOLVED] and solution.stats["advice"][0]


def test_spoilt_cases_and_options() -> None:
    cases = Poisson(ndim=1).sample([1, 2], Grid.box(33))
    spoilt = cases.inputs.values.clone()
    spoilt[0, 0, 0, 3] = torch.nan
    solution = GSMP().solve(replace(cases, inputs=replace(cases.inputs, values=spoilt)), cases.domain)
    assert solution.status[0] is Status.NONFINITE and solution.status[1] is not Status.NONFINITE
    with pytest.warns(UserWarning, match="promoted to float64"):
        GSMP().solve(cases[[1]].to(dtype=torch.float32), cases.domain)
    for options in ({"points": 3}, {"fallback": "magic"}, {"rounds": 0}, {"tol": 0.0}):
        with pytest.raises(UsageError, match="GSMP"):
            GSMP(**options)


def test_a_residual_that_cannot_be_linearised_is_refused_in_a_sentence() -> None:
    @dataclass(frozen=True)
    class Detached(AllenCahn):
        """A residual that hides u from differentiation."""

        def residual(self, d: Any, u: Any, c: Any) -> Any:
            value = u if isinstance(u, torch.Tensor) else d.u
            return value.detach() ** 2 - c.f

    with pytest.raises(UsageError, match="cannot be linearised"):
        GSMP().solve_case(equation(Detached()), Budget())


def test_lines_are_found_with_their_envelopes_and_polished_off_the_grid() -> None:
    x = torch.rand(90, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.sin(2 * math.pi * 61.27 * x) + (1 + x) * torch.cos(2 * math.pi * 12.6 * x) + 1e-3 * torch.sin(190 * x)
    found = find_lines(Signal(0.0, 1.0, x, y[:, None], {0: torch.ones_like(x)}))
    for line in (61.27, 12.6, 190 / ROUND):
        assert min(abs(line - nu) for nu in found.cycles) < 1e-2
    assert found.remainder < 1e-8 and found.ceiling == 64.0


def test_the_search_counts_what_it_takes() -> None:
    given = equation(Poisson(ndim=2, exact_solution="sin(40*x)*cos(30*y)"))
    asked: list[int] = []
    rows = given.rows

    def counted(x: torch.Tensor, state: Any = None) -> Any:
        asked.append(len(x))
        return rows(x, state)

    given.rows = counted  # type: ignore[method-assign]
    search = Search(given, None, 0)
    search.round(lambda: False)
    held_out = sum(n for n in asked if n == len(search.check))
    assert search.points is not None
    assert sum(asked) - held_out <= search.fits * search.points.count + search.sought
