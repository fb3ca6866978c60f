"""Pᵀ A P as sums over tables of indices: a few small loops whatever the dimension, where unrolled code would be
thousands of statements and minutes of compilation."""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from sciops.core.stencil_operator import offsets
from sciops.numerics.differentiable_transfer import weight_keys
from sciops.numerics.galerkin import corners
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities

Term = tuple[int, Index, int, Index]
"""Row of the left array, its shift, row of the right array, its shift."""


LENGTHS = (1, 4, 12, 27)
"""Numbers of terms of the loops; no output has more than 27."""


def held(x: Float[Tensor, "a *s"]) -> Float[Tensor, "c *p"]:
    """With one layer of zeros around, and one row of zeros more."""
    return pad(x, [1] * (2 * (x.dim() - 1)) + [0, 1])


class ShiftedSums(nn.Module):
    """out[j]_I = Σ_t left[a_t]_{I+s_t} · right[b_t]_{I+u_t}, shifts in {−1, 0, 1}^d, zero outside.

    `left` and `right` come padded by one layer of zeros, `left` with a last row of zeros besides (`held`). Outputs with
    about as many terms share one loop, the shorter filled with terms of that row: compilers charge by the loop.
    """

    order: Tensor

    def __init__(self, sums: list[list[Term]], ndim: int) -> None:
        super().__init__()
        groups: dict[int, list[int]] = defaultdict(list)
        for j, terms in enumerate(sums):
            groups[next(count for count in LENGTHS if count >= len(terms))].append(j)
        self.ndim, self.count = ndim, len(groups)
        places = [j for count in sorted(groups) for j in groups[count]]
        self.register_buffer("order", torch.tensor([places.index(j) for j in range(len(sums))]), persistent=False)
        for g, count in enumerate(sorted(groups)):
            nothing: Term = (-1, (0,) * ndim, 0, (0,) * ndim)
            longest = max(len(sums[j]) for j in groups[count])
            chosen = [sums[j] + [nothing] * (longest - len(sums[j])) for j in groups[count]]
            rows = torch.tensor([[(a, b) for a, _, b, _ in terms] for terms in chosen])
            steps = torch.tensor([[(s, u) for _, s, _, u in terms] for terms in chosen]) + 1
            self.register_buffer(f"rows{g}", rows, persistent=False)  # (outputs, terms, 2)
            self.register_buffer(f"steps{g}", steps, persistent=False)  # (outputs, terms, 2, d)

    def forward(self, left: Float[Tensor, "a *p"], right: Float[Tensor, "b *p"]) -> Float[Tensor, "c *s"]:
        ones = (1,) * self.ndim
        axes = [
            torch.arange(n - 2, device=left.device).reshape([-1 if a == axis else 1 for a in range(self.ndim)])
            for axis, n in enumerate(left.shape[1:])
        ]
        found = []
        for g in range(self.count):
            rows, steps = getattr(self, f"rows{g}"), getattr(self, f"steps{g}")
            factors = []
            for side, values in enumerate((left, right)):
                where = [steps[:, :, side, a].reshape(*rows.shape[:2], *ones) + axis for a, axis in enumerate(axes)]
                factors.append(values[(rows[:, :, side].reshape(*rows.shape[:2], *ones), *where)])
            found.append((factors[0] * factors[1]).sum(1))
        return torch.cat(found).index_select(0, self.order)


class CoarseStencil(nn.Module):
    """stencil (1, K, P, *blocks) with offsets `table`, weights (1, W, *blocks) of `weight_keys` → Pᵀ A P, (1, 3^d,
    *blocks), as `differentiable_transfer.coarse_stencil`."""

    def __init__(self, ndim: int, table: list[Index]) -> None:
        super().__init__()
        zero, points = (0,) * ndim, 2**ndim
        self.ndim = ndim
        weight_row = {key: row for row, key in enumerate([(0, zero), *weight_keys(ndim)])}
        products: dict[tuple[int, Index], list[Term]] = defaultdict(list)  # A P by class and reach
        for k, parity in enumerate(parities(ndim)):
            for i, offset in enumerate(table):
                source, step = neighbour(parity, offset)
                for corner in corners(source):
                    reach = tuple(s + c for s, c in zip(step, corner, strict=True))
                    products[k, reach].append((i * points + k, zero, weight_row[class_number(source), corner], step))
        product_row = {key: row for row, key in enumerate(products)}
        targets: dict[Index, list[Term]] = {offset: [] for offset in offsets(ndim)}
        for (k, reach), row in product_row.items():
            for corner in corners(parities(ndim)[k]):
                back = tuple(-c for c in corner)
                target = tuple(r - c for r, c in zip(reach, corner, strict=True))
                targets[target].append((weight_row[k, corner], back, row, back))
        self.right, self.left = ShiftedSums(list(products.values()), ndim), ShiftedSums(list(targets.values()), ndim)

    def forward(self, stencil: Tensor, weights: Tensor) -> Tensor:
        moved = held(torch.cat([torch.ones_like(weights[0, :1]), weights[0]]))
        return self.left(moved, held(self.right(held(stencil[0].flatten(0, 1)), moved)))[None]
