"""Smooth activations with their first three derivatives."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sciops.core.errors import UsageError


class Smooth(nn.Module):
    """φ, applied elementwise; `jet(z, k)` gives (φ, φ′, …, φ⁽ᵏ⁾) for k ≤ 3.

    This base class wraps any elementwise torch function and differentiates it by reverse passes. Raises UsageError
    where the second derivative vanishes, because a residual of second order would not see the network.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "") -> None:
        super().__init__()
        self.function, self.name = function, name or getattr(function, "__name__", type(function).__name__)
        probe = torch.linspace(-1.9, 1.9, 20, dtype=torch.float64)
        if not bool(self.jet(probe, 2)[2].abs().amax() > 0):
            raise UsageError(
                f"The activation {self.name} has no second derivative, so a PDE of second order does not see the "
                "network; use tanh, sine, gelu, silu, softplus or another smooth one."
            )

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        if torch._C._are_functorch_transforms_active():  # reverse passes of leaves are not allowed there
            return self._jet_by_forward_mode(z, order)
        with torch.enable_grad():
            leaf = z if z.requires_grad else z.detach().requires_grad_(True)
            found = [self.function(leaf)]
            for _ in range(order):
                if not found[-1].requires_grad:
                    found.append(torch.zeros_like(z))
                    continue
                slope = torch.autograd.grad(found[-1].sum(), leaf, create_graph=True, allow_unused=True)[0]
                found.append(torch.zeros_like(z) if slope is None else slope)
        return tuple(found) if z.requires_grad else tuple(f.detach() for f in found)

    def _jet_by_forward_mode(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        functions = [self.function]
        for _ in range(order):
            functions.append(partial(_slope, functions[-1]))
        return tuple(f(z) for f in functions)


class Tanh(Smooth):
    """tanh z."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = "tanh"

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        t = torch.tanh(z)
        if order == 0:
            return (t,)
        first = torch.addcmul(t.new_ones(()), t, t, value=-1)
        if order == 1:
            return t, first
        second = (t * first).mul_(-2)
        return (
            (t, first, second) if order == 2 else (t, first, second, torch.addcmul(4 * first, first, first, value=-6))
        )


class Sine(Smooth):
    """sin(ω z), the activation of SIREN with ω = 30."""

    def __init__(self, omega: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.omega, self.name = omega, "sine"

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(self.omega * z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        w = self.omega
        s = torch.sin(w * z)
        c = torch.cos(w * z) if order else s
        return (s, w * c, -w * w * s, -(w**3) * c)[: order + 1]


class Gaussian(Smooth):
    """exp(−z²/2)."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = "gaussian"

    def forward(self, z: Tensor) -> Tensor:
        return torch.exp(-0.5 * z * z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        g = self(z)
        return (g, -z * g, (z * z - 1) * g, (3 * z - z**3) * g)[: order + 1]


class GELU(Smooth):
    """z Φ(z), Φ the normal distribution function."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = "gelu"

    def forward(self, z: Tensor) -> Tensor:
        return torch.nn.functional.gelu(z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        cumulative = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        jets = (z * cumulative, cumulative + z * density, (2 - z * z) * density, (z**3 - 4 * z) * density)
        return jets[: order + 1]


class SiLU(Smooth):
    """z σ(z), σ the logistic function."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = "silu"

    def forward(self, z: Tensor) -> Tensor:
        return torch.nn.functional.silu(z)

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        s, p, q, r = _logistic(z)
        return (z * s, s + z * p, 2 * p + z * q, 3 * q + z * r)[: order + 1]


class Softplus(Smooth):
    """log(1 + exp z)."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name = "softplus"

    def forward(self, z: Tensor) -> Tensor:
        return torch.logaddexp(z, torch.zeros_like(z))

    def jet(self, z: Tensor, order: int) -> tuple[Tensor, ...]:
        return (self(z), *_logistic(z)[:3])[: order + 1]


def _logistic(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """σ, σ′, σ″, σ‴."""
    s = torch.sigmoid(z)
    first = s * (1 - s)
    second = first * (1 - 2 * s)
    return s, first, second, second * (1 - 2 * s) - 2 * first * first


def _slope(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return torch.func.jvp(function, (z,), (torch.ones_like(z),))[1]


NAMES: dict[str, Callable[[], Smooth]] = {
    "tanh": Tanh,
    "sine": Sine,
    "gaussian": Gaussian,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
}


def activation(given: "str | Callable[[Tensor], Tensor] | Smooth") -> Smooth:
    """An activation by name, or any smooth elementwise function. Raises UsageError for names that are not known."""
    if isinstance(given, Smooth):
        return given
    if isinstance(given, str):
        if given == "relu":
            return Smooth(torch.relu, "relu")  # refused there, with the reason
        if given not in NAMES:
            raise UsageError(f"activation must be one of {', '.join(NAMES)} or a smooth function; got '{given}'.")
        return NAMES[given]()
    return Smooth(given)
