"""The rule that asks nothing of a network: the fine grid is a union of native grids, and the network sees each of them.

y[a::s] = F(x[a::s]) for every shift a ∈ {0 … s − 1}ᵈ: exact at native points; off them the error is the native one in
distribution, and y is as continuous as F is equivariant under a shift by one native point. Cost: sᵈ native calls, in
one batch where the network gives the same bits for it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sciops.models.conversion.layout import Refinement, Space
from sciops.models.conversion.mode import tensors

SMALL = 16
"""Cases from which libraries sum a convolution in another order than for few."""


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
    trusted: dict[Any, int],
) -> Any:
    """The network on every shifted native grid of fields with `target` points; other inputs are the same for all."""
    d, scale = len(target), refinement.scale
    shifts = list(product(*(range(s) for s in scale)))

    def fine(x: Any) -> bool:
        return isinstance(x, Tensor) and x.dim() > d and tuple(x.shape[-d:]) == tuple(target)

    def taken(shift: Sequence[int]) -> Callable[[Any], Any]:
        window: Any = (..., *(slice(a, None, s) for a, s in zip(shift, scale, strict=True)))
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
    batched = len(cases) == 1 and all(x.dim() > 0 and x.shape[0] in cases for x in given)
    if not batched or trusted.get(key) == 1:
        return gathered([one(shift) for shift in shifts])
    n = cases.pop()

    def stacked(x: Any) -> Any:
        """(phases, n, …)."""
        if not isinstance(x, Tensor):
            return x
        if not fine(x):
            return x.expand(len(shifts), *x.shape)
        axes: list[int] = []
        for m, s in zip(target, scale, strict=True):
            axes += [m // s, s]
        x, lead = x.reshape([*x.shape[:-d], *axes]), x.dim() - d
        order = [*(lead + 2 * j + 1 for j in range(d)), *range(lead), *(lead + 2 * j for j in range(d))]
        return x.permute(order).flatten(0, d - 1)

    phases = mapped((inputs, named), stacked)

    def groups(size: int) -> list[Any]:
        """One answer per phase, from `size` phases at a time."""
        values: list[Any] = []
        for start in range(0, len(shifts), size):
            count = min(size, len(shifts) - start)
            given, options = mapped(phases, partial(_group, start=start, count=count))
            y = source(*given, **options)
            values += [mapped(y, partial(_part, start=j * n, count=n)) for j in range(count)]
        return values

    if key in trusted:
        return gathered(groups(trusted[key]))
    single = [one(shift) for shift in shifts]
    few = max(1, (SMALL - 1) // n)
    sizes = [size for size in (len(shifts), few) if 1 < size <= len(shifts)]
    trusted[key] = next((size for size in sizes if _agrees(lambda size=size: groups(size), single, n)), 1)  # type: ignore[misc]
    return gathered(single)


def _group(x: Any, start: int, count: int) -> Any:
    return x[start : start + count].flatten(0, 1) if isinstance(x, Tensor) else x


def _part(x: Any, start: int, count: int) -> Any:
    return x[start : start + count] if isinstance(x, Tensor) else x


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
