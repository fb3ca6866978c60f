"""Multilayer perceptrons that carry their derivatives forward, layer by layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.core.calculus.forward import LAPLACIAN, Key, Request
from sciops.core.calculus.jet import Order
from sciops.core.errors import UsageError
from sciops.models.activations import Smooth, activation
from sciops.models.trial import Linear, Tape, Trial

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
                wanted.add(_axes(key))
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


def bend(
    phi: Smooth, plan: Plan, z: Float[Tensor, "N w"], t: Float[Tensor, "k N w"]
) -> tuple[Float[Tensor, "N w"], Float[Tensor, "k N w"]]:
    """An activation on value and derivatives: Faà di Bruno's formula up to third order."""
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
        parts.append((jets[1] * t[-1] + jets[2] * first.square().sum(0))[None])
    return jets[0], torch.cat(parts) if len(parts) > 1 else parts[0]


class MLP(Trial):
    """u = W_L φ(… φ(W_1 x̂ + b_1) …) + b_L with x̂ the box scaled to [−1, 1]^d.

    One forward pass carries (value, gradient, second derivatives or their sum Δ, third derivatives) through all layers:
    z = W h + b, ∇z = W ∇h, Δh = φ′ Δz + φ″ |∇z|². Cost: one matrix product per channel and layer, d + 2 channels for
    a Laplacian. Orders beyond three fall back to nested reverse passes.

    width, depth    neurons per hidden layer, hidden layers
    activation      name (`sciops.models.activations`) or any smooth elementwise function
    lower, upper    the box; x̂ = x where they are not given
    initialisation  glorot (uniform, zero biases) | siren (uniform ±√(6/n)/ω behind the first layer)
    seed            of the initial weights
    Reference: Li et al., "A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian", Nature Machine Intelligence 6 (2024).
    """

    def __init__(
        self,
        ndim: int,
        channels: int = 1,
        width: int = 32,
        depth: int = 3,
        activation_name: str | Callable[[Tensor], Tensor] | Smooth = "tanh",
        lower: Sequence[float] | None = None,
        upper: Sequence[float] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if min(ndim, channels, width, depth) < 1:
            raise UsageError(
                f"ndim, channels, width and depth must be 1 or more; got {ndim}, {channels}, {width}, {depth}."
            )
        self.ndim, self.channels = ndim, channels
        self.phi = activation(activation_name)
        sizes = [ndim, *[width] * depth, channels]
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(m, n, dtype=dtype)) for n, m in pairwise(sizes))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(m, dtype=dtype)) for m in sizes[1:])
        low = torch.full((ndim,), -1.0) if lower is None else torch.as_tensor(lower)
        high = torch.full((ndim,), 1.0) if upper is None else torch.as_tensor(upper)
        self.register_buffer("middle", ((low + high) / 2).to(dtype))
        self.register_buffer("scale", (2 / (high - low)).to(dtype))
        self.middle: Tensor
        self.scale: Tensor
        self.reset(torch.Generator().manual_seed(seed))

    def reset(self, random: torch.Generator) -> None:
        """Glorot's uniform weights, zero biases."""
        with torch.no_grad():
            for W, b in zip(self.weights, self.biases, strict=True):
                limit = math.sqrt(6 / sum(W.shape))
                W.copy_((2 * torch.rand(W.shape, generator=random, dtype=torch.float64) - 1) * limit)
                b.zero_()

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        h = (x - self.middle) * self.scale
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.nn.functional.linear(h if k == 0 else self.phi(h), W, b)
        return h

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        if any(not isinstance(key, str) and sum(key) > 3 for key in request):
            return super().derivatives(x, request, tape)
        plan = Plan.of(request, self.ndim)
        h, t = (x - self.middle) * self.scale, self._seeds(x, plan)
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            if k:
                h, t = bend(self.phi, plan, h, t)
            inputs = [h, t]
            h, t = torch.nn.functional.linear(h, W, b), torch.nn.functional.linear(t, W)
            if tape is not None or k == len(self.weights) - 1:
                t = t.expand(-1, len(x), -1)  # the first layer's derivatives are the same at all points
            if tape is not None:
                tape.layers.append(Linear(W, b, inputs, [h, t]))
        return {key: h if key != LAPLACIAN and not any(key) else t[self._row(plan, key)] for key in request}

    def _seeds(self, x: Float[Tensor, "N d"], plan: Plan) -> Float[Tensor, "k N d"]:
        """Derivatives of x̂ itself, at one point: they are the same everywhere."""
        t = x.new_zeros(len(plan), 1, self.ndim)
        for row, j in enumerate(plan.first):
            t[row, 0, j] = self.scale[j]
        return t

    @staticmethod
    def _row(plan: Plan, key: Key) -> int:
        return len(plan) - 1 if isinstance(key, str) else plan.row(_axes(key))


def _axes(order: Order) -> Axes:
    return tuple(j for j, k in enumerate(order) for _ in range(k))


def orders_up_to(order: int, ndim: int) -> Request:
    """Every derivative up to an order."""
    keys = [(0,) * ndim]
    for k in range(1, order + 1):
        for axes in combinations_with_replacement(range(ndim), k):
            keys.append(tuple(axes.count(j) for j in range(ndim)))
    return frozenset(keys)
