"""A network run under rules, and the same rules on its native points to compare what it decides by sizes."""

from typing import Any

import torch
from torch import Tensor, nn

from sciops.models.conversion.lattice import mapped
from sciops.models.conversion.layout import ConversionError, Kind, Refinement, Space, described
from sciops.models.conversion.mode import Options, Refining, following, tensors


class Ruled(nn.Module):
    """A network with its native grid, and what a user asked of its conversion."""

    def __init__(self, source: nn.Module, native_shape: tuple[int, ...], kinds: tuple[Kind, ...], method: str) -> None:
        super().__init__()
        self.source = source
        self.native_shape, self.kinds, self.method = native_shape, kinds, method
        self.training = source.training
        self.options = Options()
        self._trusted: dict[Any, int] = {}
        self.bits = True  # False: native points agree with the source to rounding, for compiled copies

    @property
    def ndim(self) -> int:
        return len(self.native_shape)

    def _mode(self, refinement: Refinement) -> Refining:
        mode = Refining(refinement, self._trusted, self.method)
        mode.bits = self.bits
        mode.native, mode.options = self.native_shape, self.options
        return mode

    def _intercepted(
        self, mode: Refining, inputs: Any, named: Any, spaces: list[Space], target: tuple[int, ...]
    ) -> Any:
        for x in tensors((inputs, named)):
            if tuple(x.shape[-self.ndim :]) == target:
                mode.mark(x, (*(None,) * (x.dim() - self.ndim), *spaces))
        try:
            with following(self.source, mode), mode:
                return self.source(*inputs, **named)
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            if isinstance(error, ConversionError):
                raise
            text = str(error).strip().split("\n")[0]
            raise ConversionError(
                f"{mode.visited or '(top level)'}: the network's own code stops at {target} points with "
                f"{type(error).__name__}: {text}; it is written for one size: use method='lattice'."
            ) from error

    @torch.no_grad()
    def _native_run(
        self,
        fine: Refining,
        inputs: Any,
        named: Any,
        spaces: list[Space],
        target: tuple[int, ...],
        error: Exception | None = None,
    ) -> Refining:
        """The same rules on the native points: whatever the network decides by a size, it has to decide as there."""
        scale, origin = fine.refinement.scale, fine.refinement.origin
        window: Any = (..., *(slice(origin(j), None, s) for j, s in enumerate(scale[:-1])))

        mode = self._mode(Refinement((1,) * self.ndim, self.kinds))
        d = self.ndim
        try:
            given, options = (
                mapped(v, lambda x: x[window] if isinstance(x, Tensor) and tuple(x.shape[-d:]) == target else x)
                for v in (inputs, named)
            )
            self._intercepted(mode, given, options, spaces, self.native_shape)
        except ConversionError:
            if error is None:
                raise
        for (path, found), (there, expected) in zip(fine.trace, mode.trace, strict=False):
            if path != there or found != expected:
                raise ConversionError(
                    f"{path or '(top level)'}: the network decides by the size of the grid (it pads to a multiple, for "
                    f"instance): with {target} points it makes {described(found)}, with {self.native_shape} points "
                    f"{described(expected)} in native points; choose a native_shape with which both agree, or use "
                    "method='lattice'."
                ) from error
        return mode
