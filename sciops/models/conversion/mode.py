"""Run a network on a finer grid than it was made for: every torch function that meets a field follows a rule."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from sciops.models.conversion.layout import ConversionError, Layout, Refinement, Rows, Space

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
Rule = Callable[["Call"], Any]
EVIDENCE = 256
"""Values at every point that have to agree before two ways to compute are taken for one."""
RULES: dict[str, Rule] = {}
"""Name of a torch function ↦ what it becomes on a finer grid."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for torch functions of these names."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Entry:
    """One line of the report: where, which operation, which rule. `exact`: equal values at shared points; `rate`: order
    in h at which the layer tends to its limit (None: exponentially, or independent of h)."""

    path: str
    operation: str
    rule: str
    exact: bool
    rate: float | None = None


@dataclass
class Call:
    """One intercepted call."""

    mode: "Refining"
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return getattr(self.func, "__name__", str(self.func))

    @property
    def refinement(self) -> Refinement:
        return self.mode.refinement

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def layout(self, x: Tensor) -> Layout:
        """Layout of a tensor; all None for one that is no field."""
        found = self.mode.layouts.get(x)
        return (None,) * x.dim() if found is None else found

    def run(self) -> Any:
        """The function itself on the fine tensors."""
        return self.func(*self.args, **self.kwargs)

    def note(self, rule: str, exact: bool = True, rate: float | None = None) -> None:
        self.mode.note(Entry(self.mode.path, self.name, rule, exact, rate))

    def refuse(self, reason: str, remedy: str) -> ConversionError:
        """The error to raise."""
        where = self.mode.path or "(top level)"
        return ConversionError(f"{where}: {self.name} {reason}; {remedy}.")

    def native(self, x: Tensor, spaces: Sequence[Space]) -> Tensor:
        """The native points of the last axes of a fine tensor, in its memory format."""
        if (
            x.dim() in FORMATS
            and x.shape[1] > 1
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=FORMATS[x.dim()])
        ):
            return x[self._native(spaces)].contiguous(memory_format=FORMATS[x.dim()])
        return x[self._native(spaces)].contiguous()

    def _native(self, spaces: Sequence[Space]) -> Any:
        s, o = self.refinement.scale, self.refinement.origin
        return (..., *(slice(o(a.axis), None, s[a.axis]) for a in spaces))

    def stamped(
        self,
        y: Tensor,
        spaces: Sequence[Space],
        at_native: Callable[[], Tensor],
        source: Callable[[Tensor], Tensor],
        facts: tuple[Any, ...] | None,
    ) -> Tensor:
        """y (…, *fine) with the source's own values at native points, where they differ in a bit.

        Kernels of libraries choose their order of summation by sizes, so that one sum may be rounded in two ways, here
        and there: at the end of a field that no vector register divides, say. Two orders may also agree by chance. So
        every call is compared until each point has agreed on EVIDENCE values, over cases, channels and inputs that
        differ. `facts`: what the order may depend on; None: on values too.
        """
        if not self.mode.bits:
            return y
        key = None if facts is None else (self.name, *facts, tuple(y.shape), y.dtype, y.device, torch.get_num_threads())
        trusted = self.mode.trusted
        if key is not None and trusted.get(key, 0) >= EVIDENCE:
            return y
        x = at_native()
        values, here = source(x), self._native(spaces)
        if key is not None and not torch.compiler.is_compiling() and trusted.get(key, 0) >= 0:
            if torch.equal(y[here], values):
                filled = (x != 0).to(torch.float32).mean([j for j in range(x.dim()) if j != 1])
                told = (key, float(values.detach().double().sum()))
                if told not in trusted and bool((filled > 0.1).all()):  # with zeros every order agrees
                    trusted[told] = 1
                    trusted[key] = trusted.get(key, 0) + values.numel() // prod(values.shape[-len(spaces) :])
                return y
            trusted[key] = -1  # from now on never compared again
        y = y.clone()
        y[here] = values
        return y

    def spaces(self, x: Tensor, dims: int) -> list[Space]:
        """The last `dims` axes of x: space, or frames and the like, which keep their points, beside it."""
        axes = self.layout(x)[-dims:]
        found = [self.mode.unrefined(n) if a is None else a for a, n in zip(axes, x.shape[-dims:], strict=True)]
        if len(axes) < dims or not any(axes) or not all(isinstance(a, Space) for a in found):
            raise self.refuse(
                f"works along the last {dims} axes of a tensor of shape {tuple(x.shape)}, which are not all space",
                "use method='lattice', which asks nothing of the inside of a network",
            )
        return found  # type: ignore[return-value]


@dataclass(frozen=True)
class Options:
    """What a user asks of a conversion beside its method; see `to_neural_operator`."""

    bc: tuple[str, ...] = ()
    head: str = "functional"
    token_shape: tuple[int, ...] = ()
    n_extra: int = 0

    def padding(self, space: Space, mode: str) -> str:
        """Mode of `torch.nn.functional.pad` in place of the network's own."""
        asked = self.bc[space.axis] if space.axis < len(self.bc) else "source"
        return {"source": mode, "periodic": "circular", "zeros": "constant"}.get(asked, asked)


class Refining(TorchFunctionMode):
    """Inside this context calls on tensors with a layout follow the rules; all other tensors are left alone."""

    def __init__(self, refinement: Refinement, trusted: dict[Any, int] | None = None, method: str = "point") -> None:
        super().__init__()
        self.refinement = Refinement((*refinement.scale, 1), (*refinement.kind, "cell"))  # the last one: no space
        self.method = method
        self.trusted = {} if trusted is None else trusted
        self.layouts = WeakTensorKeyDictionary()
        self.entries: dict[tuple[str, str], Entry] = {}
        self.made: dict[tuple[str, str, int], Tensor] = {}
        self.visits: dict[tuple[str, str], int] = {}
        self.stack: list[str] = []
        self.visited = ""
        self.options = Options()
        self.weights: Tensor | None = None
        self.native: tuple[int, ...] = ()
        self.bits = True  # whether native points have the source's bits; False: to rounding
        self.fine_first = False  # how a reshape reads numbers that fit as sizes of both grids
        self.trace: list[tuple[str, Layout]] = []

    @property
    def path(self) -> str:
        return self.stack[-1] if self.stack else ""

    def enter(self, path: str, *_: Any) -> None:
        self.stack.append(path)
        self.visited = path

    def leave(self, *_: Any) -> None:
        self.stack.pop()

    def note(self, entry: Entry) -> None:
        self.entries.setdefault((entry.path, entry.operation), entry)

    def unrefined(self, n: int) -> Space:
        """An axis that is not space, for operations along it and axes of space together."""
        return Space(len(self.refinement.scale) - 1, n)

    def mark(self, x: Tensor, layout: Sequence[Any]) -> Tensor:
        """Say what the axes of a tensor are; checks the lengths."""
        plain = len(self.refinement.scale) - 1
        layout = tuple(None if isinstance(a, Space) and a.axis == plain else a for a in layout)
        expected = [self.refinement.size(axis) for axis in layout]
        if len(layout) != x.dim() or any(e is not None and e != n for e, n in zip(expected, x.shape, strict=True)):
            where = self.path or "(top level)"
            raise ConversionError(
                f"{where}: a tensor of shape {tuple(x.shape)} should have {expected} points along its "
                "axes here; the network computes with sizes of its own there: use method='lattice'."
            )
        if any(axis is not None for axis in layout):
            self.layouts[x] = layout
            self.trace.append((self.path, layout))
        return x

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(x in self.layouts for x in tensors((args, kwargs))):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in PASSED:
            return func(*args, **kwargs)
        call = Call(self, func, args, kwargs)
        if name not in OF_ROWS and any(isinstance(a, Rows) for x in tensors((args, kwargs)) for a in call.layout(x)):
            raise call.refuse("meets rows cut out of a field by number", "cut with [a:-b], or use method='lattice'")
        if name not in RULES:
            raise call.refuse("has no rule on a finer grid", "use method='lattice', or write a rule for it")
        return RULES[name](call)


OF_ROWS = names("cat concat concatenate flip zeros_like contiguous clone detach")
"""What may be done with rows that are joined to pad a field."""
PASSED = names(
    """
    __get__ dim size ndimension numel is_floating_point is_complex __len__ requires_grad_ stride storage_offset
    is_contiguous get_device data_ptr element_size _is_view __hash__ register_hook __repr__ type
    """
)
"""Questions about a tensor; the answers are those of the fine one."""


def tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            waiting += reversed(value.values())
        elif isinstance(value, list | tuple):
            waiting += reversed(value)


@contextmanager
def following(module: nn.Module, mode: Refining) -> Iterator[None]:
    """Keep `mode.path` at the path of the module that is running."""
    handles = []
    for path, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(partial(mode.enter, path)))
        handles.append(part.register_forward_hook(mode.leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Report:
    """What became of every operation, and how the input and the network behave off the native grid.

    aliasing      share of the input's energy above the native Nyquist frequency (0 where it is as coarse)
    equivariance  J = ‖F(T f) − T F f‖/‖F f‖ for a shift T by one native point, where it was measured
    """

    entries: tuple[Entry, ...] = ()
    aliasing: float | None = None
    equivariance: float | None = None
    warnings: tuple[str, ...] = field(default=())

    def rows(self) -> list[dict[str, Any]]:
        """Machine-readable: one dict per entry."""
        return [vars(entry) for entry in self.entries]

    def __str__(self) -> str:
        lines = [f"{'module':<32} {'operation':<20} {'rule':<44} exact  rate"]
        for e in self.entries:
            rate = "-" if e.rate is None else f"{e.rate:g}"
            lines.append(
                f"{e.path or '(top level)':<32} {e.operation:<20} {e.rule:<44} {'yes' if e.exact else 'no':<5}  {rate}"
            )
        if self.aliasing is not None:
            lines.append(f"energy of the input above the native Nyquist frequency: {self.aliasing:.2%}")
        if self.equivariance is not None:
            lines.append(f"equivariance defect J: {self.equivariance:.3g}")
        return "\n".join([*lines, *self.warnings])
