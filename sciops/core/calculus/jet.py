"""The residual around a known state: its tangent, an affine differential operator, at every point."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.base import Calculus
from sciops.core.calculus.symbol import Differential
from sciops.core.errors import UsageError

Order = tuple[int, ...]
"""One entry per axis: (2, 0) is ∂²/∂x²."""

State = Callable[[Order], Tensor]
"""α ↦ values of ∂^α u, (n, N), at fixed points."""


class Jet(Calculus):
    """R(u + δ) = R(u) + Σ_α (∂R/∂u_α) ∂^α δ + O(δ²), with u_α = ∂^α u independent variables at each point.

    `d.u` and its derivatives are leaves that hold the values of a state; the residual may combine them by any
    differentiable torch functions. Derivatives of such combinations are total derivatives,
    D_j e = ∂e/∂x_j + Σ_α (∂e/∂u_α) u_{α+e_j}. `linearise(R)` then reads the coefficients off by one reverse pass.
    Needs derivatives of the state as high as the equation's order. Fails with UsageError where the residual was not
    computed from d.u by differentiable operations.
    Reference: jet-bundle total derivative, Olver, Applications of Lie Groups to Differential Equations, §2.3.
    """

    def __init__(self, x: Float[Tensor, "n N d"], state: State) -> None:
        if x.dim() != 3:
            raise UsageError(f"Jet needs points of shape (n, N, d); got {tuple(x.shape)}.")
        self.x = x.detach().clone().requires_grad_(True)
        self.state = state
        self.leaves: dict[Order, Tensor] = {}
        self.u = self._leaf((0,) * x.shape[-1])

    @property
    def ndim(self) -> int:
        return self.x.shape[-1]

    def _leaf(self, order: Order) -> Tensor:
        if order not in self.leaves:
            value = self.state(order).detach()
            self.leaves[order] = value.expand(self.x.shape[:-1]).clone().requires_grad_(True)
        return self.leaves[order]

    def _derive(self, e: Tensor, axis: int) -> Tensor:
        """Total derivative along an axis."""
        for order, leaf in self.leaves.items():
            if leaf is e:
                return self._leaf(_raised(order, axis))
        if not isinstance(e, Tensor) or not e.requires_grad:
            return torch.zeros_like(self.u)
        orders, leaves = list(self.leaves), list(self.leaves.values())
        slopes = torch.autograd.grad(e.sum(), [self.x, *leaves], create_graph=True, allow_unused=True)
        total = torch.zeros_like(self.u) if slopes[0] is None else slopes[0][..., axis]
        for order, slope in zip(orders, slopes[1:], strict=True):
            if slope is not None:
                total = total + slope * self._leaf(_raised(order, axis))
        return total

    def partial(self, u: Float[Tensor, "n N"], order: Order) -> Float[Tensor, "n N"]:
        for known, leaf in self.leaves.items():
            if leaf is u:  # straight there: states are not asked for derivatives that the equation does not contain
                return self._leaf(tuple(k + times for k, times in zip(known, order, strict=True)))
        for axis, times in enumerate(order):
            for _ in range(times):
                u = self._derive(u, axis)
        return u

    def div_flux(self, a: Float[Tensor, "#n #N"] | float, u: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        total = torch.zeros_like(self.u)
        for axis in range(self.ndim):
            total = total + self._derive(self._derive(u, axis) * a, axis)
        return total

    def linearise(self, residual: Float[Tensor, "n N"]) -> Differential:
        """Σ_α c_α ∂^α u + constant that touches the residual at the state: for a linear residual, its symbol."""
        orders, leaves = list(self.leaves), list(self.leaves.values())
        slopes: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if isinstance(residual, Tensor) and residual.requires_grad:
            slopes = torch.autograd.grad(residual.sum(), leaves, allow_unused=True)
        terms = {order: slope for order, slope in zip(orders, slopes, strict=True) if slope is not None}
        if not terms:
            raise UsageError(
                "The residual cannot be linearised: it was not computed from u by differentiable torch operations."
            )
        constant = residual.detach()
        for order, slope in terms.items():
            constant = constant - slope * self.leaves[order].detach()
        return Differential(dict(terms), constant)


def _raised(order: Order, axis: int) -> Order:
    return tuple(k + int(j == axis) for j, k in enumerate(order))
