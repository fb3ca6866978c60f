"""Energy densities L(x, u, ∇u) of a problem at quadrature points, with their derivatives in u and ∇u."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Autodiff, Forward
from sciops.core.cases import Cases
from sciops.core.errors import UsageError

Fields = Tensor
"""(1 + d, N): u and its d first derivatives at N points."""


def composite_gauss(
    lower: Sequence[float], upper: Sequence[float], panels: int | Sequence[int], order: int
) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
    """Tensor-product Gauss–Legendre points and weights: `panels` equal parts per axis, `order` points in each.

    Exact for polynomials of degree 2·order − 1 per axis on every panel; N = ∏ (panels_j · order).
    """
    import numpy as np  # loaded here: the nodes come from NumPy

    each = [panels] * len(lower) if isinstance(panels, int) else list(panels)
    if order < 1 or min(each) < 1:
        raise UsageError(f"panels and order must be 1 or more; got {panels} and {order}.")
    t, w = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(order))
    axes, weights = [], []
    for lo, up, m in zip(lower, upper, each, strict=True):
        h = (up - lo) / m
        middles = lo + h * (torch.arange(m, dtype=torch.float64) + 0.5)
        axes.append((middles[:, None] + 0.5 * h * t).reshape(-1))
        weights.append((0.5 * h * w).repeat(m))
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(lower))
    total = weights[0]
    for part in weights[1:]:
        total = (total[:, None] * part).reshape(-1)
    return x, total


class EnergyDensity:
    """L at frozen points of one case: E ≈ Σ_i w_i L(x_i, u_i, ∇u_i).

    `fields` hold u and ∇u at the points, (1 + d, N). The inputs of the case are read once. First and second derivatives
    of L in (u, ∇u) come from reverse passes through `problem.energy`, 1 and 2 + d of them, of the cost of L itself.
    Fails with UsageError where the problem has no energy, or one that reads second derivatives.
    """

    def __init__(self, case: Cases, x: Float[Tensor, "N d"], weights: Float[Tensor, " N"]) -> None:
        if not hasattr(case.problem, "energy"):
            raise UsageError(f"{type(case.problem).__name__} has no energy: give it a method energy(d, u, c).")
        self.problem, self.x, self.weights = case.problem, x.detach(), weights
        self.inputs = case.at(self.x[None])
        for name, value in vars(self.inputs).items():
            if isinstance(value, Tensor):
                setattr(self.inputs, name, value.detach())

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: slice) -> "EnergyDensity":
        """The density at some of the points."""
        piece = object.__new__(EnergyDensity)
        piece.problem, piece.x, piece.weights = self.problem, self.x[rows], self.weights[rows]
        piece.inputs = type(self.inputs)(**vars(self.inputs))
        for name, value in vars(piece.inputs).items():
            if isinstance(value, Tensor) and value.shape[-1] == len(self.x):
                setattr(piece.inputs, name, value[:, rows])
        return piece

    def values(self, fields: Float[Tensor, "k N"]) -> Float[Tensor, " N"]:
        """L at the points, differentiable in the fields."""
        d = Forward(self.x[None], [{_order(j, self.x.shape[1]): f[None] for j, f in enumerate(fields)}])
        found = self.problem.energy(d, d.u, self.inputs)  # type: ignore[attr-defined]
        return found[0].expand(len(self.x))

    def total(self, fields: Float[Tensor, "k N"]) -> Float[Tensor, ""]:
        """Σ w L."""
        return self.weights @ self.values(fields)

    def slopes(self, fields: Float[Tensor, "k N"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "k N"]]:
        """L and ∂L/∂(u, ∇u)."""
        with torch.enable_grad():
            leaf = fields.detach().requires_grad_(True)
            L = self.values(leaf)
            (s,) = torch.autograd.grad(L.sum(), leaf)
        return L.detach(), s

    def curvatures(
        self, fields: Float[Tensor, "k N"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "k N"], Float[Tensor, "k k N"]]:
        """L, its gradient and its Hessian in (u, ∇u)."""
        with torch.enable_grad():
            leaf = fields.detach().requires_grad_(True)
            L = self.values(leaf)
            (s,) = torch.autograd.grad(L.sum(), leaf, create_graph=True)
            rows = []
            for part in s:
                found = None
                if part.requires_grad:
                    (found,) = torch.autograd.grad(part.sum(), leaf, retain_graph=True, allow_unused=True)
                rows.append(torch.zeros_like(leaf) if found is None else found)
        return L.detach(), s.detach(), torch.stack(rows)


def euler_lagrange(case: Cases, u: Callable[[Tensor], Tensor], x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
    """∂L/∂u − ∇·∂L/∂∇u of a function u: (N, d) → (N,) at points, by automatic differentiation.

    It is the residual of a problem whose equation is the Euler–Lagrange equation of its energy: the two are written
    independently, so they check each other.
    """
    problem: Any = case.problem
    d = Autodiff(x[None])
    value = u(d.x[0])[None]
    # Clones, so that the slopes below are partial ones: no path leads from one clone to another.
    fields = [value.clone(), *(part.clone() for part in d.grad(value))]
    table = Forward(x[None], [{_order(j, x.shape[1]): f for j, f in enumerate(fields)}])
    L = problem.energy(table, table.u, case.at(d.x))
    slopes = torch.autograd.grad(L.sum(), fields, create_graph=True, allow_unused=True)
    total = torch.zeros_like(value) if slopes[0] is None else slopes[0]
    for axis, slope in enumerate(slopes[1:]):
        if slope is not None and slope.requires_grad:
            total = total - d.gradient(slope)[..., axis]
    return total[0].detach()


def first_eigenvalue(lower: Sequence[float], upper: Sequence[float]) -> float:
    """λ₁ of −Δ with zero values on the faces of the box."""
    return math.pi**2 * sum(1 / (up - lo) ** 2 for lo, up in zip(lower, upper, strict=True))


def _order(row: int, ndim: int) -> tuple[int, ...]:
    return tuple(int(j == row - 1) for j in range(ndim))
