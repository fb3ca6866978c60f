"""Trusted discrete solutions with a measured residual and an estimated discretisation error."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.linear import LinearSolution
from sciops.core.problem import Problem
from sciops.core.solver import Solution


def discrete_reference(problem: Problem, cases: Cases, tol: float = 1e-10, maxiter: int = 200) -> Solution:
    """Second-order differences on cases.domain, multigrid-preconditioned CG to ‖b − A u‖ ≤ tol·‖b‖.

    `label_error` is Richardson's estimate ‖u_h − u_2h‖/((2^p − 1)‖u_h‖) with p = problem.label_order, from a
    second solve on the grid with half as many intervals, so it bounds discretisation and solver error together.
    Cost: O(N) per case. Linear problems only. `stats`: residual, label_error (n,), label_method, iterations.
    """
    fine, answer = _solve(problem, cases, tol, maxiter)
    half = _halved(cases.domain)
    coarse, _ = _solve(problem, cases.on(half), tol, maxiter)
    lifted = resample(coarse[:, None], half, cases.domain, "cubic")[:, 0]
    weights = cases.domain.weights(cases.dtype, cases.device)
    difference = _norm(fine - lifted, weights) / (2**problem.label_order - 1)
    stats: dict[str, Any] = {
        "residual": answer.residual,
        "label_error": difference / _norm(fine, weights),
        "label_method": f"Richardson, order {problem.label_order:g}",
        "iterations": answer.iterations,
    }
    field = Field.steady(fine[:, None], cases.domain, [channel.name for channel in problem.outputs])
    return Solution(field, answer.status, stats)


def zero_mean(u: Float[Tensor, "n *s"], grid: Grid) -> Float[Tensor, "n *s"]:
    """Subtract the quadrature mean: the representative of a solution known up to a constant."""
    w = grid.weights(u.dtype, u.device) / grid.measure
    mean = (u * w).flatten(1).sum(1)
    return u - mean.reshape(-1, *(1,) * grid.ndim)


def _solve(problem: Problem, cases: Cases, tol: float, maxiter: int) -> tuple[Tensor, LinearSolution]:
    from sciops.numerics.krylov import ConjugateGradients
    from sciops.numerics.multigrid import Multigrid

    A, b = problem.system(cases)
    solver = ConjugateGradients(preconditioner=Multigrid())
    answer = solver.solve(solver.setup(A), b, tol=tol, maxiter=maxiter)
    u = problem.embed(cases, answer.x)
    return (zero_mean(u, cases.domain) if A.nullspace else u), answer


def _halved(grid: Grid) -> Grid:
    return grid.resized(
        [
            max((n - 1) // 2 + 1 if layout == "node" else n // 2, 4)
            for n, layout in zip(grid.shape, grid.layout, strict=True)
        ]
    )


def _norm(u: Tensor, weights: Tensor) -> Tensor:
    # One case at a time, so that a case rebuilt alone has the same bits as in its batch.
    return torch.stack([(case**2 * weights).sum() for case in u]).sqrt()
