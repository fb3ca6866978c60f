"""The nonlinear Poisson–Boltzmann equation with manufactured solutions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sciops.problems.cubic import product_of_sines
from sciops.problems.manufactured import Manufactured


@dataclass(frozen=True)
class PoissonBoltzmann(Manufactured):
    """−Δu + sinh u = f in the box, u = g on its faces; u minimises ∫ ½|∇u|² + cosh u − f u.

    The electrostatic potential of a 1:1 electrolyte in units of the thermal voltage and the Debye length.
    Law: u is `exact_solution` (∏ sin πx_i where none is given), with `parameters` drawn per case. The energy is
    1-strongly convex in the H¹₀ seminorm; its smoothness 1 + cosh(max|u|)/λ₁ grows exponentially with u, and cosh
    overflows beyond |u| ≈ 710. Input: f; output: u.
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
        return torch.sinh(u) - d.laplacian(u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return 0.5 * sum(g**2 for g in d.grad(u)) + torch.cosh(u) - c.f * u
