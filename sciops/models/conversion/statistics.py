"""Norms, means and other integrals over space."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion import measure
from sciops.models.conversion.layout import Space, Tokens
from sciops.models.conversion.mode import Call, rule
from sciops.models.conversion.pointwise import refined


@rule("batch_norm")
def batch_norm(call: Call) -> Tensor:
    if call.argument(5, "training", False) or call.argument(1, "running_mean") is None:
        raise call.refuse(
            "takes statistics of the batch, which depend on the grid",
            "call module.eval() before converting and using it",
        )
    call.note("pointwise affine", True)
    return call.mode.mark(call.run(), call.layout(call.args[0]))


@rule("group_norm", "instance_norm")
def moments(call: Call) -> Tensor:
    """Moments over the points of the fine grid, all of one weight: integrals by the rule of the native grid."""
    if call.name == "instance_norm" and call.kwargs.get("use_input_stats", True) is False:
        call.note("pointwise affine")
    else:
        weights = measure.along(call, call.args[0])
        if weights is not None:
            call.note("moments with weights", False, 2.0)
            return call.mode.mark(_normed(call, weights), call.layout(call.args[0]))
        call.note("plain moments over the points", False, 1.0 if "vertex" in call.refinement.kind else None)
    return call.mode.mark(call.run(), call.layout(call.args[0]))


def _normed(call: Call, w: Tensor) -> Tensor:
    """group_norm and instance_norm with weights."""
    x, instance = call.args[0], call.name == "instance_norm"
    groups = x.shape[1] if instance else int(call.argument(1, "num_groups"))
    names = (3, "weight"), (4, "bias"), (7, "eps")
    if not instance:
        names = (2, "weight"), (3, "bias"), (4, "eps")
    scale, shift = (call.argument(*name) for name in names[:2])
    parts, w = x.unflatten(1, (groups, -1)), w.unsqueeze(1)
    mean, variance = measure.moments(parts, w, range(2, parts.dim()))
    y = ((parts - mean) / (variance + call.argument(*names[2], 1e-5)).sqrt()).flatten(1, 2)
    ones = (1, -1, *(1,) * (x.dim() - 2))
    y = y if scale is None else y * scale.reshape(ones)
    return y if shift is None else y + shift.reshape(ones)


@rule("normalize", "cosine_similarity", "rms_norm")
def over_channels(call: Call) -> Tensor:
    x = call.args[0]
    layout = list(call.layout(x))
    if call.name == "rms_norm":
        dims = list(range(x.dim() - len(call.argument(1, "normalized_shape")), x.dim()))
    else:
        dims = [call.argument(2, "dim", 1) % x.dim()]
    if any(layout[j] is not None for j in dims):
        raise call.refuse("runs over points", "use method='lattice'")
    call.note("pointwise")
    if call.name == "cosine_similarity":
        layout.pop(dims[0])
    return call.mode.mark(call.run(), layout)


@rule("layer_norm")
def layer_norm(call: Call) -> Tensor:
    x, shape = call.args[0], list(call.argument(1, "normalized_shape"))
    layout = call.layout(x)
    within = layout[-len(shape) :]
    if all(axis is None for axis in within):
        call.note("pointwise", True)
        return call.mode.mark(call.run(), layout)
    fine = list(x.shape[-len(shape) :])
    weight, bias = (
        None if p is None else refined(call, p, within) for p in (call.argument(2, "weight"), call.argument(3, "bias"))
    )
    call.note("plain moments over the points, affine as a function of x", False, 2.0)
    w = measure.along(call, x)
    if w is not None:
        mean, variance = measure.moments(x, w, range(x.dim() - len(shape), x.dim()))
        y = (x - mean) / (variance + call.argument(4, "eps", 1e-5)).sqrt()
        y = y if weight is None else y * weight
        return call.mode.mark(y if bias is None else y + bias, layout)
    return call.mode.mark(F.layer_norm(x, fine, weight, bias, call.argument(4, "eps", 1e-5)), layout)


@rule("mean", "sum", "amax", "amin", "std", "var", "max", "min", "prod", "all", "any")
def reduction(call: Call) -> Any:
    """Means over space are integrals divided by the measure; sums are integrals, native points being of weight one."""
    x = call.args[0]
    if len(call.args) > 1 and isinstance(call.args[1], Tensor):
        return _pairwise(call)
    layout = call.layout(x)
    dims = call.argument(1, "dim", None)
    if dims is None:
        dims = tuple(range(x.dim()))
    chosen = {d % x.dim() for d in ((dims,) if isinstance(dims, int) else dims)}
    keep = bool(call.argument(2, "keepdim", False))
    touched = [layout[j] for j in chosen if layout[j] is not None]
    if touched and call.name not in ("mean", "sum", "amax", "amin", "std", "var"):
        raise call.refuse("reduces over points", "use mean, sum, amax or amin")
    if any(isinstance(axis, Tokens) and axis.extra for axis in touched):
        raise call.refuse("reduces over points and tokens without a place together", "slice them apart first")
    out = call.run()
    w = measure.along(call, x) if touched and call.name in ("mean", "sum", "var", "std") else None
    if w is not None:
        out = _with_weights(call, x, w, sorted(chosen), keep, out)
    if touched and call.name == "sum":
        out = out * _per_native(call, touched)
    if touched:
        call.note("integral over the points", False, 1.0 if "vertex" in call.refinement.kind else None)
    if not isinstance(out, Tensor):
        return out  # (values, indices) over channels
    rest = [None if j in chosen else axis for j, axis in enumerate(layout) if keep or j not in chosen]
    return call.mode.mark(out, rest)


def _with_weights(call: Call, x: Tensor, w: Tensor, dims: list[int], keep: bool, plain: Tensor) -> Tensor:
    mean, variance = measure.moments(x, w, dims)
    if call.name in ("mean", "sum"):
        total = mean if call.name == "mean" else (w * x).sum(dims, keepdim=True)
    else:
        count = prod(x.shape[j] for j in dims)  # a correction of the network stays
        own = plain if call.name == "var" else plain**2
        biased = x.var(dims, correction=0, keepdim=keep)
        ratio = torch.where(biased > 0, own / biased.clamp(min=1e-300), torch.full_like(own, count / max(count - 1, 1)))
        total = variance * (ratio if keep else ratio.reshape(variance.shape))
        total = total if call.name == "var" else total.sqrt()
    return total if keep else total.reshape(plain.shape)


@rule("norm", "linalg_vector_norm")
def norm(call: Call) -> Tensor:
    """(Σ |f|ᵖ)^(1/p) over space: the integral, native points being of weight one."""
    x, p = call.args[0], call.argument(1, "p" if call.name == "norm" else "ord", 2)
    p, dims = 2.0 if p in (None, "fro") else float(p), call.argument(2, "dim", None)
    if dims is None:
        dims = tuple(range(x.dim()))
    layout, chosen = call.layout(x), {d % x.dim() for d in ((dims,) if isinstance(dims, int) else dims)}
    touched = [layout[j] for j in chosen if layout[j] is not None]
    if any(isinstance(axis, Tokens) and axis.extra for axis in touched):
        raise call.refuse("reduces over points and tokens without a place together", "slice them apart first")
    out, keep = call.run(), bool(call.argument(3, "keepdim", False))
    if touched:
        if abs(p) != float("inf"):
            out = out * _per_native(call, touched) ** (1.0 / p)
        call.note("integral over the points", False, 1.0 if "vertex" in call.refinement.kind else None)
    return call.mode.mark(out, [None if j in chosen else a for j, a in enumerate(layout) if keep or j not in chosen])


def _per_native(call: Call, axes: Sequence[Any]) -> float:
    """Weight of a fine point along these axes, native ones having weight one."""
    weight = 1.0
    for axis in axes:
        for factor in (axis,) if isinstance(axis, Space) else axis.factors:
            weight /= call.refinement.scale[factor.axis] if isinstance(factor, Space) else 1
    return weight


def _pairwise(call: Call) -> Tensor:
    from sciops.models.conversion.pointwise import pointwise

    return pointwise(call)


def _adaptive(d: int) -> Any:
    def pool(call: Call) -> Tensor:
        x, size = call.args[0], call.argument(1, "output_size")
        sizes = (size,) * d if isinstance(size, int) else tuple(size)
        spaces = call.spaces(x, d)
        for space, m in zip(spaces, sizes, strict=True):
            ends = call.refinement.kind[space.axis] == "vertex"
            if m is None or (m > 1 and (ends or space.n % m)):
                raise call.refuse(
                    f"makes {m} cells of {space.n} native points",
                    "choose an output size that divides the native one on a periodic or cell grid, or 1",
                )
        w = measure.along(call, x)
        if w is not None:
            if any(m != 1 for m in sizes):
                raise call.refuse("pools to several cells, which weights cannot follow", "call without weights")
            y = measure.moments(x, w, range(x.dim() - d, x.dim()))[0]
            call.note("mean with weights", False, 2.0)
            return call.mode.mark(y, (*call.layout(x)[: x.dim() - d], *(None,) * d))
        call.note("means over cells of fixed width", False, 1.0 if "vertex" in call.refinement.kind else None)
        return call.mode.mark(call.run(), (*call.layout(x)[: x.dim() - d], *(None,) * d))

    return pool


for _d in (1, 2, 3):
    rule(f"adaptive_avg_pool{_d}d")(_adaptive(_d))
