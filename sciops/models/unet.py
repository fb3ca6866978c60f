"""U-Net of constant width: the convolutional control for the multigrid operators."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import CIRCULAR, REFLECT, ZEROS, add_ghosts, ghost_mode, per_axis
from sciops.models.vcycle import CONV, CONV_TRANSPOSE


class Ghosted(nn.Module):
    """3-wide convolution whose ghost values follow the boundary condition of each axis."""

    def __init__(self, in_channels: int, out_channels: int, modes: Sequence[str], stride: int = 1, bias: bool = True):
        super().__init__()
        self.modes = tuple(modes)
        native = tuple(int(mode == ZEROS) for mode in modes)  # zeros are free inside the convolution
        conv = CONV[len(modes)]
        self.conv = conv(in_channels, out_channels, 3, stride=stride, padding=native, bias=bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *t"]:
        for axis, mode in enumerate(self.modes, start=2):
            if mode != ZEROS:
                x = add_ghosts(x, axis, 1, 1, mode)
        return self.conv(x)


class Block(nn.Module):
    """Twice: convolution, GroupNorm, GELU."""

    def __init__(self, in_channels: int, width: int, modes: Sequence[str], groups: int):
        super().__init__()
        self.conv1, self.norm1 = Ghosted(in_channels, width, modes), nn.GroupNorm(groups, width)
        self.conv2, self.norm2 = Ghosted(width, width, modes), nn.GroupNorm(groups, width)

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        x = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """u = H D₁(E₁, ↑ D₂(E₂, … ↑ E_J)),  E_{j+1} = block(↓ E_j): encoder and decoder joined by copies at each level.

    Every level has the same width, as a multigrid operator's, not the usual doubling. ↓ is a convolution of stride 2,
    ↑ a transposed one of size 2, a block two convolutions of size 3 with GroupNorm and GELU.

    width    48 with 5 levels gives 558,721 parameters, next to the 572,661 of the published rough-Darcy `mgno_darcy`
    bc, layout   ghost values of all convolutions, see `MgNO`; no condition is enforced
    Any grid size: the input is padded behind its ends by the same ghost values to a multiple of 2^(levels−1) and the
    output cropped. A periodic grid that is not such a multiple then has a seam; one that is commutes with shifts by
    2^(levels−1) points. Cost O(width² · points), parameters O(width² · levels). GroupNorm takes statistics over the
    grid: the answer at a point depends on the whole field and on its resolution. UsageError (a ValueError) where
    the mirrored or wrapped padding would be longer than the grid.
    Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 48,
        levels: int = 5,
        ndim: int = 2,
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        groups: int = 4,
        channels_last: bool = True,
    ):
        super().__init__()
        if width % groups:
            raise UsageError(f"groups must divide width; got groups={groups}, width={width}.")
        if levels < 1:
            raise UsageError(f"levels must be 1 or more; got {levels}.")
        self.modes = tuple(ghost_mode(kind, layout) for kind in per_axis(bc, ndim, layout))
        self.factor = 2 ** (levels - 1)
        modes, up = self.modes, CONV_TRANSPOSE[ndim]
        self.encoder = nn.ModuleList(
            Block(in_channels if level == 0 else width, width, modes, groups) for level in range(levels)
        )
        self.down = nn.ModuleList(Ghosted(width, width, modes, stride=2) for _ in range(levels - 1))
        self.up = nn.ModuleList(up(width, width, 2, stride=2) for _ in range(levels - 1))
        self.decoder = nn.ModuleList(Block(2 * width, width, modes, groups) for _ in range(levels - 1))
        self.head = CONV[ndim](width, out_channels, 1)
        self.channels_last = channels_last and ndim == 2
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        shape = x.shape[2:]
        x = self._fit(x)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for block, down in zip(self.encoder, self.down, strict=False):  # the last block has no way down
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[len(self.down)](x)
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        x = self.head(x)
        for axis, n in enumerate(shape, start=2):
            x = x.narrow(axis, 0, n)
        return x

    def _fit(self, x: Tensor) -> Tensor:
        """Ghost values behind each axis up to a multiple of 2^(levels−1), and at least two points on the coarsest."""
        shape = tuple(x.shape[2:])
        if len(shape) != len(self.modes):
            raise UsageError(f"grid {shape} has {len(shape)} axes, the model was built for ndim={len(self.modes)}.")
        for axis, (n, mode) in enumerate(zip(shape, self.modes, strict=True), start=2):
            extra = max(-n % self.factor, 2 * self.factor - n)
            if (mode == REFLECT and extra > n - 1) or (mode == CIRCULAR and extra > n):
                raise UsageError(
                    f"grid {shape} is too small for {self.factor.bit_length()} levels: padding {n} points by {extra} "
                    "would mirror or wrap more points than there are; use fewer levels or a finer grid."
                )
            if extra:
                x = add_ghosts(x, axis, 0, extra, mode)
        return x
