"""Latent spectral model on grids, and the published configurations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import ZEROS, ghost_mode, per_axis
from sciops.models.lsm_unet import SpectralUNet, pad_behind, pointwise
from sciops.models.vcycle import CONV

PADDINGS = ("boundary", "zeros")


class LSM(nn.Module):
    """u = Q₂ GELU(Q₁ C U P (a, x)):  U a U-Net with a neural spectral block on every skip, C the crop to the grid.

    P lifts the input and the coordinates x to `width` channels pointwise; the features are padded behind the ends of
    the axes to a multiple of 2^(levels−1) (of 2^(levels−1)·patch where a patch is given), at least two points on the
    coarsest level; `SpectralUNet` maps them; Q₁, Q₂ are pointwise with 128 channels between.

    ndim     1, 2 or 3 grid axes
    patch    points per patch, one number or one per axis, the same on every level; default by the published rule,
             padded size/2^(levels−1): one patch on the coarsest level, as many points apart at every grid size
    tokens, bases, heads   of `SpectralBlock`
    norm     "batch" or "instance". In training mode batch norm normalises with the statistics of the batch, and its
             answer depends on the other cases in it: evaluate in eval mode (the released Navier–Stokes script does not)
    bc, layout   what padding="boundary" follows: "dirichlet" zero, "neumann" mirrored, "periodic" wrapped ghosts in
             convolutions and padding; coordinates of the layout (as in `FNO`; a periodic axis i/n). No condition is
             enforced. Dirichlet on nodes is the published form
    padding  "zeros": the published form under every condition: zeros outside, coordinates i/(n−1)
    spectral_blocks   False: the plain U-Net of the same width, the control (90 % of the parameters)
    channels_last     memory format of 2-D fields and weights (the CPU's fast one); the results are the same

    Any grid size runs, but patches and receptive fields belong to the training grid: transfer to other sizes is a
    stress test. Cost O(width² · points), 3.3 MFLOP a point at width 64; parameters O(width² · 4^levels).
    UsageError (a ValueError) on a refused grid. Wu, Hu, Luo, Wang, Long, "Solving high-dimensional PDEs with latent
    spectral models", ICML 2023.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        levels: int = 5,
        patch: int | Sequence[int] | None = None,
        tokens: int = 4,
        bases: int = 12,
        heads: int = 8,
        ndim: int = 2,
        norm: str = "batch",
        bc: str | Sequence[str] = "dirichlet",
        layout: str = "node",
        padding: str = "boundary",
        spectral_blocks: bool = True,
        channels_last: bool = True,
    ):
        super().__init__()
        self.bc, self.layout = per_axis(bc, ndim, layout), layout
        if padding not in PADDINGS:
            raise UsageError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}.")
        self.padding = padding
        self.modes = (ZEROS,) * ndim if padding == "zeros" else tuple(ghost_mode(kind, layout) for kind in self.bc)
        self.patch = None if patch is None else (patch,) * ndim if isinstance(patch, int) else tuple(patch)
        if self.patch is not None and (len(self.patch) != ndim or min(self.patch) < 1):
            raise UsageError(f"patch takes one positive number of points, or one per axis ({ndim}); got {patch!r}.")
        self.lift = CONV[ndim](in_channels + ndim, width, 1)
        self.unet = SpectralUNet(width, self.modes, levels, tokens, bases, heads, norm, spectral_blocks)
        self.project1 = CONV[ndim](width, 128, 1)
        self.project2 = CONV[ndim](128, out_channels, 1)
        self.channels_last = channels_last and ndim == 2
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c_out *s"]:
        shape = x.shape[2:]
        sizes, patch = self.padded(shape)
        v = torch.cat([x, self._coordinates(x)], dim=1)
        if self.channels_last:
            v = v.contiguous(memory_format=torch.channels_last)
        v = pad_behind(pointwise(self.lift, v), sizes, self.modes, f"{self.unet.levels} levels")
        v = self.unet(v, patch)
        for axis, n in enumerate(shape, start=2):
            v = v.narrow(axis, 0, n)
        return pointwise(self.project2, F.gelu(pointwise(self.project1, v)))

    def padded(self, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Padded grid, and points of a patch, per axis."""
        if len(shape) != len(self.modes):
            raise UsageError(
                f"grid {tuple(shape)} has {len(shape)} axes, the model was built for ndim={len(self.modes)}."
            )
        factor = self.unet.factor
        tiles = [factor * p for p in self.patch or (1,) * len(shape)]
        sizes = tuple(max(n + -n % tile, 2 * factor) for n, tile in zip(shape, tiles, strict=True))
        return sizes, self.patch or tuple(size // factor for size in sizes)

    def _coordinates(self, x: Tensor) -> Tensor:
        """One channel per axis, shape (n, d, *s)."""
        axes = []
        for n, kind in zip(x.shape[2:], self.bc, strict=True):
            i = torch.arange(n, device=x.device, dtype=x.dtype)
            if self.padding == "zeros" or (kind != "periodic" and self.layout == "node"):
                axes.append(i / max(n - 1, 1))
            elif kind == "periodic":
                axes.append(i / n)
            else:
                axes.append((i + 0.5) / n if self.layout == "cell" else (i + 1) / (n + 1))
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return grid.expand(x.shape[0], *grid.shape)


def published(given: Mapping[str, Any], **settings: Any) -> LSM:
    """Zeros outside under every condition, batch norm, 4 tokens, 12 bases, 8 heads, patches by the rule."""
    return LSM(**({"padding": "zeros"} | settings | dict(given)))


def lsm_darcy(**options: Any) -> LSM:
    """Darcy 85²: 19,187,457 parameters; 96² padded, patches 6×6."""
    return published(options, width=64)


def lsm_navier_stokes(**options: Any) -> LSM:
    """Ten vorticity frames to the next one, 64²: 19,188,033 parameters; patches 4×4."""
    return published(options, in_channels=10, width=64)


def lsm_airfoil(**options: Any) -> LSM:
    """Mesh coordinates to Mach number, 221×51: 4,812,833 parameters; 224×64 padded, patches 14×4."""
    return published(options, in_channels=2, width=32)


def lsm_pipe(**options: Any) -> LSM:
    """Mesh coordinates to velocity, 129²: 10,804,913 parameters; 144² padded, patches 9×9."""
    return published(options, in_channels=2, width=48)


def lsm_elasticity_grid(**options: Any) -> LSM:
    """Material mask to stress, 41²: 4,812,801 parameters; 48² padded, patches 3×3."""
    return published(options, width=32)


def lsm_plasticity(**options: Any) -> LSM:
    """Die profile to mesh and displacement in time, 101×31×20: 13,457,828 parameters; 112×32×32, patches 7×2×2."""
    return published(options, out_channels=4, width=32, ndim=3)
