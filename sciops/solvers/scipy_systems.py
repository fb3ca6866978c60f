"""Bridge to linear solvers that take one SciPy matrix at a time."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.reductions import off_nullspace

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

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


class Rows:
    """The rows of system i that have unknowns: cells of face-weight matrices that are active, else all.

    `whole`: the matrix on them. `regular`: the same without one unknown of every singular component (which is then
    zero), so that what remains can be factorised; without the last one where the whole matrix has constants in its
    null space. `regular_rows`, `rows`: which unknowns of the grid these are.
    """

    def __init__(self, A: LinearOperator, i: int) -> None:
        full = A.to_scipy(i).tocsr()
        self.size = full.shape[0]
        self.rows = self.regular_rows = np.arange(self.size)
        if isinstance(A, FaceOperator):
            from sciops.numerics.components import regular_rows

            self.rows = np.flatnonzero(A.active[i].cpu().numpy().ravel())
            self.regular_rows = regular_rows(A, i)
        elif A.nullspace == "constant":
            self.regular_rows = self.rows[:-1]
        self.whole: csr_matrix = full if len(self.rows) == self.size else full[self.rows][:, self.rows]
        self.full = full

    @property
    def regular(self) -> "csr_matrix":
        rows = self.regular_rows
        return self.full if len(rows) == self.size else self.full[rows][:, rows].tocsr()

    def on_whole(self, solve_one: SolveOne) -> SolveOne:
        """`solve_one` of the matrix `whole`, as a solve on the grid."""
        return self._on(self.rows, solve_one)

    def on_regular(self, solve_one: SolveOne, repeats: int = 3) -> SolveOne:
        """`solve_one` of the matrix `regular`, as a solve on the grid.

        The residual of a row that was left out is the sum of the others' of its component, so that a small one there
        may be a large one here: then the residual is solved for again, at most `repeats` times.
        """
        inner = self._on(self.regular_rows, solve_one)
        if len(self.regular_rows) == len(self.rows):
            return inner

        def again(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            x, count = inner(b, x0, tol, maxiter)
            goal = tol * float(np.linalg.norm(b))
            for _ in range(repeats):
                r = b - self.full @ x
                size = float(np.linalg.norm(r))
                if not size > goal or count >= maxiter:
                    break
                correction, more = inner(r, None, 0.5 * goal / size, maxiter - count)
                x, count = x + correction, count + more
            return x, count

        return again

    def _on(self, rows: np.ndarray, solve_one: SolveOne) -> SolveOne:
        if len(rows) == self.size:
            return solve_one

        def scattered(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            x = np.zeros_like(b)
            if not len(rows):
                return x, 0
            x[rows], count = solve_one(b[rows], None if x0 is None else x0[rows], tol, maxiter)
            return x, count

        return scattered


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
        # Cells without a row have no equation: like a singular component's mean, their b is outside the range of A.
        consistent = off_nullspace(A, b)
        if isinstance(A, FaceOperator):
            consistent = torch.where(A.active, consistent, 0.0)
        rhs = consistent.detach().cpu().flatten(1).numpy()
        starts = None if x0 is None else x0.detach().cpu().flatten(1).numpy()
        rows, counts = [], []
        for i, solve_one in enumerate(state.solves):
            if np.isfinite(rhs[i]).all():
                row, count = solve_one(rhs[i], None if starts is None else starts[i], tol, maxiter)
            else:
                row, count = np.full_like(rhs[i], np.nan), 0
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
