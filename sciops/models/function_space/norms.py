"""Normalisation by moments over space: weighted group and instance norms."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain
from sciops.models.function_space.quadrature import weights_of


def standardised(
    x: Float[Tensor, "n c *s"], weights: Float[Tensor, "*s"], groups: int, eps: float = 1e-5
) -> Float[Tensor, "n c *s"]:
    """(x − μ)/sqrt(σ² + eps), μ = ∫ f/|D| and σ² = ∫ (f − μ)²/|D| per case and group of channels."""
    n, c = x.shape[:2]
    flat = x.reshape(n, groups, c // groups, -1)
    w = (weights / weights.sum()).flatten() / (c // groups)
    centred = flat - (flat * w).sum((2, 3), keepdim=True)
    variance = (centred.square() * w).sum((2, 3), keepdim=True)  # two passes: no cancellation
    return (centred * torch.rsqrt(variance + eps)).reshape(x.shape)


class WeightedGroupNorm(nn.Module):
    """γ (f − μ)/sqrt(σ² + eps) + β, the moments being integrals over space and over the channels of a group.

    Equal to `torch.nn.GroupNorm` where all weights are equal. On node grids the moments are those of the trapezoid
    rule (order 2), not plain means over points (order 1, since walls count double). groups = channels: instance norm.
    Couples all points: not for use where the answer must be local. Cost O(c · points).
    Wu & He, "Group normalization", ECCV 2018.
    """

    def __init__(self, groups: int, channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        if groups < 1 or channels % groups:
            raise UsageError(f"groups must divide channels; got groups={groups}, channels={channels}.")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n c *s"]:
        y = standardised(x, weights_of(x, domain), self.groups, self.eps)
        if self.weight is None or self.bias is None:
            return y
        shape = (-1,) + (1,) * (x.dim() - 2)
        return y * self.weight.view(shape) + self.bias.view(shape)


class WeightedInstanceNorm(WeightedGroupNorm):
    """Moments over space alone, one pair per channel."""

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = False):
        super().__init__(channels, channels, eps, affine)
