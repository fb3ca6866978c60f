"""Restarted GMRES for indefinite and complex systems, with the preconditioners that wave equations need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, LinearSolution, Status
from sciops.numerics.complex_gmres import gmres
from sciops.numerics.helmholtz_operators import ComplexWaveStencil, WaveStencil, complex_side, real_answer
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import CaseByCase, Rows, SolveOne

PRECONDITIONERS = ("auto", "shifted_laplacian", "ilu", "none")

STAGNATED = (
    "GMRES no longer lowers the residual: raise restart, take another preconditioner (shifted_laplacian, ilu), or use "
    "SparseDirect; near a resonance only a direct solver is left."
)


@dataclass(frozen=True)
class PreconditionedGMRES(CaseByCase):
    """Any matrix by GMRES(restart), one system at a time; complex systems in complex numbers.

    `preconditioner`: "shifted_laplacian", one multigrid cycle for the matrix with the damping i·shift·k² added
    (`ShiftedCycle`; wave operators only: they know their k²); "ilu", an incomplete LU with `drop_tol` and `fill`;
    "auto", the first for wave operators, else the second; "none". stats: advice (n,).
    Iterations grow like k with the shifted Laplacian, faster with the others; a closed box (real systems) needs several
    times more than one that waves can leave. MAX_ITER where the limit comes first or a round stalls.
    References: Saad, Schultz, SIAM J. Sci. Stat. Comput. 7 (1986); Erlangga, Oosterlee, Vuik, SIAM J. Sci. Comput. 27
    (2006).
    """

    preconditioner: str = "auto"
    restart: int = 400
    shift: float = 0.5
    drop_tol: float = 1e-3
    fill: float = 10.0

    def __post_init__(self) -> None:
        if self.preconditioner not in PRECONDITIONERS:
            raise UsageError(
                f"GMRES preconditioner must be one of {', '.join(PRECONDITIONERS)}; got '{self.preconditioner}'."
            )
        if not (self.restart >= 1 and self.shift >= 0 and self.drop_tol > 0 and self.fill >= 1):
            raise UsageError(
                f"GMRES needs restart ≥ 1, shift ≥ 0, drop_tol > 0, fill ≥ 1; got {self.restart}, {self.shift}, "
                f"{self.drop_tol}, {self.fill}."
            )

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        if isinstance(A, WaveStencil | ComplexWaveStencil):
            matrix = A.to_complex(i).tocsr()
            return self._solve_with(matrix, self._wave_preconditioner(A, i, matrix), A)
        if self.preconditioner == "shifted_laplacian":
            raise UsageError(
                "The shifted Laplacian needs to know the k² of a wave equation, which this system does not: use "
                "preconditioner='ilu'."
            )
        rows = Rows(A, i)
        if not len(rows.regular_rows):
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 1))
        return rows.on_regular(self._solve_with(rows.regular, self._incomplete(rows.regular), A))

    def _wave_preconditioner(self, A: WaveStencil | ComplexWaveStencil, i: int, matrix: Any) -> Callable | None:
        if self.preconditioner in ("ilu", "none"):
            return self._incomplete(matrix)
        from sciops.numerics.shifted_laplacian import ShiftedCycle

        reaction = A.reaction_matrix(i)
        # Rows of M sum to k² (half of it on a wall), hence its largest row to the shortest wave.
        shape = A.space[-2:]
        k = float(np.sqrt(np.asarray(reaction.sum(1)).max()))
        spacing = self._spacing(A, i)
        return ShiftedCycle(matrix, reaction, (shape[0], shape[1]), k * spacing, self.shift)

    @staticmethod
    def _spacing(A: WaveStencil | ComplexWaveStencil, i: int) -> float:
        """h from the entries of −Δ, whose diagonal is 8/(3h²) for bilinear elements on squares."""
        real = A.real if isinstance(A, ComplexWaveStencil) else A
        centre = real.stencil.shape[1] // 2
        middle = tuple(n // 2 for n in real.space)
        stiffness = float((real.stencil[i, centre] + real.reaction[i, centre])[middle])
        return float(np.sqrt(8 / (3 * stiffness)))

    def _incomplete(self, matrix: Any) -> Callable | None:
        if self.preconditioner == "none":
            return None
        from scipy.sparse.linalg import spilu

        try:
            return spilu(matrix.tocsc(), drop_tol=self.drop_tol, fill_factor=self.fill).solve
        except RuntimeError as error:
            raise UsageError(
                f"The incomplete factorisation broke down ({error}): lower drop_tol, raise fill, or use SparseDirect."
            ) from error

    def _solve_with(self, matrix: Any, precondition: Callable | None, A: LinearOperator) -> SolveOne:
        def solve(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> tuple[np.ndarray, int]:
            f = complex_side(A, b)
            start = None if x0 is None else _complex_start(A, x0)
            found = gmres(matrix, f, precondition, start, tol, maxiter, self.restart)
            return real_answer(A, found.x), found.steps

        return solve

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        answer = super().solve(state, b, x0, tol, maxiter)
        late = [s is Status.MAX_ITER for s in answer.status]
        stopped = [bool(n < maxiter) for n in answer.iterations]
        answer.stats["advice"] = [STAGNATED if a and o else "" for a, o in zip(late, stopped, strict=True)]
        return answer


def _complex_start(A: LinearOperator, x0: np.ndarray) -> np.ndarray:
    if not isinstance(A, ComplexWaveStencil):
        return x0
    half = len(x0) // 2
    return x0[:half] + 1j * x0[half:]


class GMRES(Discrete):
    """A u = b by restarted GMRES for the indefinite and complex systems of waves (see `PreconditionedGMRES`).

    Conjugate gradients refuse these systems; GMRES with the shifted Laplacian is the iterative bar, `SparseDirect` the
    other one, which in two dimensions is hard to beat.
    """

    def __init__(
        self,
        preconditioner: str = "auto",
        restart: int = 400,
        shift: float = 0.5,
        drop_tol: float = 1e-3,
        fill: float = 10.0,
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 1000,
        batch: int = 32,
    ) -> None:
        linear = PreconditionedGMRES(preconditioner, restart, shift, drop_tol, fill)
        super().__init__(linear, resolution, tol, maxiter, batch)
        self.preconditioner = preconditioner

    @property
    def method(self) -> str:
        return {"auto": "GMRES", "shifted_laplacian": "GMRES shifted Laplacian", "ilu": "GMRES ILU"}.get(
            self.preconditioner, "GMRES unpreconditioned"
        )
