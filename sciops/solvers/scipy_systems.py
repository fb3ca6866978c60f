"""Bridge to linear solvers that take one SciPy matrix at a time."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.reductions import off_nullspace

Answer = tuple[np.ndarray, int]
SolveOne = Callable[[np.ndarray, np.ndarray | None, float, int], Answer]
"""(b, x0, tol, maxiter) → (x, iterations) of one prepared system."""

LAG = 10.0
"""A true residual this many times the tolerance is not converged."""


@dataclass
class Prepared:
    """The operator and one prepared solve per case (the same one for all if they share the matrix)."""

    A: LinearOperator
    solves: list[SolveOne]


class CaseByCase(LinearSolver):
    """Solves every system of a batch on its own, on the CPU, from its SciPy matrix."""

    @abstractmethod
    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        """Set up system i."""

    def setup(self, A: LinearOperator) -> Prepared:
        shared = isinstance(A, StencilOperator) and A.stencil.stride(0) == 0
        solves = [self.prepare(A, 0)] * A.n if shared and A.n else [self.prepare(A, i) for i in range(A.n)]
        return Prepared(A, solves)

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        A: LinearOperator = state.A
        rhs = off_nullspace(A, b).detach().cpu().flatten(1).numpy()
        starts = None if x0 is None else x0.detach().cpu().flatten(1).numpy()
        rows, counts = [], []
        for i, solve_one in enumerate(state.solves):
            row, count = solve_one(rhs[i], None if starts is None else starts[i], tol, maxiter)
            rows.append(row)
            counts.append(count)
        x = off_nullspace(A, torch.from_numpy(np.stack(rows)).to(dtype=b.dtype, device=b.device).reshape(b.shape))
        target = torch.from_numpy(rhs).to(b.device).reshape(b.shape)
        residual = (target - A.matvec(x)).flatten(1).norm(dim=1)
        scale = target.flatten(1).norm(dim=1)
        relative = torch.where(scale > 0, residual / torch.where(scale > 0, scale, 1.0), residual)
        status = [_status(value, tol) for value in relative.tolist()]
        iterations = torch.tensor(counts, dtype=torch.int64, device=b.device)
        return LinearSolution(x, status, iterations, relative, relative[None], int(iterations.max()))


def _status(residual: float, tol: float) -> Status:
    if not np.isfinite(residual):
        return Status.NONFINITE
    return Status.OK if residual <= LAG * tol else Status.MAX_ITER
