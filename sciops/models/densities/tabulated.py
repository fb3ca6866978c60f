"""A density given by its values on the cells of a grid."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.models.densities.base import Density


class Tabulated(Density):
    """p is constant on each cell of an n₁×…×n_d grid of equal cells, in proportion to `values` ≥ 0.

    Sampling: the cell by inversion of the cumulated masses, then a uniform point in it. log_prob is exact. Memory: two
    arrays of n₁⋯n_d numbers, so d ≤ 3 in practice. `rsample` has no gradient.
    """

    values: Tensor
    cumulated: Tensor

    def __init__(self, lower: Any, upper: Any, values: Float[Tensor, "*s"]) -> None:
        super().__init__(lower, upper)
        self.register_buffer("values", torch.zeros(values.shape, dtype=self.lower.dtype, device=self.lower.device))
        self.register_buffer("cumulated", torch.zeros_like(self.values).flatten())
        self.fill(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def fill(self, values: Float[Tensor, "*s"]) -> None:
        """New values on the same cells; only their proportions count."""
        if values.ndim != self.ndim or values.shape != self.values.shape:
            raise UsageError(
                f"A table on a {self.ndim}-d box needs values of shape {self.shape}; got {tuple(values.shape)}."
            )
        if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or float(values.sum()) <= 0:
            raise UsageError("A tabulated density needs finite values ≥ 0 that are not all zero.")
        with torch.no_grad():
            self.values.copy_(values / values.mean() / self.volume)
            self.cumulated.copy_((self.values / self.values.sum()).flatten().cumsum(0))

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        unit = (x - self.lower) / (self.upper - self.lower)
        sizes = torch.tensor(self.shape, device=x.device)
        index = torch.minimum((unit * sizes).long().clamp(min=0), sizes - 1)
        flat = (index * _strides(self.shape, x)).sum(-1)
        return torch.where(self.inside(x), self.values.flatten()[flat].log(), -math.inf)

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        unit = torch.rand(n, generator=random, dtype=self.lower.dtype).to(self.lower.device)
        # Searching to the right never stops at a cell of mass zero.
        flat = torch.searchsorted(self.cumulated, unit * self.cumulated[-1], right=True)
        flat = flat.clamp(max=int((self.values.flatten() > 0).nonzero().max()))
        strides, sizes = _strides(self.shape, self.lower), torch.tensor(self.shape, device=self.lower.device)
        index = flat[:, None] // strides % sizes
        x = self.lower + (self.upper - self.lower) * (index + self.draw(n, random)) / sizes
        return x.clamp(self.lower, self.upper)  # the last cell's wall, to rounding


def _strides(shape: Sequence[int], like: Tensor) -> Int[Tensor, " d"]:
    return torch.tensor([math.prod(shape[j + 1 :]) for j in range(len(shape))], device=like.device)
