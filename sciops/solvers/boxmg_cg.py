"""Conjugate gradients preconditioned by operator-dependent multigrid."""

from typing import Literal

from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.numerics.compiled.box_multigrid import BoxMultigrid
from sciops.numerics.compiled.boxmg import BoxOptions
from sciops.solvers.discrete import Discrete


class BoxmgCG(Discrete):
    """A u = b by conjugate gradients with operator-dependent multigrid cycles (see `BoxMultigrid`, `BoxHierarchy`).

    For coefficients that jump by orders of magnitude, rough ones and anisotropy in any direction, in 2-D and 3-D:
    coarse grids know the coefficient and the smoother is an incomplete factorisation. `method="auto"` leaves
    constant coefficients to aggregation; `smoother="point"` has cheaper cycles that anisotropy slows down.
    Where more than 20 iterations are foreseen, cycles get stronger in mid-run: an iteration may then hold up to four.
    Refuses periodic grids.
    """

    def __init__(
        self,
        method: Literal["auto", "box"] = "auto",
        smoother: Literal["auto", "point", "incomplete"] = "auto",
        precision: Literal["single", "double"] = "single",
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
    ) -> None:
        options = BoxOptions(smoother=smoother, precision=precision)
        super().__init__(BoxMultigrid(method, options), resolution, tol, maxiter, batch)

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is None and "periodic" in grid.layout:
            return "does not coarsen across the seam of a periodic axis; use MultigridCG"
        return reason
