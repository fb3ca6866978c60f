"""Products with the per-sample Jacobians of networks, which are never formed."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.calculus.forward import Request
from sciops.models.per_sample import Rows, factors, looped, taped
from sciops.models.trial import Trial

WIDTH = 8
"""Columns that are multiplied at a time."""


@dataclass(frozen=True)
class Outer:
    """Columns `first`, … of a Jacobian: Σ_c left[c, n] ⊗ right[c, n] for the n-th of the rows `rows`, all of them where
    that is None; one entry per weight of a layer."""

    rows: Int[Tensor, " m"] | None
    first: int
    left: Float[Tensor, "C m o"]
    right: Float[Tensor, "C m i"]

    @property
    def columns(self) -> slice:
        return slice(self.first, self.first + self.left.shape[2] * self.right.shape[2])

    def forward(self, V: Float[Tensor, "p k"]) -> Float[Tensor, "m k"]:
        o, i, k = self.left.shape[2], self.right.shape[2], V.shape[1]
        image = self.right.flatten(0, 1) @ V.reshape(o, i, k).permute(1, 0, 2).reshape(i, o * k)
        weighed = self.left.flatten(0, 1)[..., None] * image.unflatten(1, (o, k))
        return weighed.sum(1).reshape(*self.left.shape[:2], k).sum(0)

    def transpose(self, W: Float[Tensor, "m k"]) -> Float[Tensor, "p k"]:
        o, i, k = self.left.shape[2], self.right.shape[2], W.shape[1]
        weighed = (self.left[..., None] * W[:, None]).reshape(self.left.shape[:2].numel(), o * k)
        return (self.right.flatten(0, 1).T @ weighed).reshape(i, o, k).permute(1, 0, 2).reshape(o * i, k)


class Factored:
    """∂r/∂θ of point-wise rows r_n, N × P, as the adjoints and the inputs of all linear layers at every point.

    A product is one matrix product per layer and channel of derivatives, O(C N P) operations a column, C = 1 + the
    number of derivatives that a residual carries; memory C N (inputs + outputs of all layers) instead of N P. Layers of
    a network that vanishes elsewhere (`Windowed`) keep the points that they reach, and products leave out the others.
    """

    def __init__(self, count: int, size: int, parts: list[Outer]) -> None:
        self.shape, self.parts = (count, size), parts

    def forward(self, V: Float[Tensor, "P k"]) -> Float[Tensor, "N k"]:
        """J V."""
        found = V.new_zeros(self.shape[0], V.shape[1])
        for columns in _groups(V.shape[1]):
            for part in self.parts:
                made = part.forward(V[part.columns, columns])
                rows = slice(None) if part.rows is None else part.rows
                found[rows, columns] += made
        return found

    def transpose(self, W: Float[Tensor, "N k"]) -> Float[Tensor, "P k"]:
        """Jᵀ W."""
        found = W.new_zeros(self.shape[1], W.shape[1])
        for columns in _groups(W.shape[1]):
            for part in self.parts:
                rows = slice(None) if part.rows is None else part.rows
                found[part.columns, columns] += part.transpose(W[rows, columns])
        return found


def _groups(count: int) -> Iterator[slice]:
    for first in range(0, count, WIDTH):
        yield slice(first, min(first + WIDTH, count))


class Formed(Factored):
    """The same interface on a Jacobian that had to be formed."""

    def __init__(self, J: Float[Tensor, "N P"]) -> None:
        super().__init__(J.shape[0], J.shape[1], [])
        self.J = J

    def forward(self, V: Float[Tensor, "P k"]) -> Float[Tensor, "N k"]:
        return self.J @ V

    def transpose(self, W: Float[Tensor, "N k"]) -> Float[Tensor, "P k"]:
        return self.J.T @ W


def per_sample_products(
    trial: Trial, x: Float[Tensor, "N d"], request: Request, rows: Rows
) -> tuple[list[Float[Tensor, " N"]], list[Factored]]:
    """Residuals and products with their Jacobians, in the order of `trial.parameters()`.

    Networks with parameters outside linear layers, or that record none, have their Jacobian formed (N P numbers).
    """
    parameters = [p for p in trial.parameters() if p.requires_grad]
    residuals, taken = taped(trial, x, request, rows, parameters)
    if taken is None:
        return [r.detach() for r in residuals], [Formed(looped(r, parameters)) for r in residuals]
    firsts, size = {}, 0
    for p in parameters:
        firsts[id(p)] = size
        size += p.numel()
    found = []
    for layers in taken:
        parts = []
        for layer, adjoints in layers:
            made = factors(layer, adjoints)
            if made is None:
                continue
            outer, inner, value = made
            if layer.weight.requires_grad:
                parts.append(Outer(layer.points, firsts[id(layer.weight)], outer.contiguous(), inner.contiguous()))
            if layer.bias is not None and layer.bias.requires_grad and value is not None:
                ones = value.new_ones(1, len(value), 1)
                parts.append(Outer(layer.points, firsts[id(layer.bias)], value[None].contiguous(), ones))
        found.append(Factored(len(x), size, parts))
    return [r.detach() for r in residuals], found
