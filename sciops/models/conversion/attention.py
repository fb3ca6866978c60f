"""Attention and other products of matrices: sums over points become integrals.

g(y) = Σ_i e^{q(y)·k(x_i)} v(x_i) w_i / Σ_l e^{q(y)·k(x_l)} w_l: equal weights cancel, except beside tokens that are no
points (class token, registers): then log w_i is added to the logits, w_i = Π_a 1/s_a for points and 1 for the others.
Sums without a softmax take the weights as factors.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import log, prod
from string import ascii_uppercase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion import measure
from sciops.models.conversion.layout import Axis, Mixed, Space, Tokens
from sciops.models.conversion.mode import Call, rule
from sciops.models.conversion.pointwise import broadcast

POINTS = "integral over points and tokens, log-weights in the logits"


def share(call: Call, axis: Axis) -> float:
    """Weight of a fine point, native ones having weight one."""
    factors: Sequence[Any] = axis.factors if isinstance(axis, Tokens | Mixed) else (axis,)
    return 1.0 / prod(call.refinement.scale[f.axis] for f in factors if isinstance(f, Space))


def log_weights(call: Call, axis: Axis, like: Tensor) -> Tensor | None:
    """(tokens,) to add to logits; None where weights cancel."""
    given = measure.tokens(call, axis)
    if given is not None:
        extra = axis.extra if isinstance(axis, Tokens) else 0
        points = given.to(like).log() + (log(share(call, axis)) if extra else 0.0)
        return torch.cat([points.new_zeros(extra), points])
    if not isinstance(axis, Tokens) or not axis.extra:
        return None
    size = call.refinement.size(axis)
    assert size is not None
    weights = torch.full((size,), log(share(call, axis)), dtype=like.dtype, device=like.device)
    weights[: axis.extra] = 0.0
    return weights


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Tensor:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given: dict[str, Any] = dict(zip(names, call.args, strict=False)) | call.kwargs
    q, k, v = (given[name] for name in names[:3])
    if given.get("is_causal") or given.get("attn_mask") is not None:
        raise call.refuse("has a mask between grid points", "drop the mask, or use method='lattice'")
    if given.get("dropout_p", 0.0):
        raise call.refuse("has active dropout", "call module.eval() first")
    axis = call.layout(k)[-2]
    options = {name: given[name] for name in ("scale", "enable_gqa") if name in given}
    bias = log_weights(call, axis, q)
    out = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias[None], **options)
    call.note(POINTS if isinstance(axis, Tokens) and axis.extra else "mean over the points", False)
    return call.mode.mark(out, (*call.layout(q)[:-1], call.layout(v)[-1]))


@rule("multi_head_attention_forward")
def heads(call: Call) -> Any:
    """`torch.nn.MultiheadAttention`: (tokens, cases, channels) or (tokens, channels)."""
    query, key = call.args[0], call.args[1]
    if call.kwargs.get("attn_mask") is not None or call.kwargs.get("key_padding_mask") is not None:
        raise call.refuse("has a mask between grid points", "drop the mask, or use method='lattice'")
    if call.kwargs.get("training", True) and call.argument(11, "dropout_p", 0.0):
        raise call.refuse("has active dropout", "call module.eval() first")
    bias = log_weights(call, call.layout(key)[0], key)
    kwargs = dict(call.kwargs)
    if bias is not None:
        kwargs["attn_mask"] = bias.expand(query.shape[0], -1)
    out, weights = call.func(*call.args, **kwargs)
    call.note(POINTS if bias is not None else "mean over the points", False)
    call.mode.mark(out, call.layout(query))
    if weights is not None:
        lead = (None,) * (weights.dim() - 2)
        call.mode.mark(weights, (*lead, call.layout(query)[0], call.layout(key)[0]))
    return out, weights


@rule("softmax", "log_softmax", "_softmax")
def softmax(call: Call) -> Tensor:
    x = call.args[0]
    dim = call.argument(1, "dim", -1) % x.dim()
    layout = list(call.layout(x))
    axis = layout[dim]
    if axis is None:
        call.note("pointwise")
        return call.mode.mark(call.run(), layout)
    if call.name == "log_softmax" or isinstance(axis, Mixed):
        raise call.refuse("runs over points", "use softmax, or method='lattice'")
    bias = log_weights(call, axis, x)
    if bias is not None:
        x = x + bias.reshape([-1 if j == dim else 1 for j in range(x.dim())])
    call.note(POINTS if bias is not None else "mean over the points", False)
    tokens = Tokens((axis,)) if isinstance(axis, Space) else axis
    layout[dim] = replace(tokens, summed=True)
    return call.mode.mark(torch.softmax(x, dim), layout)


@rule("matmul", "__matmul__", "bmm", "mm", "__rmatmul__")
def matmul(call: Call) -> Tensor:
    a, b = call.args[:2] if call.name != "__rmatmul__" else call.args[1::-1]
    left, right = call.layout(a), call.layout(b)
    if a.dim() < 2 or b.dim() < 2:
        raise call.refuse("multiplies a matrix and a vector", "write the vector as a matrix of one column")
    weight = _weight(call, left[-1], right[-2])
    given = None if _summed(left[-1], right[-2]) else measure.tokens(call, left[-1])
    out = torch.matmul(a if given is None else a * given.to(a), b) * weight
    lead = broadcast(call, [left[:-2], right[:-2]]) if max(a.dim(), b.dim()) > 2 else ()
    return call.mode.mark(out, (*lead, left[-2], right[-1]))


@rule("einsum")
def einsum(call: Call) -> Tensor:
    equation, operands = call.args[0], list(call.args[1:])
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or "->" not in equation:
        raise call.refuse("has no explicit equation", "write it as 'bhqd,bhkd->bhqk'")
    inputs, output = _spelled_out(equation, operands).split("->")
    seen: dict[str, list[Axis]] = {}
    for labels, x in zip(inputs.split(","), operands, strict=True):
        for label, axis in zip(labels, call.layout(x), strict=True):
            if axis is not None:
                seen.setdefault(label, []).append(axis)
    weight = 1.0
    for label, axes in seen.items():
        if label not in output:
            weight *= _weight(call, *(axes if len(axes) > 1 else (axes[0], None)))
            given = None if _summed(*axes) else measure.tokens(call, axes[0])
            if given is not None:
                operands.append(given.to(operands[0]))
                inputs += "," + label
    out = torch.einsum(f"{inputs}->{output}", *operands) * weight
    return call.mode.mark(out, [seen[label][0] if label in seen else None for label in output])


def _spelled_out(equation: str, operands: Sequence[Tensor]) -> str:
    """An equation without spaces, and with letters for an ellipsis."""
    inputs, output = equation.replace(" ", "").split("->")
    letters = "".join(c for c in ascii_uppercase if c not in equation)
    ranks, terms = [0], []
    for term, x in zip(inputs.split(","), operands, strict=True):
        rank = x.dim() - len(term) + 3 if "..." in term else 0
        ranks.append(rank)
        terms.append(term.replace("...", letters[:rank][::-1]))
    return ",".join(terms) + "->" + output.replace("...", letters[: max(ranks)][::-1])


def _summed(*axes: Axis) -> bool:
    """Whether the values along an axis are weights already."""
    return any(isinstance(axis, Tokens) and axis.summed for axis in axes)


def _weight(call: Call, first: Axis, second: Axis) -> float:
    """Factor of a contraction over two axes: the weight of a point where it is a sum over points."""
    if first is None and second is None:
        return 1.0
    axes = [a for a in (first, second) if a is not None]
    bare = {replace(a, summed=False) for a in axes if isinstance(a, Tokens)}
    bare |= {Tokens((a,)) for a in axes if isinstance(a, Space)}
    if len(bare) != 1 or len(axes) == 1 or any(isinstance(a, Mixed) for a in axes):
        raise call.refuse("sums over points against a matrix of fixed size", "use torch.nn.Linear, or method='lattice'")
    if _summed(*axes):
        call.note("mean over the points", False)
        return 1.0
    if any(isinstance(a, Tokens) and a.extra for a in axes):
        raise call.refuse("sums over points and tokens together", "slice them apart first")
    call.note("integral over the points", False)
    return share(call, axes[0])
