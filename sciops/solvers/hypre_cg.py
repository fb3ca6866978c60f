"""Conjugate gradients preconditioned by hypre's BoomerAMG through PETSc, where petsc4py is installed."""

import importlib.util
from typing import Any

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.problem import Problem
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import Answer, CaseByCase, Rows, SolveOne


class Hypre(CaseByCase):
    """One BoomerAMG hierarchy per matrix (PETSc's defaults) and conjugate gradients, on one process.

    `strong_threshold`: couplings above this part of the largest count as strong: 0.25 suits two dimensions, 0.5 three.
    Needs petsc4py with a PETSc that was built with hypre.
    Reference: Henson, Yang, Appl. Numer. Math. 41 (2002) 155.
    """

    requires = frozenset({"symmetric", "positive"})

    def __init__(self, strong_threshold: float = 0.25) -> None:
        if not 0 <= strong_threshold < 1:
            raise UsageError(f"strong_threshold must lie in [0, 1); got {strong_threshold}.")
        self.strong_threshold = strong_threshold

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        PETSc = _petsc()
        require_tags(A, self.requires, "HypreCG")
        rows = Rows(A, i)
        if not len(rows.regular_rows):
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 0))
        matrix = rows.regular
        csr = (matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType), matrix.data)
        operator = PETSc.Mat().createAIJ(matrix.shape, csr=csr, comm=PETSc.COMM_SELF)
        outer = PETSc.KSP().create(comm=PETSc.COMM_SELF)
        outer.setOperators(operator)
        outer.setType("cg")
        outer.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        cycle = outer.getPC()
        cycle.setType("hypre")
        cycle.setHYPREType("boomeramg")
        PETSc.Options()["pc_hypre_boomeramg_strong_threshold"] = self.strong_threshold
        cycle.setFromOptions()
        outer.setUp()

        def solve_one(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            x = PETSc.Vec().createWithArray(np.zeros_like(b) if x0 is None else x0.copy(), comm=PETSc.COMM_SELF)
            outer.setInitialGuessNonzero(x0 is not None)
            outer.setTolerances(rtol=tol, atol=0.0, max_it=maxiter)
            outer.solve(PETSc.Vec().createWithArray(b.copy(), comm=PETSc.COMM_SELF), x)
            return np.array(x.getArray()), int(outer.getIterationNumber())

        return rows.on_regular(solve_one)


class HypreCG(Discrete):
    """A u = b by hypre's BoomerAMG with conjugate gradients (see `Hypre`), a case at a time."""

    def __init__(
        self,
        strong_threshold: float = 0.25,
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
    ) -> None:
        super().__init__(Hypre(strong_threshold), resolution, tol, maxiter, batch)

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        if importlib.util.find_spec("petsc4py") is None:
            return "needs petsc4py with a PETSc built with hypre, which is not installed (the extra 'hypre')"
        return super().refuses(problem, grid)


def _petsc() -> Any:
    try:
        from petsc4py import PETSc
    except ImportError:
        raise UsageError(
            "HypreCG needs petsc4py and a PETSc built with hypre, which are not installed: install your "
            "system's PETSc and the petsc4py of the same version, or take PyamgCG."
        ) from None
    return PETSc
