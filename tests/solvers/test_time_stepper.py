"""Classical stepping as a contestant: orders, resampling, ladders, honest statuses."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from heat_problem import heat

from sciops.compare.check import check_solver
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import DataOnly
from sciops.core.solver import Budget
from sciops.data.windows import Windowed
from sciops.metrics.pointwise import relative_l2
from sciops.problems.poisson import Poisson
from sciops.solvers.time_stepper import Persistence, TimeStepper


def error(solver, data):
    return float(relative_l2(solver.solve(data.cases(), data.grid).field, data.truth()).mean())


def test_it_reaches_the_order_of_the_scheme():
    """Crank–Nicolson and second-order differences: halving h and dt together quarters the error."""
    data = Windowed(heat(0, 3, n=32, dtype=torch.float64), history=2, horizon=5)
    errors = [error(TimeStepper(refine=r, share=1.0 / (2 * r)), data) for r in (1, 2, 4)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, abs=0.3)
    # In time alone: the distance to the same grid with very short steps.
    frames = [TimeStepper(share=1.0, dt=0.5 / k).solve(data.cases(), data.grid).field.values for k in (1, 2, 128)]
    gaps = [float((u - frames[2]).norm()) for u in frames[:2]]
    assert gaps[0] / gaps[1] == pytest.approx(4, abs=0.3)


def test_coarse_grids_start_from_the_given_frames():
    data = Windowed(heat(0, 2, n=32, dtype=torch.float64), history=1, horizon=3)
    solution = TimeStepper(refine=0.5).solve(data.cases(), data.grid)
    assert solution.ok and solution.field.domain == data.grid and solution.field.times == data.truth().times
    # Modes up to 6 (three of |k| ≤ 2 with unit amplitudes have |k| ≤ 2): 16 points hold them, so only the scheme errs.
    finer = Grid.box(64, ndim=1, layout="periodic")
    assert TimeStepper(refine=0.5).solve(data.cases(), finer).field.values.shape[-1] == 64
    moved = data.cases()
    moved.history.values.mul_(2.0)  # not what the seeds would give: the given frames count
    again = TimeStepper(refine=0.5).solve(moved, data.grid)
    assert torch.allclose(again.field.values, 2 * solution.field.values, rtol=1e-12)


def test_a_step_that_is_too_long_says_which_one_is_not():
    data = Windowed(heat(0, 2, n=32, dtype=torch.float64, scheme="explicit", frames=40, every=20.0), 1, 30)
    assert TimeStepper(courant=1.0).solve(data.cases(), data.grid).ok
    bad = TimeStepper(courant=30.0, precision="float32").solve(data.cases(), data.grid)
    assert set(bad.status) == {Status.NONFINITE} and "is stable here" in bad.stats["advice"][0]
    # In double precision the same run ends at 1e183, which is no number to call a success.
    huge = TimeStepper(courant=30.0).solve(data.cases(), data.grid)
    assert set(huge.status) == {Status.UNRESOLVED} and "-fold with dt = 5; dt ≤ 0.185" in huge.stats["advice"][0]


def test_a_time_budget_is_kept():
    data = Windowed(heat(0, 2, n=32, dtype=torch.float64), history=1, horizon=6)
    late = TimeStepper(dt=1e-4).solve(data.cases(), data.grid, Budget(seconds=0.1))  # 30,000 steps
    assert set(late.status) == {Status.BUDGET} and late.stats["steps"] < 20000
    assert "the time budget ended at t = " in late.stats["advice"][0] and late.field.values.isfinite().all()
    # The answer on another grid, and a budget for tolerance alone, change nothing.
    assert TimeStepper(refine=0.5).solve(data.cases(), data.grid, Budget(tol=1e-3)).ok
    assert TimeStepper(refine=0.5).solve(data.cases(), data.grid, Budget(seconds=60.0)).ok


def test_ladder_and_refusals():
    rungs = TimeStepper().ladder()
    assert [r.name for r in rungs][1] == "TimeStepper ×0.25 points" and len({r.name for r in rungs}) == len(rungs) == 5
    assert TimeStepper().refuses(DataOnly(), Grid.box(8, ndim=2)).startswith("needs step")
    assert "4 points" in TimeStepper(refine=0.1).refuses(heat(0, 1).problem, Grid.box(16, ndim=1, layout="periodic"))
    with pytest.raises(UsageError, match="must be positive"):
        TimeStepper(refine=0)


def test_persistence_repeats_the_last_frame():
    data = Windowed(heat(0, 2), history=3, horizon=4)
    solution = Persistence().solve(data.cases(), data.grid)
    assert torch.equal(solution.field.values, data.cases().history.values[:, -1:].expand(-1, 4, -1, -1))
    start = replace(data.cases(), history=None)
    assert torch.equal(Persistence().solve(start, data.grid).field.values[:, 0, 0], start.input("u"))
    assert "steady" in Persistence().refuses(Poisson(), Grid.box(9, ndim=2))


@pytest.mark.parametrize(
    "solver", [TimeStepper(), TimeStepper(refine=2.0), Persistence()], ids=["own", "finer", "still"]
)
def test_contract(solver):
    failed = [r.name for r in check_solver(solver, heat(0, 1).problem) if not r.passed]
    # What stands still does not look at the coefficient that the clause spoils.
    assert failed == (["keeps a NaN input to its own case"] if isinstance(solver, Persistence) else [])
