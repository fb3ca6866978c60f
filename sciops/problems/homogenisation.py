"""Two-scale diffusion in one dimension: a rapidly oscillating coefficient with a closed-form answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.problem import Channel
from sciops.problems.manufactured import Manufactured, Numbers


@dataclass(frozen=True)
class Homogenisation(Manufactured):
    """−(a u′)′ = −1 on an interval, 1/a = 2 + κ cos(2πx/ε), u(0) = u(1) = 0.

    Integrated twice, with ω = 2π/ε: a u′ = x + C and
    u = x² + 2Cx + κ[(x + C) sin ωx / ω + (cos ωx − 1)/ω²],
    C = −(1 + κ[sin ω / ω + (cos ω − 1)/ω²]) / (2 + κ sin ω / ω).
    On intervals other than (0, 1) it is the same function with its own boundary values.
    Law: `eps` = ε and `contrast` = κ are fixed, or drawn per case where `parameters` names them. The flux is smooth,
    u′ is not: its oscillation has the size of the mean slope, and that of u the size ε. Inputs: a, f; output: u.
    Reference: Bensoussan, Lions, Papanicolaou, Asymptotic Analysis for Periodic Structures, ch. 1.
    """

    eps: float = 0.04
    contrast: float = 1.8
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    ndim = 1
    exact_solution = None
    numbers = ("eps", "contrast")
    inputs = (Channel("a"), Channel("f"))

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.parameters) - set(self.numbers))
        if unknown:
            raise UsageError(f"Homogenisation parameters may be eps and contrast; got '{unknown[0]}'.")
        widths, contrasts = ([getattr(self, n), *self.parameters.get(n, ())] for n in self.numbers)
        if not (min(widths) > 0 and max(map(abs, contrasts)) < 2):
            raise UsageError(
                f"Homogenisation needs eps > 0 and |contrast| < 2, so that a is positive; got eps {widths}, "
                f"contrast {contrasts}."
            )

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return -d.div_flux(c.a, u)

    def coefficients(self, params: Numbers, x: Float[Tensor, "n N d"]) -> dict[str, Float[Tensor, "n N"]]:
        omega, kappa = self._constants(params, x)
        return {"a": 1.0 / (2.0 + kappa * torch.cos(omega * x[..., 0]))}

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        return -torch.ones_like(x[..., 0])

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        omega, kappa = self._constants(params, x)
        s = x[..., 0]
        C = -(1 + kappa * (torch.sin(omega) / omega + (torch.cos(omega) - 1) / omega**2)) / (
            2 + kappa * torch.sin(omega) / omega
        )
        # cos ωs − 1 = −2 sin²(ωs/2) without cancellation
        wave = (s + C) * torch.sin(omega * s) / omega - 2 * torch.sin(omega * s / 2) ** 2 / omega**2
        return s**2 + 2 * C * s + kappa * wave

    def _constants(self, params: Numbers, x: Float[Tensor, "n N d"]) -> tuple[Tensor, Tensor]:
        """ω and κ as columns, (n, 1) or (1, 1)."""
        eps, kappa = (
            torch.as_tensor(params.get(n, getattr(self, n)), dtype=x.dtype, device=x.device) for n in self.numbers
        )
        return 2 * math.pi / eps.reshape(-1, 1), kappa.reshape(-1, 1)
