"""Networks that live at one place of the box."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sciops.core.calculus.jet import Order
from sciops.core.errors import UsageError
from sciops.models.hard_boundary import HardBoundary
from sciops.models.trial import Trial


class Windowed(HardBoundary):
    """w(x) N(x), w = exp(−Σ_j (x_j − c_j)²/(2 ℓ_j²)): a network that vanishes away from c.

    A function of this kind has no low modes: its residual under an elliptic operator bounds it with a constant of the
    size ℓ², not of the size of the box. Derivatives by Leibniz' rule with Hermite's polynomials, of any order. Sums of
    them with a network of the whole box resolve features at several places.
    """

    def __init__(self, net: Trial, centre: Sequence[float], lengths: Sequence[float]) -> None:
        if len(centre) != net.ndim or len(lengths) != net.ndim or min(lengths) <= 0:
            raise UsageError(f"Windowed needs {net.ndim} numbers and positive lengths; got {centre}, {lengths}.")
        super().__init__(net, [-1.0] * net.ndim, [1.0] * net.ndim, [])
        self.centre, self.lengths = [float(v) for v in centre], [float(v) for v in lengths]

    def _factor(self, x: Tensor, order: Order) -> Tensor:
        total = torch.ones_like(x[:, 0])
        for j, k in enumerate(order):
            t = (x[:, j] - self.centre[j]) / self.lengths[j]
            total = total * (-1.0 / self.lengths[j]) ** k * _hermite(k, t) * torch.exp(-0.5 * t * t)
        return total[:, None].expand(-1, self.channels)


def _hermite(k: int, t: Tensor) -> Tensor:
    """He_k: (d/dt)^k exp(−t²/2) = (−1)^k He_k(t) exp(−t²/2)."""
    before, here = torch.zeros_like(t), torch.ones_like(t)
    for n in range(k):
        before, here = here, t * here - n * before
    return here
