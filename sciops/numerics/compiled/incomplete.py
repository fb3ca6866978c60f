"""Incomplete Cholesky factorisation without fill, compiled, on face and (2d+1)-point stencil matrices."""

from dataclasses import dataclass

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled import incomplete_kernels as kernels
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.systems import FaceSystem, System, grid_shape

SAFE = 0.25
"""Modified factors: a pivot below this part of the diagonal is replaced by the diagonal (Bridson's safety)."""


class IncompleteFactor:
    """z = M⁻¹ r, M = (D + L) D⁻¹ (D + Lᵀ), L the strict lower part of A in lexicographic order.

    D_i = a_ii − Σ_{j<i} a_ij (a_ij + τ Σ_{k>j, k≠i} a_jk)/D_j: IC(0) for τ = 0, MIC(0) for τ near 1. Memory: one array.
    """

    def __init__(self, diagonal: np.ndarray, couplings: list[np.ndarray], modified: float) -> None:
        shape, axes = grid_shape(diagonal.shape)
        zero = np.broadcast_to(np.zeros(()), shape)
        self.couplings = [zero if a is None else couplings[a].reshape(shape) for a in axes]
        least = SAFE if modified > 0 else kernels.BREAKDOWN
        wide = [np.ascontiguousarray(u, dtype=np.float64) for u in self.couplings]
        self.couplings = wide
        self.inverse = kernels.pivots(
            np.ascontiguousarray(diagonal.reshape(shape), dtype=np.float64), *wide, modified, least
        )

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        shape = self.inverse.shape
        kernels.solve(self.inverse, *self.couplings, r.reshape(shape), z.reshape(shape))


@dataclass(frozen=True)
class IncompleteCholesky(CompiledCG):
    """Conjugate gradients with M = (D + L) D⁻¹ (D + Lᵀ) (see `IncompleteFactor`).

    `modified` τ: 0 for IC(0), 0.97 for MIC(0) — on M-matrices the row sums of A are then nearly kept and the condition
    number grows like 1/h instead of 1/h².
    Takes face weights and stencils without diagonal neighbours (where the factors have no entries beyond those of A
    either), periodic or not. Cost per application: two sequential sweeps. Memory: d + 1 arrays.
    Fails on nothing that is symmetric positive; slow on fine grids (O(1/h) and O(1/√h) iterations).
    Reference: Meijerink, van der Vorst, Math. Comp. 31 (1977); Gustafsson, BIT 18 (1978) 142.
    """

    modified: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.modified <= 1:
            raise UsageError(f"modified must lie between 0 (IC) and 1 (full compensation); got {self.modified}.")

    @property
    def method(self) -> str:
        return "IncompleteCG"

    def build(self, system: System, A: LinearOperator, i: int) -> IncompleteFactor:
        if isinstance(system, FaceSystem):
            return IncompleteFactor(system.diagonal, [-w for w in system.faces], self.modified)
        assert isinstance(A, StencilOperator)
        if any(np.count_nonzero(A.offsets[k]) > 1 or max(map(abs, A.offsets[k])) > 1 for k in A.active):
            raise UsageError(
                "IncompleteCG takes stencils without diagonal neighbours (5 points in 2-D); use MultigridCG instead."
            )
        stencil, couplings = A.stencil[i].detach().cpu().numpy(), []
        for axis, wrap in enumerate(A.periodic):
            entry = stencil[A.offsets.index(tuple(int(a == axis) for a in range(len(A.space))))].astype(np.float64)
            if not wrap:
                np.moveaxis(entry, axis, 0)[-1] = 0.0
            couplings.append(entry)
        return IncompleteFactor(stencil[len(A.offsets) // 2], couplings, self.modified)
