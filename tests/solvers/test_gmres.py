"""GMRES: the answers of dense algebra, monotone residuals, a damping cycle that contracts, honest endings."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.numerics.complex_gmres import gmres
from sciops.numerics.fgmres import FGMRES
from sciops.numerics.minres import Minres
from sciops.numerics.shifted_laplacian import ShiftedCycle, interpolation
from sciops.problems.darcy import Darcy
from sciops.problems.helmholtz_absorbing import MEDIA, HelmholtzAbsorbing
from sciops.problems.helmholtz_neumann import HelmholtzNeumann
from sciops.problems.poisson import Poisson
from sciops.solvers.boxmg_cg import BoxmgCG
from sciops.solvers.discrete import Discrete
from sciops.solvers.gmres import GMRES, PreconditionedGMRES
from sciops.solvers.incomplete_cg import IncompleteCG
from sciops.solvers.multigrid_cg import MultigridCG
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.pyamg_cg import PyamgCG
from sciops.solvers.sparse_direct import SparseDirect


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_dense_systems(kind: str) -> None:
    draw = np.random.default_rng(0)
    A = draw.standard_normal((60, 60)) + 20 * np.eye(60)  # eigenvalues to one side of zero, so that restarts work
    b = draw.standard_normal(60)
    if kind == "complex":
        A, b = A + 1j * draw.standard_normal((60, 60)), b + 1j * draw.standard_normal(60)
    known = np.linalg.solve(A, b)
    found = gmres(csr_matrix(A), b, tol=1e-12, maxiter=60)
    assert found.steps <= 60 and np.linalg.norm(found.x - known) < 1e-9 * np.linalg.norm(known)
    assert all(after <= before * (1 + 1e-12) for before, after in zip(found.history, found.history[1:], strict=False))
    short = gmres(csr_matrix(A), b, tol=1e-10, maxiter=400, restart=12)
    assert np.linalg.norm(b - A @ short.x) <= 1e-10 * np.linalg.norm(b)
    inverse = np.linalg.inv(A)
    exact = gmres(csr_matrix(A), b, lambda r: inverse @ r, tol=1e-10)
    assert exact.steps == 1
    warm = gmres(csr_matrix(A), b, x0=known, tol=1e-8)
    assert warm.steps == 0


def test_the_residual_is_minimal() -> None:
    """After j steps: the least-squares problem over the Krylov basis, solved by QR."""
    draw = np.random.default_rng(1)
    A = draw.standard_normal((40, 40)) + 1j * draw.standard_normal((40, 40))
    b = draw.standard_normal(40).astype(complex)
    basis = np.stack([np.linalg.matrix_power(A, j) @ b for j in range(6)], 1)
    y, *_ = np.linalg.lstsq(A @ basis, b, rcond=None)
    least = np.linalg.norm(b - A @ basis @ y)
    found = gmres(csr_matrix(A), b, tol=1e-12, maxiter=6)
    assert found.history[6] == pytest.approx(least, rel=1e-8)
    assert np.linalg.norm(b - A @ found.x) == pytest.approx(least, rel=1e-8)


def test_zero_and_stalled_systems() -> None:
    shift = csr_matrix(np.roll(np.eye(20), 1, 0))  # no progress before the 20th step
    b = np.eye(20)[0]
    assert gmres(shift, np.zeros(20)).steps == 0
    stalled = gmres(shift, b, tol=1e-10, restart=5)
    assert stalled.stalled and stalled.steps == 5
    whole = gmres(shift, b, tol=1e-10, restart=20)
    assert np.linalg.norm(b - shift @ whole.x) < 1e-9


@pytest.mark.parametrize("n", [9, 10, 33])
def test_interpolation_keeps_linear_functions(n: int) -> None:
    P, coarse = interpolation(n), (n + 1) // 2
    np.testing.assert_allclose(P @ np.linspace(0, 3, coarse), np.linspace(0, 3, n), atol=1e-13)


@pytest.mark.parametrize("n", [64, 65])
def test_the_cycle_contracts_for_the_damped_equation(n: int) -> None:
    problem, grid = HelmholtzAbsorbing(wavenumber=20.0), Grid.box(n, ndim=2)
    A = problem.matrix(problem.sample([0], grid))
    damped, M = A.to_complex() - 0.5j * A.reaction_matrix(), A.reaction_matrix()
    cycle = ShiftedCycle(A.to_complex(), M, grid.shape, 28.0 / (n - 1), shift=0.5)
    assert len(cycle.levels) >= 1
    e = np.random.default_rng(0).standard_normal(n * n) + 0j
    rates = []
    for _ in range(12):
        size = np.linalg.norm(e)
        e = e - cycle(damped @ e)
        rates.append(np.linalg.norm(e) / size)
    assert rates[-1] < 0.7, rates


@pytest.mark.parametrize("preconditioner", ["shifted_laplacian", "ilu"])
@pytest.mark.parametrize("medium", MEDIA)
def test_waves_that_leave(preconditioner: str, medium: str) -> None:
    problem, grid = HelmholtzAbsorbing(medium=medium), Grid.box(41, ndim=2)
    cases = problem.sample([0, 1], grid)
    found, known = (s.solve(cases, grid) for s in (GMRES(preconditioner, tol=1e-10), SparseDirect()))
    assert found.ok and known.ok
    gap = (found.field.values - known.field.values).norm() / known.field.values.norm()
    assert float(gap) < 1e-7


def test_steps_do_not_grow_with_the_grid_but_with_the_wavenumber() -> None:
    def steps(k: float, n: int) -> int:
        problem, grid = HelmholtzAbsorbing(wavenumber=k, medium="constant"), Grid.box(n, ndim=2)
        return int(GMRES().solve(problem.sample([0], grid), grid).stats["iterations"][0])

    assert abs(steps(15.0, 65) - steps(15.0, 33)) <= 4
    assert steps(30.0, 65) > 1.3 * steps(15.0, 65)


def test_closed_boxes() -> None:
    problem, grid = HelmholtzNeumann(omega=300.0), Grid.box(33, ndim=2)
    cases = problem.sample([0, 1], grid)
    found, known = (s.solve(cases, grid) for s in (GMRES(tol=1e-10), SparseDirect()))
    assert found.ok and float((found.field.values - known.field.values).norm() / known.field.values.norm()) < 1e-6


def test_other_krylov_methods_take_the_real_form() -> None:
    problem, grid = HelmholtzAbsorbing(wavenumber=3.0), Grid.box(6, ndim=2)
    cases = problem.sample([0], grid)
    A, b = problem.system(cases)
    known = SparseDirect().solve(cases, grid).field.values[:, 0]
    for solver in (Minres(), FGMRES(restart=75)):
        answer = solver.solve(solver.setup(A), b, tol=1e-9, maxiter=3000)
        assert answer.status == [Status.OK]
        assert float((answer.x - known).norm() / known.norm()) < 1e-6


@pytest.mark.parametrize("problem", [Poisson(modes=6), Poisson(condition="neumann", modes=6), Darcy()], ids=str)
def test_other_problems_get_the_incomplete_factors(problem) -> None:
    grid = Grid.box(25, ndim=2)
    cases = problem.sample([0], grid)
    found, known = (s.solve(cases, grid) for s in (GMRES(tol=1e-10), SparseDirect()))
    assert found.ok and float((found.field.values - known.field.values).norm() / known.field.values.norm()) < 1e-7


def test_endings_are_honest() -> None:
    problem, grid = HelmholtzAbsorbing(), Grid.box(41, ndim=2)
    cases = problem.sample([0], grid)
    short = GMRES(maxiter=3).solve(cases, grid)
    assert short.status == [Status.MAX_ITER] and short.stats["iterations"].tolist() == [3]
    assert short.stats["advice"] == [""]
    closed = HelmholtzNeumann(omega=600.0)
    stuck = GMRES("none", restart=2).solve(closed.sample([0], grid), grid)
    assert stuck.status == [Status.MAX_ITER] and "raise restart" in stuck.stats["advice"][0]
    with pytest.raises(UsageError, match="needs to know the k²"):
        GMRES("shifted_laplacian").solve(Poisson(modes=6).sample([0], grid), grid)
    with pytest.raises(UsageError, match="must be one of auto, shifted_laplacian, ilu, none"):
        PreconditionedGMRES("jacobi")
    with pytest.raises(UsageError, match="restart ≥ 1"):
        PreconditionedGMRES(restart=0)


def test_a_start_is_used() -> None:
    problem, grid = HelmholtzAbsorbing(), Grid.box(41, ndim=2)
    A, b = problem.system(problem.sample([0], grid))
    solver = PreconditionedGMRES()
    state = solver.setup(A)
    cold = solver.solve(state, b, tol=1e-9)
    warm = solver.solve(state, b, x0=cold.x + 1e-3 * torch.randn(cold.x.shape, dtype=torch.float64) * cold.x.std())
    assert 0 < int(warm.iterations[0]) < int(cold.iterations[0])


@pytest.mark.parametrize("problem", [HelmholtzNeumann(), HelmholtzAbsorbing()], ids=["closed", "open"])
def test_solvers_for_positive_systems_refuse_waves_before_assembly(problem: HelmholtzNeumann) -> None:
    grid = Grid.box(33, ndim=2, layout=problem.layout)
    for solver in (PlainCG(), MultigridCG(), BoxmgCG(), PyamgCG(), IncompleteCG()):
        reason = solver.refuses(problem, grid)
        assert reason is not None and "is indefinite; use GMRES" in reason
    for solver in (GMRES(), SparseDirect(), Discrete(Minres())):
        assert solver.refuses(problem, grid) is None
