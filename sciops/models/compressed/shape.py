"""What a convolution does to a grid, apart from its weights: channels, kernel, stride, dilation, padding, groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sciops.core.errors import UsageError
from sciops.models.boundary import CIRCULAR, REFLECT, REPLICATE, ZEROS
from sciops.models.vcycle import CONV, CONV_TRANSPOSE

# Padding with these acts on one axis at a time and commutes with a filter along another axis.
FACTORABLE = (ZEROS, REFLECT, REPLICATE, CIRCULAR)
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
DENSE = (*CONV.values(), *CONV_TRANSPOSE.values())
Dense = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def expand(value: int | Sequence[int], ndim: int, name: str) -> tuple[int, ...]:
    """One number per axis."""
    values = (value,) * ndim if isinstance(value, int) else tuple(value)
    if len(values) != ndim:
        raise UsageError(f"{name} takes one number, or one per axis ({ndim}); got {value!r}.")
    return values


@dataclass(frozen=True)
class ConvShape:
    """Everything about a convolution but its numbers.

    A kernel is handled in one canonical layout, (groups, out, in, *taps) per group, whether the convolution is a
    transposed one or not; `to_torch` and `from_torch` change between it and the layout of torch's weights.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    padding_mode: str = ZEROS
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.padding_mode not in FACTORABLE:
            raise UsageError(
                f"Padding '{self.padding_mode}' does not act on one axis at a time, so the convolution cannot be "
                f"factored; use one of {', '.join(FACTORABLE)}, or pad before the layer."
            )
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise UsageError(
                f"groups must divide both channel numbers; got groups={self.groups}, "
                f"in_channels={self.in_channels}, out_channels={self.out_channels}."
            )

    @property
    def ndim(self) -> int:
        return len(self.kernel)

    @property
    def inner(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def outer(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def weights(self) -> int:
        """Weights of the dense kernel."""
        return self.out_channels * self.inner * prod(self.kernel)

    @property
    def fan_in(self) -> int:
        """The number that torch's own initialisation divides by (for a transposed kernel it counts outputs)."""
        return (self.outer if self.transposed else self.inner) * prod(self.kernel)

    @classmethod
    def of(cls, conv: Dense) -> "ConvShape":
        return cls(
            conv.in_channels,
            conv.out_channels,
            tuple(conv.kernel_size),
            tuple(conv.stride),
            conv.padding if isinstance(conv.padding, str) else tuple(int(p) for p in conv.padding),
            tuple(conv.dilation),
            tuple(conv.output_padding),
            conv.groups,
            conv.padding_mode,
            isinstance(conv, tuple(CONV_TRANSPOSE.values())),
        )

    def along(self, axes: Sequence[int], in_channels: int, out_channels: int, groups: int) -> "ConvShape":
        """The part of this convolution that acts along some axes, between other numbers of channels: each axis keeps
        its own taps, stride, dilation and padding."""

        def take(values: tuple[int, ...], other: int) -> tuple[int, ...]:
            return tuple(v if axis in axes else other for axis, v in enumerate(values))

        padding = self.padding
        if not isinstance(padding, str):
            padding = take(padding, 0)
        elif not axes or padding == "valid":
            padding = (0,) * self.ndim
        return replace(
            self,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=take(self.kernel, 1),
            stride=take(self.stride, 1),
            padding=padding,
            dilation=take(self.dilation, 1),
            output_padding=take(self.output_padding, 0),
            groups=groups,
            padding_mode=self.padding_mode if axes else ZEROS,
            transposed=self.transposed and bool(axes),
        )

    def build(self, bias: bool, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Dense:
        """An ordinary torch convolution of this shape."""
        common: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups, "bias": bias}
        common |= {"padding": self.padding, "padding_mode": self.padding_mode, "dtype": dtype, "device": device}
        kind: Any = CONV[self.ndim]
        if self.transposed:
            kind = CONV_TRANSPOSE[self.ndim]
            common["output_padding"] = self.output_padding
        return kind(self.in_channels, self.out_channels, self.kernel, **common)

    def from_torch(self, weight: Tensor) -> Tensor:
        """Canonical layout (groups, out, in, *taps) of a torch weight; a view where possible."""
        if self.transposed:
            return weight.reshape(self.groups, self.inner, self.outer, *self.kernel).transpose(1, 2)
        return weight.reshape(self.groups, self.outer, self.inner, *self.kernel)

    def to_torch(self, kernel: Tensor) -> Tensor:
        """The weight of a torch convolution from the canonical layout."""
        if self.transposed:
            return kernel.transpose(1, 2).reshape(self.in_channels, self.outer, *self.kernel)
        return kernel.reshape(self.out_channels, self.inner, *self.kernel)

    def margins(self) -> list[tuple[int, int]]:
        """Layers added below and above each axis."""
        if not isinstance(self.padding, str):
            return [(p, p) for p in self.padding]
        if self.padding == "valid":
            return [(0, 0)] * self.ndim
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, grown: Sequence[int] | None = None) -> Tensor:
        """The convolution with a given torch weight. `grown`: output padding in place of the shape's own."""
        if self.transposed:
            extra = self.output_padding if grown is None else tuple(grown)
            return CONVOLVE_TRANSPOSED[self.ndim](
                x, weight, bias, self.stride, [low for low, _ in self.margins()], extra, self.groups, self.dilation
            )
        margins = self.margins()
        native: tuple[int, ...] | int = tuple(low for low, _ in margins)
        if self.padding_mode != ZEROS or any(low != high for low, high in margins):
            mode = "constant" if self.padding_mode == ZEROS else self.padding_mode
            x, native = F.pad(x, [m for pair in reversed(margins) for m in pair], mode=mode), 0
        return CONVOLVE[self.ndim](x, weight, bias, self.stride, native, self.dilation, self.groups)
