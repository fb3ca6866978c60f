"""Probability densities on a box: what adaptive samplers draw collocation points from."""

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciops.core.errors import SciopsError, UsageError
from sciops.core.random import case_seed, generator


class MassLost(SciopsError):
    """A density no longer integrates to one, or is no longer finite: what is drawn from it has the wrong law."""


class Density(nn.Module):
    """p(x) ≥ 0 with ∫p = 1 on the box lower ≤ x ≤ upper, and p = 0 outside.

    lower, upper   (d,) corners of the support; float64 unless they are tensors; the density has their dtype and device
    log_prob(x)    (N, d) → (N,) natural logarithm, −∞ outside the box; differentiable in x and in the parameters
    sample(n, g)   (n, d) detached points; every random number comes from the CPU generator `g`, whatever the device
    rsample(n, g)  the same points, differentiable in the parameters, where the density is a flow
    spread(n, g)   detached points of the same law that fill the box more evenly
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, lower: Any, upper: Any) -> None:
        super().__init__()
        low, high = box(lower, upper)
        self.register_buffer("lower", low)
        self.register_buffer("upper", high)

    @property
    def ndim(self) -> int:
        return len(self.lower)

    @property
    def volume(self) -> float:
        return float(torch.prod(self.upper - self.lower))

    @property
    def log_volume(self) -> float:
        return float(torch.log(self.upper - self.lower).sum())

    def inside(self, x: Float[Tensor, "N d"]) -> Bool[Tensor, " N"]:
        return ((x >= self.lower) & (x <= self.upper)).all(-1)

    def prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.log_prob(x).exp()

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """log p(x), −∞ outside."""

    @abstractmethod
    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """n points from p."""

    def sample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        with torch.no_grad():
            return self.rsample(n, random)

    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"] | None:
        """Points of the unit cube to the box, so that uniform ones get the law p; None where no such map is known."""
        return None

    def spread(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """n detached points whose means of smooth functions vary less than those of `sample`: a scrambled Sobol' set
        through `from_unit`, each point of it with the law p; `sample` where there is no such map."""
        seed = int(torch.randint(2**31, (), generator=random))
        u = torch.quasirandom.SobolEngine(self.ndim, scramble=True, seed=seed).draw(n, dtype=torch.float64)
        small = torch.finfo(self.lower.dtype).eps
        with torch.no_grad():
            x = self.from_unit(u.to(self.lower).clamp(small, 1 - small))
            return self.sample(n, random) if x is None else x.clamp(self.lower, self.upper)

    def draw(self, n: int, random: torch.Generator, normal: bool = False) -> Float[Tensor, "n d"]:
        """n·d uniform or standard normal numbers, drawn on the CPU in the density's dtype."""
        kind = torch.randn if normal else torch.rand
        return kind((n, self.ndim), generator=random, dtype=self.lower.dtype).to(self.lower.device)


class Flow(Density):
    """A density given by an invertible map x → z to a base law: p(x) = p_base(z) |det ∂z/∂x|.

    forward(x) → (z, log|det ∂z/∂x|) and inverse(z) → (x, log|det ∂x/∂z|) with x in the support, shapes (N, d), (N,).
    """

    @abstractmethod
    def forward(self, x: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        """Data to latent."""

    @abstractmethod
    def inverse(self, z: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        """Latent to data."""

    @abstractmethod
    def base_log_prob(self, z: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """log p_base(z)."""

    @abstractmethod
    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Points of the unit cube to the box, so that uniform ones get the law p."""

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        inside = self.inside(x)
        # Outside points go through the map at a harmless place, so that no NaN reaches the gradient.
        z, log_det = self(torch.where(inside[:, None], x, (self.lower + self.upper) / 2))
        return torch.where(inside, self.base_log_prob(z) + log_det, -math.inf)


class Uniform(Density):
    """p = 1/|box|."""

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return torch.where(self.inside(x), torch.zeros_like(x[:, 0]) - self.log_volume, -math.inf)

    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.lower + u * (self.upper - self.lower)

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        return self.from_unit(self.draw(n, random))


class Arcsine(Density):
    """p = Π_j 1/(π √(t_j (1 − t_j)) width_j), t the box scaled to the unit cube: points crowd at the walls.

    What it gives layers at a wall of thickness δ is some 1/√δ of what uniform points do; in the middle p is (2/π)^d of
    the uniform density.
    """

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        t = ((x - self.lower) / (self.upper - self.lower)).clamp(0, 1)
        small = torch.finfo(x.dtype).tiny
        log_p = -0.5 * (t.clamp(min=small).log() + (1 - t).clamp(min=small).log()).sum(-1)
        return torch.where(self.inside(x), log_p - self.ndim * math.log(math.pi) - self.log_volume, -math.inf)

    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.lower + torch.sin(math.pi / 2 * u).square() * (self.upper - self.lower)

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        return self.from_unit(self.draw(n, random))


def box(lower: Any, upper: Any) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """The corners of a box as tensors of a floating type; refuses what is no box of finite, positive widths."""
    low = lower if isinstance(lower, Tensor) else torch.as_tensor(lower, dtype=torch.float64)
    high = upper if isinstance(upper, Tensor) else torch.as_tensor(upper, dtype=torch.float64, device=low.device)
    if low.ndim != 1 or low.shape != high.shape or not low.is_floating_point():
        raise UsageError(
            "A density lives on a box given by two corners of equal length; "
            f"got lower {tuple(low.shape)} and upper {tuple(high.shape)}."
        )
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all() and (high > low).all()):
        raise UsageError(
            f"A density lives on a box with finite lower < upper on every axis; got lower {low.tolist()} and upper "
            f"{high.tolist()}; enclose another domain in a box and make the residual zero outside the domain."
        )
    return low.detach().clone(), high.detach().clone().to(low)


def weights_of(seed: int) -> torch.Generator:
    """The generator of a flow's initial weights."""
    return generator(case_seed(seed, 0, "flow"))


def linear(n_in: int, n_out: int, random: torch.Generator, like: Tensor, zero: bool = False) -> nn.Linear:
    """A dense layer with Glorot normal weights from an explicit generator (or zero ones) and zero biases."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=like.dtype)  # draws nothing globally
    with torch.no_grad():
        layer.bias.zero_()
        if zero:
            layer.weight.zero_()
        else:
            nn.init.xavier_normal_(layer.weight, generator=random)
    return layer.to(like.device)


ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}


def conditioner(
    n_in: int, n_out: int, width: int, depth: int, activation: str, random: torch.Generator, like: Tensor, zero: bool
) -> nn.Sequential:
    """A small network; `zero` makes its last layer, hence its output, zero at the start."""
    if activation not in ACTIVATIONS:
        raise UsageError(f"The activation of a flow must be one of {', '.join(ACTIVATIONS)}; got '{activation}'.")
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [linear(n_in if k == 0 else width, width, random, like), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, linear(width if depth else n_in, n_out, random, like, zero))


def check_mass(density: Density, random: torch.Generator, n: int = 4096, low: float = 0.8, high: float = 1.25) -> float:
    """∫p over the support, estimated from n points of (p + uniform)/2; raises MassLost outside [low, high].

    The estimate has a standard deviation below 1/√n, because the mixture bounds p/q by 2.
    """
    half = n // 2
    uniform = Uniform(density.lower, density.upper)
    x = torch.cat([density.sample(half, random), uniform.sample(half, random)])
    with torch.no_grad():
        log_p = density.log_prob(x)
    finite = bool(torch.isfinite(x).all()) and not bool(torch.isnan(log_p).any())
    p = log_p.exp()
    mass = float((2 * p / (p + 1 / density.volume)).mean()) if finite else math.nan
    if not low <= mass <= high:
        raise MassLost(
            f"{type(density).__name__} lost its mass: ∫p = {mass:.3g} instead of 1; lower its learning rate or "
            "restart it from the uniform density."
        )
    return mass
