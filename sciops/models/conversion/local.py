"""Convolutions, pooling, strides: a tap at distance H stays at distance H.

out(x) = Σ_t w_t f(x + tH) at every fine x: dilation s·d and padding s·p under the source's own stride r. The points
x + H Z of one phase form a native field, on which this is the source's operation. Fine output point m reads the fine
input from r (m − o) + o − s·p on, where o is the fine index of native point 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion.kernels import KERNELS, band_limited, paper_kernel, smeared
from sciops.models.conversion.layout import Space, resized
from sciops.models.conversion.mode import RULES, Call, rule

TAPS, ZEROS = "taps at native distance", ", zeros at the ends"


def tuple_of(value: Any, d: int) -> tuple[int, ...]:
    """One number for all axes, or one per axis."""
    values = tuple(value) if isinstance(value, list | tuple | torch.Size) else (value,)
    return tuple(int(v) for v in (values * d if len(values) == 1 else values))


@dataclass(frozen=True)
class Window:
    """Where a kernel with `reach` = dilation·(k − 1) lands: native output axes and padding of the fine input."""

    call: Call
    x: Tensor
    stride: tuple[int, ...]
    reach: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool = False

    @property
    def d(self) -> int:
        return len(self.stride)

    @property
    def spaces(self) -> list[Space]:
        return self.call.spaces(self.x, self.d)

    @property
    def scale(self) -> tuple[int, ...]:
        return tuple(self.call.refinement.scale[s.axis] for s in self.spaces)

    @property
    def found(self) -> list[Space]:
        """The axes of the output."""
        sizes = []
        for s, r, reach, p in zip(self.spaces, self.stride, self.reach, self.padding, strict=True):
            room = s.n + 2 * p - reach - 1
            up = self.ceil and room % r > 0 and (room // r + 1) * r < s.n + p  # the last window starts inside
            sizes.append(room // r + 1 + int(up))
        if min(sizes) < 1:
            raise self.call.refuse("has a kernel larger than the native grid", "use a larger native_shape")
        return [resized(s, n, (r, 1)) for s, n, r in zip(self.spaces, sizes, self.stride, strict=True)]

    def ends(self) -> list[tuple[int, int]]:
        """Fine points that the kernel reads before the first and behind the last one, per axis."""
        grid, ends = self.call.refinement, []
        for space, out, r, reach, p in zip(self.spaces, self.found, self.stride, self.reach, self.padding, strict=True):
            s, o = grid.scale[space.axis], grid.origin(space.axis)
            first = r * (0 - o) + o - s * p
            last = r * (grid.fine(out) - 1 - o) + o - s * p + s * reach
            ends.append((-first, last - (grid.fine(space) - 1)))
        return ends

    def padded(self, fill: float, margin: Sequence[int] | None = None) -> Tensor:
        """The fine input with all that the kernel reads, and `margin` points more at both ends: `fill` where the source
        pads; where it does not, values behind the end go on periodically, or stay constant."""
        x = self.x
        for j, (space, (before, after)) in enumerate(zip(self.spaces, self.ends(), strict=True)):
            dim = x.dim() - self.d + j
            if margin is not None:
                before, after = before + margin[j], after + margin[j]
            if after < 0:
                x = x.narrow(dim, 0, x.shape[dim] + after)
            if before == 0 and after <= 0:
                continue
            widths = [0, 0] * (x.dim() - 1 - dim) + [before, max(after, 0)]
            if any(self.padding) or self.ceil:
                x = F.pad(x, widths, value=fill)
            else:
                period = None if space.period is None else space.period * self.scale[j]
                x = extended(x, dim, before, max(after, 0), period)
        return x

    def finish(self, y: Tensor, native: Callable[[Tensor], Tensor] | None, facts: tuple[Any, ...]) -> Tensor:
        """Mark the output; at native points it gets the bits of the source, unless the rule has other values there."""
        found, grid = self.found, self.call.refinement
        lead = self.x.dim() - self.d
        for j, space in enumerate(found):
            y = y.narrow(lead + j, 0, grid.fine(space))
        if native is not None:
            y = self.call.stamped(y, found, lambda: self.call.native(self.x, self.spaces), native, facts)
        return self.call.mode.mark(y, (*self.call.layout(self.x)[:lead], *found))


def extended(x: Tensor, dim: int, before: int, after: int, period: int | None) -> Tensor:
    """More points at the ends of an axis: those one period away, or the last ones repeated."""
    n = x.shape[dim]
    if period is not None and max(before, after) <= period <= n:
        head = x.narrow(dim, period - before, before)
        tail = x.narrow(dim, n - period, after)
        return torch.cat([head, x, tail], dim)
    index = torch.arange(-before, n + after, device=x.device)
    if period is not None:
        index = torch.where(index >= n, n - period + (index - n).remainder(period), index)
        index = torch.where(index < 0, index.remainder(period), index)
    return x.index_select(dim, index.clamp(0, n - 1))


def _convolution(d: int) -> Callable[[Call], Tensor]:
    def convolve(call: Call) -> Tensor:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        if call.layout(x)[1] is not None and x.dim() == 3 and weight[0, 0].numel() == 1:  # a dense layer over tokens
            turned = call.mode.mark(x.transpose(1, 2), [call.layout(x)[j] for j in (0, 2, 1)])
            dense = Call(call.mode, F.linear, (turned, weight.flatten(1), bias), {})
            y = RULES["linear"](dense)
            return call.mode.mark(y.transpose(1, 2), [dense.layout(y)[j] for j in (0, 2, 1)])
        stride, dilation = tuple_of(given.get("stride", 1), d), tuple_of(given.get("dilation", 1), d)
        pads, groups = given.get("padding", 0), given.get("groups", 1)
        if weight.is_complex():
            raise call.refuse("has complex weights", "convert a network with real weights")
        reach = tuple(r * (k - 1) for r, k in zip(dilation, weight.shape[2:], strict=True))
        if pads == "same":
            if any(r % 2 for r in reach):
                raise call.refuse("pads 'same' around an even kernel", "pad explicitly before the convolution")
            pads = tuple(r // 2 for r in reach)
        padding = (0,) * d if pads == "valid" else tuple_of(pads, d)
        if call.mode.options.bc and any(padding):
            x, padding = _padded_otherwise(call, x, padding), (0,) * d
        window = Window(call, x, stride, reach, padding)
        wide = tuple(s * w for s, w in zip(window.scale, dilation, strict=True))
        if call.mode.method in KERNELS and any(k > 1 for k in weight.shape[2:]):
            return _other(window, weight, bias, (dilation, wide), groups)
        widths = tuple(s * p for s, p in zip(window.scale, padding, strict=True))
        if window.ends() == [(p, p) for p in widths]:
            y = call.func(x, weight, bias, stride, widths, wide, groups)
        else:
            y = call.func(window.padded(0.0), weight, bias, stride, 0, wide, groups)
        call.note(TAPS + (ZEROS if any(padding) else ""))
        facts = (tuple(weight.shape), stride, padding, dilation, groups)
        return window.finish(y, lambda b: call.func(b, weight, bias, stride, padding, dilation, groups), facts)

    return convolve


def _padded_otherwise(call: Call, x: Tensor, padding: Sequence[int]) -> Tensor:
    """The zeros that a convolution pads, or what the option `bc` asks in their place."""
    from sciops.models.conversion.padding import along

    layout = list(call.layout(x))
    for j, (space, p) in enumerate(zip(call.spaces(x, len(padding)), padding, strict=True)):
        dim = x.dim() - len(padding) + j
        if p:
            x, layout[dim] = along(call, x, dim, space, p, p, "constant", 0.0)
    call.note("padded as bc asks", False)
    return call.mode.mark(x, layout)


def _other(window: Window, weight: Tensor, bias: Tensor | None, dilation: Any, groups: int) -> Tensor:
    """The same kernel by hats, by band limits, or interpolated."""
    call, active, native_dilation = window.call, [k > 1 for k in weight.shape[2:]], dilation[0]
    stride, wide, ends = window.stride, dilation[1], ZEROS if any(window.padding) else ""
    order = 1.0 if ends or any(s.period is None for s in window.spaces) else 2.0
    if call.mode.method == "integral":
        margin = [s - 1 if act else 0 for s, act in zip(window.scale, active, strict=True)]
        x = smeared(window.padded(0.0, margin), window.scale, active)
        call.note("hats of native width" + ends, False, order)
    elif call.mode.method == "spectral":
        limited = call.mode.mark(band_limited(call, window.x, window.spaces, active), call.layout(window.x))
        x = replace(window, x=limited).padded(0.0)
        call.note("symbol up to the native Nyquist" + ends, False)
    else:
        x, weight, wide = window.padded(0.0), paper_kernel(weight, window.scale), native_dilation
        call.note("kernel interpolated" + ends, False, 1.0)
    return window.finish(call.func(x, weight, bias, stride, 0, wide, groups), None, ())


for _d in (1, 2, 3):
    rule(f"conv{_d}d")(_convolution(_d))

_MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _maxima(d: int) -> Callable[[Call], Tensor]:
    def pool(call: Call) -> Tensor:
        names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        x, kernel, stride, padding = _pooling_facts(call, given, d)
        ceil = bool(given.get("ceil_mode", False))
        if given.get("return_indices"):
            raise call.refuse("returns indices, which name grid points and not places", "pool without return_indices")
        dilation = tuple_of(given.get("dilation", 1), d)
        window = Window(
            call, x, stride, tuple(w * (k - 1) for w, k in zip(dilation, kernel, strict=True)), padding, ceil
        )
        wide = tuple(s * w for s, w in zip(window.scale, dilation, strict=True))
        function = _MAXIMA[d - 1]
        if torch.is_grad_enabled() and x.requires_grad:
            y = function(window.padded(-torch.inf), kernel, stride, 0, wide)
        else:  # the same values in half the time; among equal ones it has another gradient
            y = _largest(window, kernel, wide)
        call.note("largest of the samples at native distance", True, 1.0)
        facts = (kernel, stride, padding, dilation, ceil)
        return window.finish(y, lambda b: function(b, kernel, stride, padding, dilation, ceil), facts)

    return pool


def _largest(window: Window, kernel: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Pooling along one axis after the other."""
    y = window.padded(-torch.inf)
    for j, (space, r, k, w) in enumerate(zip(window.found, window.stride, kernel, dilation, strict=True)):
        dim = y.dim() - window.d + j
        length = r * (window.call.refinement.fine(space) - 1) + 1
        every = (slice(None),) * dim + (slice(None, None, r),)
        y = reduce(torch.maximum, [y.narrow(dim, t * w, length)[every] for t in range(k)])
    return y


def _averages(d: int) -> Callable[[Call], Tensor]:
    def pool(call: Call) -> Tensor:
        names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
        given = dict(zip(names, call.args, strict=False)) | call.kwargs
        x, kernel, stride, padding = _pooling_facts(call, given, d)
        if given.get("ceil_mode"):
            raise call.refuse("rounds sizes up (ceil_mode)", "use sizes that the stride divides, with ceil_mode=False")
        if any(padding) and not given.get("count_include_pad", True):
            raise call.refuse("leaves padding out of its means", "set count_include_pad=True")
        window = Window(call, x, stride, tuple(k - 1 for k in kernel), padding)
        y = torch.stack(taps(window, window.padded(0.0), kernel)).sum(0)
        count = given.get("divisor_override") or torch.Size(kernel).numel()
        call.note("mean of the samples at native distance")
        facts = (kernel, stride, padding, count)
        return window.finish(y / count, lambda b: call.func(b, *call.args[1:], **_without(call.kwargs, "input")), facts)

    return pool


def _without(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in table.items() if k != name}


def taps(window: Window, padded: Tensor, kernel: Sequence[int]) -> list[Tensor]:
    """The padded fine field as each tap of a kernel sees it, from the first tap to the last."""
    grid, views = window.call.refinement, [padded]
    for j, (space, r, k) in enumerate(zip(window.found, window.stride, kernel, strict=True)):
        dim, count = padded.dim() - window.d + j, grid.fine(space)
        s = window.scale[j]
        views = [
            view.narrow(dim, t * s, r * (count - 1) + 1)[(slice(None),) * dim + (slice(None, None, r),)]
            for view in views
            for t in range(k)
        ]
    return views


def _pooling_facts(call: Call, given: dict[str, Any], d: int) -> tuple[Tensor, Any, Any, Any]:
    kernel = tuple_of(given["kernel_size"], d)
    stride = kernel if given.get("stride") in (None, [], ()) else tuple_of(given["stride"], d)
    return given["input"], kernel, stride, tuple_of(given.get("padding", 0), d)


for _d in (1, 2, 3):
    rule(f"avg_pool{_d}d")(_averages(_d))
    rule(f"max_pool{_d}d")(_maxima(_d))


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Tensor:
    """Channels from the points of an r × r block: r² taps under a stride r."""
    x, r = call.args[0], int(call.argument(1, "downscale_factor"))
    window = Window(call, x, (r, r), (r - 1, r - 1), (0, 0))
    y = torch.stack(taps(window, window.padded(0.0), (r, r)), x.dim() - 2).flatten(x.dim() - 3, x.dim() - 2)
    call.note("blocks of points at native distance")
    return window.finish(y, lambda b: F.pixel_unshuffle(b, r), (r,))


def every(call: Call, x: Tensor, step: int, start: int = 0) -> Tensor:
    """x[…, start::step] along the last axis: one tap under a stride."""
    window = Window(call, x, (step,), (start,), (0,))
    call.note("stride kept, native distance")
    y = taps(window, window.padded(0.0), (start + 1,))[-1]
    return window.finish(y, lambda b: b[..., start::step], (start, step))
