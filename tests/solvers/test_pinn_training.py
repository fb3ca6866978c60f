"""The training of physics-informed networks: resuming, points, failures."""

import copy

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.mlp import MLP
from sciops.problems.peaks import NinePeaks, OnePeak
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_initialisation import SourceDraw
from sciops.solvers.pinn_places import find_places
from sciops.solvers.pinn_training import Population, Stage

SMALL: dict = {"width": 8, "depth": 2, "points": 120, "max_points": 160}


def equation(problem=None):
    problem = problem or Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)")
    return Equation(problem.sample([0], Grid.box(17, -1.0, 1.0, ndim=problem.ndim)))


def line():
    """A case in one dimension, where everything is cheap."""
    return equation(Poisson(ndim=1, exact_solution="sin(3*x)*exp(x)"))


def run(training, steps):
    for _ in range(steps):
        training.step()
    return training


@pytest.mark.parametrize(
    "optimiser", ["gauss_newton", "ss_broyden", "lbfgs", "soap", [{"name": "adam", "steps": 7}, "gauss_newton"]]
)
def test_a_resumed_run_repeats_the_bits(optimiser):
    solver = PINN(**SMALL, optimiser=optimiser, every=3)
    case = line()
    whole = run(solver.training(case), 12)
    first = run(solver.training(case), 5)
    state = copy.deepcopy(first.state_dict())
    second = solver.training(case)
    second.load_state_dict(state)
    run(second, 7)
    assert torch.equal(whole.theta, second.theta)
    assert whole.losses == second.losses
    assert torch.equal(whole.points.x, second.points.x)


def test_the_loss_of_gauss_newton_falls_on_frozen_points():
    training = PINN(**SMALL, sampler="sciops.solvers.samplers.uniform.Uniform").training(line())
    run(training, 25)
    assert training.losses[-1] < 1e-4 * training.losses[0]
    assert len(training.points) == 120


def test_points_are_appended_up_to_the_limit_and_then_replaced():
    training = PINN(**SMALL, every=1).training(line())
    counts, kept = [], []
    for _ in range(4):
        before = training.points.x
        training.refresh()
        counts.append(len(training.points))
        kept.append(int((training.points.x[:, None] == before[None]).all(-1).any(1).sum()))
    assert counts == [156, 160, 160, 160]
    assert kept == [120, 156, 124, 124]  # 30 % of 120 points are new ones
    inside = (training.points.x.abs() <= 1).all()
    assert bool(inside)


def test_published_policies_replace_every_point():
    training = PINN(**SMALL, every=1, population="published", sampler="sciops.solvers.samplers.rad.RAD").training(
        line()
    )
    before = training.points.x
    training.refresh()
    assert len(training.points) == 120
    assert not bool((training.points.x[:, None] == before[None]).all(-1).any())


def test_a_loss_that_is_not_finite_puts_the_best_parameters_back():
    solver = PINN(**SMALL, optimiser={"name": "adam", "lr": 1e-3})
    training = run(solver.training(line()), 11)
    best = training.best[1].clone()
    training._write(torch.full_like(best, torch.nan))
    training.step()
    assert training.status == "nonfinite"
    assert training.done
    assert torch.equal(training.theta, best)


def test_adam_in_single_precision_runs_and_gauss_newton_refuses_it():
    narrow = MLP(2, 1, 4, 1, dtype=torch.float32)
    assert Stage("adam").make(narrow) is not None
    with pytest.raises(UsageError, match="float32") as caught:
        Stage("gauss_newton").make(narrow)
    assert "\n" not in str(caught.value)


def test_wrong_options_are_one_sentence():
    for make in (
        lambda: Stage("newton"),
        lambda: Population(policy="other"),
        lambda: Population(share=0.0),
        lambda: Stage("adam", {"learning": 1}).make(MLP(2, 1, 4, 1)),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert "\n" not in str(caught.value)


def draw(problem):
    case = equation(problem)

    def source(x):
        return case.problem.forcing({}, x[None])[0]

    return SourceDraw(source, case.lower, case.upper, 2000, torch.Generator().manual_seed(0))


def test_the_wavenumber_of_a_peak_is_read_off_its_source():
    """û ∝ exp(−|ξ|²/4κ): per axis E ξ² over |û|² is κ, so k = √1000 = 31.6; trimming the tails lowers it."""
    found = draw(OnePeak())
    assert 0.7 * 31.6 < found.wavenumber < 1.3 * 31.6
    wave = draw(Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)"))
    assert wave.wavenumber < 4.5  # π √(2/6) = 1.8 untrimmed


def test_draws_of_the_source_have_its_moments():
    """f² ∝ (1 − t)² e^(−2t), t = 1000 s: E s = 5e-4, a quarter of it twice over per axis: variance 2.5e-4."""
    x = draw(OnePeak()).x
    assert torch.allclose(x.mean(0), torch.tensor([0.5, 0.5], dtype=torch.float64), atol=4 * 0.0158 / 2000**0.5)
    assert torch.allclose(x.var(0), torch.full((2,), 2.5e-4, dtype=torch.float64), rtol=0.2)


def test_places_are_found_where_the_peaks_are_and_nowhere_else():
    places = find_places(draw(NinePeaks()))
    centres = sorted((round(2 * p.centre[0]) / 2, round(2 * p.centre[1]) / 2) for p in places)
    assert centres == sorted((a, b) for a in (-0.5, 0.0, 0.5) for b in (-0.5, 0.0, 0.5))
    for place in places:
        assert all(abs(c - round(2 * c) / 2) < 0.01 for c in place.centre)
    assert find_places(draw(Poisson(ndim=2, exact_solution="sin(pi*x)*sin(pi*y)"))) == []
    assert find_places(draw(Poisson(ndim=2, exact_solution="sin(9*pi*x)*sin(9*pi*y)"))) == []
