"""Operator-dependent interpolation and Galerkin coarse operators for radius-1 stencils in d dimensions."""

from itertools import product

import torch
from torch import Tensor

from sciops.core.stencil_operator import offsets
from sciops.numerics.parity_layout import Index, ParityLayout, neighbour

Entries = dict[tuple[Index, Index], Tensor]
"""(class p, offset o) → flat storage of the stencil entry, or (class p, corner c) → interpolation weight."""


def split_stencil(layout: ParityLayout, stencil: Tensor) -> Entries:
    """The non-zero entries of a (n, 3^d, *space) stencil, class by class; couplings that leave the box are cut."""
    entries: Entries = {}
    for k, offset in enumerate(offsets(len(layout.space))):
        if not bool((stencil[:, k] != 0).any()):
            continue
        storage = layout.zeros(len(layout.parities), dtype=stencil.dtype, device=stencil.device)
        layout.split(stencil[:, k], storage)
        for axis, (o, m, wrap) in enumerate(zip(offset, layout.space, layout.periodic, strict=True)):
            if o == 0 or wrap:
                continue
            edge = 0 if o < 0 else m - 1
            for parity, view in zip(layout.parities, layout.class_views(storage), strict=True):
                if parity[axis] == edge % 2:
                    view.select(axis + 1, edge // 2).zero_()
        for parity, values in zip(layout.parities, storage, strict=True):
            entries[parity, offset] = values
    return entries


def interpolation(layout: ParityLayout, entries: Entries) -> Entries:
    """Weights W[p, c]: a point of class p at index I takes W[p, c]_I from the coarse point at I + c, c ≤ p.

    Even points are coarse points. Let S be the axes on which p is odd. The stencil is summed over all other
    axes, which leaves an |S|-dimensional stencil T at the point; T u = 0 is solved for the centre with the
    neighbours already interpolated (edges, then faces, then bodies). This keeps a ∂u/∂n continuous where
    coefficients jump and gives (multi)linear weights where they do not.
    Reference: Alcouffe, Brandt, Dendy, Painter, SIAM J. Sci. Stat. Comput. 2 (1981); Dendy, J. Comput. Phys. 48 (1982).
    """
    ndim = len(layout.space)
    centre = (0,) * ndim
    like = entries[centre, centre]
    weights: Entries = {(centre, centre): torch.zeros_like(like)}
    layout.interior(weights[centre, centre]).fill_(1.0)
    layout.wrap_back(weights[centre, centre])
    for parity in sorted(layout.parities[1:], key=sum):
        collapsed = _collapse(parity, entries)
        total = layout.shifted(collapsed.pop(centre))
        # No link along S at all: leave the point to the smoother instead of dividing by rounding noise.
        usable = total > 1e-10 * layout.shifted(entries[parity, centre])
        inverse = torch.where(usable, -1.0 / torch.where(usable, total, 1.0), 0.0)
        for corner in product(*((0, 1) if p else (0,) for p in parity)):
            weights[parity, corner] = torch.zeros_like(like)
        for offset, entry in collapsed.items():
            source, shift = neighbour(parity, offset)
            scaled = layout.shifted(entry) * inverse
            for corner in product(*((0, 1) if p else (0,) for p in source)):
                target = tuple(s + c for s, c in zip(shift, corner, strict=True))
                values = layout.shifted(weights[source, corner], shift)
                layout.shifted(weights[parity, target]).addcmul_(scaled, values)
        for corner in product(*((0, 1) if p else (0,) for p in parity)):
            layout.wrap_back(weights[parity, corner])
    return weights


def coarse_stencil(layout: ParityLayout, entries: Entries, weights: Entries) -> Tensor:
    """Pᵀ A P as a stencil (n, 3^d, *sizes) on the even points, by direct products in about 5^d + 4^d steps."""
    ndim = len(layout.space)
    near = _with_ring_closed(layout, weights)
    product_ap: Entries = {}
    for (parity, offset), entry in entries.items():
        source, shift = neighbour(parity, offset)
        left = layout.shifted(entry)
        for corner in product(*((0, 1) if p else (0,) for p in source)):
            reach = tuple(s + c for s, c in zip(shift, corner, strict=True))
            if (parity, reach) not in product_ap:
                product_ap[parity, reach] = torch.zeros_like(entry)
            right = layout.shifted(near[source, corner], shift)
            layout.shifted(product_ap[parity, reach]).addcmul_(left, right)
    table = {offset: k for k, offset in enumerate(offsets(ndim))}
    like = entries[(0,) * ndim, (0,) * ndim]
    coarse = torch.zeros((len(table), layout.total), dtype=like.dtype, device=like.device)
    for storage in weights.values():
        layout.wrap_front(storage)
    for (parity, reach), entry in product_ap.items():
        layout.wrap_front(entry)
        for corner in product(*((0, 1) if p else (0,) for p in parity)):
            back = tuple(-c for c in corner)
            offset = tuple(r - c for r, c in zip(reach, corner, strict=True))
            row = coarse[table[offset]]
            row.addcmul_(layout.shifted(weights[parity, corner], back), layout.shifted(entry, back))
    view = coarse.view(len(table), layout.n, *layout.widths)
    for axis, (size, wrap) in enumerate(zip(layout.sizes, layout.periodic, strict=True)):
        view = view.narrow(axis + 2, int(wrap), size)
    return view.transpose(0, 1)


def fold_short_axes(stencil: Tensor, periodic: tuple[bool, ...]) -> tuple[Tensor, tuple[bool, ...]]:
    """On a periodic axis of length 1 both neighbours are the point itself: add them to the centre."""
    ndim = len(periodic)
    for axis, wrap in enumerate(periodic):
        if wrap and stencil.shape[2 + axis] == 1:
            blocks = stencil.unflatten(1, (3,) * ndim).movedim(1 + axis, 0)
            folded = torch.zeros_like(blocks)
            folded[1] = blocks.sum(0)
            stencil = folded.movedim(0, 1 + axis).flatten(1, ndim)
            periodic = (*periodic[:axis], False, *periodic[axis + 1 :])
    return stencil, periodic


def _collapse(parity: Index, entries: Entries) -> Entries:
    """Sum the stencil of one class over offsets along the axes on which the class is even."""
    collapsed: dict[Index, Tensor] = {}
    for (p, offset), entry in entries.items():
        if p == parity:
            along = tuple(o if odd else 0 for o, odd in zip(offset, parity, strict=True))
            collapsed[along] = collapsed[along] + entry if along in collapsed else entry
    return collapsed  # type: ignore[return-value]


def _with_ring_closed(layout: ParityLayout, weights: Entries) -> Entries:
    """Weights as seen through the ghosts of periodic axes (see ParityLayout.fill for odd lengths)."""
    if not any(layout.periodic):
        return weights
    closed = {key: storage.clone() for key, storage in weights.items()}
    for axis, (m, wrap) in enumerate(zip(layout.space, layout.periodic, strict=True)):
        if not wrap:
            continue
        last = layout.sizes[axis]
        for (parity, corner), storage in closed.items():
            view = layout.padded(storage)
            if m % 2 == 0:
                view.select(axis + 1, 0).copy_(view.select(axis + 1, last))
                view.select(axis + 1, last + 1).copy_(view.select(axis + 1, 1))
            elif parity[axis]:
                even = (*parity[:axis], 0, *parity[axis + 1 :])
                base = layout.padded(closed[even, (*corner[:axis], 0, *corner[axis + 1 :])])
                slot, source = (last, 1) if corner[axis] else (0, last)
                view.select(axis + 1, slot).copy_(base.select(axis + 1, source))
                view.select(axis + 1, last - slot).zero_()
            else:
                view.select(axis + 1, last + 1).copy_(view.select(axis + 1, 1))
    return closed
