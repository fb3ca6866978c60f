"""Contestants for the harness tests, named by class path from a file outside the package."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sciops import Budget, Cases, Dataset, Field, FitReport, Grid, Solution, Solver, View
from sciops.core.linear import Status
from sciops.problems.poisson import Poisson


class Jacobi(Solver):
    """A user's own solver: damped Jacobi sweeps on the system view."""

    needs = frozenset({View.SYSTEM})

    def __init__(self, sweeps: int = 300):
        self.sweeps = sweeps

    @property
    def name(self) -> str:
        return f"Jacobi {self.sweeps}"

    def ladder(self) -> list[Solver]:
        return [Jacobi(30), Jacobi(300)]

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        A, b = cases.problem.system(cases)
        x = torch.zeros_like(b)
        for _ in range(self.sweeps):
            x = x + 0.8 * (b - A.matvec(x)) / A.diagonal()
        u = cases.problem.embed(cases, x)[:, None]
        return Solution(Field.steady(u, cases.domain, ("u",)), [Status.OK] * len(cases))


class Mean(Solver):
    """Learns the mean answer; counts its fits in a file beside the checkpoint."""

    trained = True

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.mean = torch.zeros(0)

    def fit(self, train: Dataset, val: Dataset, budget: Budget | None = None) -> FitReport:
        self.mean = train.truth().values.mean(0, keepdim=True)
        return FitReport(seconds=1.0, steps=1)

    def parameters(self) -> int:
        return self.mean.numel()

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        values = self.mean.expand(len(cases), *self.mean.shape[1:])
        return Solution(Field(values, out, ("u",)), [Status.OK] * len(cases))

    def save(self, path: Path) -> None:
        torch.save(self.mean, path / "mean.pt")
        log = path / "fits.txt"
        log.write_text((log.read_text() if log.exists() else "") + "fit\n")

    def load(self, path: Path) -> None:
        self.mean = torch.load(path / "mean.pt", weights_only=True)


class Crashes(Solver):
    """Raises in solve."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        raise RuntimeError("the moon is in the wrong phase")


class Diverges(Solver):
    """Returns NaN for the first case of every batch and claims success."""

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        values = torch.ones((len(cases), 1, *out.shape), dtype=cases.dtype)
        values[0] = torch.nan
        return Solution(Field.steady(values, out, ("u",)), [Status.OK] * len(cases))


class NeedsStep(Solver):
    """Asks for a view that Poisson does not offer."""

    needs = frozenset({View.STEP})


@dataclass(frozen=True)
class MyPoisson(Poisson):
    """−Δu + u = f: a user's own problem."""

    constant_coefficient = None

    def residual(self, d, u, c):
        return -d.laplacian(u) + u - c.f
