"""The nonlinear Poisson–Boltzmann equation with manufactured solutions."""

from dataclasses import dataclass
from typing import Any

import torch

from sciops.problems.reaction import Reaction


@dataclass(frozen=True)
class PoissonBoltzmann(Reaction):
    """−Δu + sinh u = f in the box, u = g on its faces; u minimises ∫ ½|∇u|² + cosh u − f u.

    The electrostatic potential of a 1:1 electrolyte in units of the thermal voltage and the Debye length. Law: as
    `Reaction` has it. The energy is 1-strongly convex in the H¹₀ seminorm; its smoothness 1 + cosh(max|u|)/λ₁ grows
    exponentially with u, and cosh overflows beyond |u| ≈ 710.
    """

    def reaction(self, u: Any) -> Any:
        return torch.sinh(u)

    def potential(self, u: Any) -> Any:
        return torch.cosh(u)
