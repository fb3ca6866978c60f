"""The U-Net of the latent spectral model, with or without spectral blocks on its skips."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import CIRCULAR, ZEROS, add_ghosts
from sciops.models.lsm_block import SpectralBlock
from sciops.models.unet import Ghosted
from sciops.models.vcycle import CONV

NORMS = ("batch", "instance")
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class DoubleConvolution(nn.Module):
    """Twice: convolution of size 3 without bias, norm, ReLU."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, modes: Sequence[str], norm: str):
        super().__init__()
        self.conv1 = Ghosted(in_channels, mid_channels, modes, bias=False)
        self.norm1 = make_norm(norm, mid_channels, len(modes))
        self.conv2 = Ghosted(mid_channels, out_channels, modes, bias=False)
        self.norm2 = make_norm(norm, out_channels, len(modes))

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)


def make_norm(kind: str, channels: int, ndim: int) -> nn.Module:
    """Batch norm, or instance norm: one group per channel, with the same two weights each."""
    return BATCH_NORM[ndim](channels) if kind == "batch" else nn.GroupNorm(channels, channels)


class SpectralUNet(nn.Module):
    """y_J = N_J x_J,  y_{j−1} = D_j(N_j x_j, ↑ y_{j+1}),  x_{j+1} = E_{j+1}(maxpool₂ x_j):  features to features.

    Widths d, 2d, 4d, … with the coarsest as wide as the one above it (linear upsampling keeps the channels); N_j is a
    `SpectralBlock` on the skip of level j, and what goes down the encoder has not passed it.

    spectral_blocks  False: N_j = identity, the plain U-Net of the same width, the control of every claim about N
    norm     "batch" (statistics of the batch in training, running ones in evaluation) or "instance"
    modes    ghost values per axis, see `sciops.models.boundary`. On an axis with wrapped ghosts upsampling is centred
             on the pooled pairs and wraps too; elsewhere it takes first points to first and last to last
    The grid must be a multiple of 2^(levels−1)·patch. Cost O(points · d²), nine tenths of it in the convolutions.
    Ronneberger, Fischer, Brox, MICCAI 2015; Wu, Hu, Luo, Wang, Long, ICML 2023.
    """

    def __init__(
        self,
        width: int,
        modes: Sequence[str],
        levels: int = 5,
        tokens: int = 4,
        bases: int = 12,
        heads: int = 8,
        norm: str = "batch",
        spectral_blocks: bool = True,
    ):
        super().__init__()
        if norm not in NORMS:
            raise UsageError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
        if levels < 2:
            raise UsageError(f"levels must be 2 or more; got {levels}.")
        self.ndim, self.modes, self.levels = len(modes), tuple(modes), levels
        c = [width * 2 ** min(level, levels - 2) for level in range(levels)]
        self.encoder = nn.ModuleList(
            DoubleConvolution(c[max(level - 1, 0)], c[level], c[level], modes, norm) for level in range(levels)
        )
        # From c[level] skip and as many upsampled channels to what the level above upsamples.
        self.decoder = nn.ModuleList(
            DoubleConvolution(2 * c[level], c[level], c[max(level - 1, 0)], modes, norm) for level in range(levels - 1)
        )
        self.blocks = nn.ModuleList(SpectralBlock(w, tokens, bases, heads) for w in c if spectral_blocks)
        self.head = CONV[self.ndim](width, width, 1)

    @property
    def factor(self) -> int:
        """Grid points of one point of the coarsest level."""
        return 2 ** (self.levels - 1)

    def forward(self, x: Float[Tensor, "n c *s"], patch: Sequence[int]) -> Float[Tensor, "n c *s"]:
        skips = []
        for level, convolution in enumerate(self.encoder):
            x = convolution(POOL[self.ndim](x, 2) if level else x)
            skips.append(x)
        y = self._process(skips[-1], -1, patch)
        for level in range(self.levels - 2, -1, -1):
            y = self.decoder[level](torch.cat([self._process(skips.pop(level), level, patch), self._upsample(y)], 1))
        return pointwise(self.head, y)

    def _process(self, x: Tensor, level: int, patch: Sequence[int]) -> Tensor:
        return self.blocks[level](x, patch) if len(self.blocks) else x

    def _upsample(self, y: Tensor) -> Tensor:
        """Twice the points per axis."""
        mode, sizes = LINEAR[self.ndim], y.shape[2:]
        wrapped = [kind == CIRCULAR for kind in self.modes]
        if not all(wrapped):
            size = [n if w else 2 * n for n, w in zip(sizes, wrapped, strict=True)]
            y = F.interpolate(y, size=size, mode=mode, align_corners=True)
        if any(wrapped):
            for axis, w in enumerate(wrapped, start=2):
                if w:
                    y = add_ghosts(y, axis, 1, 1, CIRCULAR)
            size = [2 * n if w else n for n, w in zip(y.shape[2:], wrapped, strict=True)]
            y = F.interpolate(y, size=size, mode=mode, align_corners=False)
            for axis, (n, w) in enumerate(zip(sizes, wrapped, strict=True), start=2):
                if w:
                    y = y.narrow(axis, 2, 2 * n)
        return y


def pointwise(conv: nn.Module, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
    """A convolution of size 1; where the channels lie together, as the matrix product that it is (PyTorch's own
    convolution unfolds few channels first)."""
    if x.stride(1) != 1:
        return conv(x)
    weight, bias = conv.weight.flatten(1), conv.bias  # type: ignore[operator]
    return F.linear(x.movedim(1, -1), weight, bias).movedim(-1, 1)  # type: ignore[arg-type]


def pad_behind(
    x: Float[Tensor, "n c *s"], sizes: Sequence[int], modes: Sequence[str], reason: str
) -> Float[Tensor, "n c *t"]:
    """x with ghost values behind the end of each axis, up to the given sizes."""
    zeros: list[int] = []
    for axis, (n, size, mode) in enumerate(zip(x.shape[2:], sizes, modes, strict=True), start=2):
        if size - n > (n if mode == CIRCULAR else n - 1) and mode != ZEROS:
            raise UsageError(
                f"grid {tuple(x.shape[2:])} is too small for {reason}: padding {n} points by {size - n} would mirror "
                "or wrap more points than there are; use a finer grid, fewer levels, or padding zeros."
            )
        if mode != ZEROS and size > n:
            x = add_ghosts(x, axis, 0, size - n, mode)
        zeros = [0, size - n if mode == ZEROS else 0, *zeros]
    return F.pad(x, zeros) if any(zeros) else x
