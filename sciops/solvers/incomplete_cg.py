"""Conjugate gradients preconditioned by an incomplete Cholesky factorisation without fill."""

from typing import TYPE_CHECKING

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.stencil_operator import StencilOperator
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import Answer, CaseByCase, SolveOne

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class IncompleteCholesky(CaseByCase):
    """M = (D + L) D⁻¹ (D + Lᵀ) with L the strict lower part of A and D_i = a_ii − Σ_{j<i} a_ij²/D_j.

    For the (2d+1)-point stencils accepted here this is IC(0): the factors have no other entries. Pivots are computed
    front by front (points of equal i+j+k do not depend on each other), triangular solves are SuperLU's.
    O(1/h) iterations like plain conjugate gradients, about a third as many.
    Reference: Meijerink, van der Vorst, Math. Comp. 31 (1977).
    """

    requires = frozenset({"symmetric", "positive"})

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        from scipy.sparse import diags, tril
        from scipy.sparse.linalg import LinearOperator as Map
        from scipy.sparse.linalg import cg, splu

        require_tags(A, self.requires, "IncompleteCG")
        if not isinstance(A, StencilOperator) or any(np.count_nonzero(A.offsets[k]) > 1 for k in A.active):
            raise UsageError(
                "IncompleteCG takes stencils without diagonal neighbours (5 points in 2-D); use MultigridCG instead."
            )
        matrix = A.to_scipy(i).tocsr()
        lower = tril(matrix, -1).tocsr()
        root = np.sqrt(_pivots(A.space, matrix.diagonal(), lower))
        factor = ((lower + diags(root**2)) @ diags(1 / root)).tocsc()
        triangle = splu(factor, permc_spec="NATURAL", diag_pivot_thresh=0.0)
        half = Map(matrix.shape, matvec=lambda r: triangle.solve(triangle.solve(r), trans="T"))

        def solve_one(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            steps: list[int] = []
            x, _ = cg(matrix, b, x0=x0, rtol=tol, atol=0.0, maxiter=maxiter, M=half, callback=lambda _: steps.append(1))
            return x, len(steps)

        return solve_one


class IncompleteCG(Discrete):
    """A u = b by conjugate gradients with IC(0) (see `IncompleteCholesky`), one case at a time."""

    def __init__(self, resolution: float = 1.0, tol: float = 1e-8, maxiter: int = 10_000, batch: int = 32) -> None:
        super().__init__(IncompleteCholesky(), resolution, tol, maxiter, batch)


def _pivots(space: tuple[int, ...], diagonal: np.ndarray, lower: "csr_matrix") -> np.ndarray:
    """D front by front: every lower neighbour of a point lies on an earlier front i+j+k = const."""
    front = np.indices(space).sum(axis=0).ravel()
    squares = lower.multiply(lower).tocsr()
    pivots = diagonal.copy()
    order = np.argsort(front, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(front))[:-1]):
        block = squares[rows]
        loss = block @ (1.0 / pivots)
        pivot = diagonal[rows] - loss
        # A singular matrix ends with a zero pivot: keep the diagonal there.
        pivots[rows] = np.where(pivot > 1e-12 * diagonal[rows], pivot, diagonal[rows])
    return pivots
