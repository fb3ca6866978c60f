"""The regularised p-Laplace equation with its radial solution."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.problems.manufactured import Manufactured, Numbers


@dataclass(frozen=True)
class PLaplace(Manufactured):
    """−∇·((ε² + |∇u|²)^{(p−2)/2} ∇u) = 1; u minimises ∫ (ε² + |∇u|²)^{p/2}/p − u.

    The radial solution with u = 0 on the unit sphere, in any box: its Dirichlet data on the faces come from the
    formula, which holds inside and outside the ball. With ε = 0
        u = (p−1)/p d^{−1/(p−1)} (1 − |x|^{p/(p−1)}).
    With ε > 0 the flux is still −x/d, so |∇u| = g solves (ε² + g²)^{(p−2)/2} g = r/d, and by Legendre duality
        u = G(1) − G(r),   G(r) = r g − d ((ε² + g²)^{p/2} − ε^p)/p.
    f = 1 for every ε: one family, u_ε → u_0 as ε → 0.

    Hard at the origin, where ∇u = 0. p > 2: ellipticity ε^{p−2} → 0 there and u ~ r^{p/(p−1)} has no second
    derivative (p = 3: r^{3/2}). p < 2: ellipticity ε^{p−2} → ∞. ε > 0 makes u analytic with a core of radius about
    d ε^{p−1}. With ε = 0 and p ≠ 2 the strong residual is infinite or undefined where ∇u = 0; the energy is not.
    Differences on a grid take |∇u| one-sided at the walls: order 1 there.
    `eps` may be drawn per case where `parameters` names it. Input: f; output: u.
    Reference: Lindqvist, Notes on the p-Laplace Equation (2006).
    """

    p: float = 3.0
    eps: float = 1e-2
    ndim: int = 2
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    exact_solution = None
    linear = False
    numbers = ("eps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.p) and self.p > 1):
            raise UsageError(f"PLaplace needs p > 1; got {self.p}.")
        unknown = sorted(set(self.parameters) - set(self.numbers))
        if unknown:
            raise UsageError(f"PLaplace parameters may be eps; got '{unknown[0]}'.")
        widths = [self.eps, *self.parameters.get("eps", ())]
        if not min(widths) >= 0:
            raise UsageError(f"PLaplace needs eps ≥ 0; got {widths}.")

    def _conductivity(self, d: Any, u: Any, c: Any) -> Any:
        return self.number(c, "eps") ** 2 + sum(g**2 for g in d.grad(u))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux(self._conductivity(d, u, c) ** (self.p / 2 - 1), u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return self._conductivity(d, u, c) ** (self.p / 2) / self.p - c.f * u

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        return torch.ones_like(x[..., 0])

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        eps = torch.as_tensor(params.get("eps", self.eps), dtype=x.dtype, device=x.device).reshape(-1, 1)
        s = x.square().sum(-1)
        return self._potential(torch.ones_like(s), eps) - self._potential(s, eps)

    def _potential(self, s: Float[Tensor, "n N"], eps: Float[Tensor, "#n 1"]) -> Float[Tensor, "n N"]:
        """G as a function of s = r²: smooth in s where ε > 0."""
        p, d = self.p, self.ndim
        if float(eps.amax()) == 0:
            return (p - 1) / p * d ** (-1 / (p - 1)) * s ** (0.5 * p / (p - 1))
        slope = self._slope(s, eps)
        return s * slope - d * ((eps**2 + s * slope**2) ** (p / 2) - eps**p) / p

    def _slope(self, s: Float[Tensor, "n N"], eps: Float[Tensor, "#n 1"]) -> Float[Tensor, "n N"]:
        """γ = g/r from (ε² + sγ²)^{(p−2)/2} γ = 1/d: Newton's method on y = log γ, of slope between 1 and p − 1."""
        half, goal = self.p / 2 - 1, -math.log(self.ndim)

        def improved(y: Tensor, s: Tensor) -> Tensor:
            square = s * torch.exp(2 * y)
            defect = half * torch.log(eps**2 + square) + y - goal
            return y - defect / (2 * half * square / (eps**2 + square) + 1)

        with torch.no_grad():
            y = goal - half * torch.log(eps**2 + s)
            for _ in range(60):
                y, before = improved(y, s), y
                if bool((y - before).abs().amax() < 1e-9):
                    break
        for _ in range(3):  # each step in the graph doubles the order to which derivatives in x are right
            y = improved(y, s)
        return torch.exp(y)
