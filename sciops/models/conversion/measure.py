"""Quadrature weights of a call: sums over points become integrals with respect to a given measure.

Weights are a density on the grid of the input, of mean one. At a level with fewer points it is the mean over the cells
of a block (periodic, cell) or its value at the nodes (vertex); it is a constant where no weights are given.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sciops.models.conversion.layout import Mixed, Space, Tokens
from sciops.models.conversion.mode import Call


def density(call: Call, factors: Sequence[Space]) -> Tensor | None:
    """(*fine) of mean one at these axes, a mean over those that are missing; None without weights."""
    w = call.mode.weights
    if w is None:
        return None
    kept = [f.axis for f in factors]
    missing = [j for j in range(w.dim()) if j not in kept]
    w = w.mean(missing) if missing else w
    present = sorted(kept)
    for f in factors:
        w = _resized(call, w, present.index(f.axis), f)
    w = w.permute([present.index(a) for a in kept])
    return w / w.mean()


def _resized(call: Call, w: Tensor, dim: int, space: Space) -> Tensor:
    n, have = call.refinement.fine(space), w.shape[dim]
    ends = call.refinement.kind[space.axis] == "vertex"
    if n == have:
        return w
    if ends and n > 1 and (have - 1) % (n - 1) == 0:
        return w[(slice(None),) * dim + (slice(None, None, (have - 1) // (n - 1)),)]
    rows = w.movedim(dim, -1)
    flat = rows.reshape(1, -1, have)
    if have % n == 0:
        flat = F.avg_pool1d(flat, have // n)
    else:
        flat = F.interpolate(flat, size=n, mode="linear", align_corners=ends)
    return flat.reshape(*rows.shape[:-1], n).movedim(-1, dim)


def along(call: Call, x: Tensor) -> Tensor | None:
    """The density at the points of x, with axes of one point where x is not space; None without weights."""
    if call.mode.weights is None:
        return None
    layout, factors, shape = call.layout(x), [], []
    for axis in layout:
        own = _spaces(call, axis)
        factors += own
        n = 1
        for f in own:
            n *= call.refinement.fine(f)
        shape.append(n)
    if not factors or len({f.axis for f in factors}) != len(factors):
        return None
    w = density(call, factors)
    assert w is not None
    return w.reshape(shape).to(x)


def tokens(call: Call, axis: Any) -> Tensor | None:
    """(points,) of a flattened axis without its extra tokens; None without weights."""
    factors = _spaces(call, axis)
    w = density(call, factors) if factors else None
    return None if w is None else w.flatten()


def _spaces(call: Call, axis: Any) -> list[Space]:
    if isinstance(axis, Space):
        return [axis]
    if isinstance(axis, Tokens) and not axis.extra:
        return list(axis.factors)
    if isinstance(axis, Tokens | Mixed) and call.mode.weights is not None and isinstance(axis, Mixed):
        raise call.refuse("flattens channels and points, which weights cannot follow", "call without weights")
    return list(axis.factors) if isinstance(axis, Tokens) else []


def moments(x: Tensor, w: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance with weights along dims, which stay as axes of one."""
    mass = w.expand_as(x).sum(list(dims), keepdim=True)
    mean = (w * x).sum(list(dims), keepdim=True) / mass
    return mean, (w * (x - mean) ** 2).sum(list(dims), keepdim=True) / mass


def check(weights: Tensor, shape: Sequence[int], error: type[Exception]) -> Tensor:
    """Weights of a call as a density of mean one."""
    if tuple(weights.shape) != tuple(shape) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise error(
            f"weights of shape {tuple(weights.shape)} must be {tuple(shape)} numbers that are not negative, one per "
            "grid point; see sciops.models.function_space.quadrature."
        )
    return weights / weights.mean()
