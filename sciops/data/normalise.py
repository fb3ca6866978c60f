"""Normalisers: fitted on training data, kept as buffers, so that they travel in the model's checkpoint."""

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.errors import UsageError

Kind = Literal["identity", "scalar", "channel", "pixel", "unit"]
KINDS = ("identity", "scalar", "channel", "pixel", "unit")


class Normaliser(nn.Module):
    """z = (x − shift)/scale, x = z·scale + shift, on (n, c, *s).

    kind      shift and scale                                                     shape
    identity  0 and 1                                                             (1,)
    scalar    mean and std + eps over cases, channels and space                   (1,)
    channel   mean and std + eps over cases and space                             (c, 1, …)
    pixel     mean and std + eps over cases                                       (c, *s)
    unit      minimum and range + eps over cases and space: values in [0, 1]      (c, 1, …)

    eps = 1e-5 is *added* to the (unbiased) std, as in the published operator-learning codes. A pixel normaliser
    fits one resolution only: elsewhere it raises. Statistics are accumulated in float64 and streamed.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Kind = "scalar", eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"normaliser must be one of {', '.join(KINDS)}; got '{kind}'.")
        self.kind, self.eps = kind, eps
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("scale", torch.ones(1))

    def fit(self, batches: "Iterable[Tensor] | Tensor") -> "Normaliser":
        """Estimate shift and scale from (n, c, *s) training data, whole or in batches; returns self."""
        if self.kind == "identity":
            return self
        moments: _Moments | None = None
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            moments = moments or _Moments(self._axes(batch))
            moments.add(batch)
            dtype = batch.dtype
        if moments is None or moments.count < 2:
            raise UsageError("A normaliser needs at least two training values per statistic.")
        if self.kind == "unit":
            shift, scale = moments.low, moments.high - moments.low + self.eps
        else:
            shift, scale = moments.mean, (moments.spread / (moments.count - 1)).sqrt() + self.eps
        if self.kind == "scalar":
            shift, scale = shift.reshape(1), scale.reshape(1)
        self.shift, self.scale = shift.to(dtype), scale.to(dtype)
        return self

    def encode(self, x: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        """Physical values to normalised ones."""
        self._check(x)
        return (x - self.shift.to(x)) / self.scale.to(x)

    def decode(self, z: Float[Tensor, "n c *s"]) -> Float[Tensor, "n c *s"]:
        """Normalised values to physical ones."""
        self._check(z)
        return z * self.scale.to(z) + self.shift.to(z)

    forward = encode

    def extra_repr(self) -> str:
        return self.kind

    def _axes(self, batch: Tensor) -> tuple[int, ...]:
        """Axes over which the statistics are taken."""
        if self.kind == "pixel":
            return (0,)
        return tuple(range(batch.dim())) if self.kind == "scalar" else (0, *range(2, batch.dim()))

    def _check(self, x: Tensor) -> None:
        shape = tuple(self.shift.shape)
        if self.kind == "pixel" and shape != (1,) and shape != tuple(x.shape[1:]):
            raise UsageError(
                f"This per-pixel normaliser was fitted on (c, *s) = {shape} but met {tuple(x.shape[1:])}; "
                f"use kind 'scalar' or 'channel' to work at other resolutions."
            )
        if self.kind in ("channel", "unit") and shape != (1,) and shape[0] != x.shape[1]:
            raise UsageError(f"This normaliser was fitted on {shape[0]} channel(s) but met {x.shape[1]}.")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        # Buffers take the shape of what was saved: an unfitted normaliser can load a fitted one.
        for name in ("shift", "scale"):
            if prefix + name in state_dict:
                saved = state_dict[prefix + name]
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]


class _Moments:
    """Mean, sum of squared deviations and extremes over some axes, merged batch by batch in float64."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes, self.count = axes, 0

    def add(self, batch: Tensor) -> None:
        x = batch.double()
        count = 1
        for axis in self.axes:
            count *= x.shape[axis]
        mean = x.mean(self.axes, keepdim=True)
        spread = ((x - mean) ** 2).sum(self.axes, keepdim=True)[0]
        low, high, mean = x.amin(self.axes, keepdim=True)[0], x.amax(self.axes, keepdim=True)[0], mean[0]
        if self.count == 0:
            self.mean, self.spread, self.low, self.high = mean, spread, low, high
        else:
            shift, total = mean - self.mean, self.count + count
            self.spread = self.spread + spread + shift**2 * (self.count * count / total)
            self.mean = self.mean + shift * (count / total)
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.count += count
