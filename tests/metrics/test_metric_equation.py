"""Metrics that ask the problem: invariants, boundary conditions, residuals."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import NotSPD
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, Status
from sciops.core.problem import Channel, DataOnly, Problem
from sciops.metrics.base import evaluate
from sciops.metrics.boundary import BoundaryViolation, conormal_coefficient
from sciops.metrics.catalogue import named
from sciops.metrics.conserved import Drift
from sciops.metrics.residual import DualResidual
from sciops.problems.poisson import Poisson

FORMULA = "sin(a*x + 0.3)*exp(0.5*y)"


def manufactured(condition: str, layout: str, n: int = 24, cases: int = 3) -> tuple[Cases, Field]:
    """Poisson cases with a smooth exact solution and boundary data, and that solution."""
    problem = Poisson(ndim=2, condition=condition, exact_solution=FORMULA, parameters={"a": (1.0, 3.0)})
    made = problem.sample(list(range(cases)), Grid.box(n, ndim=2, layout=layout))
    return made, problem.reference(made).field


# ---- boundary


@pytest.mark.parametrize("condition,layout", [("dirichlet", "cell"), ("neumann", "node"), ("neumann", "cell")])
def test_boundary_violation_of_the_exact_solution_vanishes_at_high_order(condition: str, layout: str) -> None:
    values = []
    for n in (24, 48):
        cases, true = manufactured(condition, layout, n + (layout == "node"))
        values.append(evaluate(named("boundary"), true, true, cases))
    assert values[0] < 0.05
    assert math.log2(values[0] / values[1]) > (2.7 if condition == "dirichlet" else 1.8)


def test_dirichlet_nodes_are_read_without_any_floor() -> None:
    cases, true = manufactured("dirichlet", "node")
    assert evaluate(named("boundary"), true, true, cases) == pytest.approx(0, abs=1e-14)
    wrong = Field(true.values.clone(), true.domain, true.channels)
    wrong.values[:, 0, 0, -1, :] += 0.25  # one face of four
    values = named("boundary").per_case(wrong, true, cases)
    w = true.domain.weights()
    rms = ((w / w.sum()) * true.values[:, 0, 0].square()).sum((1, 2)).sqrt()
    torch.testing.assert_close(values[:, 1], 0.25 / rms)
    # The two faces that share a corner with it see the corner's trapezoid weight, half a spacing of 23.
    torch.testing.assert_close(values[:, 2], 0.25 * math.sqrt(0.5 / 23) / rms)
    assert float(values[:, 0].max()) < 1e-14


@pytest.mark.parametrize("layout", ["node", "cell"])
def test_neumann_violation_carries_the_coefficient(layout: str) -> None:
    @dataclass(frozen=True)
    class Conducting(Problem):
        ndim = 1
        inputs = (Channel("a"),)
        boundary = Boundary.of("neumann", 1)

        def residual(self, d, u, c):
            return -d.div_flux(c.a, u)

    grid = Grid.box(11, layout=layout, ndim=1)
    (x,) = grid.mesh()
    a, u = 1 + 2 * x, x + x * x  # both within reach of the quadratic wall rules
    data = {"x0": torch.full((1,), -1.0, dtype=torch.float64), "x1": torch.full((1,), 9.0, dtype=torch.float64)}
    cases = Cases(Conducting(), grid, Field.steady(a[None, None], grid, ("a",)), boundary=data)
    field = Field.steady(u[None, None], grid, ("u",))
    torch.testing.assert_close(conormal_coefficient(cases, u[None])[0], a)
    assert evaluate(BoundaryViolation(), field, field, cases) == pytest.approx(0, abs=1e-13)
    off = replace(cases, boundary={**data, "x1": data["x1"] + 1})
    w = grid.weights()
    rms = float((w * u * u).sum().sqrt())
    assert BoundaryViolation().per_case(field, field, off)[0].tolist() == pytest.approx([0, 1 / rms], abs=1e-12)


def test_boundary_metric_says_why_it_does_not_apply() -> None:
    problem = Poisson(condition="periodic")
    grid = Grid.box(16, ndim=2, layout="periodic")
    cases = problem.sample([0], grid)
    field = problem.reference(cases).field
    assert "periodic" in str(named("boundary").applies(field, cases))
    assert "needs the cases" in str(named("boundary").applies(field))


# ---- residuals


def test_residual_of_the_discrete_solution_is_rounding_and_of_zero_is_one() -> None:
    from scipy.sparse.linalg import spsolve

    cases, true = manufactured("dirichlet", "cell", cases=2)
    A, b = cases.problem.system(cases)
    v = torch.stack([torch.from_numpy(spsolve(A.to_scipy(i).tocsc(), b[i].flatten().numpy())) for i in range(2)])
    discrete = Field.steady(cases.problem.embed(cases, v.reshape(b.shape))[:, None], true.domain, ("u",))
    zero = Field.steady(torch.zeros_like(true.values[:, 0]), true.domain, ("u",))
    for name in ("residual", "residual_dual"):
        assert evaluate(named(name), discrete, true, cases) < 1e-10
        assert evaluate(named(name), zero, true, cases) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("layout", ["node", "cell"])
def test_residual_on_interior_points_falls_at_second_order(layout: str) -> None:
    values = []
    for n in (16, 32):
        cases, true = manufactured("dirichlet", layout, n + (layout == "node"))
        values.append(evaluate(named("residual"), true, true, cases))
    assert math.log2(values[0] / values[1]) == pytest.approx(2, abs=0.15)


def test_dual_norm_falls_at_least_at_three_halves_where_wall_cells_spoil_the_pointwise_one() -> None:
    values, raw = [], []
    for n in (16, 32):
        cases, true = manufactured("dirichlet", "cell", n)
        values.append(evaluate(named("residual_dual"), true, true, cases))
        raw.append(float(cases.problem.residual_on_grid(cases, true.values[:, 0, 0]).flatten(1).norm(dim=1).mean()) / n)
    assert math.log2(values[0] / values[1]) > 1.4
    assert math.log2(raw[0] / raw[1]) < 1.0


@pytest.mark.parametrize("condition,layout", [("dirichlet", "node"), ("neumann", "node"), ("neumann", "cell")])
def test_dual_norm_is_the_relative_energy_distance_to_the_discrete_solution(condition: str, layout: str) -> None:
    cases, true = manufactured(condition, layout, 9, cases=2)
    A, b = cases.problem.system(cases)
    u = true.values[:, 0, 0] + 0.1 * torch.randn(true.values[:, 0, 0].shape, dtype=torch.float64)
    got = named("residual_dual").per_case(Field.steady(u[:, None], true.domain, ("u",)), true, cases)
    for i in range(2):
        matrix = torch.from_numpy(A.to_scipy(i).toarray())
        rhs = b[i].flatten() - (b[i].mean() if condition == "neumann" else 0.0)
        exact = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-12) @ rhs
        gap = cases.problem.unknowns(true.domain, u)[i].flatten() - exact
        expected = math.sqrt(float(gap @ matrix @ gap) / float(exact @ matrix @ exact))
        assert float(got[i]) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("points", [4, 16])
def test_dual_norm_of_a_periodic_problem_does_not_see_a_constant(points: int) -> None:
    problem = Poisson(condition="periodic")
    cases = problem.sample([0, 1], Grid.box(points, ndim=2, layout="periodic"))
    true = problem.reference(cases).field
    values = named("residual_dual").per_case(true, true, cases)
    torch.testing.assert_close(named("residual_dual").per_case(true + 5.0, true, cases), values, rtol=1e-9, atol=0)
    assert 0 < float(values.max()) < 1


def test_dual_norm_accepts_a_linear_solver() -> None:
    class Dense(LinearSolver):
        """Dense inverse, for tests."""

        def setup(self, A: LinearOperator) -> torch.Tensor:
            return torch.stack([torch.from_numpy(A.to_scipy(i).toarray()) for i in range(A.n)])

        def solve(self, state, b, x0=None, tol=1e-8, maxiter=500):
            x = torch.linalg.solve(state, b.flatten(1)).reshape(b.shape)
            zero = torch.zeros(len(b))
            return LinearSolution(x, [Status.OK] * len(b), zero.long(), zero, zero[None])

    cases, true = manufactured("dirichlet", "cell", 8)
    direct = named("residual_dual").per_case(true, true, cases)
    torch.testing.assert_close(DualResidual(solver=Dense()).per_case(true, true, cases), direct)


def test_residual_metrics_regenerate_the_cases_on_the_grid_of_the_prediction() -> None:
    cases, _ = manufactured("dirichlet", "node", 17)
    _, finer = manufactured("dirichlet", "node", 33)
    on_finer = evaluate(named("residual"), finer, finer, cases)
    assert on_finer == pytest.approx(evaluate(named("residual"), finer, finer, cases.on(finer.domain)), rel=1e-12)


def test_residual_metrics_say_why_they_do_not_apply() -> None:
    cases, true = manufactured("dirichlet", "node", 9)
    blind = DataOnly(("f",))
    stored = Cases(blind, cases.domain, cases.inputs)
    assert named("residual").applies(true, stored) == "needs RESIDUAL; DataOnly does not offer it"
    assert named("residual_dual").applies(true, stored) == "needs SYSTEM; DataOnly does not offer it"
    moving = Field(true.values.expand(-1, 2, -1, -1, -1), true.domain, true.channels, (0.0, 1.0))
    assert "steady" in str(named("residual").applies(moving, cases))


def test_dual_norm_refuses_an_indefinite_system() -> None:
    @dataclass(frozen=True)
    class Backward(Poisson):
        def residual(self, d, u, c):
            return -d.laplacian(u) - 900.0 * u - c.f

    cases = Backward().sample([0], Grid.box(9, ndim=2))
    field = Field.steady(torch.ones(1, 1, 9, 9, dtype=torch.float64), cases.domain, ("u",))
    with pytest.raises(NotSPD, match="residual_dual"):
        evaluate(named("residual_dual"), field, field, cases)


# ---- invariants


@dataclass(frozen=True)
class Carried(Problem):
    """∂u/∂t + ∂u/∂x = 0 with its mass and energy."""

    ndim = 1
    inputs = (Channel("u0"),)
    boundary = Boundary.of("periodic", 1)

    def invariants(self) -> dict[str, Callable[[Field], torch.Tensor]]:
        return {
            "mass": lambda f: (f.domain.weights() * f.channel("u")).sum(-1),
            "energy": lambda f: (f.domain.weights() * f.channel("u").square()).sum(-1),
        }


def carried(mean: float) -> tuple[Field, Cases]:
    grid = Grid.box(32, layout="periodic", ndim=1)
    (x,) = grid.mesh()
    times = (0.0, 0.1, 0.2)
    values = torch.stack([mean + torch.sin(2 * math.pi * (x - t)) for t in times])[None, :, None]
    cases = Cases(Carried(), grid, Field.steady(values[:, 0], grid, ("u0",)))
    return Field(values, grid, ("u",), times), cases


def test_drift_of_each_declared_invariant() -> None:
    true, cases = carried(mean=2.0)
    assert evaluate(named("drift"), true, true, cases) < 1e-14
    growing = Field(true.values.clone(), true.domain, true.channels, true.times)
    growing.values[:, 1] += 0.5
    values = named("drift").per_case(growing, true, cases)
    energy = 2.0**2 + 0.5
    assert values[0].tolist() == pytest.approx([0.25, (2.5**2 + 0.5 - energy) / energy])
    assert evaluate(Drift(invariant="mass"), growing, true, cases) == pytest.approx(0.25)


def test_drift_is_absolute_where_the_invariant_is_zero_up_to_rounding() -> None:
    true, cases = carried(mean=0.0)
    shifted = Field(true.values + 0.125, true.domain, true.channels, true.times)
    assert float(named("drift").per_case(shifted, true, cases)[0, 0]) == pytest.approx(0.125)


def test_drift_needs_a_declared_invariant() -> None:
    cases, true = manufactured("dirichlet", "node", 9)
    assert named("drift").applies(true, cases) == "the problem declares no invariants"
    _, moving = carried(1.0)
    assert "mass, energy, not spin" in str(Drift(invariant="spin").applies(true, moving))
