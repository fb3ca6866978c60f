"""Upsampling: transposed convolutions, interpolation, pixel shuffle, by sharp phases.

The source synthesises native output points from native input points. A fine output point at offset ρ/s of a native
output spacing is synthesised in the same way from input values at the same offset, ρ/(s·r) of a native input spacing;
they come from the fine input by linear interpolation, which is exact at its points. So the source's own function runs
on every output phase, and values at native points are those of the source to the bit.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from math import floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion.layout import Refinement, Space, resized
from sciops.models.conversion.local import extended, tuple_of
from sciops.models.conversion.mode import Call, rule


def synthesised(
    call: Call,
    x: Tensor,
    d: int,
    ratio: Sequence[Fraction],
    sizes: Sequence[int],
    native: Callable[[Tensor], Tensor],
    facts: tuple[Any, ...],
) -> Tensor:
    """`native` (n, c, *coarse) → (m, k, *sizes) on every output phase; `ratio`: input spacings per output spacing."""
    spaces, grid = call.spaces(x, d), call.refinement
    lead = x.dim() - d
    scale = tuple(grid.scale[s.axis] for s in spaces)
    parts = [x]
    for j, space in enumerate(spaces):
        parts = [piece for part in parts for piece in _offsets(part, lead + j, space, grid, ratio[j])]
    stacked = torch.stack(parts)
    out = native(stacked.flatten(0, lead - 1))
    out = out.reshape(*scale, *stacked.shape[1:lead], *out.shape[1:])
    found = [resized(s, n, (r.numerator, r.denominator)) for s, n, r in zip(spaces, out.shape[-d:], ratio, strict=True)]
    assert [s.n for s in found] == list(sizes), "native sizes were predicted wrongly"
    y = grid.join(out.permute(*range(d, out.dim()), *range(d)), found)
    y = call.stamped(y, found, lambda: call.native(x, spaces), native, (tuple(x.shape), *facts))
    return call.mode.mark(y, (*call.layout(x)[:lead], *found))


def _offsets(x: Tensor, dim: int, space: Space, grid: Refinement, ratio: Fraction) -> list[Tensor]:
    """Values at native points moved by (ρ − origin)·ratio fine spacings, linear between fine points, for every ρ."""
    s, origin = grid.scale[space.axis], grid.origin(space.axis)
    moves = [origin + (rho - origin) * ratio for rho in range(s)]
    reach = s * (space.n - 1) + floor(max(moves)) + 2
    more, less = max(0, reach - x.shape[dim]), max(0, -floor(min(moves)))
    if more or less:
        x = extended(x, dim, less, more, None if space.period is None else s * space.period)

    length, every = s * (space.n - 1) + 1, (slice(None),) * dim + (slice(None, None, s),)
    values = []
    for move in moves:
        low = floor(move)
        share = float(move - low)
        here = x.narrow(dim, less + low, length)[every]
        values.append(torch.lerp(here, x.narrow(dim, less + low + 1, length)[every], share) if share else here)
    return values


def _transposed(d: int) -> Callable[[Call], Tensor]:
    def transpose(call: Call) -> Tensor:
        names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        x, weight = given["input"], given["weight"]
        stride, padding = tuple_of(given.get("stride", 1), d), tuple_of(given.get("padding", 0), d)
        extra, dilation = tuple_of(given.get("output_padding", 0), d), tuple_of(given.get("dilation", 1), d)
        sizes = [
            (s.n - 1) * r - 2 * p + w * (k - 1) + e + 1
            for s, r, p, w, k, e in zip(
                call.spaces(x, d), stride, padding, dilation, weight.shape[2:], extra, strict=True
            )
        ]

        rest = (weight, given.get("bias"), stride, padding, extra, given.get("groups", 1), dilation)
        call.note("sharp phases, linear between fine points", True, 1.0)
        return synthesised(
            call,
            x,
            d,
            [Fraction(1, r) for r in stride],
            sizes,
            lambda batch: call.func(batch, *rest),
            (tuple(weight.shape), stride, padding, extra),
        )

    return transpose


for _d in (1, 2, 3):
    rule(f"conv_transpose{_d}d")(_transposed(_d))


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Tensor:
    x, r = call.args[0], int(call.argument(1, "upscale_factor"))
    sizes = [r * s.n for s in call.spaces(x, 2)]
    call.note("sharp phases, linear between fine points", True, 1.0)
    return synthesised(call, x, 2, [Fraction(1, r)] * 2, sizes, lambda b: F.pixel_shuffle(b, r), (r,))


@rule("interpolate", "upsample")
def interpolate(call: Call) -> Tensor:
    """Resizing by a factor, or to the size of another tensor of this network."""
    names = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    given: dict[str, Any] = dict(zip(names, call.args, strict=False)) | call.kwargs
    x, mode, corners = given["input"], given.get("mode", "nearest"), given.get("align_corners")
    d = x.dim() - 2
    spaces, grid = call.spaces(x, d), call.refinement
    if given.get("size") is not None:
        asked = tuple_of(given["size"], d)
        sizes = []
        for space, size in zip(spaces, asked, strict=True):
            s, ends = grid.scale[space.axis], grid.kind[space.axis] == "vertex"
            n, rest = divmod(size - 1, s) if ends else divmod(size, s)
            if rest:
                raise call.refuse(
                    f"asks for the size {size}, which is no level of a grid refined {s} times",
                    "take the size from a tensor of the network instead of writing a number",
                )
            sizes.append(n + 1 if ends else n)
    else:
        factor = given["scale_factor"]
        factors = tuple(factor) if isinstance(factor, list | tuple) else (factor,) * d
        sizes = [floor(s.n * f) for s, f in zip(spaces, factors, strict=True)]
    if corners:
        ratio = [Fraction(max(s.n - 1, 1), max(m - 1, 1)) for s, m in zip(spaces, sizes, strict=True)]
    else:
        ratio = [Fraction(s.n, m) for s, m in zip(spaces, sizes, strict=True)]

    by_size = given.get("size") is not None
    native = partial(
        F.interpolate,
        size=sizes if by_size else None,
        scale_factor=None if by_size else given["scale_factor"],
        mode=mode,
        align_corners=corners,
        recompute_scale_factor=given.get("recompute_scale_factor"),
        antialias=bool(given.get("antialias", False)),
    )
    call.note("sharp phases, linear between fine points", True, 1.0 if mode == "nearest" else 2.0)
    return synthesised(call, x, d, ratio, sizes, native, (mode, corners, tuple(sizes)))
