"""U-Net as an operator: kernels, windows and coarse lattices of fixed physical size."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.function_space.coordinates import CoordinateEmbedding
from sciops.models.function_space.hat_conv import HatConv
from sciops.models.function_space.norms import WeightedGroupNorm
from sciops.models.function_space.operator import Operator, lattice_of
from sciops.models.function_space.pointwise import ChannelLinear
from sciops.models.function_space.pooling import to_lattice


class HatBlock(nn.Module):
    """Twice: hat-kernel convolution, weighted group norm, GELU."""

    def __init__(self, in_channels: int, width: int, taps: int, grid: Grid, groups: int, extension: str):
        super().__init__()
        self.conv1 = HatConv(in_channels, width, taps, grid.spacing, grid.ndim, extension)
        self.conv2 = HatConv(width, width, taps, grid.spacing, grid.ndim, extension)
        self.norm1, self.norm2 = WeightedGroupNorm(groups, width), WeightedGroupNorm(groups, width)

    def forward(self, x: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, "n c_out *s"]:
        x = F.gelu(self.norm1(self.conv1(x, grid), grid))
        return F.gelu(self.norm2(self.conv2(x, grid), grid))


class UNetOperator(Operator):
    """u = H D₀(E₀ f, ↑ D₁(E₁, ↑ … E_J)),  E_{j+1} = block(↓ E_j): a U-Net whose every part has a continuum limit.

    The first level lives on the grid of the input, with kernels of taps at the native spacing H; level j ≥ 1 lives on
    the fixed lattice of spacing 2^j H, at any input resolution. ↓ takes means over the cells of the next lattice
    (no aliasing), ↑ interpolates linearly, norms take moments by quadrature, coordinates enter as channels.
    native       the training grid
    multipliers  channels of each level over those of the one above. Defaults are the published width, multipliers and
                 taps; blocks of two convolutions are ours, and give 9.5 million parameters, not the published 65.5
    extension    beyond the walls of non-periodic axes, see `HatConv`
    Order 2 in h. Cost O(Σ_j c_j² taps^d points/2^{jd}) at the native grid; at s times it the first level alone grows,
    by s^d points and (s(taps + 1) − 1)^d taps: with taps=3 and s ≤ 4 in 2-D it is affordable.
    Ronneberger, Fischer, Brox, MICCAI 2015; Berner et al., arXiv:2506.10973.
    """

    def __init__(
        self,
        native: Grid | Mapping[str, Any],
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 19,
        multipliers: Sequence[int] = (1, 2, 2, 3),
        taps: int = 9,
        groups: int = 1,
        extension: str = "even",
    ):
        super().__init__(native)
        native = self.native
        if not multipliers or min(multipliers) < 1 or width % groups:
            raise UsageError(
                f"UNetOperator takes multipliers of 1 or more and groups that divide width; got {tuple(multipliers)}, "
                f"groups={groups}, width={width}."
            )
        widths = [width * m for m in accumulate(multipliers, mul)]
        self.lattices = [lattice_of(native, 2**level) for level in range(1, len(widths))]
        self.embed = CoordinateEmbedding.of(native)
        before = [in_channels + self.embed.channels, *widths]
        grids = [native, *self.lattices]
        self.encoder = nn.ModuleList(
            HatBlock(before[j], widths[j], taps, grid, groups, extension) for j, grid in enumerate(grids)
        )
        self.decoder = nn.ModuleList(
            HatBlock(widths[j] + widths[j + 1], widths[j], taps, grids[j], groups, extension)
            for j in range(len(widths) - 1)
        )
        self.head = ChannelLinear(width, out_channels)

    def forward(self, x: Float[Tensor, "n c *s"], domain: Grid | None = None) -> Float[Tensor, "n c_out *s"]:
        grids = [self.grid_of(x, domain), *self.lattices]
        v = self.encoder[0](self.embed(x, grids[0]), grids[0])
        skips = [v]
        for j in range(1, len(grids)):
            v = self.encoder[j](to_lattice(v, grids[j - 1], grids[j]), grids[j])
            skips.append(v)
        for j in reversed(range(len(self.decoder))):
            up = resample(v, grids[j + 1], grids[j], "linear")
            v = self.decoder[j](torch.cat([skips[j], up], dim=1), grids[j])
        return self.head(v)
