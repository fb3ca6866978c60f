"""Operator-dependent interpolation and the Galerkin product on arrays by parity class, as functions of the entries.

Everything is out of place, so that gradients flow to the stencil and to the advice.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sciops.core.stencil_operator import offsets
from sciops.numerics.galerkin import NO_LINK, corners
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities

CANCELLED = 1e-6
"""Tilted weights whose sum is this small beside what it was are not brought back to it."""

NEGLIGIBLE = 1e-12
"""Interpolation weights that small are none."""

Rows = dict[tuple[int, Index], Tensor]
"""(class, offset) → stencil entry, or (class, corner) → interpolation weight; arrays (n, *blocks)."""


def weight_keys(ndim: int) -> list[tuple[int, Index]]:
    """(class, corner) of the weights of points that are not coarse: 8 in 2-D, 26 in 3-D; edges, faces, bodies."""
    return [(class_number(p), corner) for p in sorted(parities(ndim)[1:], key=sum) for corner in corners(p)]


def shift(x: Tensor, step: Index) -> Tensor:
    """Entry I of the result is x[I + step], zero outside; step ∈ {−1, 0, 1}^d on the last axes."""
    if not any(step):
        return x
    ndim = len(step)
    amounts, window = [], [slice(None)] * (x.dim() - ndim)
    for axis, s in enumerate(step, start=x.dim() - ndim):
        window.append(slice(max(s, 0), x.shape[axis] + min(s, 0)))
        amounts.append((max(-s, 0), max(s, 0)))
    return pad(x[tuple(window)], [a for pair in reversed(amounts) for a in pair])


class Ghosted:
    """Class arrays with one layer of zeros around each; shifted reads are views."""

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self.rows: dict[int, Tensor] = {}

    def put(self, k: int, x: Tensor) -> None:
        self.rows[k] = pad(x, [1] * (2 * self.ndim))

    def at(self, k: int, step: Index) -> Tensor:
        x = self.rows[k]
        for axis, s in enumerate(step, start=1):
            x = x.narrow(axis, 1 + s, x.shape[axis] - 2)
        return x


def interpolation(rows: Rows, ndim: int, tilt: Tensor | None = None) -> Rows:
    """Weights W[p, c] as in `galerkin.interpolation`, tilted where there is advice, edges before faces before bodies.

    w_c ← w_c e^{t_c} · Σ w / Σ w e^t, which keeps Σ w: constants stay where they were interpolated exactly. Points
    whose new sum nearly cancels (weights of both signs) keep their weights.
    """
    centre = (0,) * ndim
    like = rows[0, centre]
    weights: Rows = {(0, centre): torch.ones_like(like)}
    tilts = {} if tilt is None else dict(zip(weight_keys(ndim), tilt.unbind(1), strict=True))
    for parity in sorted(parities(ndim)[1:], key=sum):
        k = class_number(parity)
        collapsed = _collapse(rows, parity)
        if sum(parity) == 1:
            _add_detours(rows, parity, collapsed)
        total = collapsed.pop(centre)
        usable = total > 1e-10 * rows[k, centre]
        inverse = torch.where(usable, -1.0 / torch.where(usable, total, 1.0), 0.0)
        found: dict[Index, Tensor] = {}
        for along, entry in collapsed.items():
            source, step = neighbour(parity, along)
            scaled = entry * inverse
            for corner in corners(source):
                target = tuple(s + c for s, c in zip(step, corner, strict=True))
                term = scaled * shift(weights[class_number(source), corner], step)
                found[target] = found[target] + term if target in found else term
        if tilts and found:
            found = _tilted(found, {corner: tilts[k, corner] for corner in found})
        unknown = rows[k, centre] > 0
        for corner in corners(parity):
            if corner not in found:
                weights[k, corner] = torch.zeros_like(like)
                continue
            # Quotients of nothing, where no link or no unknown is: they would become tiny coarse diagonals.
            weights[k, corner] = torch.where(unknown & (found[corner].abs() > NEGLIGIBLE), found[corner], 0.0)
    return weights


def coarse_stencil(rows: Rows, weights: Rows, ndim: int) -> Float[Tensor, "n k *s"]:
    """Pᵀ A P on the even points, (n, 3^d, *blocks)."""
    table = offsets(ndim)
    sums: dict[Index, Tensor] = {}
    for parity in parities(ndim):
        k = class_number(parity)
        reached: dict[Index, Tensor] = {}
        for (number, offset), entry in rows.items():
            if number != k:
                continue
            source, step = neighbour(parity, offset)
            for corner in corners(source):
                reach = tuple(s + c for s, c in zip(step, corner, strict=True))
                factor = shift(weights[class_number(source), corner], step)
                reached[reach] = torch.addcmul(reached[reach], entry, factor) if reach in reached else entry * factor
        for corner in corners(parity):
            back = tuple(-c for c in corner)
            weight = weights[k, corner]
            for reach, row in reached.items():
                target = tuple(r - c for r, c in zip(reach, corner, strict=True))
                term = shift(weight * row, back)
                sums[target] = sums[target] + term if target in sums else term
    zero = torch.zeros_like(rows[0, (0,) * ndim])
    return torch.stack([sums.get(offset, zero) for offset in table], dim=1)


def _collapse(rows: Rows, parity: Index) -> dict[Index, Tensor]:
    """Sum the stencil of one class over the axes on which the class is even."""
    collapsed: dict[Index, Tensor] = {}
    k = class_number(parity)
    for (number, offset), entry in rows.items():
        if number == k:
            along = tuple(o if odd else 0 for o, odd in zip(offset, parity, strict=True))
            collapsed[along] = collapsed[along] + entry if along in collapsed else entry
    return collapsed


def _add_detours(rows: Rows, parity: Index, collapsed: dict[Index, Tensor]) -> None:
    """The parallel paths point → sideways → along → back of `galerkin`, three conductances in series."""
    ndim, axis, k = len(parity), parity.index(1), class_number(parity)
    centre = (0,) * ndim
    units = [tuple(o if a == b else 0 for b in range(ndim)) for a in range(ndim) if a != axis for o in (-1, 1)]
    for along in (tuple(o if a == axis else 0 for a in range(ndim)) for o in (-1, 1)):
        _, forth = neighbour(parity, along)
        for side in units:
            beside, step = neighbour(parity, side)
            legs = ((k, side), (class_number(beside), along), (0, side))
            if (k, along) in rows and all(leg in rows for leg in legs):
                first, second, third = ((-rows[leg]).clamp(min=NO_LINK).reciprocal() for leg in legs)
                path = (first + _far(second, step) + _far(third, forth)).reciprocal()
                collapsed[along] = collapsed[along] - path
                collapsed[centre] = collapsed[centre] + path


def _far(resistance: Tensor, step: Index) -> Tensor:
    """A resistance read at a neighbour; beyond the grid there is no link."""
    shifted = shift(resistance, step)
    return torch.where(shifted > 0, shifted, 1.0 / NO_LINK)


def _tilted(weights: dict[Index, Tensor], tilts: dict[Index, Tensor]) -> dict[Index, Tensor]:
    raised = {corner: w * torch.exp(tilts[corner]) for corner, w in weights.items()}
    before, after = _total(weights), _total(raised)
    usable = after.abs() > CANCELLED * before.abs()
    back = torch.where(usable, before / torch.where(usable, after, 1.0), 0.0)
    usable = back != 0
    return {corner: torch.where(usable, w * back, weights[corner]) for corner, w in raised.items()}


def _total(terms: dict[Index, Tensor]) -> Tensor:
    first, *rest = terms.values()
    for term in rest:
        first = first + term
    return first
