"""Cases know where they came from: seeds rebuild them, formulas beat interpolation, slices keep parts together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sciops.core.cases import Cases
from sciops.core.dataset import MemoryDataset
from sciops.core.errors import UsageError, ViewMissing
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import DataOnly, Problem
from sciops.core.random import case_seed, generator
from sciops.core.solver import Budget, Solution, Solver, View, checked, require_views
from sciops.problems.darcy import Darcy
from sciops.problems.poisson import Poisson

GRID = Grid.box(17, ndim=2)
MADE = Poisson(exact_solution="sin(a*x)*exp(b*y)", parameters={"a": [1, 3], "b": [0, 1]})


# ---- seeds


def test_case_seeds_depend_on_the_root_and_the_id_alone() -> None:
    forward = {i: case_seed(7, i) for i in range(100)}
    assert {i: case_seed(7, i) for i in reversed(range(100))} == forward
    assert len(set(forward.values()) | {case_seed(8, i) for i in range(100)}) == 200
    assert all(0 <= seed < 2**63 for seed in forward.values())
    assert case_seed(7, 0, "noise") != case_seed(7, 0)
    # A fixed value: data sets made yesterday must be rebuilt tomorrow.
    assert (case_seed(0, 0), case_seed(7, 3)) == (3637447582827775887, 7212373264776373621)


def test_generators_are_independent_of_the_global_state() -> None:
    torch.manual_seed(1)
    a = torch.rand(3, generator=generator(5))
    torch.manual_seed(2)
    assert torch.equal(a, torch.rand(3, generator=generator(5)))


# ---- slicing and moving


@pytest.mark.parametrize("index", [0, -1, slice(1, 3), [3, 0], (3, 0), range(2), torch.tensor([2, 1]), np.int64(2)])
def test_indexing_keeps_every_part_together(index) -> None:
    cases = replace(MADE.sample([11, 12, 13, 14], GRID), ids=torch.tensor([0, 1, 2, 3]))
    part = cases[index]
    ids = part.ids.tolist()
    assert len(part) == len(ids) == len(part.seeds)
    for row, i in enumerate(ids):
        assert torch.equal(part.input("f")[row], cases.input("f")[i])
        assert part.seeds[row] == cases.seeds[i]
        assert all(part.params[k][row] == cases.params[k][i] for k in cases.params)
        assert all(torch.equal(part.boundary[k][row], cases.boundary[k][i]) for k in cases.boundary)


def test_to_moves_inputs_parameters_and_boundary_data() -> None:
    cases = MADE.sample([1, 2], GRID).to(torch.float32)
    assert cases.dtype is torch.float32
    assert {v.dtype for v in (*cases.params.values(), *cases.boundary.values())} == {torch.float32}
    assert cases.seeds.dtype is torch.int64


def test_channels_must_be_the_problems() -> None:
    with pytest.raises(UsageError, match=r"takes the input channels \['a', 'f'\]"):
        Cases(Darcy(), GRID, Field.steady(torch.ones(1, 1, 17, 17), GRID, ("a",)))


def test_values_give_inputs_and_parameters_by_name() -> None:
    c = MADE.sample([1, 2], GRID).values()
    assert c.f.shape == (2, 17, 17)
    assert c.a.shape == (2, 1, 1)


# ---- at points


def test_formula_or_interpolation_is_recorded_and_both_are_differentiable() -> None:
    x = torch.rand(2, 30, 2, dtype=torch.float64, requires_grad=True)
    made = MADE.sample([1, 2], GRID).at(x)
    assert made.exactness == {"f": "formula"}
    darcy = Darcy(law="lognormal").sample([1, 2], GRID).at(x)
    assert darcy.exactness == {"a": "linear", "f": "formula"}
    trig = Darcy(law="trigonometric").sample([1, 2], GRID).at(x)
    assert trig.exactness == {"a": "formula", "f": "formula"}
    random = Poisson().sample([1, 2], GRID).at(x)
    assert random.exactness == {"f": "formula"}
    seedless = replace(Poisson().sample([1, 2], GRID), seeds=None).at(x)
    assert seedless.exactness == {"f": "cubic"}
    for values in (made.f, darcy.a, trig.a, random.f, seedless.f):
        assert values.shape == (2, 30)
        (slope,) = torch.autograd.grad(values.sum(), x, retain_graph=True)
        assert bool(slope.any())


def test_formula_is_exact_and_interpolation_as_good_as_its_order() -> None:
    x = torch.rand(1, 200, 2, dtype=torch.float64)
    problem = Darcy(law="trigonometric")
    cases = problem.sample([3], Grid.box(33, ndim=2))
    stored = cases.at(cases.domain.points()[None]).a.reshape(1, 33, 33)
    torch.testing.assert_close(stored, cases.input("a"), rtol=1e-12, atol=1e-12)
    forgotten = replace(cases, params={})
    assert forgotten.at(x).exactness["a"] == "linear"
    assert float((forgotten.at(x).a - cases.at(x).a).abs().max()) > 1e-4


def test_shared_points_serve_every_case() -> None:
    cases = MADE.sample([1, 2, 3], GRID)
    x = torch.rand(1, 9, 2, dtype=torch.float64)
    shared = cases.at(x)
    for i in range(3):
        torch.testing.assert_close(shared.f[i], cases[i].at(x).f[0])


# ---- on another grid


@pytest.mark.parametrize(
    "problem",
    [Darcy(), Darcy(law="lognormal"), Darcy(law="trigonometric"), Poisson(), MADE],
    ids=lambda p: p.describe(),
)
@pytest.mark.parametrize("target", [Grid.box(9, ndim=2), Grid.box(33, ndim=2), Grid.box(20, ndim=2, layout="cell")])
def test_on_equals_sampling_on_the_other_grid(problem: Problem, target: Grid) -> None:
    cases = replace(problem.sample([5, 6], GRID), ids=torch.tensor([40, 41]))
    moved, fresh = cases.on(target), problem.sample([5, 6], target)
    assert moved.domain == target
    assert moved.provenance == "generated"
    assert moved.ids.tolist() == [40, 41]
    assert torch.equal(moved.inputs.values, fresh.inputs.values)
    for name, data in fresh.boundary.items():
        assert torch.equal(moved.boundary[name], data)
    assert torch.equal(moved.on(GRID).inputs.values, cases.inputs.values)
    assert cases.on(GRID) is cases


def test_without_seeds_the_inputs_are_interpolated_and_say_so() -> None:
    cases = replace(MADE.sample([5, 6], GRID), seeds=None)
    target = Grid.box(33, ndim=2)
    moved, truth = cases.on(target), MADE.sample([5, 6], target)
    assert moved.provenance == "interpolated"
    torch.testing.assert_close(moved.input("f"), truth.input("f"), rtol=0, atol=1e-3)
    for name, data in truth.boundary.items():
        torch.testing.assert_close(moved.boundary[name], data, rtol=0, atol=1e-4)
    two_phase = replace(Darcy().sample([5], GRID), seeds=None).on(target).input("a")
    assert 3.0 - 1e-9 <= float(two_phase.min()) <= float(two_phase.max()) <= 12.0 + 1e-9


def test_another_box_is_refused() -> None:
    with pytest.raises(UsageError, match="boxes"):
        Poisson().sample([1], GRID).on(Grid.box(9, ndim=2, upper=2.0))


def test_the_dtype_does_not_change_the_case() -> None:
    """Two-phase coefficients are thresholded in float64: no point may change its phase with the dtype."""
    for problem in (Darcy(low=0.1, high=12.1), Darcy(law="lognormal"), Poisson()):
        double, single = (problem.sample([1, 2, 3], GRID, dtype) for dtype in (torch.float64, torch.float32))
        assert single.dtype is torch.float32
        assert torch.equal(single.inputs.values, double.inputs.values.float())
    assert set(Darcy(low=0.1, high=12.1).sample([1], GRID).input("a").unique().tolist()) == {0.1, 12.1}


# ---- data only


def test_a_data_problem_offers_data_alone() -> None:
    problem = DataOnly()
    assert problem.views() == {View.DATA}
    cases = Cases(problem, GRID, Field.steady(torch.rand(2, 1, 17, 17), GRID, ("a",)))
    assert cases.on(Grid.box(9, ndim=2)).provenance == "interpolated"
    for ask in (
        lambda: problem.sample([1], GRID),
        lambda: problem.reference(cases),
        lambda: problem.system(cases),
        lambda: problem.residual_on_grid(cases, cases.input("a")),
    ):
        with pytest.raises(ViewMissing) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert problem.exact(cases, GRID.points()[None].repeat(2, 1, 1).float()) is None
    with pytest.raises((UsageError, TypeError), match="spectral"):  # TypeError: annotations are enforced here
        DataOnly(interpolation="spectral")  # type: ignore[arg-type]


# ---- datasets and the solver contract


def test_memory_datasets_check_their_sizes_and_have_a_stable_fingerprint() -> None:
    cases = Poisson().sample([1, 2, 3], GRID)
    truth = Poisson().reference(cases).field
    data = MemoryDataset(cases, truth)
    assert len(data) == 3
    assert (data.problem, data.grid) == (Poisson(), GRID)
    assert len(data.cases(slice(0, 2))) == data.truth(slice(0, 2)).n == 2
    assert data.fingerprint == MemoryDataset(Poisson().sample([1, 2, 3], GRID), truth).fingerprint
    assert data.fingerprint != MemoryDataset(Poisson().sample([1, 2, 4], GRID), truth).fingerprint
    with pytest.raises(UsageError, match="3 cases but 2 answers"):
        MemoryDataset(cases, truth[:2])


def test_views_decide_what_a_solver_may_try() -> None:
    class NeedsSystem(Solver):
        needs = frozenset({View.SYSTEM})

    assert NeedsSystem().refuses(Poisson(), GRID) is None
    assert "needs system; DataOnly offers data" in str(NeedsSystem().refuses(DataOnly(), GRID))
    with pytest.raises(ViewMissing, match="NeedsSystem cannot run on DataOnly"):
        require_views(NeedsSystem(), DataOnly(), GRID)


def test_the_bare_solver_has_nothing_to_learn_and_says_that_it_cannot_solve(tmp_path) -> None:
    solver, cases = Solver(), Poisson().sample([1], GRID)
    data = MemoryDataset(cases, Poisson().reference(cases).field)
    assert solver.fit(data, data).steps == 0
    assert (solver.parameters(), tuple(solver.ladder()), solver.input_grid(GRID, GRID)) == (0, (solver,), GRID)
    solver.save(tmp_path)
    solver.load(tmp_path)
    with pytest.raises(UsageError, match="does not implement solve"):
        solver.solve(cases, GRID, Budget())


def test_silent_nan_becomes_a_status_with_advice() -> None:
    values = torch.zeros(4, 1, 17, 17)
    values[1, 0, 3, 3], values[3, 0, 3, 3] = torch.nan, torch.inf
    status = [Status.OK, Status.OK, Status.MAX_ITER, Status.DIVERGED]
    solution = checked(Solution(Field.steady(values, GRID, ("u",)), status))
    assert solution.status == [Status.OK, Status.NONFINITE, Status.MAX_ITER, Status.DIVERGED]
    assert not solution.ok
    assert solution.advice[0] == ""
    assert all(solution.advice[1:])
