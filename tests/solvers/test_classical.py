"""Every classical contestant against independent solves, the order of its ladder, its refusals and failures."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.numerics.krylov import ConjugateGradients
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson
from sciops.solvers.discrete import Discrete, GridSolver
from sciops.solvers.fast_poisson import FastPoisson
from sciops.solvers.incomplete_cg import IncompleteCG
from sciops.solvers.multigrid_cg import MultigridCG
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.pyamg_cg import PyamgCG
from sciops.solvers.sparse_direct import SparseDirect

GENERAL = [
    MultigridCG(tol=1e-11),
    MultigridCG(1, 1, precision="double", tol=1e-11),
    PyamgCG(tol=1e-11),
    PyamgCG("smoothed_aggregation", tol=1e-11),
    SparseDirect(),
    PlainCG(tol=1e-11),
    PlainCG(jacobi=True, tol=1e-11),
    IncompleteCG(tol=1e-11),
]
POISSON = [*GENERAL, FastPoisson()]
LAYOUTS = [
    ("dirichlet", "node"),
    ("dirichlet", "cell"),
    ("neumann", "node"),
    ("neumann", "cell"),
    ("periodic", "periodic"),
]


def label(value: object) -> str | None:
    return value.name if isinstance(value, GridSolver) else None


def independent(cases: Cases) -> torch.Tensor:
    """SciPy's default sparse solve (least squares where the constant is free) of each case's system."""
    A, b = cases.problem.system(cases)
    rows = []
    for i in range(len(cases)):
        matrix, rhs = A.to_scipy(i), b[i].flatten().numpy()
        if A.nullspace:
            rows.append(np.linalg.pinv(matrix.toarray(), rcond=1e-10, hermitian=True) @ (rhs - rhs.mean()))
        else:
            rows.append(scipy.sparse.linalg.spsolve(matrix.tocsc(), rhs))
    u = cases.problem.embed(cases, torch.from_numpy(np.stack(rows)).reshape(b.shape))
    if A.nullspace:
        w = cases.domain.weights() / cases.domain.measure
        u = u - (u * w).flatten(1).sum(1).reshape(-1, *(1,) * cases.domain.ndim)
    return u


@pytest.mark.parametrize("solver", GENERAL, ids=label)
def test_darcy_equals_an_independent_solve(solver: GridSolver) -> None:
    grid = Grid.box(34, ndim=2)
    cases = Darcy().sample([1, 2, 3], grid)
    solution = solver.solve(cases, grid)
    assert solution.ok, solution.status
    expected = independent(cases)
    assert (solution.field.values[:, 0, 0] - expected).abs().max() < 1e-8 * expected.abs().max()
    assert solution.stats["iterations"].shape == (3,)


@pytest.mark.parametrize(("condition", "layout"), LAYOUTS)
@pytest.mark.parametrize("solver", POISSON, ids=label)
def test_poisson_on_every_boundary(solver: GridSolver, condition: str, layout: str) -> None:
    grid = Grid.box((17, 12), layout=layout)
    cases = Poisson(condition=condition, modes=6).sample([4, 5], grid)
    solution = solver.solve(cases, grid)
    assert solution.ok, (solution.status, solution.stats)
    expected = independent(cases)
    assert (solution.field.values[:, 0, 0] - expected).abs().max() < 1e-8 * expected.abs().max()


@pytest.mark.parametrize("ndim", [1, 3])
@pytest.mark.parametrize("solver", POISSON, ids=label)
def test_one_and_three_dimensions(solver: GridSolver, ndim: int) -> None:
    grid = Grid.box(11, ndim=ndim)
    cases = Poisson(ndim=ndim, modes=5).sample([6], grid)
    solution = solver.solve(cases, grid)
    expected = independent(cases)
    assert solution.ok
    assert (solution.field.values[:, 0, 0] - expected).abs().max() < 1e-8 * expected.abs().max()


def test_end_values_in_one_dimension() -> None:
    """Differences of a parabola are exact, so its end values are all that can go wrong."""
    problem = Poisson(ndim=1, exact_solution="1 - a*x + a*x**2", parameters={"a": [1.0, 2.0]})
    grid = Grid.box(9, ndim=1)
    cases = problem.sample([1, 2], grid)
    error = SparseDirect().solve(cases, grid).field.values - problem.reference(cases).field.values
    assert error.abs().max() < 1e-13
    cases.boundary["x1"][0] = torch.nan
    assert SparseDirect().solve(cases, grid).status == [Status.NONFINITE, Status.OK]


@pytest.mark.parametrize("condition", ["dirichlet", "neumann"])
@pytest.mark.parametrize("solver", POISSON, ids=label)
def test_second_order_on_the_ladder(solver: GridSolver, condition: str) -> None:
    """Manufactured solution with non-zero boundary data; error against the formula on the asked grid."""
    problem = Poisson(condition=condition, exact_solution="exp(a*x)*sin(y) + x*y**2", parameters={"a": [0.5, 1.5]})
    out = Grid.box(33, ndim=2)
    cases = problem.sample([1, 2], out)
    truth = problem.reference(cases).field.values
    rungs = list(solver.ladder())
    assert [r.input_grid(out, out).shape[0] for r in rungs] == [9, 17, 33, 65]
    assert len({r.name for r in rungs}) == 4 and solver in rungs
    errors = [float((r.solve(cases, out).field.values - truth).abs().max()) for r in rungs]
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    # The finest two rungs contain the points of the asked grid, so nothing but the stencil errs there.
    assert orders[-1] == pytest.approx(2.0, abs=0.1) and orders.min() > 1.6


@pytest.mark.parametrize(("condition", "layout"), LAYOUTS)
def test_spectral_poisson_is_exact_for_carried_modes(condition: str, layout: str) -> None:
    problem = Poisson(condition=condition, modes=6)
    grid = Grid.box(16, layout=layout, ndim=2)
    cases = problem.sample([7, 8], grid)
    truth = problem.reference(cases).field.values
    solution = FastPoisson(spectral=True).solve(cases, grid)
    assert (solution.field.values - truth).abs().max() < 1e-11 * truth.abs().max()


def test_spectral_poisson_refuses_boundary_data() -> None:
    problem = Poisson(exact_solution="x + y")
    cases = problem.sample([1], Grid.box(9, ndim=2))
    with pytest.raises(UsageError, match="set spectral=False"):
        FastPoisson(spectral=True).solve(cases, cases.domain)


def test_fast_poisson_refuses_variable_coefficients_with_a_remedy() -> None:
    reason = FastPoisson().refuses(Darcy(), Grid.box(16, ndim=2))
    assert reason is not None and "constant coefficient" in reason and "MultigridCG" in reason
    assert FastPoisson().refuses(Poisson(), Grid.box(16, ndim=2)) is None
    assert MultigridCG().refuses(Darcy(), Grid.box(16, ndim=2)) is None


def test_budget_is_respected() -> None:
    grid = Grid.box(33, ndim=2)
    cases = Darcy().sample([1, 2, 3], grid)
    short = PlainCG().solve(cases, grid, Budget(maxiter=4))
    assert short.status == [Status.MAX_ITER] * 3 and short.stats["iterations"].tolist() == [4] * 3
    loose = MultigridCG().solve(cases, grid, Budget(tol=1e-2))
    tight = MultigridCG().solve(cases, grid, Budget(tol=1e-12))
    assert int(loose.stats["iterations"].max()) < int(tight.stats["iterations"].min())
    late = MultigridCG(batch=2).solve(cases, grid, Budget(seconds=0.0))
    assert late.status[-1] is Status.BUDGET


def test_answers_do_not_depend_on_the_batch() -> None:
    grid = Grid.box(40, ndim=2)
    cases = Darcy().sample([1, 2, 3, 4, 5], grid)
    together = MultigridCG().solve(cases, grid).field.values
    for i in range(5):
        assert torch.equal(MultigridCG(batch=1).solve(cases[i], grid).field.values[0], together[i])


def test_single_precision_cases_are_solved_in_double() -> None:
    grid = Grid.box(24, ndim=2)
    cases = Darcy().sample([1], grid)
    single = MultigridCG().solve(cases.to(dtype=torch.float32), grid)
    assert single.field.values.dtype == torch.float32 and single.ok
    assert torch.allclose(single.field.values.double(), MultigridCG().solve(cases, grid).field.values, rtol=1e-6)


def test_asked_grid_differs_from_the_stored_one() -> None:
    problem = Poisson(modes=4)
    cases = problem.sample([3], Grid.box(64, ndim=2))
    out = Grid.box(33, ndim=2)
    solution = MultigridCG(resolution=2).solve(cases, out)
    assert solution.field.domain == out
    truth = problem.reference(cases.on(out)).field.values
    assert (solution.field.values - truth).abs().max() < 2e-3 * truth.abs().max()


def test_discrete_takes_a_class_path() -> None:
    solver = Discrete({"class_path": "sciops.numerics.krylov.ConjugateGradients"})
    assert isinstance(solver.linear, ConjugateGradients) and solver.name == "ConjugateGradients"
    with pytest.raises(UsageError, match="resolution must be positive"):
        Discrete(ConjugateGradients(), resolution=0.0)


def test_poisoned_case_is_a_status_and_harms_nobody() -> None:
    grid = Grid.box(20, ndim=2)
    problem = Poisson(modes=4)
    cases = problem.sample([1, 2, 3], grid)
    clean = MultigridCG().solve(cases, grid).field.values
    cases.inputs.values[1, 0, 0, 5, 5] = float("nan")
    solution = MultigridCG().solve(cases, grid)
    assert solution.status == [Status.OK, Status.NONFINITE, Status.OK]
    assert torch.equal(solution.field.values[[0, 2]], clean[[0, 2]])


def test_incomplete_factorisation_needs_fewer_steps() -> None:
    grid = Grid.box(49, ndim=2)
    cases = Darcy().sample([1], grid)
    steps = [int(s.solve(cases, grid).stats["iterations"][0]) for s in (PlainCG(), PlainCG(True), IncompleteCG())]
    assert steps[2] < 0.55 * steps[1] and steps[1] <= steps[0]
