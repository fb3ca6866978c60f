"""The way down and up of a level as sums over tables of indices, for three axes: 27 couplings of 8 classes, unrolled,
are minutes of compilation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from sciops.numerics.differentiable_transfer import weight_keys
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities


class Table(nn.Module):
    """What both ways share. Arrays with one layer of zeros around are *held*; class number 2^d holds zeros alone."""

    near: Tensor
    near_step: Tensor
    above: Tensor
    corner: Tensor

    def __init__(self, ndim: int, table: list[Index], sweeps: int = 1) -> None:
        super().__init__()
        self.ndim, self.sweeps, self.points = ndim, sweeps, 2**ndim
        self.order = sorted(range(self.points), key=lambda k: (sum(parities(ndim)[k]) % 2, k))
        self.centre = table.index((0,) * ndim)
        links = [[neighbour(parity, offset) for parity in parities(ndim)] for offset in table]
        near = torch.tensor([[class_number(q) for q, _ in row] for row in links])
        keys = weight_keys(ndim)
        self.register_buffer("near", near, persistent=False)  # (K, P)
        self.register_buffer("near_step", torch.tensor([[s for _, s in row] for row in links]), persistent=False)
        self.register_buffer("above", torch.tensor([k for k, _ in keys]), persistent=False)  # (W,)
        self.register_buffer("corner", torch.tensor([c for _, c in keys]), persistent=False)  # (W, d)

    def hold(self, x: Tensor) -> Tensor:
        return pad(x, [1] * (2 * self.ndim))

    def read(self, held: Tensor, row: Tensor, step: Tensor) -> Tensor:
        """held (n, *blocks + 2), row (*m), step (*m, d) → (*m, *blocks), entry I from held[row, I + step]."""
        ones = (1,) * self.ndim
        where = []
        for axis, n in enumerate(held.shape[1:]):
            line = torch.arange(n - 2, device=held.device).reshape([-1 if a == axis else 1 for a in range(self.ndim)])
            where.append((step[..., axis] + 1).reshape(*row.shape, *ones) + line)
        return held[(row.reshape(*row.shape, *ones), *where)]

    def sweep(
        self, x: Tensor, known: bool, b: Tensor, stencil: Tensor, step: Tensor, keep: Tensor, forward: bool
    ) -> Tensor:
        """As `Level.sweep` on held classes (2^d + 1, *blocks + 2), the last of zeros; not `known`: all are zero."""
        for k in self.order if forward else self.order[::-1]:
            row = self.near[:, k].clone()
            row[self.centre] = self.points
            value = (b[0, k] - (stencil[0, :, k] * self.read(x, row, self.near_step[:, k])).sum(0)) * step[0, k]
            if known:
                value = value + keep[0, k] * self.inner(x[k])
            x = torch.select_scatter(x, self.hold(value), 0, k)
        return x

    def inner(self, held: Tensor) -> Tensor:
        for axis in range(held.dim() - self.ndim, held.dim()):
            held = held.narrow(axis, 1, held.shape[axis] - 2)
        return held


class TableDown(Table):
    """As `multigrid_programs.Down`."""

    def forward(
        self, b: Tensor, stencil: Tensor, weights: Tensor, step: Tensor, keep: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self.hold(torch.zeros_like(torch.cat([b[0], b[0, :1]])))
        for sweep in range(self.sweeps):
            x = self.sweep(x, sweep > 0, b, stencil, step, keep, True)
        r = b[0] - (stencil[0] * self.read(x, self.near, self.near_step)).sum(0)
        parts = self.hold(weights[0] * r[self.above])
        everything = torch.arange(len(self.above), device=b.device)
        coarse = r[0] + self.read(parts, everything, -self.corner).sum(0)
        return self.inner(x[: self.points])[None], coarse[None]


class TableUp(Table):
    """As `multigrid_programs.Up`."""

    def forward(
        self,
        x: Tensor,
        b: Tensor,
        e: Tensor,
        stencil: Tensor,
        weights: Tensor,
        step: Tensor,
        keep: Tensor,
        scale: Tensor,
    ) -> Tensor:
        e = e * scale.reshape(-1, *(1,) * self.ndim)
        parts = weights[0] * self.read(self.hold(e), torch.zeros_like(self.above), self.corner)
        raised = [x[0, k] + self._correction(parts, e[0], k) for k in range(self.points)]
        new = self.hold(torch.stack([*raised, torch.zeros_like(e[0])]))
        for _ in range(self.sweeps):
            new = self.sweep(new, True, b, stencil, step, keep, False)
        return self.inner(new[: self.points])[None]

    def _correction(self, parts: Tensor, e: Float[Tensor, "*b"], k: int) -> Tensor:
        if k == 0:
            return e
        mine = [w for w, (number, _) in enumerate(weight_keys(self.ndim)) if number == k]
        return parts[mine[0] : mine[-1] + 1].sum(0)
