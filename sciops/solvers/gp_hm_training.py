"""The published optimisation of GP-HM: Adam on everything jointly, shared by the solver and the Lightning module."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from sciops.core.grid import Grid
from sciops.solvers.collocation import Equation
from sciops.solvers.gp_hm_objective import GPHMObjective, Snapshot

CHECKPOINTS = 20
TEST_POINTS = {1: 300, 2: 300, 3: 40}
"""Uniform test points per axis at the checkpoints, faces included."""


def adam(parameters: Iterable[Tensor], lr: float = 0.01) -> torch.optim.Adam:
    """β = (0.9, 0.999), ε = 1e-8."""
    return torch.optim.Adam(parameters, lr)


def descend(
    model: GPHMObjective,
    steps: int,
    lr: float,
    adam_reset: Sequence[int] = (),
    every: int | None = None,
    checkpoint: Callable[[GPHMObjective], None] | None = None,
    late: Callable[[], bool] = lambda: False,
    offset: int = 0,
) -> int:
    """Steps taken, `steps` or fewer where time ends them.

    `checkpoint` is called after the steps i = 0, `every`, 2 `every`, … counted from `offset`. Adam starts anew before
    the steps in `adam_reset`.
    """
    optimiser = adam(model.parameters(), lr)
    for i in range(steps):
        if late():
            return i
        if offset + i in adam_reset:
            optimiser = adam(model.parameters(), lr)
        optimiser.zero_grad(set_to_none=True)
        model.loss().backward()
        optimiser.step()
        if checkpoint is not None and every and (offset + i) % every == 0:
            checkpoint(model)
    return steps


def checkpoint_error(equation: Equation, snapshot: Snapshot) -> float | None:
    """Relative L² error at the uniform test points; None where no closed form is known."""
    case = equation.case
    grid = Grid.box((TEST_POINTS[equation.ndim],) * equation.ndim, case.domain.lower, case.domain.upper)
    x = grid.points(torch.float64, case.device)
    exact = case.problem.exact(case, x[None])
    if exact is None:
        return None
    truth = exact[0, 0].detach()
    return float((snapshot(x) - truth).norm() / truth.norm())
