"""Residual-based adaptive distribution: all points redrawn from a power of the residual plus a constant."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.solvers.samplers.base import Points, Residual, Sampler, magnitudes


class RAD(Sampler):
    """p(x) ∝ |r(x)|^k / mean|r|^k + c, drawn without replacement from a pool of uniform points.

    k     exponent, 1 as published; 2 is far more concentrated
    c     share of uniform points, 1 as published: half of all points. 0 for none
    pool  uniform points that stand for the box, 100,000 as published; one residual evaluation each

    The density of the chosen points, that of being chosen, comes with them. A draw without replacement saturates when n
    is not small beside the points of the pool that carry the residual: a feature that fills a share s of the volume
    has s·pool candidates, one in ten dimensions where s = 1e-5. Cost: the pool, once a refresh; memory pool × d.
    Wu, Zhu, Tan, Kartha, Lu, "A comprehensive study of non-adaptive and residual-based adaptive sampling for
    physics-informed neural networks", CMAME 403, 2023.
    """

    def __init__(self, k: float = 1.0, c: float = 1.0, pool: int = 100_000) -> None:
        if k < 0 or c < 0 or pool < 1:
            raise UsageError(f"RAD needs k ≥ 0, c ≥ 0 and pool ≥ 1; got k = {k}, c = {c} and pool = {pool}.")
        self.k, self.c, self.pool = k, c, pool

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        if n > self.pool:
            raise UsageError(f"RAD draws {n} points without replacement and needs a pool of as many; got {self.pool}.")
        pool = self.uniform(self.pool).x
        relative = relative_power(magnitudes(residual, pool), self.k) + self.c
        return drawn(pool, relative, n, self.random, self.volume)


def drawn(
    pool: Float[Tensor, "N d"], relative: Float[Tensor, " N"], n: int, random: torch.Generator, volume: float
) -> Points:
    """n points of a uniform pool without replacement, with chances proportional to `relative`, and their density.

    The density is that of being included, 1 − exp(−λ relative) with Σ = n: `relative` itself where n is small beside
    the pool, and flatter where the heaviest points are sure to be taken. Weights stay right in both cases.
    """
    relative = relative.clamp(min=torch.finfo(relative.dtype).tiny)
    chosen = torch.multinomial((relative / relative.max()).cpu().double(), n, generator=random).to(pool.device)
    scale = _inclusion_scale(relative, n)
    return Points(pool[chosen], -torch.expm1(-scale * relative[chosen]) * len(pool) / (n * volume))


def _inclusion_scale(relative: Float[Tensor, " N"], n: int) -> float:
    """λ with Σ (1 − exp(−λ relative)) = n, by bisection in log λ; +∞ where every point is taken."""
    if n >= int((relative > torch.finfo(relative.dtype).tiny).sum()):
        return float("inf")
    low = float(torch.log(n / relative.sum()))  # 1 − e^{−t} ≤ t: the root lies above
    high = low + 1
    while float(-torch.expm1(-math.exp(high) * relative).sum()) < n:
        low, high = high, high + 2 * (high - low)
    for _ in range(50):
        middle = (low + high) / 2
        if float(-torch.expm1(-math.exp(middle) * relative).sum()) < n:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def relative_power(r: Float[Tensor, " N"], k: float) -> Float[Tensor, " N"]:
    """|r|^k / mean|r|^k without overflow; ones where r vanishes."""
    largest = r.max()
    if largest == 0:
        return torch.ones_like(r)
    power = (r / largest) ** k
    return power / power.mean()
