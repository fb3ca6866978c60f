"""A normalising flow on a box: rational-quadratic spline couplings with a uniform base."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.densities.base import Flow, conditioner, weights_of

LEAST_SIZE, LEAST_SLOPE = 1e-4, 1e-4


class SplineFlow(Flow):
    """p(x) = |det ∂z/∂x| / |box|, where z(x) maps the box onto the unit cube by monotone splines.

    The box is scaled to the unit cube. Each layer leaves some coordinates alone and moves the others by monotone
    rational-quadratic splines with `bins` bins, whose nodes and slopes a small network reads off the resting ones.
    The resting sets are the bits of the coordinate's index and their complements, so all pairs meet.

    layers       4; each coordinate moves in every second layer
    bins         8; smallest bin 1e-4, so one layer changes the density by up to (1/bins)/1e-4
    width,depth  conditioner 2×32, tanh: smooth, as a penalty on ∇p needs it
    seed         of the initial weights; the last layer is zero, so p is uniform at the start

    Nothing is lost at the walls: densities there are finite and positive, and samples never leave the box. In one
    dimension the splines have free parameters and no network. Cost per point: layers × (network + d_moved·bins),
    the same in both directions. Fails gracefully: p bounded by the bin sizes, and C⁰ (its gradient jumps at nodes).
    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", NeurIPS 2019.
    """

    def __init__(
        self,
        lower: Any,
        upper: Any,
        layers: int = 4,
        bins: int = 8,
        width: int = 32,
        depth: int = 2,
        activation: str = "tanh",
        seed: int = 0,
    ) -> None:
        super().__init__(lower, upper)
        if layers < 1 or bins < 2 or width < 1 or depth < 1:
            raise UsageError(
                "SplineFlow needs layers ≥ 1, bins ≥ 2, width ≥ 1 and depth ≥ 1; "
                f"got {layers}, {bins}, {width} and {depth}."
            )
        random = weights_of(seed)
        self.layers = nn.ModuleList(
            SplineCoupling(resting, bins, width, depth, activation, random, self.lower)
            for resting in _resting(self.ndim, layers)
        )

    def forward(self, x: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        widths = self.upper - self.lower
        z, log_det = (x - self.lower) / widths, -torch.log(widths).sum().expand(len(x))
        for layer in self.layers:
            z, change = layer(z)
            log_det = log_det + change
        return z, log_det

    def inverse(self, z: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        widths = self.upper - self.lower
        log_det = torch.log(widths).sum().expand(len(z))
        for layer in reversed(self.layers):
            z, change = layer(z, inverse=True)
            log_det = log_det + change
        return self.lower + z * widths, log_det

    def base_log_prob(self, z: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return torch.zeros_like(z[:, 0])

    def from_unit(self, u: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return self.inverse(u)[0]

    def rsample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        # lower + z·width can round past the wall by one unit in the last place.
        return self.inverse(self.draw(n, random))[0].clamp(self.lower, self.upper)


class SplineCoupling(nn.Module):
    """Splines of the moved coordinates of [0, 1]^d, with parameters from the resting ones."""

    def __init__(
        self,
        resting: list[bool],
        bins: int,
        width: int,
        depth: int,
        activation: str,
        random: torch.Generator,
        like: Tensor,
    ) -> None:
        super().__init__()
        self.rest = [j for j, stays in enumerate(resting) if stays]
        self.move = [j for j, stays in enumerate(resting) if not stays]
        order = torch.tensor(self.rest + self.move)
        self.back = torch.argsort(order).tolist()
        self.bins = bins
        n_out = len(self.move) * (3 * bins + 1)
        if self.rest:
            self.network = conditioner(len(self.rest), n_out, width, depth, activation, random, like, zero=True)
        else:
            self.free = nn.Parameter(torch.zeros(n_out, dtype=like.dtype, device=like.device))

    def forward(
        self, x: Float[Tensor, "N d"], inverse: bool = False
    ) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        resting, moved = x[:, self.rest], x[:, self.move]
        raw = self.network(2 * resting - 1) if self.rest else self.free.expand(len(x), -1)
        raw = raw.reshape(len(x), len(self.move), 3 * self.bins + 1)
        moved, log_det = rational_quadratic(moved, *_nodes(raw, self.bins), inverse=inverse)
        return torch.cat([resting, moved], -1)[:, self.back], log_det.sum(-1)


def _resting(ndim: int, layers: int) -> list[list[bool]]:
    """Which coordinates rest in each layer: bit b of the index is one, then bit b is zero, b = 0, 1, …"""
    if ndim == 1:
        return [[False]] * layers
    bits = (ndim - 1).bit_length()
    # The lowest and the highest bit come first: interleaved halves, then contiguous ones.
    order = [k // 2 if k % 2 == 0 else bits - 1 - k // 2 for k in range(bits)]
    return [[(j >> order[k // 2 % bits] & 1) == k % 2 for j in range(ndim)] for k in range(layers)]


def _nodes(raw: Float[Tensor, "N m k"], bins: int) -> tuple[Float[Tensor, "N m 2 b"], Float[Tensor, "N m b1"]]:
    """Sizes of the bins in x and in y, and the slopes at the nodes, from free numbers; zeros give the identity."""
    sizes = torch.softmax(raw[..., : 2 * bins].unflatten(-1, (2, bins)), -1) * (1 - LEAST_SIZE * bins) + LEAST_SIZE
    # softplus(0 + log(e^{1−least} − 1)) + least = 1
    return sizes, F.softplus(raw[..., 2 * bins :] + math.log(math.expm1(1 - LEAST_SLOPE))) + LEAST_SLOPE


def rational_quadratic(
    x: Float[Tensor, "N m"],
    sizes: Float[Tensor, "N m 2 b"],
    slopes: Float[Tensor, "N m b1"],
    inverse: bool = False,
) -> tuple[Float[Tensor, "N m"], Float[Tensor, "N m"]]:
    """The monotone rational-quadratic spline of [0, 1] with bins of given sizes in x and y, and log of its slope.

    In a bin, with ξ = (x − left)/width, s = height/width and slopes d₀, d₁ at its ends:
    y = bottom + height·(s ξ² + d₀ ξ(1−ξ)) / (s + (d₀ + d₁ − 2s) ξ(1−ξ)); the inverse is the root of a quadratic.
    """
    nodes = F.pad(sizes.cumsum(-1)[..., :-1], (1, 0))
    edges = nodes.detach()[..., int(inverse), :].contiguous()
    k = torch.searchsorted(edges, x.detach()[..., None].contiguous(), right=True)[..., 0] - 1
    k = k.clamp(0, edges.shape[-1] - 1)[..., None]
    # One gather for all: the count of small operations is what a flow costs on a few thousand points.
    table = torch.cat([sizes, nodes, slopes[..., None, :-1], slopes[..., None, 1:]], -2)
    w, h, x0, y0, d0, d1 = table.gather(-1, k[..., None].expand(*table.shape[:-1], 1))[..., 0].unbind(-1)
    s = h / w
    curve = d0 + d1 - 2 * s
    if inverse:
        rise = x - y0
        a = h * (s - d0) + rise * curve
        b = h * d0 - rise * curve
        c = -s * rise
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        xi = (2 * c / (-b - root)).clamp(0, 1)
    else:
        xi = ((x - x0) / w).clamp(0, 1)
    both = xi * (1 - xi)
    line = s + curve * both
    out = x0 + xi * w if inverse else y0 + h * (s * xi**2 + d0 * both) / line
    log_slope = ((s / line) ** 2 * ((d1 * xi + 2 * s * (1 - xi)) * xi + d0 * (1 - xi) ** 2)).log()
    return out, -log_slope if inverse else log_slope
