"""Canonical polyadic form of a whole kernel: pointwise, depthwise along each axis, pointwise."""

from collections.abc import Sequence
from math import prod

from torch import Tensor

from sciops.models.compressed.chain import Step
from sciops.models.compressed.decompositions import cp, rank_one_terms
from sciops.models.compressed.scheme import ChainScheme
from sciops.models.compressed.shape import ConvShape


class CanonicalPolyadic(ChainScheme):
    """W[o,i,k₁…k_d] = Σ_r c[o,r] b[r,i] a¹[r,k₁] … a^d[r,k_d]: 1×1 to R channels, a filter along each axis that does
    not mix them, 1×1 to C_o. Weights R (C_i + C_o + Σ k).

    The fewest weights of all schemes. It trains slowest, and filters of depth one are no faster than dense
    convolutions on a CPU: measure with `merge_for_inference`. From a dense kernel by alternating least squares, which
    finds a local minimum; full rank is C_i C_o Π k over the largest of these numbers.
    Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015.
    """

    name = "cp"

    def full(self, shape: ConvShape) -> tuple[int, ...]:
        sizes = (shape.outer, shape.inner, *shape.kernel)
        return (prod(sizes) // max(sizes),)

    def steps(self, shape: ConvShape, ranks: Sequence[int]) -> list[Step]:
        (rank,) = ranks
        filters = [Step(rank, rank, (axis,), depthwise=True) for axis in range(shape.ndim)]
        return [Step(shape.inner, rank), *filters, Step(rank, shape.outer)]

    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        last, first, *filters = cp(kernel, ranks[0])  # each (g, R, n)
        return [first, *filters, last.mT]

    def spectra(self, kernel: Tensor) -> list[Tensor]:
        return [rank_one_terms(kernel)[0]]
