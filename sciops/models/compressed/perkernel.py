"""Canonical polyadic form of each kernel on its own, the scheme of a-priori compression as published."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from sciops.models.compressed.chain import rescale
from sciops.models.compressed.decompositions import rank_one_terms
from sciops.models.compressed.scheme import Scheme
from sciops.models.compressed.shape import ConvShape


class PerKernelFactors(nn.Module):
    """Factors a^j (groups, out, in, R, k_j); every call rebuilds the kernel and runs one dense convolution."""

    def __init__(
        self,
        shape: ConvShape,
        rank: int,
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.shape, self.rank = shape, rank
        channels = (shape.groups, shape.outer, shape.inner, rank)
        self.factors = nn.ParameterList(torch.empty(*channels, k, dtype=dtype, device=device) for k in shape.kernel)
        self.bias = nn.Parameter(torch.empty(shape.out_channels, dtype=dtype, device=device)) if bias else None

    def forward(self, x: Tensor, grown: Sequence[int] | None = None) -> Tensor:
        return self.shape.apply(x, self.shape.to_torch(self.kernel()), self.bias, grown)

    def kernel(self) -> Tensor:
        """The dense kernel in canonical layout."""
        axes = "abc"[: self.shape.ndim]
        terms = ",".join(f"goir{axis}" for axis in axes)
        return torch.einsum(f"{terms}->goi{axes}", *self.factors)

    @torch.no_grad()
    def load(self, cores: Sequence[Tensor]) -> None:
        for factor, core in zip(self.factors, cores, strict=True):
            factor.copy_(core)

    @torch.no_grad()
    def draw(self, variance: float) -> None:
        """Entries of the rebuilt kernel get the given variance."""
        limit = (3 * (variance / self.rank) ** (1 / self.shape.ndim)) ** 0.5
        for factor in self.factors:
            factor.uniform_(-limit, limit)
        rescale(list(self.factors), self.kernel(), variance)


class PerKernel(Scheme):
    """W[o,i] = Σ_{r ≤ R} a¹_{oir} ⊗ … ⊗ a^d_{oir} for every pair of channels.

    2-D: truncated SVD of each kernel, exact for R = k. 3-D: nested SVDs give k₁ · min(k₂, k₃) orthonormal terms, of
    which the largest are kept. Weights C_o C_i R Σ k: fewer than dense where R Σ k < Π k,
    for k = 3 in 2-D only R = 1. It saves weights, no operations: run as filters it would need C_o C_i R channels, so
    the kernel is rebuilt and the convolution is dense. A 1-D kernel is its own single term.
    Boukraichi, Akkari, Casenave, Ryckelynck, "A priori compression of convolutional neural networks for wave
    simulators", 2023.
    """

    name = "perkernel"

    def full(self, shape: ConvShape) -> tuple[int, ...]:
        return (prod(shape.kernel) // max(shape.kernel),)

    def unit(self, shape: ConvShape) -> int:
        return 1  # the rank is about taps, not channels

    def weights(self, shape: ConvShape, ranks: Sequence[int]) -> int:
        return shape.out_channels * shape.inner * ranks[0] * sum(shape.kernel)

    def body(
        self,
        shape: ConvShape,
        ranks: Sequence[int],
        bias: bool,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> PerKernelFactors:
        return PerKernelFactors(shape, ranks[0], bias, dtype, device)

    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        pairs = kernel.shape[:3]
        # Orthonormal terms in place of least squares: kernels are small and many, and the error is known beforehand.
        weights, vectors = rank_one_terms(kernel.flatten(0, 2))
        rank, d = ranks[0], len(vectors)
        share = weights[:, :rank, None] ** (1 / d)
        return [(share * vector[:, :rank]).reshape(*pairs, rank, -1) for vector in vectors]

    def spectra(self, kernel: Tensor) -> list[Tensor]:
        return [rank_one_terms(kernel.flatten(0, 2))[0]]
