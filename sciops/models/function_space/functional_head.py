"""From a function to numbers: linear functionals with a learnt density."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid
from sciops.core.interpolate import interpolate, resample
from sciops.models.function_space.quadrature import weights_of


class FunctionalHead(nn.Module):
    """y_k = ∫_D Σ_c W_kc(x) f_c(x) dx / |D| + b_k: a linear layer from a field to a vector, for any sampling.

    The density W has values on a fixed lattice and is interpolated linearly to the points of f; the integral uses
    their weights. A linear layer on a flattened native grid is the case lattice = grid, W = weight · |D|/w_i.
    lattice   a Grid on the box of the fields, of the resolution that the functional needs
    Order 2 in the spacing of the field while that is finer than the lattice. Parameters out · channels · lattice.size.
    Fails where f is coarser than the lattice: details of W between the points of f are not seen.
    """

    def __init__(self, channels: int, out_features: int, lattice: Grid, bias: bool = True):
        super().__init__()
        if channels < 1 or out_features < 1:
            raise UsageError(f"channels and out_features must be 1 or more; got {channels}, {out_features}.")
        self.lattice = lattice
        bound = 1 / math.sqrt(channels)
        # A density of white noise on the lattice averages out: its size grows with the root of the lattice instead.
        scale = bound * math.sqrt(lattice.size)
        self.weight = nn.Parameter(torch.empty(out_features, channels, *lattice.shape).uniform_(-scale, scale))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "n c *s"], domain: Domain) -> Float[Tensor, "n k"]:
        w = weights_of(x, domain)
        y = torch.einsum("ncp,kcp->nk", (x * (w / w.sum())).flatten(2), self.density(domain).flatten(2))
        return y if self.bias is None else y + self.bias

    def density(self, domain: Domain) -> Float[Tensor, "k c *s"]:
        """W at the points of a domain."""
        if isinstance(domain, Grid):
            return resample(self.weight, self.lattice, domain, "linear")
        points = domain.points(self.weight.dtype, self.weight.device)
        return interpolate(self.weight, self.lattice, points[None], "linear")
