"""A trained network on one grid, turned into a map between functions that answers on every grid."""

import warnings
from collections.abc import Sequence
from functools import partial
from math import ceil
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sciops.core.boundary import Boundary
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.models.conversion import (  # noqa: F401
    attention,
    graded,
    local,
    measure,
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
from sciops.models.conversion.layout import ConversionError, Kind, Refinement, Space
from sciops.models.conversion.mode import Entry, Refining, Report, tensors
from sciops.models.conversion.refusals import check_inputs, check_weights, checked_options
from sciops.models.conversion.ruled import Ruled

METHODS = ("point", "lattice", *KERNELS)


def to_neural_operator(
    module: nn.Module,
    native_shape: Sequence[int],
    domain: Sequence[tuple[float, float]] | None = None,
    grid: str | Sequence[str] = "periodic",
    method: str = "point",
    resampling: bool = True,
    example: Any = None,
    *,
    bc: str | Sequence[str] = "source",
    on_unsupported: str = "raise",
    head: str = "functional",
    token_shape: Sequence[int] = (),
    n_extra: int = 0,
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

    bc            how convolutions and pads continue the field behind its ends: as the network does (source), or
                  periodic, zeros, replicate, reflect; one for all axes or one per axis. Other than source, answers
                  differ from the network's on its own grid too
    on_unsupported  what happens where a layer has no rule: raise; or, said in a warning and in the report, the whole
                  network by method='lattice' (lattice), or on its own grid between interpolations, which loses what
                  that grid cannot hold (io)
    head          a dense layer on a flattened field is an integral of a density (functional, order 2), reads the native
                  points alone (native: exact there, blind elsewhere), or is refused (raise)
    token_shape, n_extra  lattice of a table of positions that has another length than the tokens of the native grid,
                  and how many tokens without a place come before it

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
    options = checked_options(shape, kinds, method, bc, head, token_shape, n_extra)
    if on_unsupported not in ("raise", "lattice", "io"):
        raise ConversionError(f"on_unsupported must be raise, lattice or io; got '{on_unsupported}'.")
    if on_unsupported == "lattice" and "vertex" in kinds:
        raise ConversionError("on_unsupported='lattice' has no meaning on vertex grids; use 'io' or 'raise'.")
    check_weights(module)
    operator = NeuralOperatorModule(module, shape, domain, kinds, method, resampling)  # type: ignore[arg-type]
    operator.options, operator.on_unsupported = options, on_unsupported
    if example is not None:
        operator.probe(example)
    return operator


class NeuralOperatorModule(Ruled):
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
        super().__init__(source, native_shape, kinds, method)
        ends = [(0.0, 1.0)] * len(native_shape) if domain is None else [(float(a), float(b)) for a, b in domain]
        self.lower, self.upper = (tuple(e[j] for e in ends) for j in (0, 1))
        self.report = Report()
        self.resampling = resampling
        self.on_unsupported = "raise"
        self.fallback = self.fallback_reason = ""
        self._register_load_state_dict_pre_hook(self._renamed)
        self._checked: dict[Any, tuple[list[Entry], list[str]]] = {}
        self._readings: dict[Any, bool] = {}

    def grid(self, shape: Sequence[int]) -> Grid:
        """The grid with these numbers of points."""
        layout = tuple("node" if k == "vertex" else k for k in self.kinds)
        return Grid(tuple(shape), self.lower, self.upper, layout)  # type: ignore[arg-type]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.source.state_dict(*args, **kwargs)

    def _renamed(self, state_dict: Any, prefix: str, *_: Any) -> None:
        """Inside another module the keys are those of the source as well."""
        for key in [k for k in state_dict if k.startswith(prefix) and not k.startswith(prefix + "source.")]:
            state_dict[prefix + "source." + key.removeprefix(prefix)] = state_dict.pop(key)

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

    def forward(self, *inputs: Any, coords: Any = None, weights: Tensor | None = None, **named: Any) -> Any:
        """coords: (x₁ of n₁ points, …, x_d), where the grid of the fields is not equally spaced: interpolated to one
        that is, and back. weights: (*s) quadrature weights: means, norms, attention and dense heads become integrals
        with respect to them, on the native grid too; convolutions and pooling are evaluations at points and have none.
        """
        fields = [x for x in tensors((inputs, named)) if x.dim() > self.ndim]
        if not fields:
            raise ConversionError(f"No input has the {self.ndim} axes of space and a channel axis before them.")
        asked = tuple(fields[0].shape[-self.ndim :])
        own = not self.options.bc and weights is None
        if asked == self.native_shape and coords is None and own:
            return self.source(*inputs, **named)
        check_inputs(self.source, (inputs, named))
        places = None if coords is None else graded.check(coords, asked, self.grid(asked))
        density = None if weights is None else measure.check(weights, asked, ConversionError)
        if density is not None and self.method == "lattice":
            raise ConversionError("method='lattice' asks nothing of the inside of a network and takes no weights.")
        refinement = Refinement(self.scale(asked), self.kinds)
        table = enumerate(zip(self.native_shape, self.kinds, strict=True))
        spaces = [Space(j, n, n if k == "periodic" else None) for j, (n, k) in table]
        target = tuple(refinement.fine(s) for s in spaces)

        if asked != target and places is None:
            self._check_size(asked)
        even = [self.grid(target).axis(j) for j in range(self.ndim)]

        there = partial(self._moved, asked=asked, target=target, sources=places, targets=even)
        if density is not None:
            density = there(density[None, None])[0, 0].clamp(min=0)
        inputs, named = mapped(inputs, there), mapped(named, there)
        if all(s == 1 for s in refinement.scale) and own:
            out = self.source(*inputs, **named)
        elif self.method == "lattice":
            out = lattice(self.source, inputs, named, refinement, target, self._trusted)
            self.report = Report((Entry("", "forward", "every shifted native grid", True),))
        else:
            out = self._ruled(inputs, named, refinement, spaces, target, density)

        return mapped(out, partial(self._moved, asked=target, target=asked, sources=even, targets=places))

    def _moved(self, x: Any, asked: Any, target: Any, sources: Any, targets: Any) -> Any:
        """A field with `asked` points, to `target` points; other values as they are."""
        if not isinstance(x, Tensor) or x.dim() <= self.ndim or not _ends(x, asked):
            return x
        if targets is not None and sources is not None:
            return graded.moved(x, sources, targets, self.grid(target))
        return self._resampled(x, asked, target)

    def _instead(self, inputs: Any, named: Any, refinement: Refinement, target: tuple[int, ...], why: str) -> Any:
        """The network where its layers have no rule: on every shifted native grid, or between interpolations."""
        entry = Entry("", "forward", f"on_unsupported='{self.on_unsupported}': {why}", False)
        if not self.fallback:
            self.fallback = self.on_unsupported
            warnings.warn(f"{why} Converted by on_unsupported='{self.on_unsupported}' instead.", stacklevel=4)
        if self.fallback == "lattice":
            out = lattice(self.source, inputs, named, refinement, target, self._trusted)
        else:

            def coarse(x: Any) -> Any:
                field = isinstance(x, Tensor) and x.dim() > self.ndim and _ends(x, target)
                return self._resampled(x, target, self.native_shape) if field else x

            def fine(y: Any) -> Any:
                field = isinstance(y, Tensor) and y.dim() > self.ndim and _ends(y, self.native_shape)
                return self._resampled(y, self.native_shape, target) if field else y

            out = mapped(self.source(*mapped(inputs, coarse), **mapped(named, coarse)), fine)
        self.report = Report((entry,), warnings=(why,))
        return out

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
        self,
        inputs: Any,
        named: Any,
        refinement: Refinement,
        spaces: list[Space],
        target: tuple[int, ...],
        density: Tensor | None = None,
    ) -> Any:
        """The network under the rules of the method, for fields with `target` points."""
        if self.on_unsupported == "raise":
            return self._by_rules(inputs, named, refinement, spaces, target, density)
        if self.fallback:
            return self._instead(inputs, named, refinement, target, self.fallback_reason)
        try:
            return self._by_rules(inputs, named, refinement, spaces, target, density)
        except ConversionError as error:
            self.fallback_reason = str(error)
            return self._instead(inputs, named, refinement, target, str(error))

    def _by_rules(
        self,
        inputs: Any,
        named: Any,
        refinement: Refinement,
        spaces: list[Space],
        target: tuple[int, ...],
        density: Tensor | None,
    ) -> Any:
        key = (refinement, *((tuple(x.shape), x.dtype) for x in tensors((inputs, named))))
        given = (inputs, named, refinement, spaces, target, density)
        try:
            out, mode = self._read(key, self._readings.get(key, False), *given)
        except ConversionError as error:
            if key in self._checked:
                raise
            try:  # a number that can be a size of the native grid and one of the fine grid
                out, mode = self._read(key, True, *given)
            except ConversionError:
                raise error from None
            self._readings[key] = True
        entries, said = self._checked.get(key, ([], []))
        entries, said = [*mode.entries.values(), *entries], list(said)
        self.report = Report(tuple(entries), warnings=tuple(said + advice(entries, self.kinds, None, None)))

        return mapped(out, partial(self._lifted, mode=mode, target=target))

    def _read(
        self,
        key: Any,
        fine_first: bool,
        inputs: Any,
        named: Any,
        refinement: Refinement,
        spaces: list[Space],
        target: tuple[int, ...],
        density: Tensor | None,
    ) -> tuple[Any, Refining]:
        """The network under the rules, with one reading of the sizes that it writes; once per shape its layouts and
        indices are compared with those on the native points."""
        mode = self._mode(refinement)
        mode.weights, mode.fine_first = density, fine_first
        try:
            out = self._intercepted(mode, inputs, named, spaces, target)
        except ConversionError as error:
            self._native_run(mode, inputs, named, spaces, target, error)
            raise
        if key not in self._checked and not torch.compiler.is_compiling():
            native = self._native_run(mode, inputs, named, spaces, target)
            found = indices(mode.made, native.made)
            self._checked[key] = [entry for entry, _ in found], [text for _, text in found if text]
            for text in self._checked[key][1]:
                warnings.warn(text, stacklevel=4)
        return out, mode

    def _lifted(self, y: Any, mode: Refining, target: tuple[int, ...]) -> Any:
        """A field that the network makes on the native lattice from numbers without a place."""
        alone = isinstance(y, Tensor) and y not in mode.layouts and y.dim() > self.ndim + 1
        return self._resampled(y, self.native_shape, target) if alone and _ends(y, self.native_shape) else y


def _ends(y: Tensor, shape: Sequence[int]) -> bool:
    return tuple(y.shape[-len(shape) :]) == tuple(shape)
