"""Integrals over the points of a field: quadrature weights, weighted means, weights of graded axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, PointSet


def weights_of(x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "*s"]:
    """w_i > 0 with Σ w_i = |D|, in the dtype and on the device of x; refuses a field that lives elsewhere."""
    if tuple(x.shape[2:]) != domain.shape:
        raise UsageError(
            f"A field on {tuple(x.shape[2:])} points came with a domain of {domain.describe()}: pass the domain on "
            "which it is sampled, (cases, channels, *domain.shape)."
        )
    if isinstance(domain, PointSet) and bool((domain.quadrature <= 0).any()):
        raise UsageError("Quadrature weights must be positive: drop the points of weight zero.")
    return domain.weights(dtype=x.dtype, device=x.device)


def integral(x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n c"]:
    """∫_D f dx ≈ Σ_i w_i f(x_i)."""
    return (x * weights_of(x, domain)).flatten(2).sum(-1)


def mean(x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n c"]:
    """∫ f / |D|, by Σ w_i f_i / Σ w_i, so that a constant is its own mean to rounding."""
    w = weights_of(x, domain)
    return (x * (w / w.sum())).flatten(2).sum(-1)


class WeightedMean(nn.Module):
    """(n, c, *s) ↦ (n, c): global average pooling as the integral mean. Order 2 on node grids, spectral on periodic."""

    def forward(self, x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n c"]:
        return mean(x, domain)


def axis_weights(x: Float[Tensor, " N"], lower: float, upper: float, periodic: bool = False) -> Float[Tensor, " N"]:
    """Lengths of the cells of ascending points, cut midway between neighbours and at the walls (or wrapped).

    The trapezoid rule where the ends are points, the midpoint rule for centres of equal cells. Sum: upper − lower.
    """
    length = upper - lower
    outside = bool((x[0] < lower) | (x[-1] > upper)) or (periodic and bool(x[-1] - x[0] >= length))
    if len(x) < 2 or outside or bool((x.diff() <= 0).any()):
        raise UsageError(
            f"Graded points must ascend within [{lower}, {upper}], two or more of them, without the upper end on a "
            "periodic axis."
        )
    middle = (x[1:] + x[:-1]) / 2
    if periodic:
        seam = (x[-1] + x[0] + length) / 2
        return torch.cat([middle, seam[None]]) - torch.cat([(seam - length)[None], middle])
    ends = x.new_tensor([lower, upper])
    return torch.cat([ends[:1], middle, ends[1:]]).diff()


def graded(
    axes: Sequence[Tensor], lower: Sequence[float], upper: Sequence[float], periodic: Sequence[bool] | bool = False
) -> PointSet:
    """The tensor product of non-uniform axes as points with weights, row-major: x.flatten(2) lives on it."""
    wraps = [periodic] * len(axes) if isinstance(periodic, bool) else list(periodic)
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))
    total = points.new_ones(1)
    for x, lo, up, wrap in zip(axes, lower, upper, wraps, strict=True):
        total = (total[:, None] * axis_weights(x, lo, up, wrap)).flatten()
    return PointSet(points, total)
