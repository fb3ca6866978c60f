"""One level of the advised multigrid as three programs over blocks, in a form that compiles once for every size."""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.stencil_operator import offsets
from sciops.embed.coarse_program import CoarseStencil
from sciops.embed.interpolation_program import Interpolation
from sciops.models.learned_multigrid import DECADES, StencilAdviser
from sciops.numerics.differentiable_multigrid import Advice
from sciops.numerics.differentiable_transfer import Rows, coarse_stencil, interpolation, shift, weight_keys
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities

STATES = ["stencil", "weights", "step", "keep", "scale"]
"""What `down` and `up` need of a level, in this order: the stencil in blocks, then outputs of `setup`."""


def face_offsets(ndim: int) -> list[Index]:
    """The offsets of a 5-point or 7-point stencil, in the order of `offsets`."""
    return [o for o in offsets(ndim) if sum(map(abs, o)) <= 1]


def block_features(stencil: Float[Tensor, "n k p *b"], places: list[int], dtype: torch.dtype) -> Tensor:
    """`models.learned_multigrid.features` of a stencil that is in blocks already; `places`: of its entries in 3^d."""
    entries, ndim = stencil.shape[1], stencil.dim() - 3
    full = 3**ndim
    centre = places.index(full // 2)
    diagonal = stencil[:, centre]
    positive = diagonal > 0
    inverse = torch.where(positive, 1.0 / torch.where(positive, diagonal, 1.0), 0.0)

    def signed(ratios: Tensor) -> Tensor:
        sizes = ratios.abs().clamp(10.0**-DECADES, 10.0).log10() / DECADES + 1.0
        return torch.where(ratios < 0, -sizes, sizes)

    none = torch.zeros_like(diagonal, dtype=dtype)
    held = dict(zip(places, range(entries), strict=True))
    seen = [
        signed((stencil[:, held[k]] * -inverse).to(dtype)) if k in held else none for k in range(full) if k != full // 2
    ]
    seen.append(signed((stencil.sum(1) * inverse).to(dtype)))
    largest = diagonal.amax(1, keepdim=True)
    relative = (diagonal / torch.where(largest > 0, largest, 1.0)).to(dtype)
    seen.append(relative.clamp(min=10.0**-DECADES).log10() / DECADES + 1.0)
    return torch.stack(seen, dim=1).flatten(1, 2).movedim(1, -1)


class Level(nn.Module):
    """What the three programs of a level share. `table`: offsets of the stencil entries that are kept."""

    def __init__(self, ndim: int, table: list[Index], sweeps: int = 1) -> None:
        super().__init__()
        self.ndim, self.table, self.sweeps, self.points = ndim, table, sweeps, 2**ndim
        self.keys = weight_keys(ndim)
        self.order = sorted(range(self.points), key=lambda k: (sum(parities(ndim)[k]) % 2, k))
        self.centre = table.index((0,) * ndim)

    def sweep(
        self, x: list[Tensor] | None, b: Tensor, stencil: Tensor, step: Tensor, keep: Tensor, forward: bool
    ) -> list[Tensor]:
        """As `DifferentiableLevel.sweep`; x None means zero."""
        new: dict[int, Tensor] = {} if x is None else dict(enumerate(x))
        for k in self.order if forward else self.order[::-1]:
            total = b[:, k]
            for i, offset in enumerate(self.table):
                source, move = neighbour(parities(self.ndim)[k], offset)
                q = class_number(source)
                if i != self.centre and q in new:
                    total = total - stencil[:, i, k] * shift(new[q], move)
            value = total * step[:, k]
            new[k] = value + keep[:, k] * new[k] if k in new else value
        return [new[k] for k in range(self.points)]


class Setup(Level):
    """stencil (1, K, P, *blocks) → weights (1, W, *blocks), step and keep (1, P, *blocks), scale (1,), and the coarse
    stencil (1, 3^d, *blocks). P = 2^d points of a block, W = 3^d − 1 interpolation weights of `weight_keys`."""

    def __init__(self, ndim: int, table: list[Index], net: StencilAdviser | None) -> None:
        super().__init__(ndim, table)
        self.net = net
        # Unrolled as in two dimensions these would be thousands of statements and many minutes of compilation.
        self.interpolation = Interpolation(ndim, table) if ndim == 3 else None
        self.coarse = CoarseStencil(ndim, table) if ndim == 3 else None
        self.places = [offsets(ndim).index(o) for o in table]

    def forward(self, stencil: Tensor) -> tuple[Tensor, ...]:
        diagonal = stencil[:, self.centre]
        positive = diagonal > 0
        inverse = torch.where(positive, 1.0 / torch.where(positive, diagonal, 1.0), 0.0)
        if self.net is None:
            step, keep, scale, tilt = inverse, torch.zeros_like(inverse), stencil.new_ones(1), None
        else:
            advice = self.advice(stencil)
            step, keep = advice.relaxation * inverse, 1.0 - advice.relaxation
            scale, tilt = advice.scale, advice.tilt
        if self.interpolation is not None and self.coarse is not None:
            stacked = self.interpolation(stencil, tilt)
            coarse = self.coarse(stencil, stacked)
        else:
            rows: Rows = {(k, o): stencil[:, i, k] for (i, o), k in product(enumerate(self.table), range(self.points))}
            weights = interpolation(rows, self.ndim, tilt)
            stacked = torch.stack([weights[key] for key in self.keys], dim=1)
            coarse = coarse_stencil(rows, weights, self.ndim)
        # The network works with channels last; the other programs are compiled for contiguous states.
        return stacked, step.contiguous(), keep.contiguous(), scale, coarse

    def advice(self, stencil: Tensor) -> Advice:
        assert self.net is not None
        said = self.net.say_of(block_features(stencil, self.places, self.net.read.weight.dtype))
        return self.net.bounded(torch.where(torch.isfinite(said), said, 0.0), stencil.dtype)


class Down(Level):
    """b (1, P, *blocks) and the states → x after the forward sweeps from zero, Pᵀ(b − A x) (1, *blocks)."""

    def forward(
        self, b: Tensor, stencil: Tensor, weights: Tensor, step: Tensor, keep: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        x: list[Tensor] | None = None
        for _ in range(self.sweeps):
            x = self.sweep(x, b, stencil, step, keep, True)
        assert x is not None
        r = []
        for k in range(self.points):
            total = b[:, k]
            for i, offset in enumerate(self.table):
                source, move = neighbour(parities(self.ndim)[k], offset)
                total = total - stencil[:, i, k] * shift(x[class_number(source)], move)
            r.append(total)
        coarse = r[0]
        for w, (k, corner) in enumerate(self.keys):
            coarse = coarse + shift(weights[:, w] * r[k], tuple(-c for c in corner))
        return torch.stack(x, dim=1), coarse


class Up(Level):
    """x, b (1, P, *blocks), e (1, *blocks) and the states → x + s P e after the backward sweeps."""

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
        new = list(x.unbind(1))
        new[0] = new[0] + e
        for w, (k, corner) in enumerate(self.keys):
            new[k] = new[k] + weights[:, w] * shift(e, corner)
        for _ in range(self.sweeps):
            new = self.sweep(new, b, stencil, step, keep, False)
        return torch.stack(new, dim=1)
