"""A trained network on one grid, turned into a map between functions that answers on every grid."""

import warnings
from collections.abc import Sequence
from math import ceil
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sciops.core.boundary import Boundary
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.conversion import (  # noqa: F401
    attention,
    local,
    padding,
    pointwise,
    shapes,
    slices,
    statistics,
    synthesis,
)
from sciops.models.conversion.diagnosis import advice, aliasing, equivariance, indices
from sciops.models.conversion.kernels import KERNELS
from sciops.models.conversion.lattice import lattice, mapped
from sciops.models.conversion.layout import ConversionError, Kind, Refinement, Space, described
from sciops.models.conversion.mode import Entry, Refining, Report, following, tensors
from sciops.models.conversion.refusals import check_inputs, check_weights

METHODS = ("point", "lattice", *KERNELS)


def to_neural_operator(
    module: nn.Module,
    native_shape: Sequence[int],
    domain: Sequence[tuple[float, float]] | None = None,
    grid: str | Sequence[str] = "periodic",
    method: str = "point",
    resampling: bool = True,
    example: Any = None,
) -> "NeuralOperatorModule":
    """The network as an operator: the same weights, the same bits at its own grid, an answer on every other.

    module        maps (n, c, *native_shape) to (n, k, *shape), or to anything without space; in eval mode
    native_shape  the grid that it was trained on
    domain        lower and upper end of each axis; the unit box if not given
    grid          periodic (x_i = iL/N), vertex (ends included) or cell (centres); one for all axes or one per axis
    method        point: every tap stays a point evaluation at its native distance; every layer follows a rule, layers
                  without one are refused. integral, spectral, paper_rule: other meanings of a convolution, see
                  `kernels`; all other layers as in point. lattice: the fine grid is split into native grids and the
                  network sees each of them; asks nothing of the network; not on vertex grids.
    resampling    False refuses sizes that are no refinement of the native grid instead of refining their input
    example       a native input (or a tuple of inputs) to try the conversion at once: its report is ready, and layers
                  without a rule are refused here instead of at the first call

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
    if method == "spectral" and set(kinds) != {"periodic"}:
        raise ConversionError("method='spectral' needs periodic axes; use 'point' or 'integral' between walls.")
    check_weights(module)
    operator = NeuralOperatorModule(module, shape, domain, kinds, method, resampling)  # type: ignore[arg-type]
    if example is not None:
        operator.probe(example)
    return operator


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
        resampling: bool = True,
    ) -> None:
        super().__init__()
        self.source = source
        self.native_shape, self.kinds, self.method = native_shape, kinds, method
        ends = [(0.0, 1.0)] * len(native_shape) if domain is None else [(float(a), float(b)) for a, b in domain]
        self.lower, self.upper = (tuple(e[j] for e in ends) for j in (0, 1))
        self.report = Report()
        self.resampling = resampling
        self._trusted: dict[Any, int] = {}
        self._checked: dict[Any, tuple[list[Entry], list[str]]] = {}

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
            if kind == "cell" and self.method != "lattice" and s % 2 == 0:
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
        check_inputs(self.source, (inputs, named))
        refinement = Refinement(self.scale(asked), self.kinds)
        table = enumerate(zip(self.native_shape, self.kinds, strict=True))
        spaces = [Space(j, n, n if k == "periodic" else None) for j, (n, k) in table]
        target = tuple(refinement.fine(s) for s in spaces)

        if asked != target:
            self._check_size(asked)

        def bring(x: Any) -> Any:
            if not isinstance(x, Tensor) or tuple(x.shape[-self.ndim :]) != asked or x.dim() <= self.ndim:
                return x
            return self._resampled(x, asked, target)

        inputs, named = mapped(inputs, bring), mapped(named, bring)
        if all(s == 1 for s in refinement.scale):
            out = self.source(*inputs, **named)
        elif self.method == "lattice":
            out = lattice(self.source, inputs, named, refinement, target, self._trusted)
            self.report = Report((Entry("", "forward", "every shifted native grid", True),))
        else:
            out = self._ruled(inputs, named, refinement, spaces, target)

        def back(y: Any) -> Any:
            if not isinstance(y, Tensor) or tuple(y.shape[-self.ndim :]) != target:
                return y
            return self._resampled(y, target, asked)

        return mapped(out, back)

    def _check_size(self, asked: tuple[int, ...]) -> None:
        """Sizes between refinements need interpolation."""
        if not self.resampling:
            raise ConversionError(
                f"{asked} points are no refinement of the native grid {self.native_shape} by whole numbers and "
                "resampling=False; choose multiples (vertex: s(n − 1) + 1 points), or allow resampling."
            )
        if self.method == "paper_rule":
            raise ConversionError(
                f"method='paper_rule' has no kernel for {asked} points: int(sk − s + 1) taps fit no padding unless the "
                f"scale s against {self.native_shape} is a whole number; use method='point'."
            )

    @torch.no_grad()
    def probe(self, example: Any) -> Report:
        """The report of a native input, interpolated to the next finer grid: every rule is tried."""
        inputs = example if isinstance(example, tuple) else (example,)
        for x in tensors(inputs):
            if x.dim() > self.ndim and _ends(x, self.native_shape):
                break
        else:
            raise ConversionError(f"example has no field with a channel axis and {self.native_shape} points.")
        factor = 3 if "cell" in self.kinds and self.method != "lattice" else 2
        refinement = Refinement((factor,) * self.ndim, self.kinds)
        finer = tuple(refinement.fine(Space(j, n)) for j, n in enumerate(self.native_shape))

        def refine(x: Any) -> Any:
            field = isinstance(x, Tensor) and x.dim() > self.ndim and _ends(x, self.native_shape)
            return self._resampled(x, self.native_shape, finer) if field else x

        return self.examine(*mapped(inputs, refine))

    @torch.no_grad()
    def examine(self, *inputs: Any, **named: Any) -> Report:
        """Runs the operator and says how much of the input lies above the native Nyquist frequency, and how far the
        network is from commuting with shifts (J, measured on the native grid). The first field is examined."""
        self.report = Report()
        self(*inputs, **named)
        field = next(x for x in tensors((inputs, named)) if x.dim() > self.ndim)
        asked = tuple(field.shape[-self.ndim :])
        share = aliasing(field, self.native_shape, self.kinds)

        def native(x: Any) -> Any:
            same = isinstance(x, Tensor) and x.dim() > self.ndim and _ends(x, asked)
            return self._resampled(x, asked, self.native_shape) if same else x

        def network(x: Tensor) -> Any:
            return self.source(
                *mapped(inputs, lambda v: x if v is field else native(v)),
                **mapped(named, lambda v: x if v is field else native(v)),
            )

        defect = equivariance(network, native(field), self.kinds)
        said = (*self.report.warnings, *advice([], self.kinds, share, defect))
        self.report = Report(self.report.entries, share, defect, said)
        return self.report

    def _resampled(self, x: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
        if tuple(source) == tuple(target):
            return x
        walls = Boundary(tuple(("periodic",) * 2 if k == "periodic" else ("neumann",) * 2 for k in self.kinds))
        lead = x.shape[: x.dim() - self.ndim]
        flat = x.reshape(-1, 1, *source)
        return resample(flat, self.grid(source), self.grid(target), "cubic", walls).reshape(*lead, *target)

    def _ruled(
        self, inputs: Any, named: Any, refinement: Refinement, spaces: list[Space], target: tuple[int, ...]
    ) -> Any:
        """The network under the rules of the method, for fields with `target` points."""
        mode = self._mode(refinement)
        try:
            out = self._intercepted(mode, inputs, named, spaces, target)
        except ConversionError as error:
            self._native_run(mode, inputs, named, spaces, target, error)
            raise
        entries, said = list(mode.entries.values()), []
        key = (refinement, *((tuple(x.shape), x.dtype) for x in tensors((inputs, named))))
        if not torch.compiler.is_compiling():
            if key not in self._checked:
                native = self._native_run(mode, inputs, named, spaces, target)
                found = indices(mode.made, native.made)
                self._checked[key] = [entry for entry, _ in found], [text for _, text in found if text]
                for text in self._checked[key][1]:
                    warnings.warn(text, stacklevel=3)
            entries, said = entries + self._checked[key][0], self._checked[key][1]
        self.report = Report(tuple(entries), warnings=tuple(said + advice(entries, self.kinds, None, None)))

        def lifted(y: Any) -> Any:
            """A field that the network makes on the native lattice from numbers without a place."""
            alone = isinstance(y, Tensor) and y not in mode.layouts and y.dim() > self.ndim + 1
            return self._resampled(y, self.native_shape, target) if alone and _ends(y, self.native_shape) else y

        return mapped(out, lifted)

    def _mode(self, refinement: Refinement) -> Refining:
        mode = Refining(refinement, self._trusted, self.method)
        mode.native = self.native_shape
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

        def native(x: Any) -> Any:
            return x[window] if isinstance(x, Tensor) and tuple(x.shape[-self.ndim :]) == target else x

        mode = self._mode(Refinement((1,) * self.ndim, self.kinds))
        self._intercepted(mode, mapped(inputs, native), mapped(named, native), spaces, self.native_shape)
        for (path, found), (there, expected) in zip(fine.trace, mode.trace, strict=False):
            if path != there or found != expected:
                raise ConversionError(
                    f"{path or '(top level)'}: the network decides by the size of the grid (it pads to a multiple, for "
                    f"instance): with {target} points it makes {described(found)}, with {self.native_shape} points "
                    f"{described(expected)} in native points; choose a native_shape with which both agree, or use "
                    "method='lattice'."
                ) from error
        return mode


def _ends(y: Tensor, shape: Sequence[int]) -> bool:
    return tuple(y.shape[-len(shape) :]) == tuple(shape)
