"""Where a physics-informed network is asked to satisfy its equation: the interface of all samplers."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.random import case_seed, generator
from sciops.models.densities.base import box

Residual = Callable[[Tensor], Tensor]
"""Points (N, d) ↦ |r| (N,), detached; several equations count as the root of the sum of their squares."""


@dataclass
class Points:
    """Collocation points with the density that they were drawn from, where there is one.

    x        (N, d)
    density  (N,) p(x), or None where the points follow no density that is known (R3)
    """

    x: Float[Tensor, "N d"]
    density: Float[Tensor, " N"] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def weights(self, volume: float) -> Float[Tensor, " N"]:
        """w = 1/(|Ω| p): the mean of w·g over the points estimates the volume mean of g. Ones without a density."""
        if self.density is None:
            return torch.ones_like(self.x[:, 0])
        return 1 / (volume * self.density)

    def ess(self, volume: float) -> float:
        """Effective number of points behind the weighted mean."""
        return effective_size(self.weights(volume))

    def __add__(self, other: "Points") -> "Points":
        if self.density is None or other.density is None:
            return Points(torch.cat([self.x, other.x]))
        return Points(torch.cat([self.x, other.x]), torch.cat([self.density, other.density]))

    def __getitem__(self, chosen: Any) -> "Points":
        return Points(self.x[chosen], None if self.density is None else self.density[chosen])


def effective_size(weights: Float[Tensor, " N"]) -> float:
    """(Σw)²/Σw²: N for equal weights, 1 where one point has all the weight."""
    total = weights.sum() ** 2 / (weights**2).sum().clamp(min=torch.finfo(weights.dtype).tiny)
    return float(total)


class Sampler(ABC):
    """The law of collocation points. A new sampler is one class that writes `propose`.

    start(lower, upper, seed)              the box Ω; every random number comes from `self.random`, made from the seed
    first(n)                               the first population, before there is a residual: uniform points
    propose(n, residual, points)           n new points from the sampler's law, given |r| as a function
    refresh(points, n, residual)           the published policy: `policy` is "replace" (n new points), "append" (n more)
                                           or "fixed"; a sampler with another one overrides `refresh`
    density(x)                             p(x) for pictures and weights, or None
    state_dict(), load_state_dict(state)   everything that a bit-exact continuation needs
    notes                                  sentences about what went wrong and what was done instead

    A sampler refuses what is no box (UsageError), and residuals that are not finite at points where it asks.
    """

    policy = "replace"
    kept: tuple[str, ...] = ()
    """Names of attributes that hold state: tensors, numbers, or objects with a state_dict of their own."""

    lower: Tensor
    upper: Tensor
    random: torch.Generator
    notes: list[str]

    def start(self, lower: Any, upper: Any, seed: int = 0) -> "Sampler":
        self.lower, self.upper = box(lower, upper)
        self.seed = seed
        self.random = generator(case_seed(seed, 0, f"sampler {type(self).__name__}"))
        self.notes = []
        self.begin()
        return self

    def begin(self) -> None:  # noqa: B027 - most samplers have nothing to set up
        """Set up what depends on the box; called by `start`."""

    @property
    def ndim(self) -> int:
        return len(self.lower)

    @property
    def volume(self) -> float:
        return float(torch.prod(self.upper - self.lower))

    def uniform(self, n: int) -> Points:
        """n uniform points with their density 1/|Ω|."""
        unit = torch.rand((n, self.ndim), generator=self.random, dtype=self.lower.dtype).to(self.lower.device)
        x = self.lower + unit * (self.upper - self.lower)
        return Points(x, torch.full_like(x[:, 0], 1 / self.volume))

    def first(self, n: int) -> Points:
        return self.uniform(n)

    @abstractmethod
    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        """n new points."""

    def refresh(self, points: Points, n: int, residual: Residual) -> Points:
        """The next population."""
        if self.policy == "append":
            return points + self.propose(n, residual, points)
        return self.propose(n, residual, points)

    def density(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"] | None:
        return None

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"random": self.random.get_state(), "notes": list(self.notes)}
        for name in self.kept:
            value = getattr(self, name)
            state[name] = value.state_dict() if hasattr(value, "state_dict") else value
        return copy.deepcopy(state)  # modules and optimisers hand out their live tensors

    def load_state_dict(self, state: dict[str, Any]) -> None:
        missing = {"random", "notes", *self.kept} - set(state)
        if missing:
            raise UsageError(f"The state of {type(self).__name__} lacks {', '.join(sorted(missing))}.")
        self.random.set_state(state["random"])
        self.notes = list(state["notes"])
        for name in self.kept:
            value = getattr(self, name)
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(state[name])
            else:
                setattr(self, name, state[name])


def magnitudes(residual: Residual, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
    """|r| at points; UsageError where it is not finite."""
    with torch.no_grad():
        r = residual(x).detach().abs()
    if r.shape != x.shape[:1]:
        raise UsageError(f"A sampler needs |r| of shape ({len(x)},); the residual gave {tuple(r.shape)}.")
    if not bool(torch.isfinite(r).all()):
        raise UsageError(
            f"The residual is not finite at {int((~torch.isfinite(r)).sum())} of {len(x)} points; "
            "stop, go back to the best network so far and lower the learning rate."
        )
    return r
