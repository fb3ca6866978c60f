"""RandomFeatures: closed-form derivatives, a true partition of unity, accuracy, honest statuses."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Answer, Equation
from sciops.solvers.random_features import Features, RandomFeatures


def equation(problem: Problem, length: float = 1.0) -> Equation:
    return Equation(problem.sample([0], Grid.box((9,) * problem.ndim, 0.0, length)))


def solved(
    problem: Problem, length: float = 1.0, budget: Budget | None = None, **settings: object
) -> tuple[Answer, float]:
    """The answer and its relative error at random points."""
    given = equation(problem, length)
    answer = RandomFeatures(**settings).solve_case(given, budget or Budget())  # type: ignore[arg-type]
    x = given.interior_points(500, torch.Generator().manual_seed(5))
    exact = problem.exact(given.case, x[None])
    assert exact is not None
    return answer, float((answer.u(x) - exact[0, 0]).norm() / exact.norm())


@pytest.mark.parametrize("patches", [1, 3])
def test_derivatives_of_features_are_those_of_automatic_differentiation(patches: int) -> None:
    given = equation(Poisson(exact_solution="x*y"), 2.0)
    features = Features.draw(given, 18, patches, 3.0, 0)
    x = given.interior_points(40, torch.Generator().manual_seed(0)).requires_grad_()
    values = features.matrix(x, (0, 0))
    assert values.shape == (40, len(features)) == (40, 18)
    k = 7
    (slope,) = torch.autograd.grad(values[:, k].sum(), x, create_graph=True)
    second = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)[0]
    third = torch.autograd.grad(second[:, 1].sum(), x)[0]
    plain = x.detach()
    for order, expected in (
        ((1, 0), slope[:, 0]),
        ((0, 1), slope[:, 1]),
        ((1, 1), second[:, 1]),
        ((2, 1), third[:, 0]),
    ):
        found = features.matrix(plain, order)[:, k]
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-10 * 60.0 ** sum(order))


def test_windows_sum_to_one_and_overlap_smoothly() -> None:
    given = equation(Poisson(ndim=1, exact_solution="x"), 3.0)
    features = Features.draw(given, 8, 4, 1.0, 0)
    x = torch.linspace(0.0, 3.0, 301, dtype=torch.float64)
    for order in range(5):
        total = torch.stack([features._window(x, 0, cell, order) for cell in range(4)]).sum(0)
        torch.testing.assert_close(total, torch.full_like(x, float(order == 0)), rtol=0, atol=1e-9 * 10.0**order)
    assert float(features._window(x, 0, 0, 0)[150:].abs().max()) == 0.0  # nothing beyond its neighbour


@pytest.mark.parametrize(
    ("problem", "length", "settings", "bound"),
    [
        (Poisson(ndim=1, exact_solution="sin(20*x) - 2*(x - 0.5)**2"), 2 * math.pi, {"features": 300}, 1e-8),
        (Helmholtz(wavenumber=40.0), 1.0, {"features": 200}, 1e-9),
        (AllenCahn(exact_solution="sin(15*x)"), 1.0, {"features": 150}, 1e-9),
        (Poisson(exact_solution="sin(3*x)*exp(y)"), 1.0, {"features": 300, "scales": (1.0, 2.0, 4.0)}, 1e-7),
        (Poisson(ndim=1, exact_solution="sin(20*x)"), 1.0, {"features": 300, "patches": 3}, 1e-7),
    ],
    ids=["Poisson", "Helmholtz", "Allen–Cahn", "2-D", "patches"],
)
def test_one_configuration_finds_the_scale(problem: Problem, length: float, settings: dict, bound: float) -> None:
    answer, error = solved(problem, length, **settings)
    assert answer.status is Status.OK, answer.advice
    assert error < bound
    assert answer.error_estimate is not None and error < 10 * answer.error_estimate < 1e-5
    again, _ = solved(problem, length, **settings)
    x = torch.rand(20, problem.ndim, dtype=torch.float64)
    assert torch.equal(answer.u(x), again.u(x))


def test_too_few_features_are_unresolved_not_wrong() -> None:
    for problem in (Poisson(ndim=1, exact_solution="sin(300*x)"), AllenCahn(exact_solution="sin(300*x)")):
        answer, error = solved(problem, features=40)
        assert error > 0.1
        assert answer.status is Status.UNRESOLVED and "features" in answer.advice
        assert answer.error_estimate is not None and answer.error_estimate > 0.05 * min(error, 1.0)


def test_limits_of_time_and_iterations_are_told() -> None:
    answer, _ = solved(Poisson(ndim=1, exact_solution="sin(9*x)"), budget=Budget(seconds=0.0), features=20)
    assert answer.status is Status.BUDGET
    answer, _ = solved(AllenCahn(exact_solution="3*sin(9*x)"), budget=Budget(maxiter=1), features=100, scale=8.0)
    assert answer.status is Status.MAX_ITER


def test_bad_arguments_are_refused_in_one_sentence() -> None:
    for settings in ({"features": 2}, {"patches": 0}, {"scale": -1.0}, {"scales": ()}, {"tol": 0.0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            RandomFeatures(**settings)  # type: ignore[arg-type]
    assert len({rung.name for rung in RandomFeatures().ladder()}) == len(RandomFeatures().ladder())
