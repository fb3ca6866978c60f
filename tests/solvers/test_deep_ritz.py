"""Deep Ritz against exact solutions, the strong residual and the classical minimisation of the same energy."""

import math
from dataclasses import replace

import pytest
import torch

from sciops.core.cases import Cases
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, require_views
from sciops.models.mlp import MLP
from sciops.numerics.optimisers import EnergyNaturalGradient
from sciops.numerics.variational import EnergyDensity, composite_gauss
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.cubic import Cubic
from sciops.problems.darcy import Darcy
from sciops.problems.minimal_surface import MinimalSurface
from sciops.problems.p_laplace import PLaplace
from sciops.problems.poisson import Poisson
from sciops.problems.poisson_boltzmann import PoissonBoltzmann
from sciops.solvers.collocation import Answer, Equation
from sciops.solvers.deep_ritz import DeepRitz, _Fit, trial_of
from sciops.solvers.deep_ritz_energy import RitzEnergy
from sciops.solvers.energy_descent import EnergyDescent
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_rows import flat_parameters

SMALL = {"width": 10, "depth": 2, "panels": 5}
VARIATIONAL = [
    Cubic(),
    PoissonBoltzmann(exact_solution="2*sin(2*x)*y"),
    MinimalSurface(exact_solution="log(cos((x - y)/sqrt(2))/cos((x + y)/sqrt(2)))"),
    PLaplace(p=3.0, eps=1e-2),
    PLaplace(p=1.5, eps=1e-2),
    Poisson(exact_solution="sin(2*x)*exp(y)"),
]


def case_of(problem: Problem, n: int = 33) -> Cases:
    lower = -1.0 if isinstance(problem, MinimalSurface | PLaplace) else 0.0
    return problem.sample([1], Grid.box(n if problem.ndim <= 3 else 3, lower, 1.0, ndim=problem.ndim))


def error_of(case: Cases, answer: Answer) -> float:
    x = Equation(case).interior_points(2000, torch.Generator().manual_seed(9))
    exact = case.problem.exact(case, x[None])[0, 0].detach()
    return float((answer.u(x) - exact).norm() / exact.norm())


# ---- the energy of a network


def ritz_of(case: Cases, panels: int = 3, metric: str = "hessian", width: int = 6) -> RitzEnergy:
    equation = Equation(case)
    net = MLP(equation.ndim, 1, width, 2, lower=case.domain.lower, upper=case.domain.upper, seed=2)
    x, w = composite_gauss(case.domain.lower, case.domain.upper, panels, 5)
    return RitzEnergy(trial_of(equation, net), EnergyDensity(equation.case, x, w), metric, chunk=100)


def test_the_tangent_is_the_gradient_and_the_metric_the_hessian_in_function_space() -> None:
    case = case_of(Cubic(exact_solution="cos(x)*y", ndim=2))
    for metric in ("hessian", "h1"):
        ritz = ritz_of(case, metric=metric)
        theta = flat_parameters(ritz.trial)
        E, gradient, F = ritz.tangent(theta)
        value = ritz.value()
        assert pytest.approx(float(value.detach()), rel=1e-13) == E
        expected = torch.autograd.grad(value, ritz.parameters)
        assert torch.allclose(gradient, torch.cat([g.flatten() for g in expected]), rtol=0, atol=1e-13)
        x = torch.cat([part.x for part in ritz.parts])
        w = torch.cat([part.weights for part in ritz.parts])
        table = ritz.trial.derivatives(x, ritz.request)
        u, ux, uy = (table[key][:, 0] for key in ritz.order)
        J = [_rows(field, ritz.parameters) for field in (u, ux, uy)]
        G = J[1].T @ (w[:, None] * J[1]) + J[2].T @ (w[:, None] * J[2])
        if metric == "hessian":
            G = G + J[0].T @ ((w * 3 * u.detach() ** 2)[:, None] * J[0])
        assert torch.allclose(F.T @ F, G, rtol=0, atol=1e-11 * float(G.abs().max()))


def _rows(field: torch.Tensor, parameters: list) -> torch.Tensor:
    rows = []
    for value in field:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros_like(p).flatten() if g is None else g.flatten()
                    for g, p in zip(found, parameters, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def test_boundary_values_hold_exactly() -> None:
    case = case_of(MinimalSurface())
    trial = ritz_of(case).trial
    x = Equation(case).interior_points(50, torch.Generator().manual_seed(0))
    for axis in (0, 1):
        for side in (-1.0, 1.0):
            x[:, axis] = side
            exact = case.problem.exact(case, x[None])[0, 0]
            assert float((trial(x)[:, 0] - exact).abs().max()) < 1e-12


def test_energies_at_fixed_random_points_fall_below_the_minimum_and_those_of_a_rule_do_not() -> None:
    """As many parameters as points: the network lowers the sum between the points at the expense of the integral."""
    case = case_of(Cubic(ndim=1))
    equation = Equation(case)
    best = EnergyDescent().solve_case(equation, Budget()).stats["energy"]
    reached = {}
    for name in ("random", "gauss"):
        x, w = composite_gauss([0.0], [1.0], 5, 5)
        if name == "random":
            x = torch.rand(25, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            w = torch.full((25,), 1 / 25, dtype=torch.float64)
        net = MLP(1, 1, 10, 2, lower=[0.0], upper=[1.0], seed=0)
        ritz = RitzEnergy(trial_of(equation, net), EnergyDensity(equation.case, x, w))
        optimiser = EnergyNaturalGradient(flat_parameters(ritz.trial), mu=1e-2)
        for _ in range(30):
            optimiser.step(ritz)
        reached[name] = ritz.energy(optimiser.theta)
    assert reached["random"] < best - 0.2 * abs(best)
    assert reached["gauss"] > best - 1e-3 * abs(best)


# ---- solutions


@pytest.mark.parametrize("problem", VARIATIONAL, ids=str)
def test_every_energy_leads_to_its_exact_solution_with_an_honest_estimate(problem: Problem) -> None:
    case = case_of(problem)
    answer = DeepRitz(**SMALL, steps=35, tol=0.05).solve_case(Equation(case), Budget())
    error = error_of(case, answer)
    assert error < 2e-2
    assert answer.status is Status.OK
    assert error / 3 < answer.error_estimate < 3 * error


def test_ritz_strong_residual_and_classical_solutions_agree() -> None:
    """Three discretisations of one problem that share no equation: an energy, a residual, a Galerkin series."""
    case = case_of(PoissonBoltzmann(ndim=1, exact_solution="2*sin(3*x)"))
    equation = Equation(case)
    x = equation.interior_points(500, torch.Generator().manual_seed(4))
    ritz = DeepRitz(width=10, depth=2, panels=10, steps=40).solve_case(equation, Budget())
    strong = PINN(width=10, depth=2, points=150, max_steps=40).solve_case(equation, Budget())
    series = EnergyDescent().solve_case(equation, Budget())
    size = float(series.u(x).norm())
    assert float((ritz.u(x) - strong.u(x)).norm()) / size < 1e-5
    assert float((ritz.u(x) - series.u(x).detach()).norm()) / size < 1e-5
    assert error_of(case, series) < 1e-11


def test_natural_steps_are_worth_many_of_adam_in_either_metric() -> None:
    case = case_of(Cubic(ndim=1))
    errors = {}
    for name, options in (
        ("hessian", {"steps": 20}),
        ("h1", {"steps": 20, "metric": "h1"}),
        ("adam", {"steps": 200, "optimiser": "adam", "lr": 1e-2}),
    ):
        answer = DeepRitz(width=8, depth=2, panels=8, **options).solve_case(Equation(case), Budget())
        errors[name] = error_of(case, answer)
        assert answer.iterations == options["steps"]
        seconds = [t for t, _ in answer.trace]
        assert len(seconds) > 3 and seconds == sorted(seconds)
    assert errors["adam"] < 0.5
    assert max(errors["hessian"], errors["h1"]) < 0.1 * errors["adam"]


def test_beyond_three_dimensions_every_step_has_new_points() -> None:
    case = case_of(Cubic(ndim=4))
    solver = DeepRitz(width=8, depth=2, points=500, steps=15, tol=1.0)
    fit = _Fit(solver, Equation(case), Budget(), 0.0)
    first, second = (torch.cat([part.x for part in fit.ritz().parts]) for _ in range(2))
    assert len(first) == 500 and not torch.equal(first, second)
    answer = solver.solve_case(Equation(case), Budget())
    error = error_of(case, answer)
    assert error < 0.3
    assert answer.error_estimate > 0.5 * error  # a bound of the residual, up to the noise of its points


# ---- honesty


def test_what_it_refuses() -> None:
    grid = Grid.box(9, ndim=2)
    with pytest.raises(ViewMissing, match="energy"):
        require_views(DeepRitz(), AllenCahn(ndim=2), grid)
    assert "Dirichlet" in (DeepRitz().refuses(Poisson(condition="neumann"), grid) or "")
    assert "3 dimensions" in (EnergyDescent().refuses(Cubic(ndim=4), Grid.box(3, ndim=4)) or "")
    assert DeepRitz().refuses(Cubic(ndim=4), Grid.box(3, ndim=4)) is None


@pytest.mark.parametrize(
    ("kind", "arguments", "word"),
    [
        (DeepRitz, {"optimiser": "lbfgs"}, "natural or adam"),
        (DeepRitz, {"metric": "l2"}, "hessian or h1"),
        (DeepRitz, {"width": 0}, "width"),
        (DeepRitz, {"tol": 0.0}, "tol"),
        (DeepRitz, {"activation": "relu"}, "second derivative"),
        (EnergyDescent, {"basis": "fourier"}, "legendre or sine"),
        (EnergyDescent, {"modes": 1}, "modes"),
        (EnergyDescent, {"tol": -1.0}, "tol"),
    ],
)
def test_settings_that_mean_nothing(kind: type, arguments: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        kind(**arguments).solve_case(Equation(case_of(Cubic(ndim=1))), Budget(maxiter=1))


def test_too_little_work_is_said() -> None:
    case = case_of(Cubic())
    none = DeepRitz(**SMALL).solve_case(Equation(case), Budget(maxiter=0))
    assert none.status is Status.BUDGET and bool(
        torch.isfinite(none.u(torch.full((1, 2), 0.3, dtype=torch.float64))).all()
    )
    few = DeepRitz(**SMALL).solve_case(Equation(case), Budget(maxiter=1))
    assert few.status is Status.MAX_ITER and few.iterations == 1 and "steps" in few.advice
    short = DeepRitz(**SMALL, steps=1).solve_case(Equation(case), Budget())
    assert short.status is Status.UNRESOLVED and "steps" in short.advice
    late = DeepRitz(**SMALL).solve_case(Equation(case), Budget(seconds=1e-3))
    assert late.status is Status.BUDGET
    coarse = EnergyDescent(modes=3).solve_case(Equation(case_of(Cubic(exact_solution="sin(9*x)*y"))), Budget())
    assert coarse.status is Status.UNRESOLVED and "modes" in coarse.advice


def test_an_energy_that_overflows_is_a_status() -> None:
    case = case_of(PoissonBoltzmann(ndim=1, exact_solution="2000*x + 800"))
    for solver, status in ((DeepRitz(**SMALL, steps=3), Status.DIVERGED), (EnergyDescent(), Status.NONFINITE)):
        assert solver.solve_case(Equation(case), Budget()).status is status


# ---- the classical counterpart


@pytest.mark.parametrize("problem", VARIATIONAL, ids=str)
def test_energy_descent_reaches_what_the_solution_allows(problem: Problem) -> None:
    case = case_of(problem)
    # Scherk's surface is singular at distance 0.22 from the box: N modes leave about 1.92^−N.
    modes = 40 if isinstance(problem, MinimalSurface) else 24
    answer = EnergyDescent(modes=modes).solve_case(Equation(case), Budget())
    goal = 1e-3 if isinstance(problem, PLaplace) and problem.p > 2 else 1e-5 if isinstance(problem, PLaplace) else 1e-10
    error = error_of(case, answer)
    assert error < goal
    assert answer.error_estimate > 0.5 * error


def test_bases_and_methods_of_energy_descent_agree() -> None:
    case = case_of(Cubic())
    x = Equation(case).interior_points(200, torch.Generator().manual_seed(0))
    found = [
        EnergyDescent(*settings, modes=8).solve_case(Equation(case), Budget())
        for settings in (("legendre", "newton"), ("sine", "newton"), ("legendre", "gradient"))
    ]
    for answer in found[1:]:
        assert float((answer.u(x) - found[0].u(x)).norm() / found[0].u(x).norm()) < 1e-6
    assert found[2].iterations > 2 * found[0].iterations


def test_energy_descent_solves_darcy_flow_as_differences_do() -> None:
    """Order 2 of the differences towards the spectral answer."""
    problem = Darcy(law="lognormal", tau=6.0)
    distances = []
    for n in (33, 65):
        case = problem.sample([2], Grid.box(n, ndim=2))
        reference = problem.reference(case).field.values[0, 0, 0]
        answer = EnergyDescent(modes=32).solve(case, case.domain).field.values[0, 0, 0]
        distances.append(float((answer - reference).norm() / reference.norm()))
    assert distances[1] < 1e-2 and math.log2(distances[0] / distances[1]) > 1.5


def test_one_bad_case_does_not_touch_the_others() -> None:
    case = Cubic(exact_solution="a*sin(pi*x)", ndim=1, parameters={"a": [1, 2]}).sample([0, 1], Grid.box(33, ndim=1))
    spoiled = case.inputs.values.clone()
    spoiled[1] = math.nan
    bad = replace(case, inputs=replace(case.inputs, values=spoiled))
    solution = EnergyDescent().solve(bad, case.domain)
    assert solution.status == [Status.OK, Status.NONFINITE]
    alone = EnergyDescent().solve(case[:1], case.domain)
    assert torch.equal(solution.field.values[0], alone.field.values[0])
