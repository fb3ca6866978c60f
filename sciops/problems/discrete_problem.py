"""Problems given by their matrix on a grid of cells: geometry and coefficients live on faces, not in a formula."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, Status
from sciops.core.problem import Problem
from sciops.core.solver import Solution, View

DIRECT = {1: 10**7, 2: 300_000, 3: 30_000}
"""Most unknowns that are factorised, by dimension; larger systems are iterated on."""


class DiscreteProblem(Problem):
    """A u = b on the cells of a grid, u = 0 in cells that have no row.

    A subclass writes `matrix` and has the right-hand side per volume in the input channel `f`. Offers DATA and SYSTEM:
    `residual_on_grid` is A u − b (b without its part in the null space), and there is no residual at points. The truth
    is the exact solution of the discrete system: `label_error` is the algebraic error, and on another grid another
    system is meant.
    """

    layout = "cell"

    def views(self) -> set[View]:
        return {View.DATA, View.SYSTEM}

    def require_cells(self, grid: Grid) -> None:
        """UsageError unless the grid has cells along every axis and the problem's dimension."""
        if grid.ndim != self.ndim:
            raise UsageError(f"{type(self).__name__} has ndim={self.ndim} but the grid is {grid.describe()}.")
        if set(grid.layout) != {"cell"}:
            raise UsageError(
                f"{type(self).__name__} lives on cell centres; the grid is {grid.describe()}, use layout='cell'."
            )

    def right_hand_side(self, cases: Cases) -> Float[Tensor, "n *m"]:
        return cases.input("f")

    def residual_on_grid(self, cases: Cases, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        A, b = self.system(cases)
        return A.matvec(u) - A.project(b)

    def unknowns(self, grid: Grid, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        return u

    def embed(self, cases: Cases, v: Float[Tensor, "n *m"]) -> Float[Tensor, "n *s"]:
        return v

    def reference(self, cases: Cases, tol: float = 1e-10) -> Solution:
        """Sparse Cholesky-like factors with one step of refinement where they fit, else conjugate gradients.

        `label_error`: relative size of the refinement (of the last digits gained by a hundred times smaller tolerance
        where it is iterated).
        """
        A, b = self.system(cases)
        b = A.project(b)
        direct = cases.domain.size <= DIRECT[self.ndim]
        u, error, status = _factorised(A, b) if direct else _iterated(A, b, tol)
        scale = b.flatten(1).norm(dim=1)
        residual = (b - A.matvec(u)).flatten(1).norm(dim=1) / torch.where(scale > 0, scale, 1.0)
        stats: dict[str, Any] = {
            "residual": residual,
            "label_error": error,
            "label_method": "sparse factors, refined" if direct else "conjugate gradients, two tolerances",
        }
        status = [
            s if s is not Status.OK or r <= 10 * tol else Status.MAX_ITER
            for s, r in zip(status, residual.tolist(), strict=True)
        ]
        return Solution(Field.steady(u[:, None], cases.domain, [c.name for c in self.outputs]), status, stats)


def _factorised(A: LinearOperator, b: Tensor) -> tuple[Tensor, Tensor, list[Status]]:
    """Case by case: regular rows only, factors of the matrix, solution and one refinement."""
    import numpy as np
    from scipy.sparse.linalg import splu

    u, errors = torch.zeros_like(b), []
    for i in range(A.n):
        matrix = A.to_scipy(i).tocsr()
        keep = np.arange(matrix.shape[0])
        if isinstance(A, FaceOperator):
            from sciops.numerics.components import regular_rows

            keep = regular_rows(A, i)
            matrix = matrix[keep][:, keep]
        rhs = b[i].cpu().numpy().ravel()[keep].astype(np.float64)
        x = correction = np.zeros_like(rhs)
        if len(keep):
            options = {"SymmetricMode": True}
            factors = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
            x = factors.solve(rhs)
            correction = factors.solve(rhs - matrix @ x)
        full = np.zeros(b[i].numel())
        full[keep] = x + correction
        u[i] = torch.from_numpy(full).reshape(b[i].shape).to(b)
        errors.append(float(np.linalg.norm(correction)) / max(float(np.linalg.norm(x)), 1e-300))
    eps = torch.finfo(b.dtype).eps
    return A.project(u), torch.tensor(errors, dtype=torch.float64) + eps, [Status.OK] * A.n


def _iterated(A: LinearOperator, b: Tensor, tol: float) -> tuple[Tensor, Tensor, list[Status]]:
    from sciops.numerics.krylov import ConjugateGradients, Jacobi

    solver = ConjugateGradients(preconditioner=Jacobi())
    state = solver.setup(A)
    first = solver.solve(state, b, tol=tol, maxiter=50_000)
    second = solver.solve(state, b, x0=first.x, tol=max(tol / 100, 1e-13), maxiter=50_000)
    change = (second.x - first.x).flatten(1).norm(dim=1) / second.x.flatten(1).norm(dim=1).clamp(min=1e-300)
    return second.x, change.double().cpu(), first.status
