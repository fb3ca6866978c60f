"""Physics-informed networks as solvers: accuracy, conditions, honesty."""

import math

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.models.local import Windowed
from sciops.models.mlp import MLP
from sciops.models.trial import Trial, Wrapped
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.peaks import OnePeak
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_estimate import error_estimate
from sciops.solvers.pinn_lift import Transfinite

SMALL: dict = {"width": 12, "depth": 2, "points": 500, "max_points": 600}


def equation(problem, n=17):
    return Equation(problem.sample([0], Grid.box(n, -1.0, 1.0, ndim=problem.ndim)))


@pytest.fixture
def small_pools(monkeypatch):
    """For tests that ask nothing of the accuracy: the pools that stand for the box take longer than a few steps."""
    monkeypatch.setattr("sciops.solvers.pinn_initialisation.POOL", {2: 400})
    monkeypatch.setattr("sciops.solvers.pinn.CHECKS", 200)


def error(case, u, n=41):
    x = Grid.box(n, case.lower.tolist(), case.upper.tolist(), ndim=case.ndim).points(torch.float64)
    truth = case.problem.exact(case.case, x[None])[0, 0].detach()
    return float((u(x) - truth).norm() / truth.norm())


def test_smooth_poisson_with_data_on_the_boundary():
    case = equation(Poisson(ndim=2, exact_solution="exp(0.5*x)*sin(2*y)"))
    answer = PINN(**SMALL, max_steps=40).solve_case(case, Budget())
    assert error(case, answer.u) < 1e-5
    assert answer.status is Status.OK
    assert answer.error_estimate == pytest.approx(error(case, answer.u), rel=1.0)


def test_one_dimension():
    case = equation(Poisson(ndim=1, exact_solution="sin(3*x)*exp(x)"))
    answer = PINN(width=10, depth=2, points=200, max_steps=40).solve_case(case, Budget())
    assert error(case, answer.u) < 1e-6


def test_a_nonlinear_equation():
    case = equation(AllenCahn(ndim=2, exact_solution="sin(x)*cos(2*y)"))
    answer = PINN(**SMALL, max_steps=40).solve_case(case, Budget())
    assert error(case, answer.u) < 1e-4
    assert answer.error_estimate is not None
    assert 0.3 < answer.error_estimate / error(case, answer.u) < 3


def test_soft_conditions_on_values_and_slopes():
    case = equation(Poisson(ndim=1, exact_solution="sin(3*x)*exp(x)"))
    soft = PINN(width=10, depth=2, points=200, max_steps=60, boundary="soft").solve_case(case, Budget())
    assert error(case, soft.u) < 1e-5
    assert soft.error_estimate is not None
    assert 0.3 < soft.error_estimate / error(case, soft.u) < 3


def test_equal_seeds_give_equal_bits(small_pools):
    case = equation(Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)"))
    x = case.interior_points(50, torch.Generator().manual_seed(0))
    critic = {"class_path": "sciops.solvers.samplers.oracle.Oracle", "init_args": {"cells": 256}}
    settings = {**SMALL, "points": 60, "sampler": critic, "max_steps": 4}
    first, second, other = (PINN(**settings, seed=s).solve_case(case, Budget()).u(x) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_no_budget_and_few_steps_are_said(small_pools):
    case = equation(Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)"))
    out = case.case.domain
    assert PINN(**SMALL).solve(case.case, out, Budget(seconds=0.0)).status == [Status.BUDGET]
    assert PINN(**SMALL).solve(case.case, out, Budget(maxiter=1)).status == [Status.MAX_ITER]
    short = PINN(**SMALL, max_steps=2).solve(case.case, out)
    assert short.status == [Status.UNRESOLVED]
    assert "error estimate ended at" in short.stats["advice"][0]


def test_the_trace_is_the_anytime_curve():
    case = equation(Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)"))
    answer = PINN(**SMALL, max_steps=20).solve_case(case, Budget())
    seconds = [t for t, _ in answer.trace]
    assert seconds == sorted(seconds)
    errors = [error(case, u) for _, u in answer.trace]
    assert errors[-1] < 0.01 * errors[0]
    x = case.interior_points(20, torch.Generator().manual_seed(0))
    assert torch.equal(answer.trace[-1][1](x), answer.u(x))


def test_the_lift_takes_the_data_of_all_faces():
    case = equation(Poisson(ndim=2, exact_solution="exp(x)*cos(3*y)+x*y"))
    lift = Transfinite(case, case.faces)
    random = torch.Generator().manual_seed(0)
    for face in case.faces:
        x = case.face_points(face, 30, random)
        assert torch.allclose(lift(x)[:, 0], case.boundary_rows(face, x).rhs, atol=1e-14)


def test_the_estimate_sees_an_error_of_low_modes():
    """u + ε sin sin: the residual is small beside a fine source, the error estimate is not fooled."""
    case = equation(OnePeak())
    peak = OnePeak()

    class Off(torch.nn.Module):
        def forward(self, x):
            t = (x + 1) * math.pi / 2
            return (peak.solution({}, x[None])[0] + 1e-3 * torch.sin(t[:, 0]) * torch.sin(t[:, 1]))[:, None]

    trial = Wrapped(Off(), 2)
    true = 1e-3 / math.sqrt(math.pi / 2000)  # ‖sin sin‖ = 1 on the square, ‖u‖² = π/2000
    estimate = error_estimate(case, trial, 31.6)
    assert estimate is not None
    assert 1 / 3 < estimate / true < 3


def test_a_peak_is_found_and_resolved():
    """The one-peak benchmark, cut short: the zero function has the error 1, uniform points do not beat it."""
    case = equation(OnePeak())
    answer = PINN(max_steps=20).solve_case(case, Budget())
    found = error(case, answer.u, 161)
    assert found < 0.1
    assert answer.error_estimate is not None
    assert 1 / 3 < answer.error_estimate / found < 3


def test_windowed_networks_know_their_derivatives():
    net = Windowed(MLP(2, 1, 5, 2, seed=2), [0.1, -0.2], [0.3, 0.5])
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    request = frozenset({(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 3), "laplacian"})
    forward, reverse = net.derivatives(x, request), Trial.derivatives(net, x, request)
    for key in request:
        assert torch.allclose(forward[key], reverse[key], rtol=1e-9, atol=1e-10)


def test_wrong_options_and_data_are_one_sentence():
    problem = Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    cases = problem.sample([0], Grid.box(17, -1.0, 1.0, ndim=2))
    cases.boundary["x0"] = cases.boundary["x0"][:, :5]
    for make in (
        lambda: PINN(boundary="weak"),
        lambda: PINN(clock="sun"),
        lambda: PINN(width=0),
        lambda: PINN(optimiser=[]),
        lambda: PINN(optimiser={"lr": 1}),
        lambda: PINN(initialisation="zero"),
        lambda: PINN().solve(cases, cases.domain),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert "\n" not in str(caught.value)
