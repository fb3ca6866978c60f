"""Conjugate gradients with operator-dependent multigrid as a LinearSolver."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, Status
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.aggregation import AggregationCycle
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.boxmg import Advice, BoxHierarchy, BoxOptions
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.conjugate_gradients import Outcome, Precondition, conjugate_gradients
from sciops.numerics.compiled.islands import BalancedCycle, Islands, float_in_numbers, gap
from sciops.numerics.compiled.systems import FaceSystem, System, faces_of

METHODS = ("auto", "box")
PATIENCE = 28
"""Further steps of aggregation that cost about as much as a set-up and a solve with operator-dependent multigrid."""


@dataclass(frozen=True)
class BoxMultigrid(CompiledCG):
    """Conjugate gradients in float64 with one cycle of `BoxHierarchy` per step.

    `method="auto"` tries unsmoothed aggregation on face-weight systems first, whose set-up costs next to nothing; where
    its first steps say that it will need many, the iteration goes on from there with operator-dependent multigrid. The
    set-up of that is then part of the first solve. "box" skips the trial; so do systems with stiff parts afloat, where
    aggregation is known to fail.
    3-D systems with a wide gap in their weights get W-cycles and, where stiff parts float, those parts' constants are
    solved for exactly (`islands`). `options`: see `BoxOptions`; `advice`: see `BoxHierarchy`.
    Takes FaceOperators and symmetric StencilOperators of radius 1 that are not periodic, in 1 to 3 dimensions.
    Cost O(N) for the set-up and for every iteration. Memory: see `BoxHierarchy`.
    Reference: Dendy, J. Comput. Phys. 48 (1982) 366.
    """

    method_choice: Literal["auto", "box"] = "auto"
    options: BoxOptions | None = None
    advice: Advice | None = None

    def __post_init__(self) -> None:
        if self.method_choice not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}; got '{self.method_choice}'.")

    @property
    def method(self) -> str:
        return "BoxmgCG"

    def adapt(self, A: LinearOperator) -> LinearOperator:
        """Five- and seven-point stencils as faces where they can be: their products are faster."""
        if isinstance(A, StencilOperator):
            try:
                return faces_of(A)
            except UsageError:
                return A
        return A

    def build(self, system: System, A: LinearOperator, i: int) -> Precondition:
        if self.method_choice == "auto" and isinstance(system, FaceSystem) and not float_in_numbers(system):
            return Trial(AggregationCycle(system, 2, 2.0, np.float32), lambda: self._cycle(system, A, i))
        return self._cycle(system, A, i)

    def _cycle(self, system: System, A: LinearOperator, i: int) -> Precondition:
        matrix, options = BoxMatrix.from_operator(A, i), self.options or BoxOptions()
        if matrix.gz == 0 or self.advice is not None or not isinstance(system, FaceSystem):
            return BoxHierarchy(matrix, options, self.advice)
        threshold = gap(system)
        if threshold is None:
            return BoxHierarchy(matrix, options)
        cycle = BoxHierarchy(matrix, replace(options, cycle="W"))
        islands = Islands.find(system, threshold)
        return cycle if islands is None else BalancedCycle(islands, cycle)

    def iterate(
        self,
        system: System,
        precondition: Precondition | None,
        b: np.ndarray,
        x0: np.ndarray | None,
        tol: float,
        maxiter: int,
    ) -> Outcome:
        if not isinstance(precondition, Trial):
            return conjugate_gradients(system, precondition, b, x0, tol, maxiter)
        if precondition.second is None:
            out = conjugate_gradients(system, precondition.first, b, x0, tol, maxiter, lambda h: too_slow(h, tol))
            if out.status is not Status.MAX_ITER or out.iterations >= maxiter or not too_slow(out.history, tol):
                return out
            return _joined(out, self._go_on(system, precondition, b, out.x, tol, maxiter - out.iterations))
        return self._go_on(system, precondition, b, x0, tol, maxiter)

    def _go_on(
        self, system: System, trial: "Trial", b: np.ndarray, x0: np.ndarray | None, tol: float, maxiter: int
    ) -> Outcome:
        if trial.second is None:
            trial.second = trial.make()
        return conjugate_gradients(system, trial.second, b, x0, tol, maxiter)


@dataclass
class Trial:
    """Aggregation first; `make` builds the cycle that takes over, and stays, if that one is seen to be slow."""

    first: Precondition
    make: Callable[[], Precondition]
    second: Precondition | None = None

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        (self.second or self.first)(r, z)


def too_slow(history: list[float], tol: float) -> bool:
    """After 4, 8, … steps: will it take more than PATIENCE further steps at the mean rate of the last three?"""
    n = len(history) - 1
    if n < 4 or n % 4 or history[-1] <= tol:
        return False
    rate = (history[-1] / history[-4]) ** (1 / 3)
    return rate >= 1 or math.log(tol / history[-1]) / math.log(rate) > PATIENCE


def _joined(first: Outcome, second: Outcome) -> Outcome:
    second.iterations += first.iterations
    second.applications += first.applications
    second.history = first.history + second.history[1:]
    return second
