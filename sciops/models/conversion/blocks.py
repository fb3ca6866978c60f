"""Patches written as reshapes: an axis of space cut into blocks and points inside them, and joined again.

Cutting n points into n/p blocks of p is p taps under a stride of p: the points of a block keep their native distance.
Joining is the synthesis of p points per block, by sharp phases.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from sciops.models.conversion.layout import Axis, Mixed, Space
from sciops.models.conversion.local import Window, taps
from sciops.models.conversion.mode import Call
from sciops.models.conversion.synthesis import synthesised


def cut(call: Call, x: Tensor, dim: int, p: int) -> Tensor:
    """(…, n, …) to (…, n/p, p, …)."""
    layout = list(call.layout(x))
    axis = layout.pop(dim)
    moved = call.mode.mark(x.movedim(dim, -1), [*layout, axis])
    window = Window(call, moved, (p,), (p - 1,), (0,))
    pieces = torch.stack(taps(window, window.padded(0.0), (p,)), -1)
    pieces = pieces.narrow(-2, 0, call.refinement.fine(window.found[0])).movedim((-2, -1), (dim, dim + 1))
    call.note("blocks of points at native distance")
    return call.mode.mark(pieces, [*layout[:dim], window.found[0], None, *layout[dim:]])


def joins(call: Call, layout: Sequence[Axis]) -> list[int]:
    """Axes that a reshape joined of an axis of space and points inside its blocks, no finer than the native grid."""
    found = []
    for dim, axis in enumerate(layout):
        if isinstance(axis, Mixed) and len(axis.factors) == 2 and len(layout) > 2 and call.mode.native:
            space, p = axis.factors
            if isinstance(space, Space) and isinstance(p, int) and call.refinement.kind[space.axis] != "vertex":
                found += [dim] if space.n * p <= call.mode.native[space.axis] else []
    return found


def join(call: Call, x: Tensor, dim: int) -> Tensor:
    """(…, n p, …) whose index is block · p + point, to the finer axis that it means."""
    layout = list(call.layout(x))
    axis = layout.pop(dim)
    assert isinstance(axis, Mixed)
    space, p = axis.factors
    assert isinstance(space, Space) and isinstance(p, int)
    blocks = x.movedim(dim, -1).unflatten(-1, (-1, p)).transpose(-1, -2)
    rest = blocks.shape[:-2]
    fields = call.mode.mark(blocks.reshape(-1, p, blocks.shape[-1]), [None, None, space])
    call.note("blocks joined by sharp phases, linear between fine points", True, 1.0)
    y = synthesised(
        call, fields, 1, [Fraction(1, p)], [space.n * p], lambda b: b.transpose(-1, -2).flatten(1)[:, None], (p,)
    )
    found = call.layout(y)[-1]
    y = y.reshape(*rest, y.shape[-1]).movedim(-1, dim)
    return call.mode.mark(y, [*layout[:dim], found, *layout[dim:]])
