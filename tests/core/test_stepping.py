"""Problems that move: frames, steps, histories."""

from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.evolution import PIECE, Evolution, round_up
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Channel
from sciops.core.solver import View


@dataclass(frozen=True)
class Decay(Evolution):
    """∂_t u = −k u by Heun's method, periodic."""

    rate: float = 1.0
    ndim = 1
    inputs = (Channel("u0"),)
    boundary = Boundary((("periodic", "periodic"),))

    def initial(self, cases):
        return cases.inputs.values[:, 0]

    def stepper(self, cases, dt):
        growth = 1 - self.rate * dt + (self.rate * dt) ** 2 / 2
        return lambda u, t: growth * u

    def largest_step(self, cases):
        return 2.0 / self.rate


def cases(times, n=3, points=8, **options):
    grid = Grid.box(points, ndim=1, layout="periodic")
    x = grid.axis(0)
    u0 = torch.stack([torch.sin(2 * torch.pi * (k + 1) * x) for k in range(n)])[:, None]
    return Cases(Decay(**options), grid, Field.steady(u0, grid, ("u0",)), times=times)


def test_frames_come_at_the_asked_times_whatever_the_step():
    made = cases((0.0, 0.25, 0.3, 1.0))
    solution = made.problem.evolve(made, 0.01)
    assert solution.field.times == made.times and solution.ok
    exact = torch.exp(-torch.tensor(made.times, dtype=torch.float64))
    found = solution.field.values[:, :, 0] / made.inputs.values[:, 0, 0][:, None].where(
        made.inputs.values[:, 0, 0][:, None].abs() > 0.1, torch.inf
    )
    kept = found != 0
    # Heun's local error is (k dt)³/6 a step.
    assert (found - exact[None, :, None]).abs()[kept].max() < 1.1 * 0.01**2 / 6


def test_the_scheme_keeps_its_order_through_shortened_steps():
    made = cases((0.7, 1.0))
    errors = [
        float(
            (made.problem.evolve(made, dt).field.values[:, 1] / made.inputs.values[:, 0]).nanmean()
            - 0.36787944117144233
        )
        for dt in (0.1, 0.05)
    ]
    assert abs(errors[0] / errors[1] - 4) < 0.3


def test_a_history_is_the_start_and_moves_with_the_cases():
    made = cases((2.5,), points=12)
    frames = Field(torch.stack([made.inputs.values[:, 0] * f for f in (3.0, 2.0)], 1), made.domain, ("u",), (1.5, 2.0))
    made = replace(made, history=frames)
    solution = made.problem.evolve(made, 0.001)
    assert torch.allclose(
        solution.field.values[:, 0], 2.0 * made.inputs.values[:, 0] * torch.exp(torch.tensor(-0.5)), rtol=1e-6
    )
    finer = made.on(Grid.box(24, ndim=1, layout="periodic"))
    assert finer.history is not None and finer.times == (2.5,)
    # Band-limited frames move between periodic grids without error.
    assert torch.allclose(finer.history.values[..., ::2], frames.values, atol=1e-13)
    assert made[1].history.n == 1 and made.to(dtype=torch.float32).history.values.dtype == torch.float32


def test_times_before_the_start_are_refused():
    made = cases((0.5,))
    made = replace(made, history=Field(made.inputs.values, made.domain, ("u",), (1.0,)))
    with pytest.raises(UsageError, match="before the start at t = 1"):
        made.problem.evolve(made, 0.1)


def test_a_step_that_is_too_long_is_named_with_one_that_works():
    made = cases((2000.0,), rate=1e3)
    solution = made.problem.evolve(made, 1.0)
    assert set(solution.status) == {Status.NONFINITE}
    assert "dt = 1" in solution.stats["advice"][0] and "0.002 is stable" in solution.stats["advice"][0]


def test_a_time_budget_ends_the_steps_and_says_where(monkeypatch):
    seconds = count()
    monkeypatch.setattr("sciops.core.evolution.perf_counter", lambda: next(seconds))  # a second passes at every look
    made = cases((0.0, 0.01, 0.5, 1.0))
    solution = made.problem.evolve(made, 1e-4, 20.0)
    assert set(solution.status) == {Status.BUDGET}
    steps = solution.stats["steps"]
    assert steps == 100 + 7 * PIECE  # 13 pieces up to the second frame, 7 more
    values = solution.field.values
    # What was reached is right, what was not repeats the state at the end.
    whole = made.problem.evolve(replace(made, times=(0.0, 0.01, steps * 1e-4)), 1e-4).field.values
    assert torch.allclose(values[:, :2], whole[:, :2], rtol=1e-12)
    assert torch.allclose(values[:, 2], whole[:, 2], rtol=1e-12) and torch.equal(values[:, 2], values[:, 3])
    reached = f"ended at t = {steps * 1e-4:.4g} of 1,"
    assert all(reached in hint and "raise the budget" in hint for hint in solution.stats["advice"])
    # Nothing is lost where there is time enough, nothing is done where there is none.
    assert torch.equal(made.problem.evolve(made, 0.01, 60.0).field.values, made.problem.evolve(made, 0.01).field.values)
    none = made.problem.evolve(made, 0.01, 0.0)
    assert set(none.status) == {Status.BUDGET} and none.stats["steps"] == 0
    assert torch.equal(none.field.values, made.inputs.values[:, :1].expand(-1, 4, -1, -1))


def test_a_history_of_other_cases_is_refused():
    made = cases((0.5,))
    with pytest.raises(UsageError, match="history must hold frames of the 3 cases"):
        replace(made, history=Field(made.inputs.values[:2], made.domain, ("u",), (1.0,)))


def test_views_offer_the_step():
    assert View.STEP in Decay().views() and View.RESIDUAL not in Decay().views()


def test_counts_do_not_suffer_from_rounding():
    assert round_up(0.3 / 0.1) == 3 and round_up(3.2) == 4 and round_up(0.5) == 1
