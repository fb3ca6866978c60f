"""Energies against the residuals they belong to, and the closed forms of the variational problems."""

import itertools
import math

import pytest
import torch

from sciops.core.calculus import Autodiff
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.solver import View
from sciops.models.mlp import MLP
from sciops.numerics.energy_spaces import LegendreSpace
from sciops.numerics.preconditioned_energy import EnergyFunctional
from sciops.numerics.variational import EnergyDensity, composite_gauss, euler_lagrange
from sciops.problems.cubic import Cubic
from sciops.problems.darcy import Darcy
from sciops.problems.minimal_surface import MinimalSurface
from sciops.problems.p_laplace import PLaplace
from sciops.problems.poisson import Poisson
from sciops.problems.poisson_boltzmann import PoissonBoltzmann

PROBLEMS = [
    Poisson(exact_solution="sin(2*x)*exp(y)"),
    Darcy(law="trigonometric"),
    Cubic(ndim=1),
    Cubic(ndim=2),
    Cubic(ndim=3, exact_solution="a*x*sin(y)*cos(z)", parameters={"a": [1, 3]}),
    Cubic(ndim=5),
    PoissonBoltzmann(ndim=2, exact_solution="2*sin(2*x)*y"),
    PoissonBoltzmann(ndim=3),
    MinimalSurface(),
    MinimalSurface(exact_solution="x**2*y"),
    MinimalSurface(exact_solution="log(cos((x - y)/sqrt(2))/cos((x + y)/sqrt(2)))"),
    PLaplace(p=3.0, eps=0.1),
    PLaplace(p=1.5, eps=0.1),
    PLaplace(p=4.0, eps=0.3, ndim=3),
    PLaplace(p=2.5, ndim=1, parameters={"eps": [0.2, 0.4]}),
]


def case_of(problem: Problem, seed: int = 3):
    lower = -1.0 if isinstance(problem, MinimalSurface | PLaplace) else 0.0
    upper = 0.1 if isinstance(problem, Darcy) else 1.0  # the trigonometric coefficient has waves of length 0.005
    return problem.sample([seed], Grid.box(9 if problem.ndim <= 3 else 3, lower, upper, ndim=problem.ndim))


def points_in(case, n: int, seed: int = 0) -> torch.Tensor:
    lower = torch.tensor(case.domain.lower, dtype=torch.float64)
    upper = torch.tensor(case.domain.upper, dtype=torch.float64)
    random = torch.Generator().manual_seed(seed)
    return lower + (upper - lower) * torch.rand(n, len(lower), generator=random, dtype=torch.float64)


def wave(x: torch.Tensor) -> torch.Tensor:
    """A smooth function that solves nothing, with a slope that vanishes nowhere in the box."""
    s = sum((j + 1.3) * x[:, j] for j in range(x.shape[1]))
    return torch.sin(0.3 * s) + 0.2 * torch.exp(0.4 * x[:, 0])


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_euler_lagrange_equation_of_the_energy_is_the_residual(problem: Problem) -> None:
    assert View.ENERGY in problem.views()
    case = case_of(problem)
    x = points_in(case, 50)
    expected = problem.residual_at(case, lambda p: wave(p[0])[None], x[None])[0].detach()
    found = euler_lagrange(case, wave, x)
    assert float((found - expected).abs().max()) < 1e-11 * float(1 + expected.abs().max())


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.ndim <= 3], ids=str)
def test_finite_differences_of_the_energy_are_the_weak_residual(problem: Problem) -> None:
    """dE(u + t v)/dt = ∫ R(u) v for a random v that vanishes on the faces."""
    case = case_of(problem)
    lower, upper = case.domain.lower, case.domain.upper
    panels, order = (20, 10) if isinstance(problem, Darcy) else (3, 12) if problem.ndim < 3 else (1, 16)
    x, w = composite_gauss(lower, upper, panels, order)
    random = torch.Generator().manual_seed(1)
    space = LegendreSpace(lower, upper, 3)
    c = torch.randn(space.shape, generator=random, dtype=torch.float64)

    def fields(function):
        d = Autodiff(x[None])
        u = function(d.x[0])[None]
        return torch.cat([u, d.gradient(u)[0].T]).detach()

    u, v = fields(wave), fields(lambda p: space.evaluate(c, p))
    v = v * (0.3 * u[1:].norm(dim=0).min() / v[1:].norm(dim=0).max())
    density = EnergyDensity(case, x, w)
    E = {k: float(density.total(u + k * 1e-3 * v).detach()) for k in (-2, -1, 1, 2)}
    slope = (8 * (E[1] - E[-1]) - (E[2] - E[-2])) / (12 * 1e-3)  # fourth order: 1e-12 of truncation
    residual = problem.residual_at(case, lambda p: wave(p[0])[None], x[None])[0].detach()
    weak = float(w @ (residual * v[0]))
    size = float(w @ (residual * v[0]).abs())
    assert abs(slope - weak) < 1e-8 * max(size, abs(weak))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if not isinstance(p, Darcy)], ids=str)
def test_exact_solutions_solve_their_equation(problem: Problem) -> None:
    case = case_of(problem)
    x = points_in(case, 200)[None]
    f = case.at(x).f.abs().max()
    residual = problem.residual_at(case, lambda p: problem.exact(case, p)[:, 0], x)
    assert float(residual.detach().abs().max()) < 1e-10 * float(1 + f)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_network_sees_the_same_residual_by_either_calculus(problem: Problem) -> None:
    """Forward (the network's own derivatives) against nested reverse passes."""
    case = case_of(problem)
    net = MLP(problem.ndim, width=8, depth=2, lower=case.domain.lower, upper=case.domain.upper)
    x = points_in(case, 20)[None]
    forward = problem.residual_at(case, net, x).detach()
    reverse = problem.residual_at(case, lambda p: net(p[0])[:, 0][None], x).detach()
    assert float((forward - reverse).abs().max()) < 1e-10 * float(1 + reverse.abs().max())


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.ndim == 2 and not p.linear], ids=str)
def test_tangents_are_derivatives_of_the_residual(problem: Problem) -> None:
    case = case_of(problem)
    x = points_in(case, 30)

    def derivative_table(function, points):
        d = Autodiff(points[None])
        u = function(d.x[0])[None]
        return lambda order: d.partial(u, order).detach()

    def bump(p):
        return torch.cos(p[:, 0] - 0.5 * p[:, 1])

    tangent = problem.tangent(case, x[None], derivative_table(wave, x))
    moved = derivative_table(lambda p: bump(p), x)
    linear = sum(c * moved(order) for order, c in tangent.terms.items())[0].detach()

    def residual(t):
        return problem.residual_at(case, lambda p: (wave(p[0]) + t * bump(p[0]))[None], x[None])[0].detach()

    t = 1e-3
    slope = (8 * (residual(t) - residual(-t)) - (residual(2 * t) - residual(-2 * t))) / (12 * t)
    assert float((slope - linear).abs().max()) < 1e-7 * float(linear.abs().max())


@pytest.mark.parametrize("problem", [Cubic(ndim=2), MinimalSurface(), PLaplace(p=1.5, eps=0.3)], ids=str)
def test_differences_on_grids_converge_to_the_residual(problem: Problem) -> None:
    """Order 2 on the inner part, where no one-sided slope enters."""
    errors = []
    for n in (17, 33, 65):
        case = problem.sample([0], Grid.box(n, -0.9, 0.9, ndim=2))
        u = problem.exact(case, case.domain.points()[None])[:, 0].detach().reshape(1, n, n)
        k = n // 5
        errors.append(float(problem.residual_on_grid(case, u)[:, k:-k, k:-k].abs().mean()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(order > 1.7 for order in orders), (errors, orders)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.ndim <= 2 and not isinstance(p, Darcy)], ids=str)
def test_the_exact_solution_minimises_the_energy(problem: Problem) -> None:
    case = case_of(problem)
    lower, upper = case.domain.lower, case.domain.upper
    space = LegendreSpace(lower, upper, 6, quadrature=60)
    d = Autodiff(space.points[None])
    u = problem.exact(case, d.x)[:, 0]
    functional = EnergyFunctional(case, space, torch.cat([u, d.gradient(u)[0].T]).detach())
    zero = torch.zeros(space.shape, dtype=torch.float64)
    E, dual = functional.gradient(zero)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        c = 0.3 * torch.randn(space.shape, generator=random, dtype=torch.float64)
        rise = functional.value(c) - E
        assert rise > 0
        assert abs(float((dual * c).sum())) < 1e-5 * rise  # stationary, up to quadrature


# ---- p-Laplace


@pytest.mark.parametrize(("p", "d"), [(3.0, 2), (1.5, 2), (1.5, 3), (4.0, 1)])
def test_p_laplace_without_regularisation_is_the_textbook_solution(p: float, d: int) -> None:
    x = points_in(case_of(PLaplace(p=p, eps=0.0, ndim=d)), 100)[None]
    r = x.norm(dim=-1)
    expected = (p - 1) / p * d ** (-1 / (p - 1)) * (1 - r ** (p / (p - 1)))
    assert torch.allclose(PLaplace(p=p, eps=0.0, ndim=d).solution({}, x), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("p", [3.0, 1.5])
def test_p_laplace_converges_as_the_regularisation_vanishes(p: float) -> None:
    x = points_in(case_of(PLaplace(p=p)), 200)[None]
    limit = PLaplace(p=p, eps=0.0).solution({}, x)
    errors = [float((PLaplace(p=p, eps=e).solution({}, x) - limit).detach().abs().max()) for e in (1e-1, 1e-2, 1e-3)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"p": 1.0}, "p > 1"),
        ({"p": math.nan}, "p > 1"),
        ({"eps": -1.0}, "eps"),
        ({"parameters": {"p": [2, 3]}}, "eps"),
        ({"ndim": 4}, "ndim"),
    ],
)
def test_p_laplace_refuses_what_it_cannot_mean(arguments: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        PLaplace(**arguments)


def test_scherk_has_no_forcing_and_other_surfaces_do() -> None:
    x = points_in(case_of(MinimalSurface()), 50)[None]
    assert not MinimalSurface().forcing({}, x).any()
    assert float(MinimalSurface(exact_solution="x**2*y").forcing({}, x).abs().max()) > 0.1
    rotated = MinimalSurface(exact_solution="log(cos((x - y)/sqrt(2))/cos((x + y)/sqrt(2)))")
    assert float(rotated.forcing({}, x).abs().max()) < 1e-12  # minimal in any frame
