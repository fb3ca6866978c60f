"""Networks that grow at residual peaks: the function is kept, the error falls, a resumed run repeats the bits."""

import pytest
import torch

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.problems.convection import Convection
from sciops.problems.poisson import Poisson
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn import PINN
from sciops.solvers.pinn_growth import residual_peaks

PEAKS = "exp(-400*(x-0.3)**2) + exp(-400*(x+0.5)**2)"
GROWTH = {"rounds": 2, "every": 12, "stalled": 4.0, "width": 8}
CRITIC = {"class_path": "sciops.solvers.samplers.oracle.Oracle", "init_args": {"cells": 256}}
SMALL = {"sampler": CRITIC, "width": 6, "depth": 1, "local": False, "weak_modes": 0, "points": 160, "every": 6}


def equation() -> Equation:
    return Equation(Poisson(ndim=1, exact_solution=PEAKS).sample([0], Grid.box(65, -1.0, 1.0)))


def error(training: object, case: Equation) -> float:
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    exact = case.problem.exact(case.case, x[None])[0, 0]
    with torch.no_grad():
        return float((training.trial(x)[:, 0] - exact).norm() / exact.norm())


def test_growth_keeps_the_function_and_then_lowers_the_error() -> None:
    case = equation()
    plain = PINN(**SMALL).training(case)
    training = PINN(**SMALL, growth=GROWTH).training(case)
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    before = training.trial(x)
    training._append(residual_peaks(training.magnitude, case.lower, case.upper, torch.Generator().manual_seed(0)))
    assert torch.equal(training.trial(x), before)
    training = PINN(**SMALL, growth=GROWTH).training(case)
    parameters = len(training.theta)
    for _ in range(60):
        training.step()
        plain.step()
    plain.settle()
    training.settle()
    assert training.grown and len(training.theta) > parameters
    assert error(training, case) < 0.1 * error(plain, case)


def test_peaks_of_a_residual_are_found() -> None:
    def residual(x: torch.Tensor) -> torch.Tensor:
        return torch.exp(-2000 * ((x - torch.tensor([0.4, -0.2])) ** 2).sum(1))

    low, high = -torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    (place,) = residual_peaks(residual, low, high, torch.Generator().manual_seed(0))
    # r² = exp(−4000 s) has the standard deviation 1/√8000 = 0.011, its nearest fifth a third of that.
    assert torch.allclose(torch.tensor(place.centre), torch.tensor([0.4, -0.2]), atol=2e-3)
    assert all(0.02 < length < 0.045 for length in place.lengths)


def test_a_run_resumed_behind_a_growth_repeats_the_bits() -> None:
    solver = PINN(**SMALL, growth={"rounds": 2, "every": 6, "stalled": 50.0})
    whole, first, second = (solver.training(equation()) for _ in range(3))
    for _ in range(20):
        whole.step()
    for _ in range(14):
        first.step()
    assert first.grown
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        second.step()
    assert len(second.grown) == len(whole.grown)
    assert torch.equal(second.theta, whole.theta) and second.losses == whole.losses
    whole.settle()
    second.settle()
    assert torch.equal(second.theta, whole.theta)


def test_growth_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="growth takes rounds, every, stalled and width; got depth"):
        PINN(growth={"depth": 3})
    with pytest.raises(UsageError, match="rounds ≥ 0"):
        PINN(growth={"rounds": -1})
    case = Equation(
        Convection().sample([0], Grid.box((8, 9), (0.0, 0.0), (6.283185307179586, 1.0), ("periodic", "node")))
    )
    with pytest.raises(UsageError, match="periodic"):
        PINN(growth={"rounds": 1}).training(case)
