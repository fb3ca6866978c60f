"""Diffusion with a cubic reaction, the Euler–Lagrange equation of a convex energy."""

from dataclasses import dataclass
from typing import Any

from sciops.problems.reaction import Reaction


@dataclass(frozen=True)
class Cubic(Reaction):
    """−Δu + u³ = f in the box, u = g on its faces; u minimises ∫ ½|∇u|² + ¼u⁴ − f u.

    Law: as `Reaction` has it (where no solution is given, f = dπ²u + u³ and g = 0 on the unit box). The energy is
    1-strongly convex in the H¹₀ seminorm and on |u| ≤ U smooth with M = 1 + 3U²/λ₁, λ₁ the first eigenvalue of −Δ.
    """

    def reaction(self, u: Any) -> Any:
        return u**3

    def potential(self, u: Any) -> Any:
        return 0.25 * u**4
