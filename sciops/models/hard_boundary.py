"""Trial functions that satisfy Dirichlet data on faces of a box exactly."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.forward import LAPLACIAN, Key, Request
from sciops.core.calculus.jet import Order
from sciops.core.errors import UsageError
from sciops.models.trial import Tape, Trial, Wrapped

Side = tuple[int, int]
"""(axis, 0 for the lower face | 1 for the upper one)."""


class HardBoundary(Trial):
    """u = g + m N: N a trial function, m a polynomial that vanishes on the chosen faces, g any lift of their data.

    m = ∏_axis 4 (x−lo)(hi−x)/L² where both faces of the axis are chosen, (x−lo)/L or (hi−x)/L where one is: infinitely
    smooth inside, so that residuals of any order exist. Derivatives of u follow from those of N by Leibniz' rule.

    faces   one list of (axis, side) for all channels, or one list per channel
    lift    points (N, d) ↦ values (N, c), differentiable; zero where it is not given
    Reference: Lagaris, Likas, Fotiadis, IEEE Trans. Neural Networks 9 (1998).
    """

    kept = 4

    def __init__(
        self,
        net: Trial,
        lower: Sequence[float],
        upper: Sequence[float],
        faces: Sequence[Side] | Sequence[Sequence[Side]],
        lift: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.ndim, self.channels = net, net.ndim, net.channels
        self.box = [(float(lo), float(hi)) for lo, hi in zip(lower, upper, strict=True)]
        flat = all(len(entry) == 2 and all(isinstance(part, int) for part in entry) for entry in faces)
        each: list[Any] = [faces] * net.channels if flat else list(faces)
        if len(each) != net.channels:
            raise UsageError(f"faces has {len(each)} lists for {net.channels} channels; give one list, or one each.")
        self.faces = [tuple(sorted(tuple(side) for side in chosen)) for chosen in each]
        self.lift = lift
        self._cache: list[tuple[Tensor, Request, dict[Order, Tensor], dict[Key, Tensor]]] = []

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        u = self._factor(x, (0,) * self.ndim) * self.net(x)
        return u if self.lift is None else u + self.lift(x)

    def _factor(self, x: Tensor, order: Order) -> Float[Tensor, "N c"]:
        """∂^α m of every channel."""
        columns = []
        for chosen in self.faces:
            total = torch.ones_like(x[:, 0])
            for j, (lo, hi) in enumerate(self.box):
                sides = {side for axis, side in chosen if axis == j}
                total = total * _edge(x[:, j], lo, hi, sides, order[j])
            columns.append(total)
        return torch.stack(columns, -1)

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        factors, lift = self._known(x, request)
        inner = self.net.derivatives(x, self._inner(request), tape)
        zero = (0,) * self.ndim
        found: dict[Key, Tensor] = {}
        for key in request:
            if isinstance(key, str):
                total = factors[zero] * inner[LAPLACIAN]
                for j in range(self.ndim):
                    one, two = _unit(j, 1, self.ndim), _unit(j, 2, self.ndim)
                    total = total + 2 * factors[one] * inner[one] + factors[two] * inner[zero]
            else:
                total = torch.zeros_like(factors[zero])
                for part in product(*(range(k + 1) for k in key)):
                    count = math.prod(math.comb(k, p) for k, p in zip(key, part, strict=True))
                    rest = tuple(k - p for k, p in zip(key, part, strict=True))
                    total = total + count * factors[rest] * inner[part]
            found[key] = total if self.lift is None else total + lift[key]
        return found

    def _inner(self, request: Request) -> Request:
        needed: set[Key] = {(0,) * self.ndim}
        for key in request:
            if isinstance(key, str):
                needed |= {LAPLACIAN, *(_unit(j, 1, self.ndim) for j in range(self.ndim))}
            else:
                needed |= set(product(*(range(k + 1) for k in key)))
        return frozenset(needed)

    def _known(self, x: Tensor, request: Request) -> tuple[dict[Order, Tensor], dict[Key, Tensor]]:
        """Derivatives of m and g, kept for the last few point sets: they do not depend on parameters."""
        for points, wanted, factors, lift in self._cache:
            if points is x and wanted == request:
                return factors, lift
        orders = {key for key in self._inner(request) if not isinstance(key, str)}
        if LAPLACIAN in request:
            orders |= {_unit(j, 2, self.ndim) for j in range(self.ndim)}
        factors = {order: self._factor(x, order) for order in orders}
        lift = {}
        if self.lift is not None:
            with torch.enable_grad():
                known = Wrapped(_Function(self.lift), self.ndim, self.channels).derivatives(x, request)
            lift = {key: value.detach() for key, value in known.items()}
        self._cache = [(x, request, factors, lift), *self._cache[: self.kept - 1]]
        return factors, lift

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "_cache": []}  # type: ignore[misc]


class _Function(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _unit(axis: int, order: int, ndim: int) -> Order:
    return tuple(order * int(j == axis) for j in range(ndim))


def _edge(x: Tensor, lo: float, hi: float, sides: set[int], order: int) -> Tensor:
    """∂^k of one axis' factor."""
    length = hi - lo
    if not sides or order > len(sides):
        return torch.ones_like(x) if not sides and order == 0 else torch.zeros_like(x)
    if sides == {0, 1}:
        scale = 4 / length**2
        return scale * ((x - lo) * (hi - x), lo + hi - 2 * x, torch.full_like(x, -2.0))[order]
    rising = ((x - lo) / length, torch.full_like(x, 1 / length))
    falling = ((hi - x) / length, torch.full_like(x, -1 / length))
    return (rising if sides == {0} else falling)[order]
