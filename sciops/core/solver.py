"""The contract that every contestant keeps, learned or classical, and the facts that come back."""

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as default
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sciops.core.errors import UsageError, ViewMissing
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import ADVICE, Status

if TYPE_CHECKING:
    from sciops.core.cases import Cases
    from sciops.core.dataset import Dataset
    from sciops.core.problem import Problem


class View(Enum):
    """What a problem can offer and a solver can need."""

    DATA = "data"
    RESIDUAL = "residual"
    BOUNDARY = "boundary"
    SYSTEM = "system"
    STEP = "step"
    ENERGY = "energy"


REMEDIES = {
    "data": "generate or open a dataset of this problem",
    "residual": "write its equation as a Problem with a residual",
    "boundary": "write its equation as a Problem with a residual",
    "system": "write its equation as a Problem with a residual that is linear in u",
    "step": "give the problem a method step(u, dt)",
    "energy": "give the problem a method energy(u)",
}
"""What would make each missing view a yes."""


KINDS = ("classical", "learned", "per-instance")
"""What a solver can be in a comparison (`Solver.kind`)."""


@dataclass(frozen=True)
class Budget:
    """Limits of one fit or solve; None means unlimited (`tol`: the solver's own default)."""

    seconds: float | None = None
    tol: float | None = None
    maxiter: int | None = None


@dataclass
class FitReport:
    """How training went: wall seconds, optimiser steps, named curves, parameters, advice."""

    seconds: float = 0.0
    steps: int = 0
    status: Status = Status.OK
    parameters: int = 0
    curves: dict[str, list[float]] = default(default_factory=dict)
    checkpoint: str | None = None
    advice: str = ""


@dataclass
class Solution:
    """The answer with one status per case; `stats` holds per-case or per-batch facts (iterations, …)."""

    field: Field
    status: list[Status]
    stats: dict[str, Any] = default(default_factory=dict)
    std: Field | None = None
    trace: list[Field] | None = None

    @property
    def advice(self) -> list[str]:
        return [ADVICE[s] for s in self.status]

    @property
    def ok(self) -> bool:
        return all(s is Status.OK for s in self.status)


def checked(solution: Solution) -> Solution:
    """Turn silent NaN into a status: cases whose values are not finite become NONFINITE."""
    for i, finite in enumerate(solution.field.finite()):
        if not finite and solution.status[i] in (Status.OK, Status.MAX_ITER, Status.BUDGET):
            solution.status[i] = Status.NONFINITE
    return solution


class Solver:
    """Turns cases into fields. A classical solver implements `solve`; a learned one `fit` and `solve`.

    `needs`: the views without which it cannot run. `trained`: whether `fit` does anything.
    `kind`: what it is in a comparison. "classical" solvers are the bar that the others are held to (time at equal
    error); "per-instance" ones optimise or fit anew for every case; whatever is `trained` counts as "learned".
    `double`: whether it computes in float64 anyway; the harness then hands the inputs over as such.
    `solve(cases, out, budget)` returns physical values on the grid `out`; resampling is its own business
    and inside its clock. It must not raise for lack of convergence: failure is data (`Solution.status`).
    """

    needs: frozenset[View] = frozenset({View.DATA})
    trained: bool = False
    kind: ClassVar[str] = "classical"
    double: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return type(self).__name__

    def refuses(self, problem: "Problem", grid: Grid) -> str | None:
        """Why this solver cannot run on the problem and what would make it a yes; None if it can.

        The base class compares `needs` with the problem's views. Override to add conditions, and call super.
        """
        missing = sorted(v.value for v in self.needs - problem.views())
        if missing:
            return (
                f"needs {', '.join(missing)}; {type(problem).__name__} offers "
                f"{', '.join(sorted(v.value for v in problem.views()))}; {REMEDIES[missing[0]]}"
            )
        return None

    def fit(self, train: "Dataset", val: "Dataset", budget: Budget | None = None) -> FitReport:
        """Learn from the training split; never sees the test split. Classical solvers have nothing to do."""
        return FitReport()

    def input_grid(self, stored: Grid, out: Grid) -> Grid:
        """The grid on which this solver wants its inputs; the harness brings them there before the clock starts."""
        return stored

    def prepare(self, cases: "Cases", out: Grid) -> None:
        """Set-up that depends on the grid alone (compile, factorise a fixed matrix); timed as set-up."""

    def solve(self, cases: "Cases", out: Grid, budget: Budget | None = None) -> Solution:
        """Solve all cases and return the fields on `out`."""
        raise UsageError(f"{type(self).__name__} does not implement solve(cases, out, budget).")

    def unclocked(self, cases: "Cases", out: Grid, solution: Solution, budget: Budget | None = None) -> dict[str, Any]:
        """Facts about an answer that cost more than the answer (iterations_saved, …); never inside a clock."""
        return {}

    def ladder(self) -> Sequence["Solver"]:
        """The same method at other settings (resolution, tolerance, width), for work–precision curves."""
        return (self,)

    def parameters(self) -> int:
        """Number of trained parameters (0 for classical methods)."""
        return 0

    def save(self, path: Path) -> None:
        """Write everything that `load` needs; classical solvers have nothing to write."""

    def load(self, path: Path) -> None:
        """Restore what `save` wrote."""


def require_views(solver: Solver, problem: "Problem", grid: Grid) -> None:
    """Raise ViewMissing with the reason if the solver refuses the problem."""
    reason = solver.refuses(problem, grid)
    if reason:
        raise ViewMissing(f"{solver.name} cannot run on {type(problem).__name__}: {reason}.")
