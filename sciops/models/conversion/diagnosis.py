"""What cannot be read off a network: how much of an input its own grid cannot hold, and how it moves under shifts."""

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor

from sciops.models.conversion.layout import Kind, Space, Tokens
from sciops.models.conversion.mode import Call, Entry, tensors

MAKES_INDEX = "counts grid points"
ALIASING, EQUIVARIANCE = 0.01, 0.1
"""Shares above which the report warns."""


def aliasing(x: Tensor, native: Sequence[int], kinds: Sequence[Kind]) -> float:
    """Share of the energy of (…, *points) without its mean above the native Nyquist frequency.

    Fourier modes |m| > N₀/2 on periodic axes, cosine modes m ≥ N₀ between walls; 0 for a field of zeros.
    """
    d = len(native)
    x = x.detach().to(torch.float64)
    resolved = torch.ones([1] * d, device=x.device)
    for j, (n, kind) in enumerate(zip(native, kinds, strict=True)):
        dim = x.dim() - d + j
        if kind == "vertex" and x.shape[dim] > 2:
            x = torch.cat([x, x.flip(dim).narrow(dim, 1, x.shape[dim] - 2)], dim)
        elif kind == "cell":
            x = torch.cat([x, x.flip(dim)], dim)
        m = x.shape[dim]
        mode = (torch.fft.fftfreq(m, device=x.device) * m).abs()
        keep = mode <= n / 2 + 1e-9 if kind == "periodic" else mode < n - 0.5
        resolved = resolved * keep.reshape([-1 if k == j else 1 for k in range(d)])
    x = x - x.mean(tuple(range(x.dim() - d, x.dim())), keepdim=True)
    energy = torch.fft.fftn(x, dim=tuple(range(x.dim() - d, x.dim()))).abs().square()
    whole = float(energy.sum())
    return float((energy * (1 - resolved)).sum()) / whole if whole > 0 else 0.0


def equivariance(network: Callable[[Tensor], Any], x: Tensor, kinds: Sequence[Kind]) -> float:
    """J = ‖F(T f) − T F f‖/‖F f‖ on the native grid, the largest over the axes of space.

    T is the shortest shift that is a whole number of points of the input and of the output: one point where their grids
    are the same. Between walls values are repeated at the end that opens, and the norm runs over the middle half. For
    answers without space T F f = F f.
    """
    d, worst = len(kinds), 0.0
    y = next(tensors(network(x)))
    spatial = y.dim() == x.dim()
    for j, kind in enumerate(kinds):
        dim = x.dim() - d + j
        ends = int(kind == "vertex")
        n, m = x.shape[dim] - ends, y.shape[dim] - ends if spatial else 0
        common = gcd(n, m) if spatial else n
        moved = next(tensors(network(_shifted(x, dim, n // common, kind))))
        there = _shifted(y, dim, m // common, kind) if spatial else y
        defect, size = moved - there, y
        if spatial:
            for axis, other in enumerate(kinds):
                if other != "periodic":
                    k = y.dim() - d + axis
                    defect, size = (v.narrow(k, y.shape[k] // 4, y.shape[k] - y.shape[k] // 2) for v in (defect, size))
        norm = float(size.norm())
        worst = max(worst, float(defect.norm()) / norm if norm > 0 else 0.0)
    return worst


def _shifted(x: Tensor, dim: int, count: int, kind: Kind) -> Tensor:
    if kind == "periodic":
        return x.roll(count, dim)
    index = (torch.arange(x.shape[dim], device=x.device) - count).clamp(min=0)
    return x.index_select(dim, index)


def witness(call: Call, value: Tensor, layout: Sequence[Any]) -> None:
    """Keep a tensor that the network made itself from fine sizes and that varies in space, to be compared with what it
    makes on the native grid."""
    kept: list[tuple[int, Any]] = []
    for back in range(1, min(value.dim(), len(layout)) + 1):
        axis, dim = layout[-back], value.dim() - back
        if isinstance(axis, Space | Tokens) and value.shape[dim] == call.refinement.size(axis) and value.shape[dim] > 1:
            kept.append((dim, axis))
    key = (call.mode.path, call.name)
    count = call.mode.visits[key] = call.mode.visits.get(key, 0) + 1
    if not kept or torch.compiler.is_compiling():
        return
    at_native = value.detach()
    for dim, axis in kept:
        at_native = native_points(call, at_native, dim, axis)
    fine = any(call.refinement.scale[f.axis] > 1 for _, axis in kept for f in _factors(axis))
    if not fine or any(bool((value != value.narrow(dim, 0, 1)).any()) for dim, _ in kept):
        call.mode.made[(*key, count)] = at_native


def _factors(axis: Any) -> Sequence[Space]:
    return axis.factors if isinstance(axis, Tokens) else (axis,)


def native_points(call: Call, value: Tensor, dim: int, axis: Any) -> Tensor:
    """The native points along one axis of a fine tensor, which may be flattened."""
    grid, extra = call.refinement, getattr(axis, "extra", 0)
    first, points = value.narrow(dim, 0, extra), value.narrow(dim, extra, value.shape[dim] - extra)
    points = points.unflatten(dim, [grid.fine(f) for f in _factors(axis)])
    for j, f in enumerate(_factors(axis)):
        window = slice(grid.origin(f.axis), None, grid.scale[f.axis])
        points = points[(slice(None),) * (dim + j) + (window,)]
    return torch.cat([first, points.flatten(dim, dim + len(_factors(axis)) - 1)], dim)


def indices(fine: dict[Any, Tensor], native: dict[Any, Tensor]) -> list[tuple[Entry, str]]:
    """Which tensors of the network's own making have other values at the same place on a finer grid."""
    found = []
    for (path, operation, count), value in fine.items():
        expected = native.get((path, operation, count))
        where = path or "(top level)"
        if expected is not None and expected.shape == value.shape:
            a, b = value.to(torch.float64), expected.to(torch.float64)
            off = float((a - b).abs().max()) / max(float(b.max() - b.min()), 1e-300)
            if off < 1e-4:
                found.append((Entry(path, operation, "made by the network, a function of the place", True), ""))
                continue
            by = f"differ from those of the native grid at the same places by {off:.3g} of their range"
        else:
            by = "have no counterpart on the native grid"
        text = (
            f"{where}: {operation} meets values that the network makes from the size of the grid, which {by}: an index "
            f"{MAKES_INDEX}; make it a coordinate, (i + offset)/N of the domain, or a parameter on the native lattice."
        )
        found.append((Entry(path, operation, "made by the network, " + MAKES_INDEX, False), text))
    return found


def advice(entries: Sequence[Entry], kinds: Sequence[Kind], aliased: float | None, defect: float | None) -> list[str]:
    """Warnings of the report."""
    said = []
    names = {e.operation for e in entries}
    kinked = sorted(names & {"relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "relu6", "abs", "prelu"})
    if kinked:
        said.append(f"{', '.join(kinked)}: kinks cap the rate of the answers (order 1 or 2 in h).")
    if any(name.startswith("max_pool") for name in names):
        said.append("max pooling: the largest sample is no smooth function of the field; order 1 in h.")
    if "periodic" in kinds:
        zeros = [e for e in entries if e.rule.startswith("constant, ") or "zeros at the ends" in e.rule]
        if zeros:
            where = zeros[0].path or "(top level)"
            said.append(
                f"{where}: pads a periodic field with zeros, as the source does; retrain with padding_mode='circular'."
            )
    if aliased is not None and aliased > ALIASING:
        said.append(
            f"{aliased:.1%} of the energy of this input lies above the native Nyquist frequency, where the network has "
            "not been trained; expect larger errors than at the native grid."
        )
    if defect is not None and defect > EQUIVARIANCE:
        said.append(
            f"J = {defect:.2g}: the answer jumps by this much between neighbouring points of a finer grid; strides, "
            "pooling and patches cause it; interpolate the answer of the native grid where it matters."
        )
    return said
