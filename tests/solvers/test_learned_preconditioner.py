"""Operators as preconditioners: an exact one needs one step, a hostile one is harmless, a trained one is certified."""

import pytest
import torch

from sciops.compare.check import check_solver
from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget, Solution, Solver
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson
from sciops.problems.pressure import Pressure
from sciops.solvers.discrete import Discrete
from sciops.solvers.learned_preconditioner import LearnedPreconditioner
from sciops.solvers.multigrid_cg import MultigridCG
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.sparse_direct import SparseDirect

NET = {
    "class_path": "sciops.models.mgno.MgNO",
    "init_args": {"width": 4, "layers": 2, "iterations": ["10", "10", "20"]},
}
CONDITIONS = {
    "dirichlet": (Poisson(modes=8), Grid.box(17, ndim=2)),
    "neumann": (Poisson(condition="neumann", modes=8), Grid.box(17, ndim=2)),
    "periodic": (Poisson(condition="periodic", modes=8), Grid.box(16, ndim=2, layout="periodic")),
    "with boundary data": (
        Poisson(exact_solution="sin(a*x)*exp(y)", parameters={"a": [1.0, 3.0]}),
        Grid.box(17, ndim=2),
    ),
    "Darcy": (Darcy(law="lognormal"), Grid.box(17, ndim=2)),
    "three-dimensional": (Poisson(ndim=3, modes=4), Grid.box(9, ndim=3)),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_an_exact_operator_needs_one_step(name: str) -> None:
    """The residual reaches the operator as the forcing of the same equation: signs, weights, boundary all right."""
    problem, grid = CONDITIONS[name]
    cases = problem.sample([0, 1], grid)
    found = LearnedPreconditioner(MultigridCG(tol=1e-12), sweeps=0).solve(cases, grid)
    assert found.status == [Status.OK] * 2
    assert found.stats["iterations"].tolist() == [1, 1]
    assert found.stats["fallbacks"].tolist() == [0, 0]
    expected = MultigridCG(tol=1e-11).solve(cases, grid).field.values
    assert float((found.field.values - expected).abs().max()) < 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("scene", ["random_solids", "moving_solids"])
def test_cells_without_a_row_do_not_count(scene: str) -> None:
    """Around solids the matrix has zero rows, where no forcing can enter; an exact operator still needs one step."""
    problem, grid = Pressure(scene=scene), Grid.box((20, 20), layout="cell")
    cases = problem.sample([0, 1], grid)
    A, b = problem.system(cases)
    assert not bool((A.diagonal() > 0).all())
    found = LearnedPreconditioner(SparseDirect(), sweeps=0).solve(cases, grid)
    assert found.status == [Status.OK] * 2
    assert found.stats["iterations"].tolist() == [1, 1]
    assert found.stats["fallbacks"].tolist() == [0, 0]
    assert float((A.matvec(found.field.values[:, 0, 0]) - A.project(b)).norm()) <= 1e-7 * float(b.norm())


def test_the_contract_of_solvers_is_kept() -> None:
    solver = LearnedPreconditioner(MultigridCG(tol=1e-2))
    assert not [f"{r.name}: {r.message}" for r in check_solver(solver, Poisson(modes=8)) if not r.passed]


class Hostile(Solver):
    """Noise, NaN or zero by case."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        u = torch.randn((len(cases), 1, *out.shape), dtype=cases.dtype) * 1e6
        u[0], u[1] = torch.nan, 0.0
        return Solution(Field.steady(u, out, ("u",)), [Status.OK] * len(cases))


@pytest.mark.parametrize("sweeps", [0, 2])
def test_a_hostile_operator_never_passes_for_success(sweeps: int) -> None:
    torch.manual_seed(0)
    problem, grid = CONDITIONS["dirichlet"]
    cases = problem.sample([0, 1, 2], grid)
    solver = LearnedPreconditioner(Hostile(), sweeps=sweeps, maxiter=120, warm=True)
    found = solver.solve(cases, grid)
    assert found.status[:2] == [Status.OK] * 2
    assert (found.status[2] is Status.OK) == (float(found.stats["residual"][2]) <= 1e-8)
    expected = MultigridCG(tol=1e-11).solve(cases, grid).field.values
    assert float((found.field.values - expected)[:2].abs().max()) < 1e-6 * float(expected.abs().max())


def test_a_trained_operator_in_the_loop() -> None:
    problem, grid = CONDITIONS["dirichlet"]

    def data(start: int, stop: int) -> MemoryDataset:
        cases = problem.sample(list(range(start, stop)), grid)
        return MemoryDataset(cases, problem.reference(cases).field)

    operator = OperatorSolver(NET, epochs=15, lr=1e-2, weight_decay=0.0, batch_size=4, device="cpu")
    solver = LearnedPreconditioner(operator, sweeps=4)
    assert solver.trained
    solver.fit(data(0, 16), data(16, 20))
    assert solver.parameters() > 0
    cases = data(20, 24).cases()
    found = solver.solve(cases, grid)
    assert found.status == [Status.OK] * 4
    assert int(found.stats["network_calls"]) == int(found.stats["iterations"].max())
    counted = solver.unclocked(cases, grid, found)
    jacobi = Discrete({"class_path": "sciops.numerics.krylov.ConjugateGradients", "init_args": {}}).solve(cases, grid)
    assert bool((counted["iterations_cold"] <= jacobi.stats["iterations"] + 2).all())
    assert bool((counted["iterations_saved"] > 0).all())
    expected = MultigridCG(tol=1e-11).solve(cases, grid).field.values
    assert float((found.field.values - expected).abs().max()) < 1e-6 * float(expected.abs().max())


def test_what_cannot_work_is_one_sentence() -> None:
    darcy, grid = CONDITIONS["Darcy"]
    cases = darcy.sample([0, 1, 2, 3], grid)
    data = MemoryDataset(cases, darcy.reference(cases).field)
    operator = OperatorSolver(NET, epochs=1, batch_size=4, device="cpu")
    operator.fit(data, data)
    with pytest.raises(UsageError, match="trained with a constant f"):
        LearnedPreconditioner(operator).solve(cases, grid)
    with pytest.raises(UsageError, match="does not depend on a"):
        LearnedPreconditioner(MultigridCG(), forcing="a").solve(cases, grid)
    reason = LearnedPreconditioner(MultigridCG(), forcing="g").refuses(darcy, grid)
    assert reason is not None
    assert "set forcing to one of a, f" in reason
    three, grid3 = CONDITIONS["three-dimensional"]
    flat = OperatorSolver({**NET, "init_args": {**NET["init_args"], "ndim": 2}}, device="cpu")
    refused = LearnedPreconditioner(flat).refuses(three, grid3)
    assert refused is not None
