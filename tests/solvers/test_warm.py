"""Warm starts: certified answers whatever the start, what they save, and training delegated to the first solver."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sciops.compare.check import check_solver
from sciops.compare.judge import filled, judge
from sciops.compare.plan import Contestant
from sciops.compare.results import Results, Row
from sciops.compare.table import main_tables
from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.solver import Budget, Solution, Solver
from sciops.metrics.catalogue import named
from sciops.numerics.fgmres import FGMRES
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.krylov import ConjugateGradients, Jacobi
from sciops.numerics.minres import Minres
from sciops.problems.poisson import Poisson
from sciops.solvers.discrete import Discrete
from sciops.solvers.fast_poisson import FastPoisson
from sciops.solvers.operator import OperatorSolver
from sciops.solvers.plain_cg import PlainCG
from sciops.solvers.warm import Warm

NET = {
    "class_path": "sciops.models.mgno.MgNO",
    "init_args": {"width": 4, "layers": 2, "iterations": ["10", "10", "20"]},
}


def grid_of(condition: str) -> Grid:
    return Grid.box(32, ndim=2, layout="periodic") if condition == "periodic" else Grid.box(33, ndim=2)


def dataset(start: int, stop: int) -> MemoryDataset:
    problem, grid = Poisson(modes=8), Grid.box(17, ndim=2)
    cases = problem.sample(list(range(start, stop)), grid)
    answer = problem.reference(cases)
    return MemoryDataset(cases, answer.field, answer.stats["label_error"])


class Fails(Solver):
    """NaN for the first case, zero for the others."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        u = torch.zeros((len(cases), 1, *out.shape), dtype=cases.dtype)
        u[0] = torch.nan
        return Solution(Field.steady(u, out, ("u",)), [Status.OK] * len(cases))


@pytest.mark.parametrize("linear", [ConjugateGradients(Jacobi()), FlexibleCG(Jacobi())])
@pytest.mark.parametrize("condition", ["dirichlet", "neumann", "periodic"])
def test_a_good_start_saves_iterations_and_changes_no_answer(condition: str, linear: Jacobi) -> None:
    problem, grid = Poisson(condition=condition, modes=16), grid_of(condition)
    cases = problem.sample([0, 1, 2], grid)
    cold = Discrete(linear).solve(cases, grid)
    exact = Warm(FastPoisson(), linear).solve(cases, grid)
    assert exact.status == [Status.OK] * 3
    assert int(exact.stats["iterations"].max()) == 0
    loose = Warm(PlainCG(tol=1e-4), linear, count_saved=True)
    warm = loose.solve(cases, grid)
    assert warm.status == [Status.OK] * 3
    assert bool((warm.stats["start_residual"] <= 2e-4).all())
    assert torch.equal(warm.stats["iterations_cold"], cold.stats["iterations"])
    assert torch.equal(warm.stats["iterations_saved"], cold.stats["iterations"] - warm.stats["iterations"])
    assert bool((warm.stats["iterations_saved"] > 0).all())
    difference = (warm.field.values - cold.field.values).abs().max()
    assert float(difference) < 1e-5 * float(cold.field.values.abs().max())


@pytest.mark.parametrize(
    "solver",
    [Warm(PlainCG(resolution=0.5), FlexibleCG()), Discrete(Minres()), Discrete(FGMRES(restart=60))],
    ids=lambda s: s.name,
)
def test_the_contract_of_solvers_is_kept(solver: Solver) -> None:
    assert not [f"{r.name}: {r.message}" for r in check_solver(solver, Poisson(modes=8)) if not r.passed]


def test_boundary_data_and_other_grids() -> None:
    problem = Poisson(exact_solution="sin(a*x)*exp(y)", parameters={"a": [1.0, 3.0]})
    cases = problem.sample([0, 1], Grid.box(17, ndim=2))
    first = Discrete(ConjugateGradients(Jacobi()), resolution=0.5)
    for rung in Warm(first, ConjugateGradients(Jacobi())).ladder():
        found = rung.solve(cases, cases.domain)
        assert found.status == [Status.OK] * 2
        assert float(found.stats["start_residual"].max()) < 1.0


def test_a_start_that_is_nan_is_not_used() -> None:
    cases = Poisson(modes=8).sample([0, 1], Grid.box(17, ndim=2))
    found = Warm(Fails(), FlexibleCG(Jacobi()), count_saved=True).solve(cases, cases.domain)
    assert found.status == [Status.OK] * 2
    assert found.stats["iterations_saved"].tolist() == [0, 0]


def test_a_trained_operator_is_trained_saved_and_counted_through_it(tmp_path: Path) -> None:
    spec = {
        "class_path": "sciops.solvers.operator.OperatorSolver",
        "init_args": {"net": NET, "epochs": 2, "batch_size": 4, "device": "cpu"},
    }
    options = {"first": spec, "linear": {"class_path": "sciops.numerics.flexible_cg.FlexibleCG"}}
    contestant = Contestant("warm", "sciops.solvers.warm.Warm", options, (0, 1))
    warm = contestant.make(1)
    assert isinstance(warm, Warm)
    assert isinstance(warm.first, OperatorSolver)
    assert warm.first.seed == 1
    assert warm.trained
    assert warm.name == "MgNO → FlexibleCG"
    test = dataset(12, 16)
    assert warm.refuses(test.problem, test.grid) is None
    warm.workdir = tmp_path / "work"
    assert warm.first.workdir == tmp_path / "work"
    report = warm.fit(dataset(0, 8), dataset(8, 12))
    assert report.steps == 4
    assert warm.parameters() == warm.first.parameters() > 0
    warm.save(tmp_path / "kept")
    other = contestant.make(1)
    other.load(tmp_path / "kept")
    found, again = (solver.solve(test.cases(), test.grid) for solver in (warm, other))
    assert found.status == [Status.OK] * 4
    assert torch.equal(found.field.values, again.field.values)
    # In the comparison: counted outside of the clocks, shown beside the costs, absent where nothing was saved.
    judged = judge(warm, test, [named("rel_l2")], 2, Budget())
    row = filled(Row("warm", "", 0, "learned", ["data"], key="a"), judged)
    cold = Discrete(FlexibleCG()).solve(test.cases(), test.grid).stats["iterations"].double().mean()
    assert row.iterations is not None
    assert row.iterations_saved == pytest.approx(float(cold) - row.iterations)
    plain = filled(
        Row("cold", "", 0, "classical", ["system"], key="b"),
        judge(Discrete(FlexibleCG()), test, [named("rel_l2")], 2, Budget()),
    )
    results = Results("t", "t", "p", "e", "rel_l2", ["rel_l2"], [row, plain])
    cost = {entry["solver"]: entry for entry in main_tables(results)["Cost"]}
    assert cost["warm"]["iterations saved"] == f"{row.iterations_saved:.1f}"
    assert cost["cold"]["iterations saved"] == ""
    values = {r["metric"]: r["value"] for r in results.records() if r["solver"] == "warm"}
    assert values["iterations_saved"] == row.iterations_saved
    bare = main_tables(replace(results, rows=[plain]))["Cost"][0]
    assert "iterations saved" not in bare
    assert "iterations" in bare


def test_it_refuses_what_either_part_refuses() -> None:
    neumann_free = Warm(FastPoisson(), ConjugateGradients())
    from sciops.problems.darcy import Darcy

    reason = neumann_free.refuses(Darcy(), Grid.box(17, ndim=2))
    assert reason == FastPoisson().refuses(Darcy(), Grid.box(17, ndim=2))
    assert reason is not None
