"""The classical contestant on problems that move: the problem's own scheme, at a resolution and step of choice."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from time import perf_counter
from typing import ClassVar

import torch

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.evolution import Evolution
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import Status
from sciops.core.problem import Problem
from sciops.core.solver import Budget, Solution, Solver, View, checked
from sciops.solvers.rollout import on_grid, present

PRECISIONS = {"given": None, "float32": torch.float32, "float64": torch.float64}


class TimeStepper(Solver):
    """U^{m+1} = Φ_dt(U^m) with `problem.evolve`, on a grid `refine` times as fine as the given one.

    Start and coefficients are brought to that grid by interpolation (Fourier series where periodic) from what every
    contestant is given, inside the clock; the answer is resampled to the asked grid. dt is the smallest of `dt`,
    `courant` × `problem.largest_step`, and the time between frames (× `share` where the scheme has no bound).

    refine     points per axis over those of the given grid: 0.5, 1, 2, …
    courant    share of `problem.largest_step`; above 1 where that is a bound on the safe side
    dt         a step of its own, in the units of the problem; None: the largest allowed
    share      of the time between two frames that a step may take, where no stability bound limits it
    precision  "given" (as the cases) | "float32" | "float64"
    rungs      (refine, factor of courant, dt and share) of `ladder`

    NONFINITE or, where an answer grew a thousandfold beyond the bound of stability, UNRESOLVED, with the step that
    would have worked; a step that is stable and wrong is not noticed: compare two rungs. BUDGET where the time was over
    before the last frame: later frames repeat the state that was reached.
    Cost: points × steps; memory: a state and the asked frames.
    """

    needs = frozenset({View.STEP})
    kind: ClassVar[str] = "classical"

    def __init__(
        self,
        refine: float = 1.0,
        courant: float = 0.9,
        dt: float | None = None,
        share: float = 0.25,
        precision: str = "given",
        rungs: Sequence[Sequence[float]] = ((0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.5), (2.0, 1.0)),
        name: str | None = None,
    ) -> None:
        if courant <= 0 or not 0 < share <= 1 or refine <= 0 or (dt is not None and dt <= 0):
            raise UsageError(
                f"refine, courant and dt must be positive, share in (0, 1]; got refine={refine}, dt={dt}, "
                f"courant={courant}, share={share}."
            )
        if precision not in PRECISIONS:
            raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}; got '{precision}'.")
        self.refine, self.courant, self.dt, self.share = float(refine), float(courant), dt, float(share)
        self.precision, self.rungs, self._name = precision, [tuple(map(float, rung)) for rung in rungs], name

    @property
    def name(self) -> str:
        return self._name or "TimeStepper"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason:
            return reason
        if not isinstance(problem, Evolution):
            return f"needs a problem that evolves (sciops.core.evolution.Evolution); {type(problem).__name__} does not"
        if min(self.grid(grid).shape) < 4:
            return f"refine {self.refine:g} leaves {self.grid(grid).describe()}; 4 points per axis are the least"
        return None

    def grid(self, given: Grid) -> Grid:
        """Its own grid for cases on `given`."""
        if self.refine == 1.0:
            return given
        sizes = [
            round((n - 1) * self.refine) + 1 if kind == "node" else round(n * self.refine)
            for n, kind in zip(given.shape, given.layout, strict=True)
        ]
        return given.resized(sizes)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        started = perf_counter()
        # Without seeds nothing is drawn anew: everybody starts from the same given fields.
        own = replace(cases, seeds=None).on(self.grid(cases.domain)).to(dtype=PRECISIONS[self.precision])
        problem = cases.problem
        assert isinstance(problem, Evolution)
        limit = None if budget is None else budget.seconds
        dt = self.step(own)
        solution = problem.evolve(own, dt, None if limit is None else limit - (perf_counter() - started))
        _call_growth(solution, own)
        values = on_grid(solution.field.values, own, out).to(cases.dtype)
        field = Field(values, out, solution.field.channels, solution.field.times)
        return checked(replace(solution, field=field))

    def step(self, cases: Cases) -> float:
        """dt on the grid of the cases."""
        problem = cases.problem
        assert isinstance(problem, Evolution)
        limit = problem.largest_step(cases)
        moments = sorted({problem.start(cases)[1], *cases.times})
        gap = min((b - a for a, b in pairwise(moments)), default=1.0)
        bound = self.courant * limit if limit < float("inf") else self.share * gap
        return min(bound, gap, *([] if self.dt is None else [self.dt]))

    def ladder(self) -> Sequence[Solver]:
        """The same scheme on other grids and with other steps."""
        made: list[Solver] = [self]
        for refine, factor in self.rungs:
            rung = TimeStepper(
                refine, self.courant * factor, None if self.dt is None else self.dt * factor,
                min(1.0, self.share * factor), self.precision, self.rungs,
                f"{self.name} ×{refine:g} points" + (f", ×{factor:g} step" if factor != 1.0 else ""),
            )  # fmt: skip
            if (rung.refine, rung.courant, rung.dt, rung.share) != (self.refine, self.courant, self.dt, self.share):
                made.append(rung)
        return made


def _call_growth(solution: Solution, cases: Cases) -> None:
    """Instability that has not reached infinity yet: a thousandfold growth with steps beyond the bound."""
    problem = cases.problem
    assert isinstance(problem, Evolution)
    limit, dt = problem.largest_step(cases), float(solution.stats.get("dt", 0.0))
    if not dt > limit:
        return
    before = present(cases).values.flatten(1).abs().amax(1)
    after = solution.field.values.flatten(1).abs().amax(1)
    for i, grown in enumerate(((before > 0) & (after > 1e3 * before)).tolist()):
        if grown and solution.status[i] is Status.OK:
            solution.status[i] = Status.UNRESOLVED
            solution.stats["advice"][i] = (
                f"the solution grew {float(after[i] / before[i]):.0e}-fold with dt = {dt:g}; dt ≤ {limit:.3g} is "
                "stable here."
            )


class Persistence(Solver):
    """u(t) = the last given frame, for all t: what any contestant has to beat. No training, no equation."""

    needs = frozenset({View.DATA})
    kind: ClassVar[str] = "classical"

    @property
    def name(self) -> str:
        return "persistence (last frame)"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        from sciops.solvers.rollout_facts import moves

        return super().refuses(problem, grid) or moves(problem)

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        frames = present(cases)
        still = on_grid(frames.values[:, -1:], cases, out)
        values = still.expand(-1, len(cases.times), *still.shape[2:]).clone()
        field = Field(values, out, frames.channels, cases.times)
        return checked(Solution(field, [Status.OK] * len(cases)))
