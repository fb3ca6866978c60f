"""Learnt differential operators: stencils scaled by the spacing, with vanishing moments."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.core.grid import Grid
from sciops.models.function_space.extension import check_grid, check_ndim, extended, extrapolated
from sciops.models.vcycle import convolve


class DifferentialConv(nn.Module):
    """g = Σ_{|α| = order} c_α ∂^α f + O(h^accuracy): a learnt stencil times h^−order, moments below `order` zero.

    The weight lives on kernel_size^d points. Before use it is projected (least squares) onto stencils whose moments
    Σ_k w_k k^β vanish for |β| < order, without which the output grows like 1/h, and for order < |β| < order +
    accuracy. The moments |β| = order are free: they are c_α α!, and are rescaled per axis, so that grids of other
    aspect ratios have the same limit. Near walls the field is continued by the polynomial of degree order +
    accuracy − 1 through the next points: one-sided stencils of the same order. Periodic axes wrap.

    order     1 (gradients) or 2 (second derivatives); the unit is that of f per coordinate unit^order
    accuracy  2; 1 is the published form for order 1, weight minus its mean
    Cost O(c_in c_out · kernel_size^d) per point. It amplifies noise of amplitude ε to ε/h^order: unbounded on rough
    fields, as the derivative is. UsageError for kernels too small for the moments and for axes of too few points.
    Liu-Schiaffini et al., "Neural operators with localized integral and differential kernels", ICML 2024.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int = 2,
        order: int = 1,
        kernel_size: int = 3,
        accuracy: int = 2,
        groups: int = 1,
    ):
        super().__init__()
        if order not in (1, 2) or accuracy not in (1, 2) or kernel_size < 3 or kernel_size % 2 == 0:
            raise UsageError(
                f"DifferentialConv takes order and accuracy 1 or 2 and an odd kernel_size of 3 or more; got "
                f"order={order}, accuracy={accuracy}, kernel_size={kernel_size}."
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise UsageError(f"groups must divide both channel counts; got {in_channels}, {out_channels}, {groups}.")
        self.ndim, self.order, self.accuracy, self.groups = check_ndim(ndim), order, accuracy, groups
        self.reach = kernel_size // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *(kernel_size,) * ndim))
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)

        taps = list(itertools.product(range(-self.reach, self.reach + 1), repeat=ndim))
        k = torch.tensor(taps, dtype=torch.float64, device="cpu")

        def rows(degree: int) -> list[Tensor]:
            return [(k ** torch.tensor(a, device="cpu")).prod(1) for a in multi_indices(degree, ndim)]

        kept = torch.stack(rows(order))
        gone = torch.stack([r for q in (*range(order), *range(order + 1, order + accuracy)) for r in rows(q)])
        self.exponents = multi_indices(order, ndim)
        rank = int(torch.linalg.matrix_rank(gone))
        if int(torch.linalg.matrix_rank(torch.cat([gone, kept]))) != rank + len(kept):
            raise UsageError(f"kernel_size={kernel_size} is too small for order={order}, accuracy={accuracy}.")
        # Stencils as rows: w ↦ w @ project has no unwanted moment, moments @ pureᵀ is the identity on the kept ones.
        # Plain tensors, not buffers: they stay in double precision when the module moves to another dtype.
        self._project = torch.eye(len(k), dtype=torch.float64, device="cpu") - torch.linalg.pinv(gone) @ gone
        self._moments = kept
        self._pure = torch.linalg.pinv(torch.cat([gone, kept]))[:, len(gone) :]

    def forward(self, x: Float[Tensor, "n c *s"], grid: Grid) -> Float[Tensor, "n c_out *s"]:
        check_grid(x, grid, self.ndim)
        stencil = self.stencil(grid)
        for axis, kind in enumerate(grid.layout):
            if kind == "periodic":
                x = extended(x, axis + 2, self.reach, kind, "even")
            else:
                x = extrapolated(x, axis + 2, self.reach, self.order + self.accuracy - 1)
        return convolve[self.ndim](x, stencil, groups=self.groups)

    def stencil(self, grid: Grid) -> Float[Tensor, "c_out c_in *m"]:
        """The projected weight over h^order."""
        h = min(grid.spacing)
        stretch = [
            math.prod((h / ha) ** a for ha, a in zip(grid.spacing, alpha, strict=True)) - 1 for alpha in self.exponents
        ]
        matrix = self._project
        if any(stretch):
            factors = matrix.new_tensor(stretch)
            matrix = matrix + ((matrix @ self._moments.T) * factors) @ self._pure.T
        return (self.weight.flatten(2) @ (matrix / h**self.order).to(self.weight)).view_as(self.weight)

    def coefficients(self) -> Float[Tensor, "c_out c_in m"]:
        """c_α of the limit Σ c_α ∂^α, α in the order of `exponents`."""
        factorials = self._moments.new_tensor([math.prod(math.factorial(a) for a in alpha) for alpha in self.exponents])
        return self.weight.flatten(2) @ (self._project @ self._moments.T / factorials).to(self.weight)


def multi_indices(degree: int, ndim: int) -> list[tuple[int, ...]]:
    """All exponents of a degree, first axis first: (1, 0), (0, 1)."""
    return sorted((a for a in itertools.product(range(degree + 1), repeat=ndim) if sum(a) == degree), reverse=True)
