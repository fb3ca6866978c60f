"""Operations that act on every point alike, and those that only rearrange axes."""

from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion import measure
from sciops.models.conversion.diagnosis import native_points, witness
from sciops.models.conversion.layout import Axis, Layout, Mixed, Rows, Space, Tokens
from sciops.models.conversion.mode import Call, names, rule, tensors

VECTOR = 64

SMOOTH = names(
    """
    gelu silu mish tanh sigmoid softplus sin cos exp log sqrt rsqrt square erf pow __pow__ neg __neg__ exp_
    tanh_ sigmoid_ reciprocal logsigmoid softsign tanhshrink expm1 log1p sinh cosh atan
    """
)
KINKED = names(
    """
    relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ celu selu selu_ prelu rrelu hardtanh hardswish hardsigmoid
    abs sign clamp clamp_ clip threshold threshold_ softshrink hardshrink floor ceil round clamp_min clamp_max
    __abs__
    """
)
ARITHMETIC = names(
    """
    add sub rsub mul div true_divide add_ sub_ mul_ div_ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__
    __truediv__ __rtruediv__ __rdiv__ __iadd__ __isub__ __imul__ __itruediv__ maximum minimum lerp addcmul where
    atan2 hypot __rpow__ eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_and logical_or
    logical_not masked_fill
    """
)
SAME = names(
    """
    contiguous clone detach to float double half bfloat16 type_as requires_grad_ alpha_dropout cpu cuda identity
    zeros_like ones_like full_like as_tensor asarray empty_like rand_like randn_like nan_to_num channels_last
    """
)


@rule(*SMOOTH, *KINKED, *ARITHMETIC)
def pointwise(call: Call) -> Any:
    """f(u(x), v(x), …): layouts broadcast; parameters on the native lattice become functions of x."""
    operands = list(tensors((call.args, call.kwargs)))
    layout = broadcast(call, [call.layout(x) for x in operands])
    args = _on_fine(call, call.args, layout)
    kwargs = {k: _on_fine(call, (v,), layout)[0] for k, v in call.kwargs.items()}
    tail = call.name not in ARITHMETIC and isinstance(args[0], Tensor) and args[0].numel() % VECTOR != 0
    before = args[0].clone() if tail else None  # it may be changed in place
    out = call.func(*args, **kwargs)
    if call.name not in ARITHMETIC:
        if before is not None:
            exact = _vectorised(call, before, out, layout)
            out = out.copy_(exact) if out is args[0] and exact is not out else exact
        call.note("pointwise", True, 1.0 if call.name in KINKED else None)
    if not isinstance(out, Tensor):
        return out
    return call.mode.mark(out, layout)


def _vectorised(call: Call, x: Tensor, out: Tensor, layout: Layout) -> Tensor:
    """Vector and scalar loops of one function round differently: where sizes leave a tail, native points are evaluated
    as the source does."""
    spaces = [a for a in layout if isinstance(a, Space)]
    if not spaces or layout[-len(spaces) :] != tuple(spaces):
        return out
    return call.stamped(
        out, spaces, partial(call.native, x, spaces), lambda b: call.func(b, *call.args[1:], **call.kwargs), None
    )


@rule(*SAME)
def same(call: Call) -> Any:
    """What changes no axis."""
    layout = call.layout(call.args[0])
    if call.name == "zeros_like":
        layout = tuple(replace(a, blank=True) if isinstance(a, Rows) else a for a in layout)
    return call.mode.mark(call.run(), layout)


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_", "feature_dropout", "feature_alpha_dropout")
def dropout(call: Call) -> Tensor:
    if call.argument(2, "training", True) and call.argument(1, "p", 0.5) > 0:
        raise call.refuse("is active: its mask belongs to one grid", "call module.eval() first, or set p = 0")
    return call.mode.mark(call.args[0] * 1.0, call.layout(call.args[0]))


def broadcast(call: Call, layouts: list[Layout]) -> Layout:
    """The layout of a broadcast result."""
    rank = max(len(layout) for layout in layouts)
    found: list[Axis] = []
    for j in range(rank):
        axes = {layout[j - rank] for layout in layouts if len(layout) >= rank - j and layout[j - rank] is not None}
        axes = {axis for axis in axes if axis is not None}
        if len(axes) > 1:
            plain = {_bare(axis) for axis in axes}
            if len(plain) > 1:
                raise call.refuse(
                    f"combines tensors on different levels of the grid along axis {j} ({', '.join(map(str, axes))})",
                    "crop or resample them to one level, or use method='lattice'",
                )
            axes = {min(axes, key=str)}
        found.append(axes.pop() if axes else None)
    return tuple(found)


def _bare(axis: Axis) -> Axis:
    if isinstance(axis, Tokens):
        return replace(axis, factors=tuple(replace(f, nodal=False) for f in axis.factors))
    return Space(axis.axis, axis.n) if isinstance(axis, Space) else axis


def _on_fine(call: Call, values: Any, layout: Layout) -> list[Any]:
    """Plain tensors of native size along axes of space, as functions on the fine grid."""
    moved: list[Any] = []
    for value in values:
        if isinstance(value, Tensor) and value not in call.mode.layouts:
            value = refined(call, value, layout)
        moved.append(value)
    return moved


def refined(call: Call, value: Tensor, layout: Layout) -> Tensor:
    """A parameter on the native lattice, interpolated to the fine grid with its nodes kept; others as they are."""
    witness(call, value, layout)
    for back in range(1, min(value.dim(), len(layout)) + 1):
        axis, size = layout[-back], value.shape[-back]
        if axis is None or size == 1 or size == call.refinement.size(axis):
            continue
        if isinstance(axis, Space) and size == axis.n:
            value = between(call, value, value.dim() - back, axis)
            call.note("parameter as a function of x, linear between its nodes", True, 2.0)
        elif isinstance(axis, Tokens) and size == axis.extra + _count(axis):
            value = _lattice(call, value, value.dim() - back, axis)
            call.note("parameter as a function of x, linear between its nodes", True, 2.0)
        elif isinstance(axis, Tokens) and size == prod(call.mode.options.token_shape) + call.mode.options.n_extra:
            value = _lattice(call, _table(call, value, value.dim() - back, axis), value.dim() - back, axis)
            call.note("table on a lattice of its own as a function of x", False, 2.0)
        else:
            raise call.refuse(
                f"meets a tensor of shape {tuple(value.shape)}, neither constant in space nor on the native lattice",
                f"which has {_points(axis)} here; give it as a parameter on that lattice (learned positions: one per "
                "patch, after the tokens without a place), say which lattice it is on by token_shape= and n_extra=, or "
                "use method='lattice'",
            )
    return value


def between(call: Call, value: Tensor, dim: int, axis: Space) -> Tensor:
    """Linear interpolation of a native lattice along one axis; behind the last node periodic, or constant at walls."""
    grid = call.refinement
    s, o = grid.scale[axis.axis], grid.origin(axis.axis)
    place = (torch.arange(grid.fine(axis), device=value.device) - o).to(torch.float64) / s
    low = place.floor()
    share = (place - low).to(value.dtype)
    index = torch.stack([low, low + 1]).long()
    periodic = axis.period is not None and grid.kind[axis.axis] == "periodic"
    index = index.remainder(axis.n) if periodic else index.clamp(0, axis.n - 1)
    shape = [1] * value.dim()
    shape[dim] = -1
    here, there = (value.index_select(dim, i) for i in index)
    return torch.where(share.reshape(shape) == 0, here, torch.lerp(here, there, share.reshape(shape)))


def _lattice(call: Call, value: Tensor, dim: int, axis: Tokens) -> Tensor:
    extra = value.narrow(dim, 0, axis.extra)
    points = value.narrow(dim, axis.extra, value.shape[dim] - axis.extra)
    points = points.unflatten(dim, [f.n for f in axis.factors])
    for j, factor in enumerate(axis.factors):
        points = between(call, points, dim + j, factor)
    points = points.flatten(dim, dim + len(axis.factors) - 1)
    return torch.cat([extra, points], dim) if axis.extra else points


def _table(call: Call, value: Tensor, dim: int, axis: Tokens) -> Tensor:
    """A table on the lattice `token_shape`, at the native points of the axis instead; linear in the unit box."""
    asked, extra = call.mode.options.token_shape, call.mode.options.n_extra
    if len(asked) != len(axis.factors) or extra != axis.extra:
        raise call.refuse(
            f"meets a table for token_shape={asked} and n_extra={extra}, which are {_points(axis)} here",
            "give one length per axis of space and the number of tokens before the points",
        )
    first, points = value.narrow(dim, 0, extra), value.narrow(dim, extra, value.shape[dim] - extra)
    points = points.unflatten(dim, asked)
    for j, (n, f) in enumerate(zip(asked, axis.factors, strict=True)):
        kind, periodic = call.refinement.kind[f.axis], call.refinement.kind[f.axis] == "periodic"
        i = torch.arange(f.n, device=value.device, dtype=torch.float64)
        place = i * ((n - 1) / max(f.n - 1, 1)) if kind == "vertex" else (i + 0.5) * (n / f.n) - 0.5
        place = i * (n / f.n) if periodic else place
        low = place.floor()
        index = torch.stack([low, low + 1]).long()
        index = index.remainder(n) if periodic else index.clamp(0, n - 1)
        here, there = (points.index_select(dim + j, k) for k in index)
        shape = [-1 if k == dim + j else 1 for k in range(points.dim())]
        points = torch.lerp(here, there, (place - low).to(value.dtype).reshape(shape))
    return torch.cat([first, points.flatten(dim, dim + len(asked) - 1)], dim)


def _points(axis: Axis) -> str:
    if isinstance(axis, Tokens):
        lattice = " × ".join(str(f.n) for f in axis.factors)
        return f"{lattice} points" + (f" and {axis.extra} further tokens" if axis.extra else "")
    return f"{axis.n} points" if isinstance(axis, Space) else "no points of its own"


def _count(axis: Tokens) -> int:
    n = 1
    for factor in axis.factors:
        n *= factor.n
    return n


@rule("linear")
def linear(call: Call) -> Tensor:
    """A matrix on the last axis: pointwise on channels, an integral on space."""
    x, weight, bias = call.args[0], call.argument(1, "weight"), call.argument(2, "bias")
    layout = call.layout(x)
    last = layout[-1]
    if last is None:
        return call.mode.mark(call.run(), layout)
    if isinstance(last, Space) or (isinstance(last, Tokens) and not last.extra):
        n = last.n if isinstance(last, Space) else _count(last)
        if weight.shape == (n, n):
            return _mixed(call, x, weight, bias, last)
    if isinstance(last, Space | Tokens) and not getattr(last, "extra", 0) and _nodal(last):
        call.note("reads what a dense layer made, at its nodes", False)
        nodes = native_points(call, x, x.dim() - 1, last)
        return call.mode.mark(F.linear(nodes, weight, bias), (*layout[:-1], None))
    if isinstance(last, Mixed | Space) or (isinstance(last, Tokens) and not last.extra):
        head = call.mode.options.head
        if head == "raise":
            raise call.refuse(
                "reads a flattened field: its layout is tied to the native size", "give head='functional' or 'native'"
            )
        if head == "native":
            call.note("head reads the native points alone")
            return call.mode.mark(F.linear(_at_native(call, x, last), weight, bias), (*layout[:-1], None))
        given = measure.tokens(call, last)
        x = x if given is None else x * given.to(x)
        weight = _density(call, weight, last)
        call.note("integral of a density, linear between its nodes", False, 2.0)
        return call.mode.mark(F.linear(x, weight, bias), (*layout[:-1], None))
    raise call.refuse("mixes tokens with and without a place", "use method='lattice'")


def _at_native(call: Call, x: Tensor, axis: Axis) -> Tensor:
    """The native points along the last axis, flattened."""
    factors: tuple[Any, ...] = axis.factors if isinstance(axis, Mixed | Tokens) else (axis,)
    x = x.unflatten(-1, [f if isinstance(f, int) else call.refinement.fine(f) for f in factors])
    for j, f in enumerate(factors):
        if isinstance(f, Space):
            x = native_points(call, x, x.dim() - len(factors) + j, f)
    return x.flatten(-len(factors))


def _nodal(axis: Space | Tokens) -> bool:
    return all(f.nodal for f in (axis.factors if isinstance(axis, Tokens) else (axis,)))


def _mixed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, axis: Space | Tokens) -> Tensor:
    """∫ K(x, y) f(y) dy + b(x), as many points out as in: K and b linear between their nodes.

    A layer that reads what another such layer made reads its nodes: they may as well be hidden units, as many as points
    by chance, between which nothing lies.
    """
    tokens = axis if isinstance(axis, Tokens) else Tokens((axis,))
    if _nodal(axis):
        at_nodes = F.linear(native_points(call, x, x.dim() - 1, axis), weight, bias)
    else:
        given = measure.tokens(call, axis)
        at_nodes = F.linear(x if given is None else x * given.to(x), _density(call, weight, axis), bias)
    factors = tuple(replace(f, nodal=True) for f in tokens.factors)
    call.note("integral K(x, y) f(y) dy, linear between its nodes", False, 2.0)
    out = _lattice(call, at_nodes, x.dim() - 1, tokens)
    return call.mode.mark(out, (*call.layout(x)[:-1], Tokens(factors) if isinstance(axis, Tokens) else factors[0]))


def _density(call: Call, weight: Tensor, axis: Axis) -> Tensor:
    """W(x)/H^d as a density: rows on the fine grid, divided by the number of fine points per native one."""
    factors: tuple[int | Space, ...] = axis.factors if isinstance(axis, Mixed | Tokens) else (axis,)  # type: ignore[assignment]
    sizes = [f if isinstance(f, int) else f.n for f in factors]
    density = weight.unflatten(1, sizes)
    for j, factor in enumerate(factors):
        if isinstance(factor, Space):
            density = between(call, density, 1 + j, factor) / call.refinement.scale[factor.axis]
    return density.flatten(1)
