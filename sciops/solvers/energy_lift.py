"""The affine part of a variational problem: a function with the Dirichlet data, as values and gradient at points."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Autodiff
from sciops.core.grid import Grid
from sciops.core.problem import Problem
from sciops.numerics.variational import first_eigenvalue
from sciops.solvers.collocation import Equation, Function
from sciops.solvers.pinn_lift import Transfinite


def refusal(problem: Problem, grid: Grid) -> str | None:
    """Why an energy cannot be minimised over functions with Dirichlet data here."""
    if problem.boundary.uniform != "dirichlet":
        return "minimises over functions with given boundary values; other faces add terms to the energy: use dirichlet"
    if grid.ndim > 10:
        return f"imposes boundary values by a product over the axes, in up to 10 dimensions; got {grid.ndim}"
    return None


def lift_of(equation: Equation) -> Transfinite | None:
    """A lift of the Dirichlet data; None where they vanish to rounding of the solution.

    That size is max|f|/λ₁ at random points. Raises nothing in any dimension: beyond three a lift costs 3^d evaluations,
    so problems with data there should be asked of other methods.
    """
    random = torch.Generator().manual_seed(0)
    data = [equation.boundary_rows(face, equation.face_points(face, 100, random)).rhs for face in equation.faces]
    largest = max((float(values.abs().max()) for values in data), default=0.0)
    x = equation.interior_points(400, random)
    zero = torch.zeros_like(x[:, 0])
    try:
        source = float(equation.residual(x, lambda order: zero).abs().nan_to_num(0.0, 0.0, 0.0).max())
    except RuntimeError:
        source = 0.0
    size = source / first_eigenvalue(equation.lower.tolist(), equation.upper.tolist())
    return None if largest <= 1e-13 * size else Transfinite(equation, list(equation.faces))


def fields_of(function: Function, x: Float[Tensor, "N d"]) -> Float[Tensor, "r N"]:
    """Values and gradient of a differentiable function of points, (1 + d, N)."""
    with torch.enable_grad():
        d = Autodiff(x[None])
        values = function(d.x[0]).reshape(1, -1)
        slopes = d.gradient(values + 0.0 * d.x[..., 0])
    return torch.cat([values, slopes[0].T]).detach()
