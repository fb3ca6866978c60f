"""What every per-instance solver inherits: rows of the equation and of its boundary, failures as data, honest facts."""

import warnings
from dataclasses import dataclass, replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel, DataOnly, Problem
from sciops.core.solver import Budget
from sciops.problems.advection import Advection
from sciops.problems.allen_cahn import AllenCahn
from sciops.problems.boundary_layer import BoundaryLayer
from sciops.problems.darcy import Darcy
from sciops.problems.helmholtz import Helmholtz
from sciops.problems.poisson import Poisson
from sciops.problems.pressure import Pressure
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, relative_residual

CUBIC = "1 + a*x - 2*x**2 + x**3"
SQUARE = "a*x**3 - x*y**2 + 2*y + 1"
MADE = Poisson(ndim=2, exact_solution=SQUARE, parameters={"a": [1, 3]})


class Monomials(CollocationSolver):
    """Least squares on ∏ x_j^{k_j}, k_j ≤ degree, of rows at random points; Newton's method where it is nonlinear."""

    def __init__(self, degree: int = 3, points: int = 60, steps: int = 12, band: bool = False) -> None:
        self.degree, self.points, self.steps, self.band = degree, points, steps, band

    def features(self, x, order):
        columns = []
        for powers in product(range(self.degree + 1), repeat=x.shape[1]):
            column = torch.ones_like(x[:, 0])
            for axis, (k, times) in enumerate(zip(powers, order, strict=True)):
                for j in range(times):
                    column = column * (k - j)
                column = column * x[:, axis] ** max(k - times, 0)
            columns.append(column)
        return torch.stack(columns, 1)

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        random = torch.Generator().manual_seed(0)
        x = equation.interior_points(self.points, random)
        walls = [(face, equation.face_points(face, self.points, random)) for face in equation.faces]
        weights = torch.zeros((self.degree + 1) ** equation.ndim, dtype=torch.float64)
        trace = []
        for _ in range(1 if equation.linear else self.steps):
            held = weights
            state = None if equation.linear else (lambda order, w=held: self.features(x, order) @ w)
            blocks = [(x, equation.rows(x, state))]
            blocks += [(p, equation.boundary_rows(face, p)) for face, p in walls]
            matrix = [sum(c[:, None] * self.features(p, o) for o, c in rows.terms.items()) for p, rows in blocks]
            right = torch.cat([rows.rhs for _, rows in blocks])
            weights = torch.linalg.lstsq(torch.cat(matrix), right[:, None], driver="gelsd").solution[:, 0]
            trace.append((0.1 * len(trace), self.function(weights)))
        fresh = equation.interior_points(50, random)
        residual = relative_residual(equation, fresh, lambda order: self.features(fresh, order) @ weights)
        std = (lambda p: torch.full_like(p[:, 0], 0.25)) if self.band else None
        found = Answer(self.function(weights), std=std, residual=residual, trace=trace, points=len(right))
        return replace(found, iterations=len(trace), error_estimate=1e-9 if self.band else None, stats={"rank": 4})

    def function(self, weights):
        return lambda p: self.features(p, (0,) * p.shape[1]) @ weights


def error(problem: Problem, cases: Cases, field: Field) -> float:
    truth = problem.exact(cases, field.domain.points()[None].expand(len(cases), -1, -1))
    u = field.values[:, 0, 0].flatten(1)
    return float((u - truth[:, 0]).norm() / truth.norm())


@dataclass(frozen=True)
class Mixed(Poisson):
    """−Δu = f, Neumann data on x0 and y1, Dirichlet data elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = (("neumann", "dirichlet"), ("dirichlet", "neumann"))
        object.__setattr__(self, "boundary", Boundary(kinds[: self.ndim]))


RANGE = {"a": [1, 3]}
REPRESENTED = [
    Poisson(ndim=1, exact_solution=CUBIC, parameters=RANGE),
    MADE,
    Poisson(ndim=3, exact_solution="a*x*y*z + z**2 - x*y**2", parameters=RANGE),
    Mixed(ndim=1, exact_solution=CUBIC, parameters=RANGE),
    Mixed(ndim=2, exact_solution=SQUARE, parameters=RANGE),
    Helmholtz(ndim=2, wavenumber=3.0, exact_solution=SQUARE, parameters=RANGE),
    Advection(beta=2.0, exact_solution=SQUARE, parameters=RANGE),
    AllenCahn(ndim=1, exact_solution="0.2*(" + CUBIC + ")", parameters=RANGE),
    AllenCahn(ndim=2, exact_solution="0.2*(" + SQUARE + ")", parameters=RANGE),
]


@pytest.mark.parametrize("problem", REPRESENTED, ids=str)
def test_rows_and_data_determine_every_solution_that_the_features_hold(problem: Problem) -> None:
    grid = Grid.box([9, 8, 7][: problem.ndim], lower=-0.3, upper=[1.0, 0.8, 0.9][: problem.ndim])
    cases = problem.sample([1, 2], grid)
    solver = Monomials()
    assert solver.refuses(problem, grid) is None
    out = grid.resized(11)
    solution = solver.solve(cases, out)
    assert solution.ok and solution.field.domain == out
    assert error(problem, cases, solution.field) < 1e-9
    assert float(solution.stats["residual"].max()) < 1e-9
    assert solution.stats["iterations"].tolist() == [1.0 if problem.linear else 12.0] * 2


def test_facts_bands_and_traces_become_fields() -> None:
    problem = AllenCahn(ndim=2, exact_solution="0.2*(" + SQUARE + ")", parameters=RANGE)
    grid = Grid.box(9, ndim=2)
    cases = problem.sample([1, 2, 3], grid)
    solution = Monomials(steps=4, band=True).solve(cases, grid)
    assert solution.std.values.shape == (3, 1, 1, 9, 9) and bool((solution.std.values == 0.25).all())
    assert len(solution.trace) == len(solution.stats["trace_seconds"]) == 4
    assert solution.stats["trace_seconds"] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    first = [error(problem, cases[0], field) for field in solution.trace]
    assert first[0] > 1e-3 > 1e-6 > first[-1]  # Newton's iterates of the first case
    torch.testing.assert_close(solution.trace[-1].values[0], solution.field.values[0])
    assert solution.stats["error_estimate"].tolist() == [1e-9] * 3
    assert solution.stats["points"].tolist() == [60.0 + 4 * 60] * 3
    assert [facts["rank"] for facts in solution.stats["facts"]] == [4, 4, 4]
    assert all(facts["seconds"] > 0 for facts in solution.stats["facts"])
    plain = Monomials().solve(MADE.sample([1], grid), grid)
    assert plain.std is None and bool(plain.stats["error_estimate"].isnan().all()) and plain.stats["advice"] == [""]


def test_a_band_of_some_cases_only_is_no_band() -> None:
    class Sometimes(Monomials):
        def solve_case(self, equation, budget):
            answer = super().solve_case(equation, budget)
            first = float(equation.case.seeds) == 1
            return replace(answer, std=(lambda p: p[:, 0]) if first else None)

    grid = Grid.box(9, ndim=2)
    assert Sometimes().solve(MADE.sample([1, 2], grid), grid).std is None
    assert Sometimes().solve(MADE.sample([1], grid), grid).std is not None


def test_answers_are_evaluated_in_chunks_that_do_not_show() -> None:
    grid = Grid.box(12, ndim=2)
    cases, solver = MADE.sample([1, 2], grid), Monomials()
    whole = solver.solve(cases, grid).field.values
    solver.chunk = 7
    torch.testing.assert_close(solver.solve(cases, grid).field.values, whole, rtol=1e-13, atol=1e-13)


def test_single_precision_is_promoted_with_a_warning_and_answers_in_its_own_type() -> None:
    grid = Grid.box(9, ndim=2)
    cases = MADE.sample([1, 2], grid, torch.float32)
    with pytest.warns(UserWarning, match="float32 and are promoted to float64"):
        solution = Monomials().solve(cases, grid)
    assert solution.field.values.dtype is torch.float32 and solution.ok
    assert error(MADE, MADE.sample([1, 2], grid), solution.field) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Monomials().solve(cases.to(torch.float64), grid)


@pytest.mark.parametrize("where", ["inputs", "boundary", "params"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_spoilt_case_ends_nonfinite_and_leaves_the_others_alone(where: str, value: float) -> None:
    grid = Grid.box(9, ndim=2)
    cases = MADE.sample([1, 2, 3], grid)
    fresh = MADE.sample([1, 2, 3], grid)
    table = {"inputs": fresh.inputs.values, "boundary": fresh.boundary["y1"], "params": fresh.params["a"]}[where]
    table[1] = value
    solution = Monomials(band=True).solve(fresh, grid)
    assert solution.status == [Status.OK, Status.NONFINITE, Status.OK]
    expected = Monomials().solve(cases, grid).field.values
    assert torch.equal(solution.field.values[[0, 2]], expected[[0, 2]])
    assert bool(solution.field.values[1].isnan().all())
    assert "inputs" in solution.stats["advice"][1] and solution.std is None


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_time_every_case_ends_with_its_budget(seconds: float) -> None:
    class Never(CollocationSolver):
        def solve_case(self, equation, budget):
            raise AssertionError("there was no time for this")

    grid = Grid.box(9, ndim=2)
    solution = Never().solve(MADE.sample([1, 2], grid), grid, Budget(seconds=seconds))
    assert solution.status == [Status.BUDGET] * 2 and not solution.field.values.any()
    assert all("budget" in text for text in solution.stats["advice"])


def test_the_budget_of_a_case_is_what_the_others_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = SimpleNamespace(now=5.0), []
    monkeypatch.setattr("sciops.solvers.collocation.time", SimpleNamespace(perf_counter=lambda: clock.now))

    class Slow(Monomials):
        def solve_case(self, equation, budget):
            seen.append(budget)
            clock.now += 6.0
            return super().solve_case(equation, budget)

    grid = Grid.box(9, ndim=2)
    solution = Slow().solve(MADE.sample([1, 2, 3], grid), grid, Budget(10.0, 1e-3, 7))
    assert seen == [Budget(10.0, 1e-3, 7), Budget(4.0, 1e-3, 7)]
    assert solution.status == [Status.OK, Status.OK, Status.BUDGET]
    assert [facts.get("seconds") for facts in solution.stats["facts"]] == [6.0, 6.0, None]


def test_failing_linear_algebra_and_answers_that_are_not_finite_become_a_status() -> None:
    class Singular(Monomials):
        def solve_case(self, equation, budget):
            torch.linalg.cholesky(-torch.eye(2))

    class Wild(Monomials):
        def solve_case(self, equation, budget):
            return Answer(lambda p: 1 / (p[:, 0] - p[:, 0]))

    grid = Grid.box(9, ndim=2)
    failed = Singular().solve(MADE.sample([1], grid), grid)
    assert failed.status == [Status.FAILED] and "positive-definite" in failed.stats["advice"][0]
    assert Wild().solve(MADE.sample([1], grid), grid).status == [Status.NONFINITE]


def test_mistakes_of_the_program_are_not_swallowed() -> None:
    class Wrong(Monomials):
        def solve_case(self, equation, budget):
            raise KeyError("a bug")

    grid = Grid.box(9, ndim=2)
    with pytest.raises(KeyError):
        Wrong().solve(MADE.sample([1], grid), grid)


def test_boundary_data_of_a_wrong_shape_are_named_in_one_sentence() -> None:
    grid = Grid.box([9, 8], ndim=2)
    cases = MADE.sample([1, 2], grid)
    for shape in ((2, 8), (1, 9), (2, 9, 1)):
        wrong = replace(cases, boundary=cases.boundary | {"y1": torch.zeros(shape, dtype=torch.float64)})
        with pytest.raises(UsageError, match=r"boundary\['y1'\] must have shape \(2, 9\)") as caught:
            Monomials().solve(wrong, grid)
        assert "\n" not in str(caught.value) and str(shape) in str(caught.value)


@dataclass(frozen=True)
class TwoFields(Problem):
    """Two unknowns."""

    ndim: int = 2
    inputs = (Channel("f"),)
    outputs = (Channel("u"), Channel("v"))
    boundary = Boundary.of("dirichlet", 2)

    def residual(self, d: Any, u: Any, c: Any) -> Any:
        return d.laplacian(u[0]) - u[1], d.laplacian(u[1]) - c.f


@pytest.mark.parametrize(
    ("problem", "layout", "match"),
    [
        (Poisson(condition="periodic"), "periodic", "no basis for periodic axes"),
        (Poisson(condition="neumann"), "node", "needs a Dirichlet face"),
        (TwoFields(), "node", "solves for one unknown field; TwoFields has 2"),
        (DataOnly(), "node", "needs boundary, residual; DataOnly offers data"),
        (Pressure(), "cell", "needs boundary, residual"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_refusals_are_one_sentence_with_a_reason(problem: Problem, layout: str, match: str) -> None:
    reason = Monomials().refuses(problem, Grid.box(8, ndim=2, layout=layout))
    assert match in reason and "\n" not in reason


def test_nonlinear_equations_want_a_state() -> None:
    problem = AllenCahn(exact_solution="sin(x)")
    equation = Equation(problem.sample([1], Grid.box(9)))
    with pytest.raises(UsageError, match="AllenCahn is nonlinear: rows need the state") as caught:
        equation.rows(torch.rand(5, 1, dtype=torch.float64))
    assert "\n" not in str(caught.value)


def test_rows_have_the_coefficients_of_the_equation() -> None:
    problem = Darcy(law="trigonometric")
    equation = Equation(problem.sample([1], Grid.box(9, ndim=2), torch.float32))
    x = torch.rand(20, 2, dtype=torch.float64)
    rows, symbol = equation.rows(x), problem.symbol(equation.case, x[None])
    assert rows.rhs.dtype is torch.float64 and rows.rhs.shape == (20,)
    for order, coefficient in symbol.terms.items():
        torch.testing.assert_close(rows.terms[order], coefficient[0].detach())
    torch.testing.assert_close(rows.rhs, torch.ones(20, dtype=torch.float64))  # f = 1
    layer = Equation(BoundaryLayer(parameters={"eps": [0.1, 0.2]}).sample([1], Grid.box(9)))
    rows = layer.rows(x[:, :1])
    assert {order: c.shape for order, c in rows.terms.items()} == {(0,): (20,), (2,): (20,)}
    assert rows.terms[2,].tolist() == [-float(layer.case.params["eps"])] * 20


def test_points_lie_where_they_should_and_belong_to_the_generator() -> None:
    grid = Grid.box(9, lower=[-1.0, 2.0], upper=[1.0, 5.0], ndim=2)
    equation = Equation(MADE.sample([1], grid))
    assert equation.lengths.tolist() == [2.0, 3.0]
    draw = lambda: equation.interior_points(1000, torch.Generator().manual_seed(3))  # noqa: E731
    x = draw()
    assert torch.equal(x, draw()) and bool((x >= equation.lower).all() and (x <= equation.upper).all())
    torch.testing.assert_close(x.mean(0), torch.tensor([0.0, 3.5]).double(), rtol=0, atol=0.1)  # 3.6 standard errors
    for face in equation.faces:
        p = equation.face_points(face, 30, torch.Generator().manual_seed(4))
        wall = (grid.lower, grid.upper)[face.side][face.axis]
        assert p.shape == (30, 2) and p[:, face.axis].tolist() == [wall] * 30
        assert len(set(p[:, 1 - face.axis].tolist())) == 30
    line = Equation(Poisson(ndim=1, exact_solution="x").sample([1], Grid.box(9)))
    ends = [line.face_points(face, 30, torch.Generator()).tolist() for face in line.faces]
    assert ends == [[[0.0]], [[1.0]]]


@pytest.mark.parametrize("factor", [1.0, 1e-8])
def test_the_relative_residual_is_that_of_its_definition(factor: float) -> None:
    """‖(1 + δ)f − f‖/‖f‖ = δ; without forcing the size of the terms takes its place."""
    problem = Poisson(ndim=1, exact_solution=f"{factor}*sin(7*x)")
    equation = Equation(problem.sample([1], Grid.box(9)))
    x = torch.rand(200, 1, dtype=torch.float64)
    state = lambda order: 1.001 * factor * torch.sin(7 * x[:, 0]) * (-49.0) ** (order[0] // 2)  # noqa: E731
    assert relative_residual(equation, x, state) == pytest.approx(1e-3, rel=1e-9)
    wave = Equation(Advection(beta=3.0, exact_solution="sin(x - beta*y)").sample([1], Grid.box(9, ndim=2)))
    x = torch.rand(200, 2, dtype=torch.float64)
    value = lambda order: torch.cos(x[:, 0] - 3 * x[:, 1]) * (1.0 if order[0] else -3.003)  # noqa: E731
    assert relative_residual(wave, x, value) == pytest.approx(0.003 / 6.003, rel=1e-6)
