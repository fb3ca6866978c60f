"""Tensor train along input channels, axes and output channels."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor

from sciops.models.compressed.chain import Step
from sciops.models.compressed.decompositions import bonds, train
from sciops.models.compressed.scheme import ChainScheme
from sciops.models.compressed.shape import ConvShape


class TensorTrain(ChainScheme):
    """W[o,i,k₁…k_d] = G₀[i] G₁[k₁] … G_d[k_d] G_{d+1}[o], matrices with r₀ … r_d channels between them.

    Applied as: 1×1 from C_i to r₀, one step along each axis, 1×1 from r_d to C_o. Sequential SVD, quasi-optimal
    (error at most √(d+1) times the best). Succession is the train with the outer two pairs of cores multiplied out.
    Oseledets, "Tensor-train decomposition", SIAM J. Sci. Comput. 33 (2011).
    """

    name = "tt"

    def full(self, shape: ConvShape) -> tuple[int, ...]:
        sizes = (shape.inner, *shape.kernel, shape.outer)
        return tuple(min(prod(sizes[:j]), prod(sizes[j:])) for j in range(1, len(sizes)))

    def steps(self, shape: ConvShape, ranks: Sequence[int]) -> list[Step]:
        channels = (shape.inner, *ranks, shape.outer)
        axes: list[tuple[int, ...]] = [(), *((axis,) for axis in range(shape.ndim)), ()]
        return [Step(a, b, along) for (a, b), along in zip(pairwise(channels), axes, strict=True)]

    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        *cores, last = train(self._tensor(kernel), ranks)  # each (g, r, n, r′)
        return [*(core.movedim(3, 1) for core in cores), last[..., 0].mT]

    def spectra(self, kernel: Tensor) -> list[Tensor]:
        return bonds(self._tensor(kernel))

    def _tensor(self, kernel: Tensor) -> Tensor:
        """(g, i, k₁, …, k_d, o)."""
        return kernel.movedim(1, -1)
