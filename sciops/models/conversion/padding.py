"""Padding by s times the native number of points, with values that continue the native rule between its points."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion.layout import Rows, Space
from sciops.models.conversion.local import extended
from sciops.models.conversion.mode import Call, rule


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Tensor:
    """`torch.nn.functional.pad` in its four modes, along axes of space; other axes are padded as they are."""
    x, widths = call.args[0], call.argument(1, "pad")
    mode = call.argument(2, "mode", "constant") if call.name == "pad" else "constant"
    value: Any = call.argument(3, "value", None) if call.name == "pad" else call.argument(2, "value", 0.0)
    layout = list(call.layout(x))
    fast = _at_once(call, x, widths) if mode == "circular" and not call.mode.options.bc else None
    if fast is not None:
        return fast
    plain: list[int] = []
    for j in range(len(widths) // 2):
        dim = x.dim() - 1 - j
        before, after = int(widths[2 * j]), int(widths[2 * j + 1])
        axis = layout[dim]
        if not isinstance(axis, Space):
            if axis is not None and (before or after):
                raise call.refuse("pads a flattened axis", "pad before flattening, or use method='lattice'")
            plain += [before, after]
            continue
        plain += [0, 0]
        if before or after:
            x, layout[dim] = along(call, x, dim, axis, before, after, mode, 0.0 if value is None else float(value))
    if any(plain):
        x = F.pad(x, plain, mode, value)
    if tuple(layout) != call.layout(call.args[0]):
        call.note(f"{mode}, native widths times the refinement", True)
    return call.mode.mark(x, layout)


def padded_by_hand(call: Call, parts: Sequence[Tensor], dim: int) -> Tensor:
    """cat of native rows and the field that they were cut from: circular, reflected or replicated values, or zeros."""
    axes = [call.layout(p)[dim] for p in parts]
    middle = [j for j, axis in enumerate(axes) if isinstance(axis, Space)]
    if len(middle) != 1:
        raise call.refuse("joins rows to no field, or to several", "pad by torch.nn.functional.pad")
    x, axis = parts[middle[0]], axes[middle[0]]
    assert isinstance(axis, Space)
    sides = [
        _kind(call, x, axis, pieces, dim, low)
        for low, pieces in ((True, parts[: middle[0]]), (False, parts[middle[0] + 1 :]))
    ]
    (first, before), (second, after) = sides
    layout = list(call.layout(x))
    wraps = "circular" in (first, second)
    if first is not None and second is not None and first != second and wraps:
        raise call.refuse("pads one end periodically and the other otherwise", "pad both ends alike")
    if first is None or second is None or first == second:
        mode = first or second or "constant"
        x, layout[dim] = along(call, x, dim, axis, before, after, mode, 0.0)
    else:
        x, axis = along(call, x, dim, axis, 0, after, second, 0.0)
        x, layout[dim] = along(call, x, dim, axis, before, 0, first, 0.0)
    call.note(f"{first or second or 'constant'}, native widths times the refinement")
    return call.mode.mark(x, layout)


def _kind(call: Call, x: Tensor, axis: Space, pieces: Sequence[Tensor], dim: int, low: bool) -> tuple[str | None, int]:
    """(mode, width) of what stands before (`low`) or behind the field x."""
    width = sum(p.shape[dim] for p in pieces)
    if not width:
        return None, 0
    n, rows = axis.n, [call.layout(p)[dim] for p in pieces]
    if all((r is None and not p.any()) or (isinstance(r, Rows) and r.blank) for r, p in zip(rows, pieces, strict=True)):
        return "constant", width
    if all(isinstance(r, Rows) and not r.blank and r.of is x for r in rows):
        edge = 0 if low else n - 1
        if all(r.start == edge and r.count == 1 for r in rows):  # type: ignore[union-attr]
            return "replicate", width
        if len(rows) == 1:
            row: Any = rows[0]
            if not row.flipped and row.start == (n - width if low else 0):
                return "circular", width
            if row.flipped and row.start == (1 if low else n - 1 - width):
                return "reflect", width
    raise call.refuse(
        "joins rows of a field to its ends in an order that is no padding",
        "pad by torch.nn.functional.pad in mode circular, reflect or replicate, or use method='lattice'",
    )


def _at_once(call: Call, x: Tensor, widths: Sequence[int]) -> Tensor | None:
    """Periodic padding of all axes in one step, where torch offers it."""
    d, grid, layout = x.dim() - 2, call.refinement, list(call.layout(x))
    fine: list[int] = []
    for j in range(len(widths) // 2):
        axis, (before, after) = layout[x.dim() - 1 - j], widths[2 * j : 2 * j + 2]
        if not isinstance(axis, Space) or grid.kind[axis.axis] == "vertex" or min(before, after) < 0:
            return None
        s = grid.scale[axis.axis]
        fine += [s * before, s * after]
        layout[x.dim() - 1 - j] = Space(axis.axis, axis.n + before + after, axis.n)
        if max(before, after) > axis.n:
            return None
    if len(widths) != 2 * d or not 1 <= d <= 3:
        return None
    call.note("circular, native widths times the refinement")
    return call.mode.mark(F.pad(x, fine, mode="circular"), layout)


def along(
    call: Call, x: Tensor, dim: int, axis: Space, before: int, after: int, mode: str, value: float
) -> tuple[Tensor, Space]:
    grid = call.refinement
    if not value:
        mode = call.mode.options.padding(axis, mode)
    s, first, n = grid.scale[axis.axis], grid.origin(axis.axis), x.shape[dim]
    # Who pads by wrapping around says that the axis is periodic, on cell grids too.
    wraps = mode == "circular" and grid.kind[axis.axis] != "vertex"
    padded = Space(axis.axis, axis.n + before + after, axis.n if wraps else None)
    if mode == "constant":
        return F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [s * before, s * after], value=value), padded
    if wraps:
        return extended(x, dim, s * before, s * after, n), padded
    last = first + s * (axis.n - 1)
    index = torch.arange(-s * before, n + s * after, device=x.device)
    if mode == "circular":
        # The native lattice repeats after n points, whose ends are n − 1 spacings apart.
        index = torch.where(index < 0, index + s * axis.n, torch.where(index >= n, index - s * axis.n, index))
    elif mode == "reflect":
        reflected = torch.where(index < 0, 2 * first - index, torch.where(index >= n, 2 * last - index, index))
        index = reflected.clamp(0, n - 1)
    elif mode == "replicate":
        index = torch.where(index < 0, first, torch.where(index >= n, last, index))
    else:
        raise call.refuse(f"pads in mode '{mode}'", "use constant, circular, reflect or replicate")
    return x.index_select(dim, index.clamp(0, n - 1)), padded
