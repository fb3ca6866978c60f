"""Conjugate gradients preconditioned by AMGCL's algebraic multigrid, where its Python binding is installed."""

import importlib.util
from typing import Any, Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.problem import Problem
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import Answer, CaseByCase, Rows, SolveOne

METHODS = ("smoothed_aggregation", "ruge_stuben")


class Amgcl(CaseByCase):
    """One algebraic hierarchy per matrix and V-cycle-preconditioned conjugate gradients, all in compiled C++.

    `coarsening`: smoothed_aggregation or ruge_stuben; the smoother is SPAI(0). Needs the package pyamgcl, which is
    built from source (Boost headers and pybind11): the extra `[amgcl]`.
    Reference: Demidov, Lobachevskii J. Math. 40 (2019) 535.
    """

    requires = frozenset({"symmetric", "positive"})

    def __init__(self, coarsening: str = "smoothed_aggregation") -> None:
        if coarsening not in METHODS:
            raise UsageError(f"coarsening must be one of {', '.join(METHODS)}; got '{coarsening}'.")
        self.coarsening = coarsening

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        pyamgcl = _pyamgcl()
        require_tags(A, self.requires, "AmgclCG")
        rows = Rows(A, i)
        if not len(rows.regular_rows):
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 0))
        matrix = rows.regular
        # The binding keeps the arrays' addresses: they must live as long as the hierarchy.
        options = {"coarsening.type": self.coarsening, "relax.type": "spai0"}
        hierarchy = pyamgcl.amg(matrix, options)

        def solve_one(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            r = b if x0 is None else b - matrix @ x0
            size, goal = float(np.linalg.norm(r)), tol * float(np.linalg.norm(b))
            start = np.zeros_like(b) if x0 is None else x0
            if size <= goal:
                return start, 0
            outer = pyamgcl.solver(hierarchy, {"type": "cg", "tol": goal / size, "maxiter": maxiter})
            return start + outer(np.ascontiguousarray(r)), int(outer.iters)

        return rows.on_regular(solve_one)


class AmgclCG(Discrete):
    """A u = b by AMGCL: conjugate gradients with `smoothed_aggregation` or `ruge_stuben` (see `Amgcl`).

    The fastest off-the-shelf rival on one core; a case at a time.
    """

    def __init__(
        self,
        coarsening: Literal["smoothed_aggregation", "ruge_stuben"] = "smoothed_aggregation",
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 500,
        batch: int = 32,
    ) -> None:
        super().__init__(Amgcl(coarsening), resolution, tol, maxiter, batch)
        self.coarsening = coarsening

    def refuses(self, problem: Problem, grid: Grid) -> str | None:
        if importlib.util.find_spec("pyamgcl") is None:
            return "needs the package pyamgcl, which is not installed (the extra 'amgcl')"
        return super().refuses(problem, grid)

    @property
    def method(self) -> str:
        return f"AmgclCG {self.coarsening}"


def _pyamgcl() -> Any:
    try:
        import pyamgcl
    except ImportError:
        raise UsageError(
            "AmgclCG needs the package pyamgcl, which is not installed: install Boost's headers, then "
            "`pip install pybind11` and `pip install --no-build-isolation pyamgcl`, or take PyamgCG."
        ) from None
    return pyamgcl
