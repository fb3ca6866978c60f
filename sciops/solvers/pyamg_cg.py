"""Conjugate gradients preconditioned by PyAMG's algebraic multigrid."""

import warnings
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, require_tags
from sciops.solvers.discrete import Discrete
from sciops.solvers.scipy_systems import Answer, CaseByCase, Rows, SolveOne

METHODS = ("ruge_stuben", "smoothed_aggregation")


class Pyamg(CaseByCase):
    """One algebraic hierarchy per matrix, V-cycle-preconditioned conjugate gradients.

    Reference: Bell, Olson, Schroder, Southworth, J. Open Source Softw. 8 (2023) 5495.
    """

    requires = frozenset({"symmetric", "positive"})

    def __init__(self, method: str = "ruge_stuben") -> None:
        if method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}; got '{method}'.")
        self.method = method

    def prepare(self, A: LinearOperator, i: int) -> SolveOne:
        import pyamg

        require_tags(A, self.requires, "PyamgCG")
        rows = Rows(A, i)
        whole = A.nullspace != "components"
        matrix = rows.whole if whole else rows.regular
        if not matrix.shape[0]:
            return rows.on_regular(lambda b, x0, tol, maxiter: (b, 0))
        build = pyamg.ruge_stuben_solver if self.method == "ruge_stuben" else pyamg.smoothed_aggregation_solver
        hierarchy = build(matrix)

        def solve_one(b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int) -> Answer:
            history: list[float] = []
            # PyAMG sets its own filters and warns on singular systems; the residual is judged by the caller.
            with warnings.catch_warnings(record=True):
                x = hierarchy.solve(b, x0=x0, tol=tol, maxiter=maxiter, accel="cg", residuals=history)
                steps = max(len(history) - 1, 0)
                if A.nullspace == "constant" and np.linalg.norm(b - matrix @ x) > tol * np.linalg.norm(b):
                    # PyAMG stops when rounding makes a singular system look indefinite: finish with plain cycles.
                    x = hierarchy.solve(
                        b,
                        x0=x - x.mean(),
                        tol=tol,
                        maxiter=maxiter - steps,
                        residuals=history,
                    )
                    steps = len(history) - 1
            return x, steps

        return rows.on_whole(solve_one) if whole else rows.on_regular(solve_one)


class PyamgCG(Discrete):
    """A u = b by conjugate gradients with algebraic multigrid: `ruge_stuben` or `smoothed_aggregation`.

    The established general-purpose rival; compiled, one case at a time on one core.
    """

    def __init__(
        self,
        method: Literal["ruge_stuben", "smoothed_aggregation"] = "ruge_stuben",
        resolution: float = 1.0,
        tol: float = 1e-8,
        maxiter: int = 200,
        batch: int = 32,
    ) -> None:
        super().__init__(Pyamg(method), resolution, tol, maxiter, batch)
        self.algorithm = method

    @property
    def method(self) -> str:
        return f"PyamgCG {self.algorithm}"
