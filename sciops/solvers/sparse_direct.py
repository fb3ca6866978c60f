"""Sparse LU factorisation (SuperLU through SciPy)."""

from sciops.core.linear import LinearOperator
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import CaseByCase, Rows, SolveOne


class SuperLU(CaseByCase):
    """A = LU once per matrix; cases that share a matrix share the factors.

    Symmetric positive systems use minimum degree on A + Aᵀ without pivoting, others COLAMD with pivoting. A null space
    of constants is removed by fixing one unknown (of each component) to zero; cells without a row stay zero.
    Memory and time about N log N and N^{3/2} in two dimensions, N^{4/3} and N² in three.
    Reference: Demmel, Eisenstat, Gilbert, Li, Liu, SIAM J. Matrix Anal. Appl. 20 (1999).
    """

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        from scipy.sparse.linalg import splu

        rows = Rows(A, i)
        if not len(rows.regular_rows):
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 1))
        matrix = rows.regular.tocsc()
        if {"symmetric", "positive"} <= A.tags:
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        else:
            factors = splu(matrix)
        return rows.on_regular(lambda b, x0, tol, maxiter: (factors.solve(b), 1))


class SparseDirect(Discrete):
    """A u = b by sparse LU: no tolerance, no parameters, one case at a time (see `SuperLU`)."""

    def __init__(self, resolution: float = 1.0, tol: float = 1e-8, batch: int = 32) -> None:
        super().__init__(SuperLU(), resolution, tol, 1, batch)
