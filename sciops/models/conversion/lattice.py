"""The rule that asks nothing of a network: the fine grid is a union of native grids, and the network sees each of them.

y[a::s] = F(x[a::s]) for every shift a ∈ {0 … s − 1}ᵈ: exact at native points; off them the error is the native one in
distribution, and y is as continuous as F is equivariant under a shift by one native point. Cost: sᵈ native calls, in
one batch where the network gives the same bits for it.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sciops.models.conversion.layout import Refinement, Space
from sciops.models.conversion.mode import tensors


def mapped(values: Any, function: Callable[[Any], Any]) -> Any:
    """A function of every leaf of nested tuples, lists and dicts."""
    if isinstance(values, dict):
        return {k: mapped(v, function) for k, v in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(mapped(v, function) for v in values)
    return function(values)


def lattice(
    source: Callable[..., Any],
    inputs: Any,
    named: Any,
    refinement: Refinement,
    target: Sequence[int],
    trusted: dict[Any, bool],
) -> Any:
    """The network on every shifted native grid of fields with `target` points; other inputs are the same for all."""
    d, scale = len(target), refinement.scale
    shifts = list(product(*(range(s) for s in scale)))

    def fine(x: Any) -> bool:
        return isinstance(x, Tensor) and x.dim() > d and tuple(x.shape[-d:]) == tuple(target)

    def taken(shift: Sequence[int]) -> Callable[[Any], Any]:
        window = (..., *(slice(a, None, s) for a, s in zip(shift, scale, strict=True)))
        return lambda x: x[window].contiguous() if fine(x) else x

    def one(shift: Sequence[int]) -> Any:
        return source(*mapped(inputs, taken(shift)), **mapped(named, taken(shift)))

    given = list(tensors((inputs, named)))
    cases, rank = {x.shape[0] for x in given if fine(x)}, min(x.dim() for x in given if fine(x))

    def gathered(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            if first.dim() < rank:  # a functional
                return torch.stack(list(values)).mean(0)
            return _joined(torch.stack(list(values), -1), refinement, d)
        if isinstance(first, dict):
            return {k: gathered([v[k] for v in values]) for k in first}
        if isinstance(first, list | tuple):
            return type(first)(gathered(list(v)) for v in zip(*values, strict=True))
        return first

    key = ("lattice", tuple((tuple(x.shape), x.dtype, x.device) for x in given), torch.get_num_threads())
    batched = len(cases) == 1 and all(x.dim() > 0 and x.shape[0] in cases for x in given) and trusted.get(key, True)
    if not batched:
        return gathered([one(shift) for shift in shifts])
    n = cases.pop()

    def stacked(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not fine(x):
            return x.repeat(len(shifts), *(1,) * (x.dim() - 1))
        axes: list[int] = []
        for m, s in zip(target, scale, strict=True):
            axes += [m // s, s]
        x, lead = x.reshape([*x.shape[:-d], *axes]), x.dim() - d
        order = [*(lead + 2 * j + 1 for j in range(d)), *range(lead), *(lead + 2 * j for j in range(d))]
        return x.permute(order).flatten(0, d)

    def parts(y: Any) -> list[Any]:
        return [mapped(y, lambda v, j=j: v[j * n : (j + 1) * n]) for j in range(len(shifts))]

    if key in trusted:
        y = source(*mapped(inputs, stacked), **mapped(named, stacked))
        if isinstance(y, Tensor) and y.dim() >= rank:
            phases = y.unflatten(0, (len(shifts), n)).movedim(0, -1)
            return _joined(phases, refinement, d)
        return gathered(parts(y))
    single = [one(shift) for shift in shifts]
    trusted[key] = _agrees(lambda: parts(source(*mapped(inputs, stacked), **mapped(named, stacked))), single, n)
    return gathered(single)


def _joined(stacked: Tensor, refinement: Refinement, d: int) -> Tensor:
    """(…, *m, phases) to (…, *s m)."""
    found = [Space(j, m) for j, m in enumerate(stacked.shape[-d - 1 : -1])]
    return refinement.join(stacked.unflatten(-1, refinement.scale), found)


def _agrees(batch: Callable[[], list[Any]], single: list[Any], n: int) -> bool:
    """Whether one batch of all phases has the bits of one call per phase."""
    expected = list(tensors(single))
    if not expected or any(y.dim() == 0 or y.shape[0] != n for y in expected):
        return False
    try:
        found = list(tensors(batch()))
    except (RuntimeError, ValueError, TypeError, IndexError):  # the network is tied to its number of cases
        return False
    return len(found) == len(expected) and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
