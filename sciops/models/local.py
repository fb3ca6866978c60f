"""Networks that live at one place of the box."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.calculus.forward import Key, Request
from sciops.core.calculus.jet import Order
from sciops.core.errors import UsageError
from sciops.models.hard_boundary import HardBoundary
from sciops.models.trial import Tape, Trial

REACH = 7.5
"""Lengths from the centre at which a window ends."""


class Windowed(HardBoundary):
    """w(x) N(x), w = exp(−Σ_j (x_j − c_j)²/(2 ℓ_j²)): a network that vanishes away from c.

    A function of this kind has no low modes: its residual under an elliptic operator bounds it with a constant of the
    size ℓ², not of the size of the box. Derivatives by Leibniz' rule with Hermite's polynomials, of any order. Sums of
    them with a network of the whole box resolve features at several places.

    Beyond `reach` lengths from c (w < 6e-13) it is zero and costs nothing: N is evaluated at the other points, and
    Jacobians of sums of such networks consist of blocks (`per_sample_blocks`).
    """

    reach = REACH

    def __init__(self, net: Trial, centre: Sequence[float], lengths: Sequence[float]) -> None:
        if len(centre) != net.ndim or len(lengths) != net.ndim or min(lengths) <= 0:
            raise UsageError(f"Windowed needs {net.ndim} numbers and positive lengths; got {centre}, {lengths}.")
        super().__init__(net, [-1.0] * net.ndim, [1.0] * net.ndim, [])
        self.centre, self.lengths = [float(v) for v in centre], [float(v) for v in lengths]
        self._sets: list[tuple[Tensor, Tensor, Tensor]] = []

    def _inside(self, x: Tensor) -> tuple[Int[Tensor, " m"], Float[Tensor, "m d"]]:
        """The points that it reaches, as indices and themselves; kept for the last few point sets."""
        for points, index, chosen in self._sets:
            if points is x:
                return index, chosen
        with torch.no_grad():
            t = (x - x.new_tensor(self.centre)) / x.new_tensor(self.lengths)
            index = (t.square().sum(1) < self.reach**2).nonzero()[:, 0]
        chosen = x[index]
        if not x.requires_grad:
            self._sets = [(x, index, chosen), *self._sets[: self.kept - 1]]
        return index, chosen

    def forward(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N c"]:
        index, chosen = self._inside(x)
        return _spread(super().forward(chosen), index, len(x))

    def derivatives(
        self, x: Float[Tensor, "N d"], request: Request, tape: Tape | None = None
    ) -> dict[Key, Float[Tensor, "N c"]]:
        index, chosen = self._inside(x)
        first = 0 if tape is None else len(tape.layers)
        found = super().derivatives(chosen, request, tape)
        for layer in [] if tape is None else tape.layers[first:]:
            layer.points = index if layer.points is None else index[layer.points]
        return {key: _spread(value, index, len(x)) for key, value in found.items()}

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), "_sets": []}

    def _factor(self, x: Tensor, order: Order) -> Tensor:
        total = torch.ones_like(x[:, 0])
        for j, k in enumerate(order):
            t = (x[:, j] - self.centre[j]) / self.lengths[j]
            total = total * (-1.0 / self.lengths[j]) ** k * _hermite(k, t) * torch.exp(-0.5 * t * t)
        return total[:, None].expand(-1, self.channels)


def _spread(values: Float[Tensor, "m c"], index: Int[Tensor, " m"], count: int) -> Float[Tensor, "N c"]:
    """Values at some points among zeros at the others."""
    return values.new_zeros(count, values.shape[1]).index_copy(0, index, values)


def _hermite(k: int, t: Tensor) -> Tensor:
    """He_k: (d/dt)^k exp(−t²/2) = (−1)^k He_k(t) exp(−t²/2)."""
    before, here = torch.zeros_like(t), torch.ones_like(t)
    for n in range(k):
        before, here = here, t * here - n * before
    return here
