"""Fourier neural operator with differential and local integral kernels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space.coordinates import CoordinateEmbedding
from sciops.models.function_space.differential import DifferentialConv
from sciops.models.function_space.hat_conv import HatConv
from sciops.models.function_space.operator import Operator
from sciops.models.function_space.pointwise import ChannelLinear, ChannelMLP
from sciops.models.function_space.spectral import SpectralConv


class LocalFNO(Operator):
    """v ← σ(F⁻¹ R F v + W v + c·∇v + ∫ K(x − ·) v(x) dx), then v ← v + MLP v; GELU, pointwise lifting and projection.

    R resolves the frequencies |k| < n_modes, the differential and the local kernel what lies above. Every term is a
    layer of this package with one limit under refinement, on node, cell and periodic axes, float32 and float64.
    native        the training grid: its spacing is that of the local taps, its derivative stencils start of size one
    n_modes       published: 20 (the reference code counts both signs, 40), at 128²
    differential  layers with a gradient term (published: the last alone); () for none
    local         layers with a local integral, of local_taps hats per axis at the native spacing (5); () for none
    Cost per layer O(width² (n_modes^d + points · (s(local_taps + 1) − 1)^d)), s the refinement. No boundary condition
    is imposed. With smooth coefficients order 2 in h.
    Liu-Schiaffini et al., "Neural operators with localized integral and differential kernels", ICML 2024.
    """

    def __init__(
        self,
        native: Grid | Mapping[str, Any],
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 99,
        layers: int = 4,
        n_modes: int | Sequence[int] = 20,
        differential: Sequence[int] = (-1,),
        local: Sequence[int] = (0, 1, 2, 3),
        local_taps: int = 5,
        lifting: int = 256,
    ):
        super().__init__(native)
        native = self.native
        if layers < 1 or not all(-layers <= i < layers for i in (*differential, *local)):
            raise UsageError(
                f"differential and local number layers from 0 to {layers - 1}; got {differential}, {local}."
            )
        ndim = native.ndim
        self.embed = CoordinateEmbedding.of(native)
        self.lift = ChannelMLP(in_channels + self.embed.channels, lifting, width)
        self.project = ChannelMLP(width, lifting, out_channels)
        self.spectral = nn.ModuleList(SpectralConv(width, width, n_modes, ndim) for _ in range(layers))
        self.skip = nn.ModuleList(ChannelLinear(width, width) for _ in range(layers))
        self.mlp = nn.ModuleList(ChannelMLP(width, max(width // 2, 1), width) for _ in range(layers))
        self.gradient, self.local = nn.ModuleDict(), nn.ModuleDict()
        for i in sorted({j % layers for j in differential}):
            conv = DifferentialConv(width, width, ndim)
            conv.weight.data *= min(native.spacing)  # at the native grid a stencil of the size of any other
            self.gradient[str(i)] = conv
        for i in sorted({j % layers for j in local}):
            self.local[str(i)] = HatConv(width, width, local_taps, native.spacing, ndim, bias=False)

    def forward(self, x: Float[Tensor, "n c *s"], domain: Grid | None = None) -> Float[Tensor, "n c_out *s"]:
        grid = self.grid_of(x, domain)
        v = self.lift(self.embed(x, grid))
        for i, (spectral, skip, mlp) in enumerate(zip(self.spectral, self.skip, self.mlp, strict=True)):
            u = spectral(v, grid) + skip(v)
            for branch in (self.gradient, self.local):
                if str(i) in branch:
                    u = u + branch[str(i)](v, grid)
            v = F.gelu(u)
            v = v + mlp(v)
        return self.project(v)
