"""Vision transformer as an operator: patches and positions are physical."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.function_space.attention import QuadAttention
from sciops.models.function_space.coordinates import CoordinateEmbedding
from sciops.models.function_space.operator import Operator, lattice_of
from sciops.models.function_space.pointwise import ChannelLinear, ChannelMLP, ChannelNorm
from sciops.models.function_space.pooling import to_lattice
from sciops.models.vcycle import CONV, CONV_TRANSPOSE


class ViTOperator(Operator):
    """u(y) = Q(D(T(E f))(y), f(y), y): patch integrals, a transformer, a synthesis, a local map.

    E    v_j = ∫ φ((x − x_j)/P) f(x) dx over the patch of width P: cell means on a lattice of `patch` points per patch,
         then a learnt weight on them. On finer input the means are integrals; coarser input is interpolated first
    T    pre-norm blocks of softmax attention and pointwise networks, positions entering as functions of x_j
    D    each token synthesises the lattice points of its patch; linear interpolation to the points of the output
    Q    a pointwise network that also sees f itself: detail finer than the lattice is not lost, as in a plain ViT
    native   the training grid: patch counts its spacings (published: 16 at 128²), `lattice` is fixed by it
    The number of tokens is fixed: cost O(width · tokens²) per block at any resolution. Order 2 in h; no detail above
    the lattice except pointwise. `fields` channels pass from D to Q.
    Dosovitskiy et al., "An image is worth 16×16 words", ICLR 2021; Berner et al., arXiv:2506.10973.
    """

    def __init__(
        self,
        native: Grid | Mapping[str, Any],
        in_channels: int = 1,
        out_channels: int = 1,
        patch: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp: int = 1900,
        fields: int = 4,
        modes: int = 8,
    ):
        super().__init__(native)
        native = self.native
        if patch < 1 or layers < 1:
            raise UsageError(f"patch and layers must be 1 or more; got {patch}, {layers}.")
        ndim = native.ndim
        self.tokens = lattice_of(native, patch)
        self.lattice = self.tokens.resized([patch * t for t in self.tokens.shape])
        conv, transposed = CONV[ndim], CONV_TRANSPOSE[ndim]
        self.encode = conv(in_channels, width, patch, stride=patch)
        places = CoordinateEmbedding.of(native, modes)
        self.places, self.position = places, ChannelLinear(places.channels, width)
        self.norm1 = nn.ModuleList(ChannelNorm(width) for _ in range(layers))
        self.norm2 = nn.ModuleList(ChannelNorm(width) for _ in range(layers))
        self.attention = nn.ModuleList(QuadAttention(width, heads) for _ in range(layers))
        self.mlp = nn.ModuleList(ChannelMLP(width, mlp, width) for _ in range(layers))
        self.norm = ChannelNorm(width)
        self.decode = transposed(width, fields, patch, stride=patch)
        self.embed = CoordinateEmbedding.of(native)
        self.local = ChannelMLP(fields + in_channels + self.embed.channels, 8 * fields, out_channels)
        # A transposed convolution whose stride is its size sums over channels alone.
        nn.init.uniform_(self.decode.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x: Float[Tensor, "n c *s"], domain: Grid | None = None) -> Float[Tensor, "n c_out *s"]:
        grid = self.grid_of(x, domain)
        v = self.encode(to_lattice(x, grid, self.lattice))
        v = v + self.position(self.places.features(self.tokens, v)[None])
        for norm1, attention, norm2, mlp in zip(self.norm1, self.attention, self.norm2, self.mlp, strict=True):
            v = v + attention(norm1(v), self.tokens)
            v = v + mlp(norm2(v))
        u = resample(self.decode(self.norm(v)), self.lattice, grid, "linear")
        return self.local(torch.cat([u, self.embed(x, grid)], dim=1))
