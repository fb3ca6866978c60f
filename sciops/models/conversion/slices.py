"""Slices of axes of space: crops, strides, tokens without a place, and rows that a network joins to pad a field."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sciops.models.conversion.layout import Axis, Rows, Space, Tokens
from sciops.models.conversion.local import every
from sciops.models.conversion.mode import Call, rule


@rule("narrow", "select")
def narrow(call: Call) -> Tensor:
    """x.narrow(dim, start, length): as x[start : start + length]."""
    x, dim = call.args[0], call.argument(1, "dim") % call.args[0].dim()
    layout = list(call.layout(x))
    if call.name == "select":
        raise call.refuse("names a grid row and not a place", "evaluate at a coordinate")
    start, length = int(call.argument(2, "start")), int(call.argument(3, "length"))
    axis = layout[dim]
    if axis is None or (isinstance(axis, Tokens) and axis.extra):
        item = slice(start, start + length)
        if axis is None:
            return call.mode.mark(call.run(), layout)
        out, layout[dim] = _cut(
            call, x, dim, axis, slice(start, None if start + length == x.shape[dim] else item.stop), layout
        )
        return call.mode.mark(out, layout)
    if not isinstance(axis, Space):
        raise call.refuse("cuts a flattened axis of space", "cut before flattening, or use method='lattice'")
    start += x.shape[dim] if start < 0 else 0
    end = x.shape[dim] - start - length
    if start == 0 and 2 * length > x.shape[dim] > length:
        out, layout[dim] = _cut(call, x, dim, axis, slice(None, length), layout)
    elif end == 0 and start == 0:
        return call.mode.mark(call.run(), layout)
    else:
        out, layout[dim] = rows(call, x, dim, axis, start if start < axis.n else -(length + end), length)
    return call.mode.mark(out, layout)


def rows(call: Call, x: Tensor, dim: int, axis: Space, start: int, count: int) -> tuple[Tensor, Rows]:
    """`count` native rows from row `start` on (negative: from the end): what hand-written padding is joined from."""
    first = start if start >= 0 else axis.n + start
    if not (first >= 0 and first + count <= axis.n):
        raise call.refuse(
            f"[{start}:{start + count}] names grid rows and not places", "cut with [a:-b], or use method='lattice'"
        )
    s, o = call.refinement.scale[axis.axis], call.refinement.origin(axis.axis)
    index = torch.arange(first, first + count, device=x.device) * s + o
    return x.index_select(dim, index), Rows(axis, first, count, x)


@rule("flip")
def flip(call: Call) -> Tensor:
    """Fields are mirrored about the middle of the domain, which is a point of the fine grid as well."""
    x, dims = call.args[0], call.args[1:] or (call.kwargs["dims"],)
    chosen = {d % x.dim() for d in (dims[0] if isinstance(dims[0], list | tuple) else dims)}
    layout = list(call.layout(x))
    for d in chosen:
        axis = layout[d]
        if isinstance(axis, Rows):
            layout[d] = replace(axis, flipped=not axis.flipped)
        elif isinstance(axis, Space) and call.refinement.kind[axis.axis] == "periodic":
            s = call.refinement.scale[axis.axis]
            x = x.roll(1 - s, d) if s > 1 else x  # native point i goes to n − 1 − i
        elif axis is not None and not isinstance(axis, Space):
            raise call.refuse("mirrors a flattened axis of space", "mirror before flattening")
    return call.mode.mark(x.flip(sorted(chosen)), layout)


@rule("__getitem__")
def getitem(call: Call) -> Tensor:
    """Slices. On axes of space a:−b counts native points, a bare end :m is a size of the network's own tensors, a step
    is a stride; one row is refused."""
    x = call.args[0]
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(isinstance(i, Tensor | list) for i in index):
        raise call.refuse("picks points by an index tensor", "use method='lattice'")
    used = sum(i is not None and i is not Ellipsis for i in index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *(slice(None),) * (x.dim() - used), *index[at + 1 :])
    layout, out, dim = list(call.layout(x)), x, 0
    for item in index:
        if item is None:
            out = out.unsqueeze(dim)
            layout.insert(dim, None)
            dim += 1
            continue
        axis = layout[dim]
        if isinstance(item, slice) and item == slice(None):
            dim += 1
            continue
        if axis is None:
            out = out[(slice(None),) * dim + (item,)]
            if isinstance(item, int):
                layout.pop(dim)
            else:
                dim += 1
            continue
        out, new = _cut(call, out, dim, axis, item, layout)
        if isinstance(item, int):
            layout.pop(dim)
        else:
            layout[dim] = new
            dim += 1
    return call.mode.mark(out, layout)


def _cut(call: Call, x: Tensor, dim: int, axis: Axis, item: Any, layout: list[Axis]) -> tuple[Tensor, Axis]:
    picked = x[(slice(None),) * dim + (item,)]
    if isinstance(axis, Tokens) and axis.extra:
        if isinstance(item, int) and 0 <= item < axis.extra:
            return picked, None
        if isinstance(item, slice) and item.step in (None, 1):
            start, stop = item.start or 0, item.stop
            if start == axis.extra and stop is None:
                return picked, Tokens(axis.factors) if len(axis.factors) > 1 else axis.factors[0]
            if stop is not None and 0 < stop <= axis.extra:
                return picked, None
    if isinstance(item, int):
        raise call.refuse(f"[{item}] names a grid row and not a place", "evaluate at a coordinate")
    if not isinstance(axis, Space):
        raise call.refuse("cuts a flattened axis of space", "cut before flattening, or use method='lattice'")
    grid = call.refinement
    s, ends = grid.scale[axis.axis], grid.kind[axis.axis] == "vertex"
    start, stop, step = item.start or 0, item.stop, item.step or 1
    if step > 1:
        if stop is not None or not 0 <= start < step or dim != x.dim() - 1:
            if stop is not None or not 0 <= start < step:
                raise call.refuse(f"[{start}:{stop}:{step}] takes a part of every so many points", "slice twice")
            moved = call.mode.mark(x.movedim(dim, -1), [*layout[:dim], *layout[dim + 1 :], axis])
            out = every(call, moved, step, start)
            new = call.layout(out)[-1]
            return out.movedim(-1, dim), new
        out = every(call, call.mode.mark(x, layout), step, start)
        return out, call.layout(out)[-1]
    if start < 0:
        return rows(call, x, dim, axis, start, (stop or 0) - start)
    if stop is not None and stop > 0 and (start > 0 or 2 * stop <= axis.n):
        return rows(call, x, dim, axis, start, stop - start)
    cut_end = 0
    if stop is not None and stop < 0:
        cut_end = -stop
    elif stop is not None:
        m, rest = divmod(stop - 1, s) if ends else divmod(stop, s)
        m += int(ends)
        if rest or m > axis.n:
            raise call.refuse(
                f"[:{stop}] is no level of a grid refined {s} times", "take the size from a tensor of the network"
            )
        cut_end = axis.n - m
    n = axis.n - start - cut_end
    period = None if axis.period is None or n < axis.period else axis.period
    new = Space(axis.axis, n, period)
    return x.narrow(dim, s * start, grid.fine(new)), new
