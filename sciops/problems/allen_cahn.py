"""The stationary Allen–Cahn equation with manufactured solutions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciops.problems.manufactured import Manufactured


@dataclass(frozen=True)
class AllenCahn(Manufactured):
    """Δu + u(u² − 1) = f in the box, u = g on its faces.

    Law: u is the formula `exact_solution`, with `parameters` drawn per case; f and g follow from it. Nonlinear: no
    linear system is offered; `Problem.tangent` gives δ ↦ Δδ + (3u² − 1)δ. Input: f; output: u.
    Reference: Fang, Cooley, Long, Li, Kirby, Zhe, ICLR 2024 (high-frequency variants).
    """

    exact_solution: str = "sin(100*x)"
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ndim: int = 1

    linear = False

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return d.laplacian(u) + u * (u**2 - 1.0)
