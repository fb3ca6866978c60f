"""Sparse LU factorisation (SuperLU through SciPy)."""

import numpy as np

from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import Answer, CaseByCase, SolveOne


class SuperLU(CaseByCase):
    """A = LU once per matrix; cases that share a matrix share the factors.

    Symmetric positive systems use minimum degree on A + Aᵀ without pivoting, others COLAMD with pivoting. A null space
    of constants is removed by fixing one unknown (of each component) to zero; cells without a row stay zero.
    Memory and time about N log N and N^{3/2} in two dimensions, N^{4/3} and N² in three.
    Reference: Demmel, Eisenstat, Gilbert, Li, Liu, SIAM J. Matrix Anal. Appl. 20 (1999).
    """

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        from scipy.sparse.linalg import splu

        matrix = A.to_scipy(i).tocsc()
        rows: np.ndarray | None = None
        if isinstance(A, FaceOperator):
            from sciops.numerics.components import regular_rows

            rows = regular_rows(A, i)
        elif A.nullspace == "constant":
            rows = np.arange(matrix.shape[0] - 1)
        if rows is not None:
            matrix = matrix.tocsr()[rows][:, rows].tocsc()
        if {"symmetric", "positive"} <= A.tags:
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        else:
            factors = splu(matrix)

        def solve_one(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            if rows is None:
                return factors.solve(b), 1
            x = np.zeros_like(b)
            x[rows] = factors.solve(b[rows])
            return x, 1

        return solve_one


class SparseDirect(Discrete):
    """A u = b by sparse LU: no tolerance, no parameters, one case at a time (see `SuperLU`)."""

    def __init__(self, resolution: float = 1.0, tol: float = 1e-8, batch: int = 32) -> None:
        super().__init__(SuperLU(), resolution, tol, 1, batch)
