"""How well a prediction satisfies the equation itself: no truth needed.

Print the residual of the stored truth beside it: it is the floor of the discretisation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator, LinearSolver, require_tags
from sciops.core.problem import Problem
from sciops.core.solver import View
from sciops.metrics.base import Metric, grid_of, needs_grid
from sciops.metrics.pointwise import over_truth

SPD = frozenset({"symmetric", "positive"})


@dataclass(frozen=True)
class Residual(Metric):
    """‖R(p)‖₂ / ‖R(0)‖₂ over the interior points, by the problem's second-order differences, mean over cases.

    Unknowns on a wall and cells next to one are left out: in a cell-centred scheme a few wall cells dominate
    even for the exact solution. R(0) is that of u ≡ 0, the right-hand side; NaN and a warning where it is zero
    (an equation driven by its boundary data alone: use `residual_dual`).
    """

    name: str = "residual"
    convention: str = "2-norm of the residual at interior points over that of the zero field, mean over cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, " n"]:
        cases, u = _on_grid(self.name, pred, cases)
        norms = [
            away_from_walls(cases.problem.residual_on_grid(cases, v), cases).flatten(1).norm(dim=1)
            for v in (u, torch.zeros_like(u))
        ]
        return over_truth(norms[0], norms[1])

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        # A problem given by its matrix has a residual on grids, though none at points.
        own = cases is not None and type(cases.problem).residual_on_grid is not Problem.residual_on_grid
        return _refuse(field, cases, View.SYSTEM if own else View.RESIDUAL)


@dataclass(frozen=True)
class DualResidual(Metric):
    """sqrt(rᵀ A⁻¹ r / bᵀ A⁻¹ b), r = b − A v, for symmetric positive definite systems; mean over cases.

    This is the relative energy-norm distance to the discrete solution, ‖v − A⁻¹b‖_A / ‖A⁻¹b‖_A, so it falls
    at the rate of the error. `solver` applies A⁻¹ (to tolerance 1e-10); None factorises each case on the host
    with SciPy, O(N^1.5) work in 2-D and O(N²) in 3-D, once only where all cases share a matrix. Raises NotSPD
    for other systems.
    """

    name: str = "residual_dual"
    solver: LinearSolver | None = None
    convention: str = "residual in the norm of the inverse operator over that of the right-hand side, mean over cases"

    def per_case(self, pred: Field, true: Field, cases: Cases | None = None) -> Float[Tensor, " n"]:
        cases, u = _on_grid(self.name, pred, cases)
        A, b = cases.problem.system(cases)
        require_tags(A, SPD, f"Metric {self.name}")
        r = b - A.matvec(cases.problem.unknowns(cases.domain, u))
        r, b = A.project(r), A.project(b)
        inverse = _inverse(A, self.solver, cases.problem.constant_coefficient is not None)
        energies = [(x * inverse(x)).flatten(1).sum(1).clamp(min=0).sqrt() for x in (r, b)]
        return over_truth(energies[0], energies[1])

    def applies(self, field: Field, cases: Cases | None = None) -> str | None:
        return _refuse(field, cases, View.SYSTEM)


def away_from_walls(r: Float[Tensor, "n *m"], cases: Cases) -> Float[Tensor, "n *i"]:
    """Values at the unknowns without those on a wall or in the cell next to it."""
    for _, axis, side, kind in cases.problem.boundary.faces():
        if kind != "dirichlet" or cases.domain.layout[axis] != "node":
            r = r.narrow(axis + 1, 1 - side, r.shape[axis + 1] - 1)
    return r


def _on_grid(name: str, pred: Field, cases: Cases | None) -> tuple[Cases, Float[Tensor, "n *s"]]:
    if cases is None:
        raise UsageError(f"Metric {name} needs the cases, because they hold the equation's data.")
    return cases.on(grid_of(pred)).to(dtype=torch.float64), pred.values[:, 0, 0].double()


def _refuse(field: Field, cases: Cases | None, view: View) -> str | None:
    if not isinstance(field.domain, Grid):
        return needs_grid(field)
    if cases is None:
        return "needs the cases, which hold the equation's data"
    if len(field.times) > 1 or len(field.channels) > 1:
        return "needs a steady field with one channel"
    if view not in cases.problem.views():
        return f"needs {view.name}; {type(cases.problem).__name__} does not offer it"
    return None


def _inverse(A: LinearOperator, solver: LinearSolver | None, shared: bool) -> Callable[[Tensor], Tensor]:
    """x ↦ A⁻¹ x; singular systems with constant null space get a mean-free right-hand side."""
    if solver is not None:
        state = solver.setup(A)
        return lambda x: solver.solve(state, x, tol=1e-10, maxiter=10_000).x
    from scipy.sparse.linalg import splu

    options = {"SymmetricMode": True}

    def factor(i: int) -> tuple[np.ndarray, Callable]:
        # With a null space of constants one unknown may be pinned to zero: rᵀ A⁻¹ r does not see the shift.
        if isinstance(A, FaceOperator):
            from sciops.numerics.components import regular_rows

            keep = regular_rows(A, i)
        else:
            keep = np.arange(1 if A.nullspace == "constant" else 0, math.prod(A.space))
        matrix = A.to_scipy(i).tocsr()[keep][:, keep].tocsc()
        return keep, splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options).solve

    common = factor(0) if shared else None

    def apply(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out = torch.zeros_like(flat)
        for i in range(len(flat)):
            keep, solve = common or factor(i)
            out[i, keep] = torch.from_numpy(solve(flat[i].cpu().numpy()[keep])).to(out)
        return out.reshape(-1, *A.space)

    return apply


METRICS = (Residual(), DualResidual())
