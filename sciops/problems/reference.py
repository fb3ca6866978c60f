"""Trusted discrete solutions with a measured residual and an estimated discretisation error."""

import math
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

    `label_error` is Richardson's estimate ‖u_h − u_2h‖/((2^p − 1)‖u_h‖) from solves with a half and a quarter of the
    intervals: p is the observed order log₂(‖u_2h − u_4h‖/‖u_h − u_2h‖), at most problem.label_order and at least ½,
    so that a coefficient which the grid barely resolves does not pass for asymptotic. It covers discretisation and
    solver error together and is too low where the grid does not resolve the coefficient at all.
    Cost: O(N) per case. Linear problems only. `stats`: residual, label_error (n,), label_method, iterations.
    """
    fine, answer = _solve(problem, cases, tol, maxiter)
    half = _halved(cases.domain)
    quarter = _halved(half)
    coarse, _ = _solve(problem, cases.on(half), tol, maxiter)
    coarser, _ = _solve(problem, cases.on(quarter), tol, maxiter)
    first = _distance(fine, cases.domain, coarse, half)
    second = _distance(coarse, half, coarser, quarter)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    factors = [richardson_factor(a, b, problem.label_order) for a, b in pairs]
    weights = cases.domain.weights(cases.dtype, cases.device)
    stats: dict[str, Any] = {
        "residual": answer.residual,
        "label_error": first * first.new_tensor(factors) / _norm(fine, weights),
        "label_method": f"Richardson, observed order up to {problem.label_order:g}",
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


def _distance(fine: Tensor, grid: Grid, coarse: Tensor, half: Grid) -> Tensor:
    lifted = resample(coarse[:, None], half, grid, "cubic")[:, 0]
    return _norm(fine - lifted, grid.weights(fine.dtype, fine.device))


def richardson_factor(first: float, second: float, order: float) -> float:
    """1/(2^p − 1) with the observed order p of one case, ½ ≤ p ≤ order."""
    observed = math.log2(second / first) if first > 0 and second > 0 else order
    return 1 / (2 ** min(max(observed, 0.5), order) - 1)


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
