"""The Helmholtz equation with manufactured solutions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciops.problems.manufactured import Manufactured


@dataclass(frozen=True)
class Helmholtz(Manufactured):
    """Δu + k² u = f in the box, u = g on its faces.

    Law: u is the formula `exact_solution`, in which `wavenumber` stands for k; f and g follow from it. In the
    default, u = sin(kx + 0.3) + e^{−x}, the oscillation solves the homogeneous equation: f = (1 + k²) e^{−x} shows
    nothing of it. The linear system is symmetric and, once k² exceeds the smallest eigenvalue of −Δ on the box,
    indefinite; second order differences need k³h² ≪ 1 (pollution). Near an eigenvalue the problem is ill-posed.
    Input: f; output: u.
    Reference: Babuška, Sauter, SIAM J. Numer. Anal. 34 (1997), on pollution.
    """

    exact_solution: str = "sin(wavenumber*x + 0.3) + exp(-x)"
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ndim: int = 1
    wavenumber: float = 150.0

    numbers = ("wavenumber",)

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return d.laplacian(u) + self.number(c, "wavenumber") ** 2 * u
