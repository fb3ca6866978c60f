"""Latent spectral model on point clouds: Fourier projections around the U-Net, through a learnt deformation."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import ZEROS
from sciops.models.lsm_block import autocast_off
from sciops.models.lsm_nudft import NonuniformFourier
from sciops.models.lsm_unet import SpectralUNet


class Deformation(nn.Module):
    """ξ = x + x ⊙ M(x, angle, radius; code): the learnt map of a domain in the plane to the unit square.

    The features are (x, y, angle, radius) about `centre`, linearly and as sines and cosines of 2^k π times them,
    k < width/4; the shape code enters linearly; M has three tanh layers of 4·width.

    code_features   length of the shape code (42 radii, published); without a code another linear layer takes its place
    Any domain that M keeps within one period of the Fourier modes will do; nothing enforces that ξ is one-to-one, which
    `distance_from_identity` can keep in check. Width 32: 63,746 parameters, the layer without code included.
    Li, Huang, Liu, Anandkumar, "Fourier neural operator with learned deformations for PDEs on general geometries",
    JMLR 2023.
    """

    centre: Tensor
    frequencies: Tensor

    def __init__(
        self, code_features: int = 42, width: int = 32, centre: tuple[float, float] = (0.0001, 0.0001)
    ) -> None:
        super().__init__()
        if width % 4:
            raise UsageError(f"width must be a multiple of 4; got {width}.")
        self.features = nn.Linear(4, width)
        self.code = nn.Linear(code_features, width)
        self.no_code = nn.Linear(3 * width, 4 * width)
        self.layers = nn.ModuleList(nn.Linear(4 * width, 4 * width) for _ in range(3))
        self.out = nn.Linear(4 * width, 2)
        self.register_buffer("centre", torch.tensor(centre))
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(width // 4))

    def forward(self, x: Float[Tensor, "n p 2"], code: Float[Tensor, "n k"] | None = None) -> Float[Tensor, "n p 2"]:
        away = x - self.centre
        angle, radius = torch.atan2(away[..., 1], away[..., 0]), away.norm(dim=-1)
        polar = torch.cat([x, angle.unsqueeze(-1), radius.unsqueeze(-1)], -1)
        waves = (polar.unsqueeze(-1) * self.frequencies).flatten(-2)
        v = torch.cat([self.features(polar), waves.sin(), waves.cos()], -1)
        if code is None:
            v = self.no_code(v)
        else:
            v = torch.cat([self.code(code).unsqueeze(1).expand(-1, x.shape[1], -1), v], -1)
        for layer in self.layers:
            v = torch.tanh(layer(v))
        return x + x * self.out(v)

    def distance_from_identity(
        self,
        code: Float[Tensor, "n k"] | None = None,
        points: int = 1000,
        lower: float = -1.0,
        upper: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over the batch of ‖ξ(x) − x‖/‖x‖ at random points of a box: the regulariser of the deformation, to be
        added to a loss with a weight (the released scripts evaluate it and give it none)."""
        like = self.centre
        shape = (1 if code is None else len(code), points, 2)
        x = lower + (upper - lower) * torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
        moved = (self(x, code) - x).flatten(1).norm(dim=1)
        return (moved / x.flatten(1).norm(dim=1)).mean()


class IrregularLSM(nn.Module):
    """u(x) = Q₂ GELU(Q₁ [F₂⁻¹ R₂ F U GELU(F⁻¹ R₁ F₁ P(a, x) + G₁ g) + G₂ x]),  all Fourier modes at ξ(x).

    Features of the points are projected to the modes |k₁| ≤ m₁, |k₂| < m₂ by a non-uniform Fourier sum at the deformed
    points, multiplied by a learnt matrix per mode and synthesised on a latent grid g; `SpectralUNet` works there; the
    way back is a transform of the grid, matrices, and a sum of modes at the deformed points. G₁, G₂ are pointwise.

    in_channels   features of the points beside their coordinates (published: none)
    latent, modes per axis: 96×96 and 12×12; the patch is latent/16
    released_projection   True: the two Fourier projections as in the released code, which sums over the points, so
             that its output grows with their number, and completes the conjugate half with k₁ ↔ −1−k₁, which is not the
             real inverse. By default the sums are means and the synthesis is the real inverse transform.
    deformation   False: ξ = x, for points that are in the unit square already
    Width 32: 5,992,609 parameters (complex weights counted twice) and the deformation's 63,746. Any number of points,
    the same for all cases of a batch. Cost O(points · m₁ m₂ · width) a projection, and the U-Net on the latent grid.
    Under autocast the projections and the deformation stay in float32.
    Wu, Hu, Luo, Wang, Long, ICML 2023; Li, Huang, Liu, Anandkumar, JMLR 2023.
    """

    grid: Tensor

    def __init__(
        self,
        in_channels: int = 0,
        out_channels: int = 1,
        width: int = 32,
        latent: Sequence[int] = (96, 96),
        modes: Sequence[int] = (12, 12),
        code_features: int = 42,
        tokens: int = 4,
        bases: int = 12,
        heads: int = 8,
        norm: str = "batch",
        spectral_blocks: bool = True,
        released_projection: bool = False,
        deformation: bool = True,
        channels_last: bool = True,
    ):
        super().__init__()
        self.lift = nn.Linear(in_channels + 2, width)
        self.spectral_in = NonuniformFourier(width, modes, released_projection)
        self.spectral_out = NonuniformFourier(width, modes, released_projection)
        self.grid_lift, self.point_lift = nn.Conv2d(2, width, 1), nn.Conv1d(2, width, 1)
        self.unet = SpectralUNet(width, (ZEROS, ZEROS), 5, tokens, bases, heads, norm, spectral_blocks)
        if len(latent) != 2 or any(n % self.unet.factor or n < 2 * m for n, m in zip(latent, modes, strict=True)):
            raise UsageError(
                f"latent must be two multiples of {self.unet.factor}, at least twice the modes {tuple(modes)}; got "
                f"{tuple(latent)}."
            )
        self.project1, self.project2 = nn.Linear(width, 128), nn.Linear(128, out_channels)
        self.deformation = Deformation(code_features) if deformation else None
        self.latent, self.channels_last = tuple(latent), channels_last
        self.patch = tuple(n // self.unet.factor for n in latent)
        axes = [torch.linspace(0, 1, n) for n in latent]
        self.register_buffer("grid", torch.stack(torch.meshgrid(*axes, indexing="ij"))[None], persistent=False)
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Float[Tensor, "n p 2"],
        features: Float[Tensor, "n p c"] | None = None,
        code: Float[Tensor, "n k"] | None = None,
    ) -> Float[Tensor, "n p c_out"]:
        given = 0 if features is None else features.shape[-1]
        if given != self.lift.in_features - 2:
            raise UsageError(f"the model was built for {self.lift.in_features - 2} features a point; got {given}.")
        with autocast_off(x.device.type):
            moved = x if self.deformation is None else self.deformation(x, code)
        v = self.lift(x if features is None else torch.cat([features, x], -1)).transpose(1, 2)
        v = F.gelu(self.spectral_in.to_grid(v, moved, self.latent) + self.grid_lift(self.grid))
        if self.channels_last:
            v = v.contiguous(memory_format=torch.channels_last)
        v = self.spectral_out.to_points(self.unet(v, self.patch), moved) + self.point_lift(x.transpose(1, 2))
        return self.project2(F.gelu(self.project1(v.transpose(1, 2))))
