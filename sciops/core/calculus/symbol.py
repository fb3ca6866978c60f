"""The residual as a formal differential operator: its coefficients of ∂^α at every point."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.base import Calculus
from sciops.core.errors import UsageError

Coefficient = Tensor | float


@dataclass(frozen=True)
class Differential:
    """Σ_α terms[α](x) ∂^α u + constant(x): what a linear residual becomes under the Symbol calculus.

    Coefficients are numbers or tensors (n, N). Products of two symbols raise UsageError: the residual is
    nonlinear and must be linearised first.
    """

    terms: dict[tuple[int, ...], Coefficient]
    constant: Coefficient = 0.0

    def __add__(self, other: "Differential | Coefficient") -> "Differential":
        if not isinstance(other, Differential):
            return Differential(self.terms, self.constant + other)
        merged = dict(self.terms)
        for alpha, c in other.terms.items():
            merged[alpha] = merged[alpha] + c if alpha in merged else c
        return Differential(merged, self.constant + other.constant)

    __radd__ = __add__

    def __mul__(self, factor: "Differential | Coefficient") -> "Differential":
        if isinstance(factor, Differential):
            raise _nonlinear()
        return Differential({alpha: c * factor for alpha, c in self.terms.items()}, self.constant * factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: "Differential | Coefficient") -> "Differential":
        if isinstance(divisor, Differential):
            raise _nonlinear()
        return self * (1 / divisor)

    def __rtruediv__(self, other: object) -> "Differential":
        raise _nonlinear()

    def __rpow__(self, other: object) -> "Differential":
        raise _nonlinear()

    def __pow__(self, exponent: int) -> "Differential":
        if exponent == 1:
            return self
        raise _nonlinear()

    def __neg__(self) -> "Differential":
        return self * -1.0

    def __sub__(self, other: "Differential | Coefficient") -> "Differential":
        return self + (-other)

    def __rsub__(self, other: Coefficient) -> "Differential":
        return -self + other


def _nonlinear() -> UsageError:
    return UsageError("The residual is nonlinear in u, so it has no symbol; linearise it (Newton) first.")


class Symbol(Calculus):
    """u: the formal symbol `d.u`. Coefficients that depend on `d.x` are differentiated exactly (Leibniz).

    `d.div_flux(c.a, d.u)` gives a Δ + ∇a·∇. Any kernel k then yields L k and L L′ k.
    """

    def __init__(self, x: Float[Tensor, "n N d"]) -> None:
        if x.dim() != 3:
            raise UsageError(f"Symbol needs points of shape (n, N, d); got {tuple(x.shape)}.")
        self.x = x if x.requires_grad else x.detach().clone().requires_grad_(True)
        self.u = Differential({(0,) * x.shape[-1]: 1.0})

    @property
    def ndim(self) -> int:
        return self.x.shape[-1]

    def _slope(self, c: Coefficient, axis: int) -> Coefficient:
        if not isinstance(c, Tensor) or not c.requires_grad:
            return 0.0
        (g,) = torch.autograd.grad(c.sum(), self.x, create_graph=True, allow_unused=True)
        if g is None:
            return 0.0
        if c.shape != self.x.shape[:-1]:  # points shared between cases would add up the cases' derivatives
            raise UsageError(
                f"Symbol: a coefficient has shape {tuple(c.shape)} but the points have {tuple(self.x.shape)}; give "
                f"every case its own copy of the points, x.repeat(n, 1, 1)."
            )
        return g[..., axis]

    def _derive(self, u: Differential, axis: int) -> Differential:
        """∂_j (Σ c_α ∂^α u + c) = Σ (∂_j c_α) ∂^α u + c_α ∂^{α+e_j} u + ∂_j c."""
        total = Differential({}, self._slope(u.constant, axis))
        for alpha, c in u.terms.items():
            raised = tuple(k + int(j == axis) for j, k in enumerate(alpha))
            total = total + Differential({raised: c})
            slope = self._slope(c, axis)
            if isinstance(slope, Tensor):
                total = total + Differential({alpha: slope})
        return total

    def partial(self, u: Differential, order: tuple[int, ...]) -> Differential:
        for axis, times in enumerate(order):
            for _ in range(times):
                u = self._derive(u, axis)
        return u

    def div_flux(self, a: Coefficient | Differential, u: Differential) -> Differential:
        total = Differential({})
        for axis in range(self.ndim):
            total = total + self._derive(self._derive(u, axis) * a, axis)
        return total
