"""Direct Poisson solver by sine, cosine or Fourier transform."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolution, Status
from sciops.core.problem import Problem
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.transforms import EigenBasis, eigenbases, solve_poisson
from sciops.solvers.discrete import GridSolver


class FastPoisson(GridSolver):
    """−κ Δu + s u = f with constant κ, s: transform, divide by the eigenvalues, transform back.

    `spectral=False` solves the second-order difference system exactly (any boundary data, they are in its
    right-hand side). `spectral=True` divides by the eigenvalues of the continuous Laplacian: for f smooth in the
    sense of the basis the error decays faster than any power of h; boundary data must be zero.
    Cost O(N log N), all cases together, no iterations. Refuses variable coefficients and different conditions
    at the two ends of an axis.
    Reference: Swarztrauber, SIAM Review 19 (1977).
    """

    def __init__(self, spectral: bool = False, resolution: float = 1.0, tol: float = 1e-8, batch: int = 32) -> None:
        super().__init__(resolution, tol, 1, batch)
        self.spectral = spectral

    @property
    def method(self) -> str:
        return "FastPoisson spectral" if self.spectral else "FastPoisson"

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        reason = super().refuses(problem, grid)
        if reason is not None:
            return reason
        if problem.constant_coefficient is None:
            return f"needs a constant coefficient; {type(problem).__name__} has a variable one; use MultigridCG"
        if any(lo != up for lo, up in problem.boundary.kinds):
            return "needs the same boundary condition at both ends of every axis; use MultigridCG"
        return None

    def right_hand_side(self, cases: Cases) -> Tensor:
        if not self.spectral:
            return super().right_hand_side(cases)
        if any(bool((data != 0).any()) for data in cases.boundary.values()):
            raise UsageError(
                "FastPoisson with spectral=True needs zero boundary data, but these cases have others; "
                "set spectral=False."
            )
        return cases.problem.spectral_system(cases)[1]

    def set_up(self, A: LinearOperator, cases: Cases) -> "Transforms":
        problem = cases.problem
        kappa = problem.constant_coefficient
        if kappa is None or not isinstance(A, StencilOperator):
            raise UsageError(f"FastPoisson needs a constant coefficient; {type(problem).__name__} has none.")
        bases = eigenbases(problem.boundary, cases.domain, A.dtype, A.device)
        return Transforms(A, bases, kappa, _reaction(A))

    def solve_system(self, state: "Transforms", b: Tensor, tol: float, maxiter: int) -> LinearSolution:
        A, f = state.A, b
        if not self.spectral:
            for axis, basis in enumerate(state.bases):
                f = f / basis.row_weight.reshape([-1 if a == axis else 1 for a in range(len(state.bases))])
        u = solve_poisson(f, state.bases, state.kappa, state.reaction, self.spectral)
        if self.spectral:
            residual = torch.zeros(A.n, dtype=b.dtype, device=b.device)
        else:
            target = b - b.flatten(1).mean(1).reshape(-1, *(1,) * (b.dim() - 1)) if A.nullspace else b
            scale = target.flatten(1).norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny)
            residual = (target - A.matvec(u)).flatten(1).norm(dim=1) / scale
        # Rounding is the only error, unless the operator is not −κΔ + s after all.
        status = [Status.OK if value <= 1e-6 else Status.FAILED for value in residual.tolist()]
        return LinearSolution(
            u, status, torch.ones(A.n, dtype=torch.int64, device=b.device), residual, residual[None], 1
        )


@dataclass(frozen=True)
class Transforms:
    """The matrix with its eigenbases: −κ Δ_h + reaction."""

    A: StencilOperator
    bases: list[EigenBasis]
    kappa: float
    reaction: float


def _reaction(A: StencilOperator) -> float:
    """s from the row sum at the middle of the grid, where no boundary takes part."""
    row = A.stencil[0]
    for size in A.space:
        row = row[:, size // 2]
    total, scale = float(row.sum()), float(row.abs().sum())
    return total if total > 1e-10 * scale else 0.0
