"""Derivative channels that travel through a network: which there are, and what an activation does to them."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus.forward import LAPLACIAN, Key, Request
from sciops.core.calculus.jet import Order
from sciops.models.activations import Smooth

Axes = tuple[int, ...]
"""Axes of a derivative with repetition: (0, 0, 1) is ∂²/∂x² ∂/∂y."""


@dataclass(frozen=True)
class Plan:
    """Which derivative channels travel through the layers: first ones, second ones, third ones, and Δ collapsed."""

    first: tuple[int, ...]
    second: tuple[Axes, ...]
    third: tuple[Axes, ...]
    collapsed: bool

    @classmethod
    def of(cls, request: Request, ndim: int) -> "Plan":
        """What the request needs, and what that needs: third derivatives need second ones, these first ones."""
        wanted: set[Axes] = set()
        for key in request:
            if not isinstance(key, str):
                wanted.add(axes_of(key))
        third: set[Axes] = {axes for axes in wanted if len(axes) == 3}
        second: set[Axes] = {axes for axes in wanted if len(axes) == 2}
        second |= {axes[:k] + axes[k + 1 :] for axes in third for k in range(3)}
        collapsed = LAPLACIAN in request
        first = {j for axes in (*second, *third) for j in axes} | {a[0] for a in wanted if len(a) == 1}
        first |= set(range(ndim)) if collapsed else set()
        return cls(tuple(sorted(first)), tuple(sorted(second)), tuple(sorted(third)), collapsed)

    @property
    def order(self) -> int:
        return 3 if self.third else 2 if self.second or self.collapsed else 1 if self.first else 0

    def __len__(self) -> int:
        return len(self.first) + len(self.second) + len(self.third) + int(self.collapsed)

    def row(self, axes: Axes) -> int:
        """Channel of a derivative behind the value."""
        if len(axes) == 1:
            return self.first.index(axes[0])
        if len(axes) == 2:
            return len(self.first) + self.second.index(axes)
        return len(self.first) + len(self.second) + self.third.index(axes)

    def row_of(self, key: Key) -> int:
        """Channel of a key, the value being channel 0."""
        if isinstance(key, str):
            return len(self)
        return 1 + self.row(axes_of(key)) if any(key) else 0


def unit_seeds(plan: Plan, x: Float[Tensor, "N d"]) -> Float[Tensor, "k 1 d"]:
    """The derivative channels of x itself along the axes: the same at all points."""
    t = x.new_zeros(len(plan), 1, x.shape[1])
    for row, j in enumerate(plan.first):
        t[row, 0, j] = 1
    return t


def bend(
    phi: Smooth, plan: Plan, z: Float[Tensor, "N w"], t: Float[Tensor, "k #N w"], form: Tensor | None = None
) -> tuple[Float[Tensor, "N w"], Float[Tensor, "k #N w"]]:
    """An activation on value and derivatives: Faà di Bruno's formula up to third order.

    The collapsed channel is Σ_ij A_ij ∂_i ∂_j over the directions of the first derivatives, A the identity or `form`,
    (D, D) or one per point (N, D, D).
    """
    jets = phi.jet(z, plan.order)
    if plan.order == 0:
        return jets[0], t
    D, K = len(plan.first), len(plan.second)
    first = t[:D]
    parts = [jets[1] * first]
    for (i, j), own in zip(plan.second, t[D : D + K], strict=True):
        parts.append((jets[1] * own + jets[2] * t[plan.row((i,))] * t[plan.row((j,))])[None])
    for axes, own in zip(plan.third, t[D + K : D + K + len(plan.third)], strict=True):
        u, v, w = (t[plan.row((a,))] for a in axes)
        ij, ik, jk = (t[plan.row(tuple(sorted(p)))] for p in ((axes[0], axes[1]), (axes[0], axes[2]), axes[1:]))
        parts.append((jets[1] * own + jets[2] * (ij * w + ik * v + jk * u) + jets[3] * u * v * w)[None])
    if plan.collapsed:
        parts.append((jets[1] * t[-1] + jets[2] * quadratic(first, form))[None])
    return jets[0], torch.cat(parts) if len(parts) > 1 else parts[0]


def quadratic(first: Float[Tensor, "D #N w"], form: Tensor | None) -> Float[Tensor, "#M w"]:
    """Σ_ij A_ij J_i J_j of every neuron at every point."""
    if form is None:
        return first.square().sum(0)
    if form.dim() == 2:
        return (torch.tensordot(form, first, 1) * first).sum(0)
    return (torch.einsum("nij,jnw->inw", form, first.expand(-1, len(form), -1)) * first).sum(0)


def axes_of(order: Order) -> Axes:
    return tuple(j for j, k in enumerate(order) for _ in range(k))


def orders_up_to(order: int, ndim: int) -> Request:
    """Every derivative up to an order."""
    keys = [(0,) * ndim]
    for k in range(1, order + 1):
        for axes in combinations_with_replacement(range(ndim), k):
            keys.append(tuple(axes.count(j) for j in range(ndim)))
    return frozenset(keys)
