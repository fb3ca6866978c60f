"""Diffusion with a cubic reaction, the Euler–Lagrange equation of a convex energy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciops.core.boundary import axis_names
from sciops.problems.manufactured import Manufactured


def product_of_sines(ndim: int) -> str:
    """sin(πx) sin(πy) … over the axes: zero on the faces of boxes with integer corners."""
    return "*".join(f"sin(pi*{name})" for name in axis_names(ndim))


@dataclass(frozen=True)
class Cubic(Manufactured):
    """−Δu + u³ = f in the box, u = g on its faces; u minimises ∫ ½|∇u|² + ¼u⁴ − f u.

    Law: u is `exact_solution` (∏ sin πx_i where none is given, then f = dπ²u + u³ and g = 0 on the unit box), with
    `parameters` drawn per case. The energy is 1-strongly convex in the H¹₀ seminorm and on |u| ≤ U smooth with
    M = 1 + 3U²/λ₁, λ₁ the first eigenvalue of −Δ. Up to ten dimensions: from four on give the cases a tiny grid, inputs
    come from the formula. Input: f; output: u.
    """

    ndim: int = 2
    exact_solution: str | None = None
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    linear = False
    max_ndim = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exact_solution is None:
            object.__setattr__(self, "exact_solution", product_of_sines(self.ndim))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return u**3 - d.laplacian(u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return 0.5 * sum(g**2 for g in d.grad(u)) + 0.25 * u**4 - c.f * u
