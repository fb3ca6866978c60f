"""Tucker form over the channels: pointwise, a small dense convolution, pointwise."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, linalg

from sciops.models.compressed.chain import Step
from sciops.models.compressed.decompositions import tucker, unfold
from sciops.models.compressed.scheme import ChainScheme
from sciops.models.compressed.shape import ConvShape


class Tucker(ChainScheme):
    """W[o,i,k] = Σ_pq U[o,p] G[p,q,k] V[i,q]: 1×1 to R_i channels, the core over all axes to R_o, 1×1 to C_o.

    Ranks (R_o, R_i). The axes of the grid keep all their taps: they are few, and a core without them would be rebuilt
    at each call. From a dense kernel by higher-order SVD, error² ≤ the squared singular values left out of both
    unfoldings. Weights C_i R_i + R_i R_o Π k + R_o C_o: much for wide kernels, whose taps it leaves alone.
    Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile applications",
    ICLR 2016.
    """

    name = "tucker"

    def full(self, shape: ConvShape) -> tuple[int, ...]:
        taps = prod(shape.kernel)
        return min(shape.outer, shape.inner * taps), min(shape.inner, shape.outer * taps)

    def steps(self, shape: ConvShape, ranks: Sequence[int]) -> list[Step]:
        r_out, r_in = ranks
        core = Step(r_in, r_out, tuple(range(shape.ndim)))
        return [Step(shape.inner, r_in), core, Step(r_out, shape.outer)]

    def factor(self, kernel: Tensor, ranks: Sequence[int]) -> list[Tensor]:
        core, (u, v) = tucker(kernel, ranks)
        return [v.mT, core, u]

    def spectra(self, kernel: Tensor) -> list[Tensor]:
        return [linalg.svdvals(unfold(kernel, axis)) for axis in (0, 1)]
