"""Viscous Burgers equation in space and time, with the exact solution of Cole and Hopf."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.errors import UsageError
from sciops.problems.manufactured import Manufactured, Numbers


@dataclass(frozen=True)
class Burgers(Manufactured):
    """u_t + u u_x = ν u_xx, x in [−1, 1], t in [0, 1] the second axis, u(x, 0) = −sin πx, u(±1, t) = 0.

    Cole and Hopf: with w = 2√(νt) and y = x − η, the exact solution is a mean of −sin πy,
        u = −∫ sin(πy) e^φ dη / ∫ e^φ dη,   φ = −cos(πy)/(2πν) − η²/w².
    The integrand is analytic and negligible beyond |η| = t + 9w, so the trapezoid rule converges exponentially:
    `quadrature` nodes give 1e-12 for ν ≥ 0.002. Weights are normalised in logarithms, nothing overflows. Differentiable
    in x and t > 0. A shock of slope −152 forms at x = 0, t ≈ 0.51 for ν = 0.01/π.
    Law: one fixed case; `nu` may be drawn per case by `parameters`. Faces: x0, x1 and the initial y0 Dirichlet, the
    final y1 free. Input: f, which is zero; output: u. Cost of `exact`: `quadrature` exponentials a point.
    Reference: Basdevant et al., Computers & Fluids 14 (1986) 23–41; Cole, Quart. Appl. Math. 9 (1951) 225–236.
    """

    nu: float = 0.01 / math.pi
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)
    quadrature: int = 300

    ndim = 2
    exact_solution = None
    numbers = ("nu",)
    linear = False
    chunk = 8192  # points whose quadrature is held in memory at a time

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.parameters) - set(self.numbers))
        if unknown:
            raise UsageError(f"Burgers parameters may be nu; got '{unknown[0]}'.")
        lowest = min(self.nu, *self.parameters.get("nu", (self.nu,)))
        if not lowest >= 0.002:
            raise UsageError(f"Burgers needs nu ≥ 0.002, the range in which the quadrature is verified; got {lowest}.")
        object.__setattr__(self, "boundary", Boundary((("dirichlet", "dirichlet"), ("dirichlet", "free"))))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return d.partial(u, (0, 1)) + u * d.partial(u, (1, 0)) - self.number(c, "nu") * d.partial(u, (2, 0))

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        return torch.zeros_like(x[..., 0])

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        nu = torch.as_tensor(params.get("nu", self.nu), dtype=x.dtype, device=x.device).reshape(-1, 1)
        nu = nu.expand(x.shape[:2])
        parts = zip(x.split(self.chunk, 1), nu.split(self.chunk, 1), strict=True)
        return torch.cat([self._cole_hopf(p, v) for p, v in parts], 1)

    def face_values(self, face: str, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """Dirichlet data in closed form: −sin πx at the start, 0 at the walls; the solution needs a quadrature."""
        return -torch.sin(torch.pi * x[:, 0]) if face == "y0" else 0.0 * x[:, 0]

    def _cole_hopf(self, x: Float[Tensor, "n N d"], nu: Float[Tensor, "n N"]) -> Float[Tensor, "n N"]:
        s = torch.linspace(-1, 1, self.quadrature, dtype=x.dtype, device=x.device)
        t = x[..., 1].clamp_min(1e-20)[..., None]  # the root has no slope at 0; this moves u by 1e-19
        nu = nu[..., None]
        width = 2 * (nu * t).sqrt()
        eta = s * (t + 9 * width)
        y = torch.pi * (x[..., :1] - eta)
        weights = torch.softmax(-torch.cos(y) / (2 * torch.pi * nu) - (eta / width) ** 2, -1)
        return -(weights * torch.sin(y)).sum(-1)
