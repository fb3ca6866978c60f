"""Reaction–diffusion with thin layers at both ends of an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.problems.manufactured import Manufactured, Numbers


@dataclass(frozen=True)
class BoundaryLayer(Manufactured):
    """−ε u″ + u = 1 on an interval, u(0) = u(1) = 0: layers of width √ε at both ends.

    With s = √ε, u = (1 − e^{−x/s})(1 − e^{−(1−x)/s}) / (1 + e^{−1/s}): no growing exponential and no cancellation, so
    it is accurate to rounding for any ε, relative to u itself even at the ends. On intervals other than (0, 1) it is
    the same function with its own boundary values.
    Law: `eps` = ε is fixed, or drawn per case where `parameters` names it. Uniform grids need h ≪ √ε.
    Input: f; output: u. Reference: Roos, Stynes, Tobiska, Robust Numerical Methods for Singularly Perturbed
    Differential Equations, ch. I.1.
    """

    eps: float = 1e-4
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    ndim = 1
    exact_solution = None
    numbers = ("eps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.parameters) - set(self.numbers))
        if unknown:
            raise UsageError(f"BoundaryLayer parameters may be eps; got '{unknown[0]}'.")
        widths = [self.eps, *self.parameters.get("eps", ())]
        if not min(widths) > 0:
            raise UsageError(f"BoundaryLayer needs eps > 0; got {widths}.")

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return u - self.number(c, "eps") * d.laplacian(u)

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        return torch.ones_like(x[..., 0])

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        eps = torch.as_tensor(params.get("eps", self.eps), dtype=x.dtype, device=x.device).reshape(-1, 1)
        s, p = eps.sqrt(), x[..., 0]
        return torch.expm1(-p / s) * torch.expm1(-(1 - p) / s) / (1 + torch.exp(-1 / s))
