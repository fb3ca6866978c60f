"""Sparse LU factorisation (SuperLU through SciPy)."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sciops.core.linear import LinearOperator, LinearSolution, Status
from sciops.numerics.helmholtz_operators import ComplexWaveStencil, WaveStencil, complex_side, real_answer
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

        if isinstance(A, WaveStencil | ComplexWaveStencil):
            return _wave_factors(A, i)
        rows = Rows(A, i)
        if not len(rows.regular_rows):
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 1))
        matrix = rows.regular.tocsc()
        if {"symmetric", "positive"} <= A.tags:
            factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        else:
            factors = splu(matrix)
        return rows.on_regular(lambda b, x0, tol, maxiter: (factors.solve(b), 1))

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        answer = super().solve(state, b, x0, tol, maxiter)
        if isinstance(state.A, WaveStencil | ComplexWaveStencil):
            answer.stats["advice"] = [AT_RESONANCE if s is Status.MAX_ITER else "" for s in answer.status]
        return answer


AT_RESONANCE = (
    "The factors lost their digits, which for waves means that k² is an eigenvalue of the box on this grid: change the "
    "frequency by a thousandth, or let waves leave the domain."
)


def _wave_factors(A: WaveStencil | ComplexWaveStencil, i: int) -> SolveOne:
    """Symmetric but indefinite, in complex numbers where A stands for such a matrix: the pattern is kept symmetric,
    pivots below a hundredth of their column are exchanged, one refinement."""
    from scipy.sparse.linalg import splu

    matrix = A.to_complex(i).tocsc()
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options={"SymmetricMode": True})

    def solve(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> tuple[np.ndarray, int]:
        f = complex_side(A, b).astype(matrix.dtype)
        u = factors.solve(f)
        u = u + factors.solve(f - matrix @ u)
        return real_answer(A, u), 1

    return solve


class SparseDirect(Discrete):
    """A u = b by sparse LU: no tolerance, no parameters, one case at a time (see `SuperLU`)."""

    def __init__(self, resolution: float = 1.0, tol: float = 1e-8, batch: int = 32) -> None:
        super().__init__(SuperLU(), resolution, tol, 1, batch)
