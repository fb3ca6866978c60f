"""Lightning data module of one case of a problem: what per-instance methods train on is its equation."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from sciops.core.cases import Cases
from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.core.random import generator


class CaseData(LightningDataModule):
    """One case in float64, and epochs of `steps` empty batches: a full-batch method reads the case itself.

    problem        {class_path, init_args}
    shape          points per axis of the grid on which the case is sampled, faces included
    lower, upper   the box: one number, or one per axis
    steps          optimiser steps per epoch
    points         uniform test points per axis of validation and test; in more than three dimensions the problem's own
                   `test_points`, where it has them
    seed           of the case

    Batches of validation and test are {"x": (P, d)} and, where the problem knows its solution, "u": (P,), of several
    unknowns (P, c).
    """

    case: Cases

    def __init__(
        self,
        problem: dict[str, Any],
        shape: Sequence[int] = (400,),
        lower: float | Sequence[float] = 0.0,
        upper: float | Sequence[float] = 1.0,
        steps: int = 500,
        points: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if steps < 1 or points < 2 or not shape or min(shape) < 4:
            raise UsageError(
                f"steps must be 1 or more, points 2 or more and shape 4 or more per axis; got {steps}, {points} and "
                f"{list(shape)}."
            )
        self.problem, self.steps, self.points, self.seed = problem, steps, points, seed
        self.grid = Grid.box(shape, lower, upper)

    def setup(self, stage: str | None = None) -> None:
        problem: Problem = build(self.problem, Problem)
        if problem.ndim != self.grid.ndim:
            raise UsageError(
                f"shape names {self.grid.ndim} axes, but {type(problem).__name__} has {problem.ndim}; give one number "
                "for each axis."
            )
        self.case = problem.sample([self.seed], self.grid, torch.float64)

    def train_dataloader(self) -> DataLoader:
        # The loader draws a base seed from the global state unless it has a generator of its own.
        return DataLoader(TensorDataset(torch.zeros(self.steps, 0)), batch_size=1, generator=generator(self.seed))

    def val_dataloader(self) -> DataLoader:
        measured = getattr(self.case.problem, "test_points", None)  # no grid covers more than three axes
        if self.grid.ndim > 3 and measured is not None:
            x = measured()
        else:
            x = self.grid.resized(self.points).points(torch.float64)
        exact = self.case.problem.exact(self.case, x[None])
        batch = {"x": x} if exact is None else {"x": x, "u": exact[0].T.squeeze(1).detach()}
        return DataLoader([batch], batch_size=1, collate_fn=_only, generator=generator(self.seed))  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader:
        return self.val_dataloader()


def _only(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return batch[0]
