"""Linear advection in space and time as a boundary-value problem on a box."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciops.core.solver import View
from sciops.problems.manufactured import Manufactured


@dataclass(frozen=True)
class Advection(Manufactured):
    """β ∂u/∂x + ∂u/∂y = f in the box, y being time, u = g on all four sides.

    Law: u is the formula `exact_solution`, in which `beta` stands for β; f and g follow from it. For functions of
    x − βy the two terms of f cancel to the last bit, so f is zero and not rounding noise.
    Data on the two outflow sides follow from those on the inflow sides: they are consistent but superfluous, and a
    square system of central differences with all of them is neither definite nor stable. So no linear system is
    offered; solvers see the equation at points and the boundary data. Input: f; output: u.
    Reference: Fang, Cooley, Long, Li, Kirby, Zhe, ICLR 2024 (β = 200 on the unit square).
    """

    exact_solution: str = "sin(x - beta*y)"
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    beta: float = 200.0

    ndim = 2
    numbers = ("beta",)

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return self.number(c, "beta") * d.partial(u, (1, 0)) + d.partial(u, (0, 1))

    def views(self) -> set[View]:
        return super().views() - {View.SYSTEM}
