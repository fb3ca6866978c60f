"""The mean answer of the training split: what a learned solver has to beat before it has learned anything."""

import time
from pathlib import Path

import torch

from sciops.core.cases import Cases
from sciops.core.dataset import Dataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import Status
from sciops.core.solver import Budget, FitReport, Solution, Solver

BATCH = 64


class TrainingMean(Solver):
    """û = mean of the training answers, whatever the case: it reads no input.

    Shapes as every solver's; frames of trajectories are averaged frame by frame. Cost: one pass over the answers, then
    a copy a case. Cases with NaN or infinite inputs get NONFINITE. A network whose error is near this one's has learned
    the mean field and no more.
    """

    trained = True

    def __init__(self) -> None:
        self.mean: Field | None = None

    @property
    def name(self) -> str:
        return "training mean"

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        started = time.perf_counter()
        total, first = None, train.truth(slice(0, 1))
        for start in range(0, len(train), BATCH):
            part = train.truth(slice(start, start + BATCH)).values.double().sum(0, keepdim=True)
            total = part if total is None else total + part
        if total is None:
            raise UsageError("The training split is empty: there is no mean.")
        self.mean = Field(total / len(train), first.domain, first.channels, first.times)
        return FitReport(seconds=time.perf_counter() - started, steps=1, parameters=self.parameters())

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        mean = self._require()
        flat = mean.values[0].to(cases.device)
        assert isinstance(mean.domain, Grid)
        u = resample(flat, mean.domain, out, "cubic", cases.problem.boundary).to(cases.dtype)
        values = u[None].expand(len(cases), *u.shape).clone()
        status = [Status.OK if fine else Status.NONFINITE for fine in cases.inputs.finite()]
        values[[s is not Status.OK for s in status]] = torch.nan
        return Solution(Field(values, out, mean.channels, mean.times), status)

    def parameters(self) -> int:
        """Numbers that the training split determines."""
        return 0 if self.mean is None else self.mean.values.numel()

    def save(self, path: str | Path) -> None:
        mean = self._require()
        assert isinstance(mean.domain, Grid)
        grid = {k: list(getattr(mean.domain, k)) for k in ("shape", "lower", "upper", "layout")}
        target = _file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mean": mean.values, "grid": grid, "channels": mean.channels, "times": mean.times}, target)

    def load(self, path: str | Path) -> None:
        target = _file(path)
        if not target.is_file():
            raise UsageError(f"{target} does not exist; fit the training mean first.")
        found = torch.load(target, weights_only=True)
        grid = Grid(*(tuple(found["grid"][k]) for k in ("shape", "lower", "upper", "layout")))
        self.mean = Field(found["mean"], grid, tuple(found["channels"]), tuple(found["times"]))

    def _require(self) -> Field:
        if self.mean is None:
            raise UsageError("The training mean is not known yet: call fit(train, val) or load(path) first.")
        return self.mean


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix and not path.is_dir() else path / "model.ckpt"
