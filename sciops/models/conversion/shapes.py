"""Operations that rearrange axes: reshape, permute, join, cut."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from sciops.models.conversion import blocks
from sciops.models.conversion.layout import Axis, Layout, Mixed, Refinement, Rows, Space, Tokens, resized
from sciops.models.conversion.mode import Call, rule
from sciops.models.conversion.padding import padded_by_hand

Atom = tuple[Any, int, int]
"""(what, fine length, native length) of a piece of an axis that a reshape must keep whole; None pieces may be cut."""


@rule("permute", "transpose", "movedim", "swapaxes", "swapdims", "moveaxis", "t", "adjoint", "mT", "T", "permute_copy")
def permute(call: Call) -> Tensor:
    x = call.args[0]
    if call.name == "permute":
        dims = call.args[1] if len(call.args) == 2 and not isinstance(call.args[1], int) else call.args[1:]
        dims = dims or call.kwargs["dims"]
        order = [d % x.dim() for d in dims]
    elif call.name in ("transpose", "swapaxes", "swapdims"):
        a, b = (d % x.dim() for d in (*call.args[1:], *call.kwargs.values()))
        order = list(range(x.dim()))
        order[a], order[b] = b, a
    elif call.name in ("movedim", "moveaxis"):
        given = [*call.args[1:], *call.kwargs.values()]
        source, target = ([v] if isinstance(v, int) else list(v) for v in given)
        # Let torch move the numbers of the axes, written as sizes.
        order = [n - 1 for n in torch.empty([*range(1, x.dim() + 1)], device="meta").movedim(source, target).shape]
    else:
        order = [1, 0]
    layout = call.layout(x)
    return call.mode.mark(call.run(), [layout[j] for j in order])


@rule("unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    x, dim = call.args[0], call.argument(1, "dim")
    layout = list(call.layout(x))
    layout.insert(dim % (x.dim() + 1), None)
    return call.mode.mark(call.run(), layout)


@rule("squeeze")
def squeeze(call: Call) -> Tensor:
    x, dims = call.args[0], call.argument(1, "dim")
    if dims is None:
        dims = tuple(range(x.dim()))
    chosen = {d % x.dim() for d in ((dims,) if isinstance(dims, int) else dims)}
    layout = [a for j, a in enumerate(call.layout(x)) if not (j in chosen and x.shape[j] == 1)]
    return call.mode.mark(call.run(), layout)


@rule("expand", "expand_as", "repeat", "broadcast_to", "tile", "repeat_interleave")
def expand(call: Call) -> Tensor:
    x = call.args[0]
    out = call.run()
    layout: list[Axis] = [None] * (out.dim() - x.dim()) + list(call.layout(x))
    for axis, n in zip(layout, out.shape, strict=True):
        if axis is not None and n != call.refinement.size(axis):
            raise call.refuse("repeats an axis of space", "upsample by interpolate, or use method='lattice'")
    return call.mode.mark(out, layout)


@rule("flatten", "reshape", "view", "unflatten", "view_as", "reshape_as")
def reshape(call: Call) -> Tensor:
    x = call.args[0]
    if call.name == "flatten":
        start, end = (d % x.dim() for d in (call.argument(1, "start_dim", 0), call.argument(2, "end_dim", -1)))
        shape = [*x.shape[:start], prod(x.shape[start : end + 1]), *x.shape[end + 1 :]]
    elif call.name == "unflatten":
        dim = call.argument(1, "dim") % x.dim()
        shape = [*x.shape[:dim], *call.argument(2, "sizes"), *x.shape[dim + 1 :]]
    elif call.name in ("view_as", "reshape_as"):
        shape = list(call.args[1].shape)
    else:
        given = call.args[1:] or (call.kwargs.get("shape") or call.kwargs["size"],)
        if isinstance(given[0], torch.dtype):
            raise call.refuse("reinterprets bits", "use method='lattice'")
        shape = list(given[0]) if isinstance(given[0], list | tuple | torch.Size) else list(given)
    atoms = _atoms(call.layout(x), x.shape, call.refinement)
    # Sizes taken from tensors are fine ones; sizes written into the network are native ones and come first, because a
    # dense head `view(-1, 4096)` would swallow a refinement as further cases. Numbers that fit both ways by accident
    # make other layouts than on the native grid; then the whole network is run again with the other order.
    order = (False, True) if call.mode.fine_first else (True, False)
    for native in order:
        found = _grouped(atoms, shape, native)
        if found is not None:
            layout, sizes = found
            y = call.mode.mark(x.reshape(sizes), layout)
            for dim in blocks.joins(call, layout):
                y = blocks.join(call, y, dim)
            return y
    for native in order:
        cuts: dict[int, int] = {}
        if _grouped(atoms, shape, native, cuts) is not None and _whole(call.layout(x), cuts):
            for dim in sorted(cuts, reverse=True):
                x = blocks.cut(call, x, dim, cuts[dim])
            found = _grouped(_atoms(call.layout(x), x.shape, call.refinement), shape, native)
            if found is not None:
                return call.mode.mark(x.reshape(found[1]), found[0])
    raise call.refuse(
        f"to {tuple(shape)} mixes space with channels, or is tied to the native size",
        "flatten whole axes, or use method='lattice'",
    )


def _whole(layout: Layout, cuts: dict[int, int]) -> bool:
    """Whether axes before the cut ones are one atom each, so that numbers of atoms are numbers of axes."""
    before = layout[: max(cuts) + 1]
    return all(axis is None or isinstance(axis, Space) or bool(getattr(axis, "extra", 0)) for axis in before)


def _atoms(layout: Layout, shape: Sequence[int], grid: Refinement) -> list[Atom]:
    atoms: list[Atom] = []
    for axis, n in zip(layout, shape, strict=True):
        if axis is None or (isinstance(axis, Tokens) and axis.extra):
            native = n if axis is None else axis.extra + prod(f.n for f in axis.factors)  # type: ignore[union-attr]
            atoms.append((axis, n, native))
            continue
        for factor in axis.factors if isinstance(axis, Tokens | Mixed) else (axis,):
            if not isinstance(factor, Space):
                assert isinstance(factor, int)
                atoms.append((None, factor, factor))
            else:
                atoms.append((factor, grid.fine(factor), factor.n))
    return atoms


def _grouped(
    atoms: Sequence[Atom], shape: Sequence[int], native: bool, cuts: dict[int, int] | None = None
) -> tuple[list[Axis], list[int]] | None:
    """The layout and fine sizes of a reshape, its numbers read as fine or as native ones; None if they do not fit.

    With `cuts`, axes of space may be cut into blocks; it gets the number of points of a block for each atom.
    """
    which = 2 if native else 1
    total = prod(a[which] for a in atoms)
    wanted = list(shape)
    if wanted.count(-1) == 1:
        known = prod(n for n in wanted if n != -1)
        if known == 0 or total % known:
            return None
        wanted[wanted.index(-1)] = total // known
    if prod(wanted) != total:
        return None
    layout: list[Axis] = []
    sizes: list[int] = []
    rest = [list(a) for a in atoms]
    for n in wanted:
        taken: list[list[Any]] = []
        have = 1
        while rest and (have < n or (rest[0][0] is not None and rest[0][which] == 1)):
            what, fine, size = rest[0]
            length = (fine, fine, size)[which] if what is not None else fine
            need = n // have
            if n % have == 0 and need % length == 0:
                taken.append(rest.pop(0))
                have *= length
            elif what is None and n % have == 0 and length % need == 0:
                taken.append([None, need, need])
                rest[0] = [None, length // need, length // need]
                have *= need
            elif cuts is not None and isinstance(what, Space) and length % need == 0 and what.n % (length // need) == 0:
                p = length // need
                cuts[len(atoms) - len(rest)] = p
                taken.append([resized(what, what.n // p, (p, 1)), fine // p, what.n // p])
                rest[0] = [None, p, p]
                have *= need
            else:
                return None
        if have != n:
            return None
        taken = [t for t in taken if t[0] is not None or t[1] > 1]
        sizes.append(prod(t[1] for t in taken))
        layout.append(_axis(taken))
    if any(r[0] is not None or r[1] > 1 for r in rest):
        return None
    return layout, sizes


def _axis(taken: Sequence[Sequence[Any]]) -> Axis:
    kinds = [t[0] for t in taken]
    if all(k is None for k in kinds):
        return None
    if len(kinds) == 1:
        return kinds[0]
    if all(isinstance(k, Space) for k in kinds):
        return Tokens(tuple(kinds))
    merged: list[int | Space] = []
    for what, fine, _ in taken:
        if what is None and merged and isinstance(merged[-1], int):
            merged[-1] *= fine
        else:
            merged.append(fine if what is None else what)
    return Mixed(tuple(merged))


@rule("cat", "concat", "concatenate", "stack")
def cat(call: Call) -> Tensor:
    parts = list(call.argument(0, "tensors"))
    dim = call.argument(1, "dim", 0)
    layouts = [call.layout(p) for p in parts]
    if call.name == "stack":
        return call.mode.mark(call.run(), _inserted(_common(call, layouts), dim))
    dim %= parts[0].dim()
    along = [layout[dim] for layout in layouts]
    if any(isinstance(axis, Rows) for axis in along) or _blank_ends(call, parts, along):
        return padded_by_hand(call, parts, dim)
    common = list(_common(call, [(*layout[:dim], None, *layout[dim + 1 :]) for layout in layouts]))
    plain = [p not in call.mode.layouts for p in parts]
    if any(plain):
        from sciops.models.conversion.pointwise import refined

        parts = [refined(call, p, tuple(common)) if own else p for p, own in zip(parts, plain, strict=True)]
    points = [axis for axis in along if axis is not None]
    if points:
        before = parts[: along.index(points[0])]
        if len(points) > 1 or along[-1] is None or isinstance(points[0], Mixed):
            raise call.refuse("joins fields end to end", "join along channels, or use method='lattice'")
        last = points[0]
        factors = last.factors if isinstance(last, Tokens) else (last,)
        extra = sum(p.shape[dim] for p in before) + (last.extra if isinstance(last, Tokens) else 0)
        common[dim] = Tokens(factors, extra)  # type: ignore[arg-type]
    return call.mode.mark(torch.cat(parts, dim), common)


def _blank_ends(call: Call, parts: Sequence[Tensor], along: Sequence[Axis]) -> bool:
    """Zeros behind a field, as one joins them to pad it."""
    fields = [j for j, axis in enumerate(along) if isinstance(axis, Space)]
    if len(fields) != 1 or fields[0] == len(parts) - 1 or torch.compiler.is_compiling():
        return False
    return all(
        axis is None and not p.any() for j, (p, axis) in enumerate(zip(parts, along, strict=True)) if j != fields[0]
    )


def _common(call: Call, layouts: list[Layout]) -> Layout:
    from sciops.models.conversion.pointwise import broadcast

    return broadcast(call, layouts)


def _inserted(layout: Layout, dim: int) -> Layout:
    at = dim % (len(layout) + 1)
    return (*layout[:at], None, *layout[at:])


@rule("chunk", "split", "unbind", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")
def chunk(call: Call) -> Any:
    x = call.args[0]
    position = 1 if call.name == "unbind" else 2
    dim = call.argument(position, "dim", 0) % x.dim()
    layout = call.layout(x)
    if layout[dim] is not None:
        raise call.refuse("cuts an axis of space into pieces", "use method='lattice'")
    out = call.run()
    rest = (*layout[:dim], *layout[dim + 1 :]) if call.name == "unbind" else layout
    for part in out:
        call.mode.mark(part, rest)
    return out


@rule("roll")
def roll(call: Call) -> Tensor:
    x, shifts, dims = call.args[0], call.argument(1, "shifts"), call.argument(2, "dims")
    if dims is None:
        raise call.refuse("rolls a flattened tensor", "name the axes")
    shifts, dims = ((v,) if isinstance(v, int) else tuple(v) for v in (shifts, dims))
    layout, moved = call.layout(x), []
    for shift, dim in zip(shifts, dims, strict=True):
        axis = layout[dim]
        if isinstance(axis, Tokens | Mixed):
            raise call.refuse("rolls a flattened axis of space", "roll before flattening")
        if isinstance(axis, Space) and call.refinement.kind[axis.axis] == "vertex" and shift:
            raise call.refuse("rolls an axis with walls", "use a periodic grid")
        moved.append(shift if axis is None else shift * call.refinement.scale[axis.axis])
    call.note("native shift times the refinement", True)
    return call.mode.mark(torch.roll(x, moved, dims), layout)
