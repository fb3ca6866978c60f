"""The incomplete Cholesky smoother of compiled multigrid inside a computation that gradients flow through."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.stencil_operator import StencilOperator


class IncompleteSmoother:
    """x = M⁻¹ b with M = (D + L) D⁻¹ (D + Lᵀ), the factor that `compiled.boxmg_incomplete` makes of each matrix.

    Forward and backward solves in float64 by the compiled kernels, case after case. The gradient with respect to b is
    M⁻¹ applied to the one that arrives (M is symmetric); none goes to the entries of the matrix.
    stencil (n, 3^d, *space), 2-D or 3-D, symmetric, bounded; b and x (n, *space). CPU only.
    Cost of a solve: about that of one application of A. Reference: see `compiled.boxmg_incomplete`.
    """

    def __init__(self, stencil: Float[Tensor, "n k *s"]) -> None:
        from sciops.numerics.compiled.boxmg_incomplete import factorise
        from sciops.numerics.compiled.boxmg_matrix import BoxMatrix

        space = tuple(stencil.shape[2:])
        A = StencilOperator(stencil.detach().double().cpu(), (False,) * len(space), frozenset({"symmetric"}))
        self.factors: list[tuple[BoxMatrix, np.ndarray, np.ndarray]] = []
        for i in range(len(stencil)):
            matrix = BoxMatrix.from_operator(A, i)
            lower, pivots = matrix.off.copy(), matrix.diag.copy()
            strides = np.array([s // matrix.diag.itemsize for s in matrix.diag.strides])
            flat = lower.reshape(len(lower), -1), pivots.reshape(-1)
            factorise(matrix.diag.reshape(-1), matrix.plan.offsets @ strides, matrix.plan.pairs, pivots.size, *flat)
            inverse = np.divide(1.0, pivots, out=np.zeros_like(pivots), where=matrix.diag > 0)
            self.factors.append((matrix, lower, inverse))

    def __call__(self, b: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        x: Tensor = _Solve.apply(b, self)  # type: ignore[no-untyped-call]
        return x

    def solve(self, b: Tensor) -> Tensor:
        """M⁻¹ b without a gradient."""
        from sciops.numerics.compiled.boxmg_incomplete import solve_backward, solve_forward

        given = b.detach().double().cpu().numpy()
        out = np.empty_like(given)
        for i, (matrix, lower, inverse) in enumerate(self.factors):
            work = np.zeros_like(inverse)
            matrix.inside(work)[...] = given[i].reshape(matrix.space)
            grid = matrix.gz, matrix.space, matrix.faces
            solve_forward(work, work, lower, *grid)
            solve_backward(work, lower, inverse, *grid, work, False)
            out[i] = matrix.inside(work).reshape(given[i].shape)
        return torch.from_numpy(out).to(b)


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, b: Tensor, smoother: IncompleteSmoother) -> Tensor:
        ctx.smoother = smoother
        return smoother.solve(b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.smoother.solve(grads[0]), None
