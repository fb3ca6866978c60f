"""The minimal surface equation, Scherk's surface by default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.problems.manufactured import Manufactured, Numbers

SCHERK = "log(cos(x)/cos(y))"


@dataclass(frozen=True)
class MinimalSurface(Manufactured):
    """−∇·(∇u/√(1 + |∇u|²)) = f in the box, u = g on its faces; u minimises ∫ √(1 + |∇u|²) − f u.

    Law: u is `exact_solution`. The default is Scherk's surface, f = 0, on boxes inside |x|, |y| < π/2 such as
    [−1, 1]²; its slope tan grows without bound at that limit. The energy is convex but its curvature along the gradient
    falls like (1 + |∇u|²)^{−3/2}: steep surfaces are ill-conditioned. The minimiser of a steep boundary function may
    not exist on domains that are not convex. Scherk's surface is a sum of functions of x and of y, so the linear
    interpolation of its boundary values is exact: solvers that lift the data start at the solution. Rotated by 45°,
    log(cos((x−y)/√2)/cos((x+y)/√2)), it is a minimal surface too and asks for more. Differences on a grid take ∇u
    one-sided at the walls: order 1 there. Input: f; output: u. Two dimensions; the formula decides. Reference: Scherk,
    J. reine angew. Math. 13 (1835).
    """

    exact_solution: str = SCHERK
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ndim: int = 2

    linear = False

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux((1.0 + sum(g**2 for g in d.grad(u))) ** -0.5, u)

    def energy(self, d: Any, u: Any, c: Any) -> Any:
        return (1.0 + sum(g**2 for g in d.grad(u))) ** 0.5 - c.f * u

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        if self.exact_solution == SCHERK:
            return torch.zeros_like(x[..., 0])
        return super().forcing(params, x)
