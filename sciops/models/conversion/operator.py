"""A trained network on one grid, turned into a map between functions that answers on every grid."""

from collections.abc import Sequence
from itertools import product
from math import ceil
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sciops.core.boundary import Boundary
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.conversion import attention, local, padding, pointwise, shapes, statistics, synthesis  # noqa: F401
from sciops.models.conversion.layout import ConversionError, Kind, Refinement, Space
from sciops.models.conversion.mode import Refining, Report, following, tensors

METHODS = ("point", "lattice")


def to_neural_operator(
    module: nn.Module,
    native_shape: Sequence[int],
    domain: Sequence[tuple[float, float]] | None = None,
    grid: str | Sequence[str] = "periodic",
    method: str = "point",
) -> "NeuralOperatorModule":
    """The network as an operator: the same weights, the same bits at its own grid, an answer on every other.

    module        maps (n, c, *native_shape) to (n, k, *shape), or to anything without space; in eval mode
    native_shape  the grid that it was trained on
    domain        lower and upper end of each axis; the unit box if not given
    grid          periodic (x_i = iL/N), vertex (ends included) or cell (centres); one for all axes or one per axis
    method        point: every tap stays a point evaluation at its native distance; every layer follows a rule, layers
                  without one are refused. lattice: the fine grid is split into native grids and the network sees each
                  of them; asks nothing of the network; not on vertex grids.

    Raises ConversionError, here or at the first call, with module path, operation, reason and remedy.
    Berner et al., "Principled approaches for extending neural architectures to function spaces for operator learning",
    2025: the question; the rules here are evaluations at native distance instead of interpolated kernels.
    """
    if method not in METHODS:
        raise ConversionError(f"method must be one of {', '.join(METHODS)}; got '{method}'.")
    shape = tuple(int(n) for n in native_shape)
    kinds = (grid,) * len(shape) if isinstance(grid, str) else tuple(grid)
    if len(kinds) != len(shape) or any(k not in get_args(Kind) for k in kinds):
        raise ConversionError(f"grid must be periodic, vertex or cell, for each of the {len(shape)} axes; got {grid}.")
    if not 1 <= len(shape) <= 3 or min(shape) < 2:
        raise ConversionError(f"native_shape must name 1 to 3 axes of 2 points or more; got {shape}.")
    if method == "lattice" and "vertex" in kinds:
        raise ConversionError(
            "method='lattice' has no meaning on vertex grids, whose native grids would need walls between walls; use "
            "method='point', or cell centres."
        )
    for name, p in (*module.named_parameters(), *module.named_buffers()):
        if p.is_quantized:
            raise ConversionError(
                f"{name}: quantised weights have no finer grid; convert the network before quantising."
            )
    devices = {p.device for p in module.parameters()}
    if len(devices) > 1:
        raise ConversionError(f"The network lives on {len(devices)} devices ({devices}); move it to one of them first.")
    return NeuralOperatorModule(module, shape, domain, kinds, method)  # type: ignore[arg-type]


class NeuralOperatorModule(nn.Module):
    """F: functions to functions, from a network on one grid. Made by `to_neural_operator`.

    `forward(x)`: (n, c, *s) on any grid of the domain. On the native grid the source itself runs. On s times as many
    points per axis (vertex: s (n − 1) + 1; cell: s odd) the rules of the method; values at native points are equal to
    the source's to the bit for chains of convolutions, pooling, upsampling and pointwise maps. On all other grids the
    input is refined to the next such grid (Fourier on periodic axes, else cubic), never coarsened, and the answer
    brought back.

    `source` is the network itself; `state_dict` has its keys. `report` says what was done at the last refined call.
    """

    def __init__(
        self,
        source: nn.Module,
        native_shape: tuple[int, ...],
        domain: Sequence[tuple[float, float]] | None,
        kinds: tuple[Kind, ...],
        method: str,
    ) -> None:
        super().__init__()
        self.source = source
        self.native_shape, self.kinds, self.method = native_shape, kinds, method
        ends = [(0.0, 1.0)] * len(native_shape) if domain is None else [(float(a), float(b)) for a, b in domain]
        self.lower, self.upper = (tuple(e[j] for e in ends) for j in (0, 1))
        self.report = Report()
        self._trusted: dict[Any, bool] = {}

    @property
    def ndim(self) -> int:
        return len(self.native_shape)

    def grid(self, shape: Sequence[int]) -> Grid:
        """The grid with these numbers of points."""
        layout = tuple("node" if k == "vertex" else k for k in self.kinds)
        return Grid(tuple(shape), self.lower, self.upper, layout)  # type: ignore[arg-type]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.source.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return self.source.load_state_dict(state_dict, *args, **kwargs)

    def scale(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The smallest refinement whose grid is at least as fine."""
        found = []
        for n, native, kind in zip(shape, self.native_shape, self.kinds, strict=True):
            s = max(1, ceil((n - 1) / (native - 1) if kind == "vertex" else n / native))
            if kind == "cell" and self.method == "point" and s % 2 == 0:
                s += 1
            found.append(s)
        return tuple(found)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        fields = [x for x in tensors((inputs, named)) if x.dim() > self.ndim]
        if not fields:
            raise ConversionError(f"No input has the {self.ndim} axes of space and a channel axis before them.")
        asked = tuple(fields[0].shape[-self.ndim :])
        if asked == self.native_shape:
            return self.source(*inputs, **named)
        refinement = Refinement(self.scale(asked), self.kinds)
        table = enumerate(zip(self.native_shape, self.kinds, strict=True))
        spaces = [Space(j, n, n if k == "periodic" else None) for j, (n, k) in table]
        target = tuple(refinement.fine(s) for s in spaces)

        def bring(x: Any) -> Any:
            if not isinstance(x, Tensor) or tuple(x.shape[-self.ndim :]) != asked or x.dim() <= self.ndim:
                return x
            return self._resampled(x, asked, target)

        inputs, named = _mapped(inputs, bring), _mapped(named, bring)
        if all(s == 1 for s in refinement.scale):
            out = self.source(*inputs, **named)
        elif self.method == "lattice":
            out = self._lattice(inputs, named, refinement, spaces, target)
        else:
            out = self._point(inputs, named, refinement, spaces, target)

        def back(y: Any) -> Any:
            if not isinstance(y, Tensor) or tuple(y.shape[-self.ndim :]) != target:
                return y
            return self._resampled(y, target, asked)

        return _mapped(out, back)

    def _resampled(self, x: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
        if tuple(source) == tuple(target):
            return x
        walls = Boundary(tuple(("periodic",) * 2 if k == "periodic" else ("neumann",) * 2 for k in self.kinds))
        lead = x.shape[: x.dim() - self.ndim]
        flat = x.reshape(-1, 1, *source)
        return resample(flat, self.grid(source), self.grid(target), "cubic", walls).reshape(*lead, *target)

    def _point(
        self, inputs: Any, named: Any, refinement: Refinement, spaces: list[Space], target: tuple[int, ...]
    ) -> Any:
        mode = Refining(refinement, self._trusted)
        for x in tensors((inputs, named)):
            if tuple(x.shape[-self.ndim :]) == target:
                mode.mark(x, (*(None,) * (x.dim() - self.ndim), *spaces))
        with following(self.source, mode), mode:
            out = self.source(*inputs, **named)
        self.report = Report(tuple(mode.entries.values()))
        return out

    def _lattice(
        self, inputs: Any, named: Any, refinement: Refinement, spaces: list[Space], target: tuple[int, ...]
    ) -> Any:
        """y[a::s] = F(x[a::s]) for every shift a."""
        d, parts = self.ndim, []
        shifts = list(product(*(range(s) for s in refinement.scale)))
        for shift in shifts:
            window = (..., *(slice(a, None, s) for a, s in zip(shift, refinement.scale, strict=True)))

            def take(x: Any, window: Any = window) -> Any:
                fine = isinstance(x, Tensor) and x.dim() > d and tuple(x.shape[-d:]) == target
                return x[window].contiguous() if fine else x

            parts.append(self.source(*_mapped(inputs, take), **_mapped(named, take)))

        def gather(values: list[Any]) -> Any:
            first = values[0]
            if isinstance(first, Tensor):
                if first.dim() <= d:
                    return torch.stack(values).mean(0)
                stacked = torch.stack(values, -1).unflatten(-1, refinement.scale)
                found = [Space(j, n) for j, n in enumerate(first.shape[-d:])]
                return refinement.join(stacked, found)
            if isinstance(first, dict):
                return {k: gather([v[k] for v in values]) for k in first}
            if isinstance(first, list | tuple):
                return type(first)(gather(list(v)) for v in zip(*values, strict=True))
            return first

        return gather(parts)


def _mapped(values: Any, function: Any) -> Any:
    if isinstance(values, dict):
        return {k: _mapped(v, function) for k, v in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_mapped(v, function) for v in values)
    return function(values)
