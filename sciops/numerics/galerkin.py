"""Operator-dependent interpolation and Galerkin coarse operators for radius-1 stencils in d dimensions."""

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from sciops.core.stencil_operator import offsets
from sciops.numerics.parity_layout import Index, ParityLayout, class_number, neighbour, parities

Entries = dict[tuple[int, Index], Tensor]
"""(class, offset o) → flat storage of a stencil entry, or (class, corner c) → of an interpolation weight."""

NO_LINK = 1e-30
"""Conductance that stands for none, small against any 1/h² and safe to invert in float32."""


def corners(parity: Index) -> list[Index]:
    """The coarse points I + c that a point of this class is interpolated from."""
    return list(product(*((0, 1) if p else (0,) for p in parity)))


def cut_at_box(stencil: Tensor, table: list[Index], periodic: tuple[bool, ...]) -> None:
    """Zero, in place, the couplings of a (k, n, *space) stencil that leave the box."""
    for k, offset in enumerate(table):
        for axis, o in enumerate(offset):
            if o and not periodic[axis]:
                stencil[k].select(axis + 1, 0 if o < 0 else -1).zero_()


def split_stencil(layout: ParityLayout, stencil: Tensor, table: list[Index]) -> tuple[Tensor, Entries]:
    """Class storage (2^d, k, …) of a (k, n, *space) stencil with these offsets, and its rows by class and offset."""
    storage = layout.zeros(len(layout.parities), len(table), dtype=stencil.dtype, device=stencil.device)
    layout.split(stencil, storage)
    rows = [row for block in storage.unbind(0) for row in block.unbind(0)]
    keys = product(range(len(layout.parities)), table)
    return storage, dict(zip(keys, rows, strict=True))


def interpolation(layout: ParityLayout, entries: Entries) -> tuple[Tensor, Entries]:
    """Weights W[p, c]: a point of class p at index I takes W[p, c]_I from the coarse point at I + c, c ≤ p.

    Even points are coarse points. Let S be the axes on which p is odd. The stencil is summed over all other
    axes, which leaves an |S|-dimensional stencil T at the point; T u = 0 is solved for the centre with the
    neighbours already interpolated (edges, then faces, then bodies). This keeps a ∂u/∂n continuous where
    coefficients jump and gives (multi)linear weights where they do not. On edges (|S| = 1) the detours through the
    neighbouring lines count as parallel conductances: a point whose only strong link leads sideways then follows the
    coarse point that it is really connected to. Returns all weights as one storage (3^d, …) and its rows.
    Reference: Alcouffe, Brandt, Dendy, Painter, SIAM J. Sci. Stat. Comput. 2 (1981); Dendy, J. Comput. Phys. 48 (1982).
    """
    centre = (0,) * len(layout.space)
    like = entries[0, centre]
    keys = [(k, corner) for k, parity in enumerate(layout.parities) for corner in corners(parity)]
    storage = layout.zeros(len(keys), dtype=like.dtype, device=like.device)
    weights: Entries = dict(zip(keys, storage.unbind(0), strict=True))
    layout.interior(weights[0, centre]).fill_(1.0)
    layout.wrap_back(weights[0, centre])
    for parity in sorted(layout.parities[1:], key=sum):
        k = class_number(parity)
        collapsed = _collapse(layout, parity, entries)
        if sum(parity) == 1:
            _add_detours(layout, parity, entries, collapsed)
        total = collapsed.pop(centre)
        # No link along S at all: leave the point to the smoother instead of dividing by rounding noise.
        usable = total > 1e-10 * layout.core(entries[k, centre])
        inverse = torch.where(usable, -1.0 / torch.where(usable, total, 1.0), 0.0)
        for along, entry in collapsed.items():
            source, shift = neighbour(parity, along)
            scaled = entry * inverse
            for corner in corners(source):
                target = tuple(s + c for s, c in zip(shift, corner, strict=True))
                values = layout.shifted(weights[class_number(source), corner], shift)
                layout.core(weights[k, target]).addcmul_(scaled, values)
        for corner in corners(parity):
            layout.wrap_back(weights[k, corner])
    return storage, weights


def coarse_stencil(layout: ParityLayout, entries: Entries, storage: Tensor, weights: Entries) -> Tensor:
    """Pᵀ A P as a stencil (3^d, n, *sizes) on the even points, by direct products (at most 9^d + 7^d of them)."""
    near = _with_ring_closed(layout, weights)
    layout.wrap_front(storage)
    plan = _product_plan(len(layout.space), frozenset(offset for _, offset in entries))
    # One class after the other, so that its few rows of A P stay in the cache and are allocated once.
    scratch = layout.hollow(max(len(rows) for rows, _ in plan), dtype=storage.dtype, device=storage.device)
    table = {offset: i for i, offset in enumerate(offsets(len(layout.space)))}
    coarse = torch.zeros((len(table), layout.total), dtype=storage.dtype, device=storage.device)
    sums = coarse.unbind(0)
    for k, (reaches, steps) in enumerate(plan):
        rows = scratch[: len(reaches)].unbind(0)
        targets = [layout.core(row) for row in rows]
        left = {offset: layout.core(entries[k, offset]) for offset in {step[0] for step in steps}}
        for offset, q, corner, shift, row, first in steps:
            factor = layout.shifted(near[q, corner], shift)
            if first:
                torch.mul(left[offset], factor, out=targets[row])
            else:
                targets[row].addcmul_(left[offset], factor)
        layout.wrap_front(scratch[: len(reaches)])
        for corner in corners(layout.parities[k]):
            back = tuple(-c for c in corner)
            weight = layout.shifted(weights[k, corner], back)
            for reach, row_values in zip(reaches, rows, strict=True):
                target = sums[table[tuple(r - c for r, c in zip(reach, corner, strict=True))]]
                if k == 0:
                    target.add_(layout.core(row_values))
                else:
                    target.addcmul_(weight, layout.shifted(row_values, back))
    view = coarse.view(len(table), layout.n, *layout.widths)
    for axis, (size, wrap) in enumerate(zip(layout.sizes, layout.periodic, strict=True)):
        view = view.narrow(axis + 2, int(wrap), size)
    return view


def fold_short_axes(stencil: Tensor, periodic: tuple[bool, ...]) -> tuple[Tensor, tuple[bool, ...]]:
    """On a periodic axis of length 1 both neighbours are the point itself: add them to the centre."""
    ndim = len(periodic)
    for axis, wrap in enumerate(periodic):
        if wrap and stencil.shape[2 + axis] == 1:
            blocks = stencil.unflatten(0, (3,) * ndim).movedim(axis, 0)
            folded = torch.zeros_like(blocks)
            folded[1] = blocks.sum(0)
            stencil = folded.movedim(0, axis).flatten(0, ndim - 1)
            periodic = (*periodic[:axis], False, *periodic[axis + 1 :])
    return stencil, periodic


Step = tuple[Index, int, Index, Index, int, bool]


@lru_cache(maxsize=32)
def _product_plan(ndim: int, active: frozenset[Index]) -> list[tuple[list[Index], list[Step]]]:
    """Per class the reaches (coarse offsets) of its rows of A P, and the products that make them.

    A product: (offset o, class q of the neighbour, its corner c, shift s, row of the reach s + c, first of the row).
    """
    plan = []
    for parity in parities(ndim):
        reaches: list[Index] = []
        steps: list[Step] = []
        for offset in sorted(active):
            source, shift = neighbour(parity, offset)
            for corner in corners(source):
                reach = tuple(s + c for s, c in zip(shift, corner, strict=True))
                first = reach not in reaches
                if first:
                    reaches.append(reach)
                steps.append((offset, class_number(source), corner, shift, reaches.index(reach), first))
        plan.append((reaches, steps))
    return plan


def _collapse(layout: ParityLayout, parity: Index, entries: Entries) -> dict[Index, Tensor]:
    """Sum the stencil of one class over offsets along the axes on which the class is even."""
    collapsed: dict[Index, Tensor] = {}
    k = class_number(parity)
    for (number, offset), entry in entries.items():
        if number == k:
            along = tuple(o if odd else 0 for o, odd in zip(offset, parity, strict=True))
            values = layout.core(entry)
            collapsed[along] = collapsed[along] + values if along in collapsed else values
    return collapsed


def _add_detours(layout: ParityLayout, parity: Index, entries: Entries, collapsed: dict[Index, Tensor]) -> None:
    """Add to an edge stencil the paths point → sideways → along → back, three conductances −a_ij in series."""
    ndim, axis, k = len(parity), parity.index(1), class_number(parity)
    centre = (0,) * ndim
    units = [tuple(o if a == b else 0 for b in range(ndim)) for a in range(ndim) if a != axis for o in (-1, 1)]
    ahead = [tuple(o if a == axis else 0 for a in range(ndim)) for o in (-1, 1)]
    needed = [(j, side) for side in units for j in (k, 0)]
    needed += [(class_number(neighbour(parity, side)[0]), along) for side in units for along in ahead]
    resistance = {key: entries[key].neg().clamp_(min=NO_LINK).reciprocal_() for key in needed if key in entries}
    for along in ahead:
        _, shift = neighbour(parity, along)
        for side in units:
            beside, step = neighbour(parity, side)
            legs = ((k, side), (class_number(beside), along), (0, side))
            if (k, along) in entries and all(leg in resistance for leg in legs):
                first, second, third = (resistance[leg] for leg in legs)
                path = layout.core(first) + layout.shifted(second, step)
                path.add_(layout.shifted(third, shift)).reciprocal_()
                collapsed[along] = collapsed[along] - path
                collapsed[centre] = path.add_(collapsed[centre])


def _with_ring_closed(layout: ParityLayout, weights: Entries) -> Entries:
    """Weights as seen through the ghosts of periodic axes (see ParityLayout.fill for odd lengths)."""
    if not any(layout.periodic):
        return weights
    closed = {key: row.clone() for key, row in weights.items()}
    for axis, (m, wrap) in enumerate(zip(layout.space, layout.periodic, strict=True)):
        if not wrap:
            continue
        last = layout.sizes[axis]
        for (k, corner), row in closed.items():
            parity = layout.parities[k]
            view = layout.padded(row)
            if m % 2 == 0:
                view.select(axis + 1, 0).copy_(view.select(axis + 1, last))
                view.select(axis + 1, last + 1).copy_(view.select(axis + 1, 1))
            elif parity[axis]:
                even = class_number((*parity[:axis], 0, *parity[axis + 1 :]))
                base = layout.padded(closed[even, (*corner[:axis], 0, *corner[axis + 1 :])])
                slot, source = (last, 1) if corner[axis] else (0, last)
                view.select(axis + 1, slot).copy_(base.select(axis + 1, source))
                view.select(axis + 1, last - slot).zero_()
            else:
                view.select(axis + 1, last + 1).copy_(view.select(axis + 1, 1))
    return closed
