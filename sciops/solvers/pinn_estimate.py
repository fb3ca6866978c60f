"""How far a trial function is from the solution: the error equation, solved on a grid."""

import math
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.models.trial import Trial
from sciops.solvers.collocation import Equation
from sciops.solvers.pinn_rows import Sites, State

LEAST, MOST = {1: 129, 2: 49, 3: 17}, {1: 8193, 2: 193, 3: 33}
"""Nodes per axis."""


def error_estimate(equation: Equation, trial: Trial, wavenumber: float = 0.0) -> float | None:
    """‖e‖₂/‖u‖₂ with L e = R(u_θ), e = u_θ − g and ∂e/∂n = ∂u_θ/∂n − g on the faces: an estimate of the L² error.

    L is the equation, or its tangent at u_θ where that is nonlinear (then e is one Newton step, right where the error
    is small), in second-order differences with about five nodes per 2/`wavenumber`; one sparse factorisation.
    None where faces are free or axes periodic, in more than three dimensions, for derivatives beyond second order,
    several unknowns, and where the tangent is singular. Too small where the residual is finer than the grid.
    """
    d = equation.ndim
    kinds = {kind for pair in equation.problem.boundary.kinds for kind in pair}
    if d > 3 or kinds & {"free", "periodic"} or len(equation.problem.outputs) > 1:
        return None
    n = min(max(math.ceil(2.5 * wavenumber * float(equation.lengths.max())), LEAST[d]), MOST[d])
    axes = [
        torch.linspace(float(a), float(b), n, dtype=torch.float64)
        for a, b in zip(equation.lower, equation.upper, strict=True)
    ]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d).to(equation.lower)
    state = State(trial, x)
    terms = equation.rows(x, state).terms
    if any(max(order) > 2 for order in terms):
        return None
    sites = Sites(equation.case, x)
    with torch.no_grad():
        r = sites.residuals(trial.derivatives(x, sites.request))[0].detach().clone()
    spacing = [float(length) / (n - 1) for length in equation.lengths]
    fixed = torch.zeros((n,) * d, dtype=torch.bool)
    known = torch.zeros((n,) * d, dtype=torch.float64)
    r = r.reshape(fixed.shape)
    for face in sorted(equation.faces, key=lambda face: face.kind == "dirichlet"):  # Dirichlet holds at shared edges
        at = (slice(None),) * face.axis + (-1 if face.side else 0,)
        points = x.reshape(*fixed.shape, d)[at].reshape(-1, d)
        rows = equation.boundary_rows(face, points)
        mismatch = rows.apply(State(trial, points)).reshape(known[at].shape).cpu()
        if face.kind == "dirichlet":
            fixed[at], known[at] = True, mismatch
            continue
        sign = 1.0 if face.side else -1.0
        for order, c in terms.items():
            c_there = c.reshape(fixed.shape)[at]
            if sum(order) == order[face.axis] == 2:
                r[at] -= c_there * 2 * mismatch / spacing[face.axis]
            elif sum(order) == order[face.axis] == 1:
                r[at] -= c_there * sign * mismatch
    e = _solve(terms, r.cpu().reshape(-1), known.reshape(-1), fixed.reshape(-1), n, spacing)
    size = float(state((0,) * d).norm())
    return None if e is None or size == 0 else float(e.norm()) / size


def _solve(
    terms: dict[tuple[int, ...], Tensor],
    r: Float[Tensor, " N"],
    known: Float[Tensor, " N"],
    fixed: Tensor,
    n: int,
    spacing: list[float],
) -> Float[Tensor, " N"] | None:
    """Σ c_α D_α e = r with e given at the fixed nodes."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import splu

    tables = {(axis, k): _difference(n, h, k) for axis, h in enumerate(spacing) for k in range(3)}
    matrix: Any = 0
    for order, c in terms.items():
        D = reduce(lambda a, b: sp.kron(a, b, "csr"), [tables[axis, k] for axis, k in enumerate(order)])
        matrix = matrix + sp.diags(c.cpu().numpy()) @ D
    free = (~fixed).numpy()
    rows = matrix.tocsr()[free]
    rhs = r.numpy()[free] - rows @ known.numpy()
    try:
        inner = splu(rows[:, free].tocsc()).solve(rhs)
    except RuntimeError:  # singular
        return None
    e = known.clone()
    e[~fixed] = torch.from_numpy(inner)
    return e if bool(torch.isfinite(e).all()) else None


def _difference(n: int, h: float, order: int) -> Any:
    """Central differences on n nodes; at the ends those of a mirrored function, for faces with Neumann data."""
    import scipy.sparse as sp

    if order == 0:
        return sp.identity(n, format="csr")
    if order == 1:
        D = sp.diags([-0.5 / h, 0.5 / h], [-1, 1], (n, n), "lil")
        D[0, 1] = D[-1, -2] = 0.0
        return D.tocsr()
    D = sp.diags([1 / h**2, -2 / h**2, 1 / h**2], [-1, 0, 1], (n, n), "lil")
    D[0, 1] = D[-1, -2] = 2 / h**2
    return D.tocsr()
