"""Transformer operator with linear attention over the points of any domain."""

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Domain, Grid
from sciops.models.function_space.attention import LinearAttention
from sciops.models.function_space.coordinates import CoordinateEmbedding
from sciops.models.function_space.operator import Operator
from sciops.models.function_space.pointwise import ChannelMLP, ChannelNorm
from sciops.models.function_space.rotary import Rotary
from sciops.models.function_space.spectral import SpectralConv


class OFormer(Operator):
    """v ← (v + A(v) + F⁻¹ R F v)/√3, then v ← v + MLP v: linear attention and a Fourier layer side by side.

    A(v)(y) = q(y) ∫ k(x) v(x)ᵀ dx/|D| with rotary positions in coordinates and quadrature weights inside the integral;
    norms act on the channels of a point. Points may be a grid of any layout or, with n_modes=0 (attention alone,
    divided by √2), scattered with weights.
    n_modes        published 8 (the reference code counts both signs, 16)
    head_channels  16, a multiple of 2·ndim; not taken from the published model
    Cost per block O(points · width · heads · head_channels); the answer anywhere depends on every point.
    Li, Meidani, Farimani, "Transformer for partial differential equations' operator learning", TMLR 2023; Berner et
    al., arXiv:2506.10973 (with the Fourier branch).
    """

    def __init__(
        self,
        native: Grid | Mapping[str, Any],
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 220,
        heads: int = 16,
        layers: int = 4,
        n_modes: int = 8,
        head_channels: int | None = None,
        mlp_ratio: float = 2.0,
    ):
        super().__init__(native)
        native = self.native
        if layers < 1 or n_modes < 0:
            raise UsageError(f"OFormer takes layers of 1 or more and n_modes of 0 or more; got {layers}, {n_modes}.")
        ndim, hidden = native.ndim, round(mlp_ratio * width)
        size = head_channels or 2 * ndim * math.ceil(16 / (2 * ndim))
        wraps = [kind == "periodic" for kind in native.layout]
        self.embed = CoordinateEmbedding.of(native)
        self.lift = ChannelMLP(in_channels + self.embed.channels, width, width)
        self.project = ChannelMLP(width, width, out_channels)
        self.norm1 = nn.ModuleList(ChannelNorm(width) for _ in range(layers))
        self.norm2 = nn.ModuleList(ChannelNorm(width) for _ in range(layers))
        self.attention = nn.ModuleList(
            LinearAttention(width, heads, rotary=Rotary(size, native.lengths, wraps, ndim), head_channels=size)
            for _ in range(layers)
        )
        self.spectral = nn.ModuleList(
            SpectralConv(width, width, n_modes, ndim) for _ in range(layers if n_modes else 0)
        )
        self.mlp = nn.ModuleList(ChannelMLP(width, hidden, width) for _ in range(layers))

    def forward(self, x: Float[Tensor, "n c *s"], domain: Domain | None = None) -> Float[Tensor, "n c_out *s"]:
        where = self.grid_of(x, domain) if len(self.spectral) else self.on(x, domain)
        v = self.lift(self.embed(x, where))
        for i, (norm1, attention, norm2, mlp) in enumerate(
            zip(self.norm1, self.attention, self.norm2, self.mlp, strict=True)
        ):
            u = norm1(v)
            terms = [v, attention(u, where)]
            if len(self.spectral):
                terms.append(self.spectral[i](u, where))
            v = sum(terms[1:], terms[0]) / math.sqrt(len(terms))
            v = v + mlp(norm2(v))
        return self.project(F.gelu(v))
