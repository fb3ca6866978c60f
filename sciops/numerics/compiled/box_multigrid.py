"""Conjugate gradients with operator-dependent multigrid as a LinearSolver."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled.aggregation import AggregationCycle
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.boxmg import Advice, BoxHierarchy, BoxOptions
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.conjugate_gradients import Precondition
from sciops.numerics.compiled.systems import FaceSystem, System, faces_of

METHODS = ("auto", "box")
SMALL, FEW = 0.25, 0.05
"""A weight below SMALL · max is small; a matrix of one coefficient has at most the fraction FEW of small weights."""


@dataclass(frozen=True)
class BoxMultigrid(CompiledCG):
    """Conjugate gradients in float64 with one cycle of `BoxHierarchy` per step.

    `method="auto"` hands matrices of one constant coefficient (all weights but those of cut cells alike, see
    `is_uniform`) to unsmoothed aggregation, which is faster there; "box" never does. `options`: see `BoxOptions`;
    `advice`: see `BoxHierarchy`.
    Takes FaceOperators and symmetric StencilOperators of radius 1 that are not periodic, in 1 to 3 dimensions.
    Cost O(N): set-up about 8 and an iteration about 1.5 times 100 N operations. Memory: see `BoxHierarchy`.
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
        if self.method_choice == "auto" and isinstance(system, FaceSystem) and is_uniform(system):
            return AggregationCycle(system, 2, 2.0, np.float32)
        return BoxHierarchy(BoxMatrix.from_operator(A, i), self.options, self.advice)


def is_uniform(system: FaceSystem) -> bool:
    """Are the face weights alike on all axes, up to zeros and a few cut cells?"""
    largest = [float(w.max(initial=0.0)) for w, size in zip(system.faces, system.space, strict=True) if size > 1]
    if not largest or min(largest) < SMALL * max(largest):
        return False
    for w in system.faces:
        positive = np.count_nonzero(w)
        if np.count_nonzero(w >= SMALL * max(largest)) < (1 - FEW) * positive:
            return False
    return True
