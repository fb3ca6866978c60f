"""Separable convolutions in sequence: one axis after the other, channels mixed at each."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor

from sciops.models.compressed.chain import Step
from sciops.models.compressed.decompositions import bonds, train
from sciops.models.compressed.scheme import ChainScheme
from sciops.models.compressed.shape import ConvShape


class Succession(ChainScheme):
    """W[o,i,k₁,k₂] = Σ_m a[m,i,k₁] b[o,m,k₂]: conv (k₁, 1) from C_i to M channels, then (1, k₂) from M to C_o.

    In 3-D three steps and two ranks. The truncated SVD of the (i k₁) × (k₂ o) matrix is the best of its rank, a tensor
    train by sequential SVD in 3-D; in 1-D the second step is pointwise. Weights k (C_i M + M C_o) in 2-D; full rank
    k · min(C_i, C_o). Fewer weights and fewer operations than dense where M < k C_i C_o / (C_i + C_o).
    """

    name = "succession"

    def full(self, shape: ConvShape) -> tuple[int, ...]:
        sizes = self._sizes(shape)
        return tuple(min(prod(sizes[:j]), prod(sizes[j:])) for j in range(1, len(sizes)))

    def steps(self, shape: ConvShape, ranks: Sequence[int]) -> list[Step]:
        channels = (shape.inner, *ranks, shape.outer)
        axes: list[tuple[int, ...]] = [(axis,) for axis in range(shape.ndim)]
        if shape.ndim == 1:
            axes.append(())
        return [Step(a, b, along) for (a, b), along in zip(pairwise(channels), axes, strict=True)]

    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        g, o, i, *taps = kernel.shape
        d = len(taps)
        cores = train(self._tensor(kernel), ranks)
        out = []
        for j, core in enumerate(cores):  # (g, r, n, r′) → (g, out, in, *taps)
            r, r_next = core.shape[1], core.shape[3]
            if j == 0:
                core = core.reshape(g, i, taps[0], r_next)
            elif j == d - 1:
                core = core.reshape(g, r, taps[-1], o)
            out.append(core.movedim(3, 1) if d > 1 or j == 0 else core.reshape(g, r, 1, o).movedim(3, 1))
        return out

    def spectra(self, kernel: Tensor) -> list[Tensor]:
        return bonds(self._tensor(kernel))

    def _sizes(self, shape: ConvShape) -> tuple[int, ...]:
        if shape.ndim == 1:
            return (shape.inner * shape.kernel[0], shape.outer)
        return (shape.inner * shape.kernel[0], *shape.kernel[1:-1], shape.kernel[-1] * shape.outer)

    def _tensor(self, kernel: Tensor) -> Tensor:
        """(g, i·k₁, k₂, …, k_d·o)."""
        g, o, i, *taps = kernel.shape
        moved = kernel.movedim(1, -1)  # g, i, *taps, o
        if len(taps) == 1:
            return moved.reshape(g, i * taps[0], o)
        return moved.reshape(g, i * taps[0], *taps[1:-1], taps[-1] * o)
