"""Solvers of pressure systems with solids, singular parts and idle cells: all give the same answer."""

import importlib.util

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.grid import Grid
from sciops.core.linear import LinearSolver, Status
from sciops.numerics.compiled.aggregation import AggregationMultigrid
from sciops.numerics.compiled.base import PlainCompiledCG
from sciops.numerics.compiled.incomplete import IncompleteCholesky
from sciops.problems.poisson import Poisson
from sciops.problems.pressure import Pressure
from sciops.solvers.aggregation_cg import AggregationCG
from sciops.solvers.amgcl_cg import Amgcl, AmgclCG
from sciops.solvers.hypre_cg import Hypre, HypreCG
from sciops.solvers.incomplete_cg import IncompleteCG
from sciops.solvers.pyamg_cg import Pyamg
from sciops.solvers.sparse_direct import SuperLU

HAS_AMGCL = importlib.util.find_spec("pyamgcl") is not None
HAS_PETSC = importlib.util.find_spec("petsc4py") is not None
amgcl = pytest.mark.skipif(not HAS_AMGCL, reason="pyamgcl is not installed")
petsc = pytest.mark.skipif(not HAS_PETSC, reason="petsc4py is not installed")
SOLVERS = [
    pytest.param(AggregationMultigrid(), id="aggregation"),
    pytest.param(IncompleteCholesky(), id="IC"),
    pytest.param(IncompleteCholesky(0.97), id="MIC"),
    pytest.param(PlainCompiledCG(), id="CG"),
    pytest.param(Pyamg(), id="pyamg RS"),
    pytest.param(Pyamg("smoothed_aggregation"), id="pyamg SA"),
    pytest.param(Amgcl(), id="AMGCL SA", marks=amgcl),
    pytest.param(Amgcl("ruge_stuben"), id="AMGCL RS", marks=amgcl),
    pytest.param(Hypre(), id="hypre", marks=petsc),
]


def pressure(space: tuple[int, ...], closed: bool, seed: int = 1) -> FaceOperator:
    """Random solids in a box that is closed, or open to air on one side."""
    parameters = {"top": "solid", "pockets": "kept"} if closed else {"top": "air"}
    problem = Pressure(ndim=len(space), scene="random_solids", parameters=parameters)
    A = problem.matrix(problem.sample([seed, seed + 1], Grid.box(space, layout="cell")))
    assert (A.nullspace == "components") == closed
    return A


@pytest.fixture(scope="module")
def expected() -> dict[tuple[tuple[int, ...], bool], tuple[FaceOperator, torch.Tensor, torch.Tensor]]:
    cases, direct = {}, SuperLU()
    for space in ((70, 64), (15, 14, 13)):
        for closed in (False, True):
            A = pressure(space, closed)
            b = torch.randn((2, *space), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            answer = direct.solve(direct.setup(A), b, tol=1e-11)
            assert answer.status == [Status.OK] * 2 and float(answer.residual.max()) < 1e-11
            cases[space, closed] = (A, b, answer.x)
    return cases


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("space", [(70, 64), (15, 14, 13)], ids=["2d", "3d"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_pressure_equals_sparse_direct(
    solver: LinearSolver, space: tuple[int, ...], closed: bool, expected: dict
) -> None:
    A, b, x = expected[space, closed]
    assert bool((~A.active).any())
    state = solver.setup(A)
    answer = solver.solve(state, b, tol=1e-10, maxiter=2000)
    assert answer.status == [Status.OK] * 2
    # ‖x − x*‖ ≤ ‖A⁺‖ ‖r‖: less than (cells per axis)² times the relative residual.
    assert (answer.x - x).abs().max() < 1e-6 * x.abs().max()
    assert bool((answer.x[~A.active] == 0).all())
    warm = solver.solve(state, b, x0=x + 1e-6 * torch.randn_like(x) * A.active, tol=1e-8, maxiter=2000)
    assert warm.status == [Status.OK] * 2 and bool((warm.iterations <= answer.iterations).all())


@pytest.mark.parametrize("solver", [*SOLVERS, pytest.param(SuperLU(), id="direct")])
def test_grid_without_a_row(solver: LinearSolver) -> None:
    A = FaceOperator((torch.zeros((1, 4, 4), dtype=torch.float64),) * 2, torch.zeros((1, 4, 4), dtype=torch.float64))
    answer = solver.solve(solver.setup(A), torch.ones((1, 4, 4), dtype=torch.float64))
    assert answer.status == [Status.OK] and not bool(answer.x.any())


@pytest.mark.parametrize("solver", [*SOLVERS, pytest.param(SuperLU(), id="direct")])
def test_nan_is_a_status_of_its_case(solver: LinearSolver, expected: dict) -> None:
    A, b, x = expected[(15, 14, 13), False]
    poisoned = b.clone()
    cell = torch.nonzero(A.active[0])[0].tolist()
    poisoned[0, cell[0], cell[1], cell[2]] = torch.nan
    answer = solver.solve(solver.setup(A), poisoned, tol=1e-10)
    assert answer.status == [Status.NONFINITE, Status.OK]
    assert (answer.x[1] - x[1]).abs().max() < 1e-6 * x[1].abs().max()


def test_absent_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    A = pressure((8, 8), False)
    for module, solver, remedy in (("pyamgcl", Amgcl(), "pip install"), ("petsc4py", Hypre(), "petsc4py")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=remedy):
            solver.setup(A)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for contestant in (AmgclCG(), HypreCG()):
        reason = contestant.refuses(Poisson(), Grid.box(9, ndim=2))
        assert reason is not None
        assert "not installed" in reason


def test_options_and_refusals_are_sentences() -> None:
    with pytest.raises(UsageError, match="strong_threshold"):
        HypreCG(strong_threshold=1.0)
    with pytest.raises(UsageError, match="coarsening must be one of"):
        Amgcl("geometric")
    periodic = Poisson(condition="periodic")
    reason = AggregationCG().refuses(periodic, Grid.box(8, layout="periodic", ndim=2))
    assert reason is not None and "MultigridCG" in reason
    assert AggregationCG().refuses(Poisson(), Grid.box(9, ndim=2)) is None
    names = [s.name for s in (IncompleteCG(), IncompleteCG(modified=0.97), AmgclCG(), AmgclCG("ruge_stuben"))]
    assert len(set(names)) == 4
