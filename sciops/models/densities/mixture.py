"""Densities made of densities: mixtures, and a density cut to a smaller box."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.densities.base import Density, MassLost, Uniform


class Mixture(Density):
    """p = Σ w_i p_i with w_i ≥ 0, Σ w_i = 1, all components on one box.

    Counts per component are n·w_i, rounded at random: less variance than drawing the component of each point, and
    right in expectation. Points come in random order. `rsample` differentiates in the components, not in w.
    """

    weights: Tensor

    def __init__(self, components: Sequence[Density], weights: Sequence[float]) -> None:
        first = components[0]
        super().__init__(first.lower, first.upper)
        if any(not (torch.equal(c.lower, first.lower) and torch.equal(c.upper, first.upper)) for c in components):
            raise UsageError("The components of a mixture must live on one box; restrict the larger ones to it.")
        if len(weights) != len(components) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
            raise UsageError(
                f"A mixture of {len(components)} densities needs as many weights ≥ 0 with sum 1; got {list(weights)}."
            )
        self.components = nn.ModuleList(components)
        self.register_buffer("weights", self.lower.new_tensor(weights))

    @property
    def parts(self) -> list[Density]:
        return cast(list[Density], list(self.components))

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        used = [(w, c) for w, c in zip(self.weights, self.parts, strict=True) if w > 0]
        return torch.logsumexp(torch.stack([w.log() + c.log_prob(x) for w, c in used]), 0)

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        edges = torch.cat([self.weights.new_zeros(1), self.weights.cumsum(0)]).cpu() * n
        shift = float(torch.rand((), generator=random, dtype=torch.float64))
        counts = (edges[1:] + shift).floor().long() - (edges[:-1] + shift).floor().long()
        counts[-1] = n - int(counts[:-1].sum())
        x = torch.cat([c.rsample(int(k), random) for k, c in zip(counts, self.parts, strict=True)])
        return x[torch.randperm(n, generator=random).to(x.device)]


class Restricted(Density):
    """A density cut to a box inside its support: p(x)/p(box) there, sampled by rejection, never by clamping.

    p(box) is estimated from `n` draws, 1 where the boxes agree. Raises MassLost where less than `least` of the mass is
    inside, since rejection then takes 1/least draws per point.
    """

    def __init__(
        self, density: Density, lower: Any, upper: Any, random: torch.Generator, n: int = 4000, least: float = 0.1
    ) -> None:
        super().__init__(lower, upper)
        self.whole, self.least = density, least
        same = torch.equal(density.lower, self.lower) and torch.equal(density.upper, self.upper)
        self.mass = 1.0 if same else float(self.inside(density.sample(n, random)).double().mean())
        if self.mass < least:
            raise MassLost(
                f"{type(density).__name__} has {self.mass:.2g} of its mass inside the box, less than {least}: it "
                "drifted out of the domain; lower its learning rate or restart it from the uniform density."
            )

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return torch.where(self.inside(x), self.whole.log_prob(x) - math.log(self.mass), -math.inf)

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        found: list[Tensor] = []
        missing = n
        for _ in range(100):
            x = self.whole.rsample(math.ceil(missing / self.mass * 1.05) + 1, random)
            found.append(x[self.inside(x)][:missing])
            missing -= len(found[-1])
            if missing == 0:
                return torch.cat(found)
        raise MassLost(f"{type(self.whole).__name__} gave {n - missing} of {n} points inside the box in 100 draws.")


def safeguarded(density: Density, uniform: float, lower: Any, upper: Any, random: torch.Generator) -> Mixture:
    """(1 − ε) p + ε/|box|, cut to the box: importance weights 1/(|box| p) are at most 1/ε."""
    inner = Restricted(density, lower, upper, random)
    return Mixture([inner, Uniform(lower, upper)], [1 - uniform, uniform])
