"""Kernel integrals over balls of fixed radius, between any two sets of points."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid
from sciops.models.function_space.quadrature import weights_of


class RadiusIntegral(nn.Module):
    """g(y) = ∫_{|x−y|<r} κ((x − y)/r, y) f(x) ψ(|x−y|/r) dx / ∫_{|x−y|<r} ψ dx, the message passing of a function.

    κ is a pointwise network with a c_in × c_out matrix as its value, or one number per channel (`depthwise`). Messages
    are weighted by quadrature, neighbours are those within a distance, never a number of them, and ψ(ρ) = (1 − ρ²)²
    lets them fade in and out (order 2; a sharp ball has order 1). On periodic axes of a Grid the distance is the
    shortest one. The target defaults to the source; targets without a neighbour get 0.
    Cost O(pairs · κ), memory O(pairs · c_in), or `chunk` targets at a time; the search compares all pairs.
    relative    κ sees (x − y)/r alone: invariant under translation
    Li et al., "Neural operator: graph kernel network", 2020, arXiv:2003.03485.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        radius: float,
        ndim: int = 2,
        hidden: int = 64,
        depthwise: bool = False,
        relative: bool = False,
        chunk: int = 1024,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ):
        super().__init__()
        if radius <= 0 or chunk < 1 or (depthwise and in_channels != out_channels):
            raise UsageError(
                "RadiusIntegral takes a positive radius and chunk, and equal channel counts if depthwise; got "
                f"radius={radius}, chunk={chunk}, channels {in_channels} and {out_channels}."
            )
        self.radius, self.ndim, self.relative, self.chunk = radius, ndim, relative, chunk
        self.out_channels, self.depthwise, self.activation = out_channels, depthwise, activation
        self.inner = nn.Linear(ndim if relative else 2 * ndim, hidden)
        self.outer = nn.Linear(hidden, in_channels if depthwise else in_channels * out_channels)

    def forward(
        self, x: Float[Tensor, "n c *s"], domain: Domain, target: Domain | None = None
    ) -> Float[Tensor, "n c_out *t"]:
        target = target or domain
        if domain.ndim != self.ndim or target.ndim != self.ndim:
            raise UsageError(
                f"RadiusIntegral was built for ndim={self.ndim}; got {domain.describe()} and {target.describe()}."
            )
        w, rows = weights_of(x, domain).flatten(), x.flatten(2).movedim(-1, 0)
        points, centres = (d.points(dtype=x.dtype, device=x.device) for d in (domain, target))
        parts = [self._around(y, points, rows, w, domain) for y in centres.split(self.chunk)]
        return torch.cat(parts).movedim(0, -1).reshape(x.shape[0], self.out_channels, *target.shape)

    def _around(self, y: Tensor, points: Tensor, rows: Tensor, w: Tensor, domain: Domain) -> Float[Tensor, "m n c"]:
        gap = points[None] - y[:, None]
        if isinstance(domain, Grid):
            for axis, kind in enumerate(domain.layout):
                if kind == "periodic":
                    length = domain.lengths[axis]
                    gap[..., axis] -= length * torch.round(gap[..., axis] / length)
        square = gap.square().sum(-1) / self.radius**2
        at, near = (square < 1).nonzero(as_tuple=True)
        gap = gap[at, near] / self.radius
        share = (1 - square[at, near]).square() * w[near]
        mass = share.new_zeros(len(y)).index_add(0, at, share)
        seen = gap if self.relative else torch.cat([gap, y[at]], dim=1)
        kernel = self.outer(self.activation(self.inner(seen))) * (share / mass[at])[:, None]
        f = rows[near]
        pair = kernel[:, None] if self.depthwise else kernel.unflatten(1, (f.shape[2], self.out_channels))
        message = f * pair if self.depthwise else f @ pair
        return message.new_zeros(len(y), *message.shape[1:]).index_add(0, at, message)
