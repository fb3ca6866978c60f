"""C = C_1 ⊗ … ⊗ C_d: solves, determinants and products by one small factorisation per axis, in any dimension."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError


def mode_product(matrix: Float[Tensor, "m n"], array: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    """array ×_axis matrix: every fibre along the axis times the matrix."""
    return torch.tensordot(matrix, array, dims=([1], [axis])).movedim(0, axis)


class Kronecker:
    """The symmetric positive definite C = ⊗_j C_j acting on arrays of shape (M_1, …, M_d), row-major.

    C^{-1} U by one pair of triangular solves per axis; log|C| = Σ_j (M/M_j) log|C_j| with M = Π M_j.
    Cost: O(Σ M_j³) once, O(M Σ M_j) per solve or product; memory O(Σ M_j² + M). Fails with torch.linalg.LinAlgError
    where a factor is not positive definite; no jitter is added behind the caller's back. The factorisations are
    torch.linalg's own and not those of linear_operator, which goes over to conjugate gradients and Lanczos estimates
    above 800 rows and raises the jitter silently; `to_linear_operator` hands the matrix to that library.
    Reference: Saatçi, Scalable Inference for Structured Gaussian Process Models, 2011.
    """

    def __init__(self, factors: Sequence[Float[Tensor, "_ _"]]) -> None:
        if not factors:
            raise UsageError("Kronecker needs at least one factor.")
        self.factors = list(factors)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(factor) for factor in self.factors)

    @cached_property
    def cholesky(self) -> list[Tensor]:
        """Lower Cholesky factor of every axis."""
        return [torch.linalg.cholesky(factor) for factor in self.factors]

    def matvec(self, array: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """C vec(U), as an array."""
        for axis, factor in enumerate(self.factors):
            array = mode_product(factor, array, axis)
        return array

    def solve_axis(self, array: Float[Tensor, "*s"], axis: int) -> Float[Tensor, "*s"]:
        """array ×_axis C_axis^{-1}."""
        moved = array.movedim(axis, 0)
        solved = torch.cholesky_solve(moved.reshape(len(moved), -1), self.cholesky[axis])
        return solved.reshape(moved.shape).movedim(0, axis)

    def solve(self, array: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """C^{-1} vec(U), as an array."""
        for axis in range(len(self.factors)):
            array = self.solve_axis(array, axis)
        return array

    def logdet(self) -> Float[Tensor, ""]:
        """log|C|."""
        total = math.prod(self.shape)
        parts = [2 * root.diagonal().log().sum() * (total / len(root)) for root in self.cholesky]
        return torch.stack(parts).sum()

    def quadratic(self, array: Float[Tensor, "*s"]) -> Float[Tensor, ""]:
        """vec(U)ᵀ C^{-1} vec(U) = |⊗L_j^{-1} vec(U)|²."""
        for axis, root in enumerate(self.cholesky):
            moved = array.movedim(axis, 0)
            white = torch.linalg.solve_triangular(root, moved.reshape(len(moved), -1), upper=False)
            array = white.reshape(moved.shape).movedim(0, axis)
        return array.square().sum()

    def dense(self) -> Float[Tensor, "M M"]:
        """The whole matrix: for small ones only."""
        whole = self.factors[0]
        for factor in self.factors[1:]:
            whole = torch.kron(whole, factor)
        return whole

    def to_linear_operator(self) -> Any:
        """The same matrix as linear_operator's KroneckerProductLinearOperator."""
        from linear_operator.operators import DenseLinearOperator, KroneckerProductLinearOperator

        return KroneckerProductLinearOperator(*(DenseLinearOperator(factor) for factor in self.factors))
