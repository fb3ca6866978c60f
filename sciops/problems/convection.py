"""Periodic convection in space and time."""

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
class Convection(Manufactured):
    """u_t + β u_x = 0, periodic in x on [0, 2π], t in [0, 1] the second axis, u(x, 0) = sin x: u = sin(x − βt).

    A smooth wave that passes every point β/2π times. Networks that see the equation everywhere at once tend to u = 0
    away from t = 0, which satisfies it: the benchmark measures how far the initial data get, from β = 30 on.
    Law: one fixed case; `beta` may be drawn per case by `parameters`. Face y0 Dirichlet, the final y1 free.
    Input: f, which is zero; output: u. The grid is periodic in x and has nodes in t. The x axis must be a whole number
    of periods long.
    Reference: Krishnapriyan et al., NeurIPS 2021, arXiv:2109.01050.
    """

    beta: float = 30.0
    parameters: Mapping[str, Sequence[float]] = field(default_factory=dict)

    ndim = 2
    exact_solution = None
    numbers = ("beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.parameters) - set(self.numbers))
        if unknown:
            raise UsageError(f"Convection parameters may be beta; got '{unknown[0]}'.")
        if not math.isfinite(self.beta):
            raise UsageError(f"Convection needs a finite beta; got {self.beta}.")
        object.__setattr__(self, "boundary", Boundary((("periodic", "periodic"), ("dirichlet", "free"))))

    def operator(self, d: Any, u: Any, c: Any) -> Any:
        return d.partial(u, (0, 1)) + self.number(c, "beta") * d.partial(u, (1, 0))

    def forcing(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        return torch.zeros_like(x[..., 0])

    def solution(self, params: Numbers, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        beta = torch.as_tensor(params.get("beta", self.beta), dtype=x.dtype, device=x.device).reshape(-1, 1)
        return torch.sin(x[..., 0] - beta * x[..., 1])
