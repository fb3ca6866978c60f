"""First weights of networks that know where the source of the equation lives and how fine it is."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciops.models.mlp import MLP
from sciops.models.sums import Sum
from sciops.numerics.tempering import tempered_path

Source = Callable[[Tensor], Tensor]
"""Points (N, d) ↦ residuals of the zero function (N,): the source f of a linear equation, up to its sign."""

POOL = {1: 4096, 2: 65_536}
"""Stratified points that stand for the box; 100,000 in three dimensions."""
PATH_DRAWS = 20_000
"""Points of the tempered path that stand for the box beyond."""


class SourceDraw:
    """Points drawn from f², and the wavenumber that f has there.

    k = ‖∇f‖/(√d ‖f‖), the root mean square wavenumber per axis in L². The solution of −Δu = f has a smaller one: for a
    Gaussian peak in d dimensions the ratio is √(d/(d+4)). `wavenumber` is k times that ratio.
    Method: a pool weighted by f²/(its density), then random-walk Metropolis steps with f² as the target, which refine
    the draw where a feature holds few points of the pool. The pool is stratified in up to three dimensions, and drawn
    from a tempered path towards f² beyond, where uniform points hardly ever meet a feature. Where f vanishes the draw
    is uniform and k = 0.
    """

    def __init__(
        self,
        source: Source,
        lower: Float[Tensor, " d"],
        upper: Float[Tensor, " d"],
        count: int,
        random: torch.Generator,
        moves: int = 20,
    ) -> None:
        self.source, self.lower, self.upper, self.random = source, lower, upper, random
        pool, law = self._pool()
        target = self._target(pool)
        weight = target / law
        total = float(weight.sum())
        self.found = math.isfinite(total) and total > 0
        if not self.found:
            self.x, self.wavenumber = pool[torch.randint(len(pool), (count,), generator=random)], 0.0
            return
        chosen = torch.multinomial((weight / weight.max()).cpu(), count, True, generator=random).to(pool.device)
        self.x = self._walk(pool[chosen], target[chosen], moves)
        d = len(lower)
        self.wavenumber = self._slope() / math.sqrt(d) * math.sqrt(d / (d + 4))

    def _uniform(self, n: int) -> Float[Tensor, "n d"]:
        return torch.rand((n, len(self.lower)), generator=self.random, dtype=torch.float64).to(self.lower)

    def _pool(self) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
        """Points and their density: one random point in every cell of a grid, or draws of a tempered path."""
        d = len(self.lower)
        if d > 3:
            path = tempered_path(lambda x: self._target(x).log(), self.lower, self.upper, self.random)
            x = path.sample(PATH_DRAWS, self.random)
            return x, path.log_prob(x).exp()
        side = round(POOL.get(d, 100_000) ** (1 / d))
        axis = torch.arange(side, dtype=torch.float64).to(self.lower)
        corner = torch.stack(torch.meshgrid(*[axis] * d, indexing="ij"), -1).reshape(-1, d)
        unit = (corner + self._uniform(len(corner))) / side
        return self.lower + unit * (self.upper - self.lower), torch.ones_like(unit[:, 0])

    def _target(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        inside = ((x >= self.lower) & (x <= self.upper)).all(1)
        squared = self.source(x.clamp(self.lower, self.upper)).detach().double().square()
        return torch.where(inside, torch.nan_to_num(squared, 0.0, 0.0, 0.0), 0.0)

    def _walk(self, x: Float[Tensor, "n d"], weight: Float[Tensor, " n"], moves: int) -> Float[Tensor, "n d"]:
        # Differences of two walkers have the shape of the target; several centres only lower the acceptance.
        for _ in range(moves):
            first, second = (torch.randint(len(x), (len(x),), generator=self.random) for _ in range(2))
            scale = torch.rand((len(x), 1), generator=self.random, dtype=torch.float64).to(x)
            proposed = x + scale * (x[first] - x[second])
            there = self._target(proposed)
            chance = torch.rand(len(x), generator=self.random, dtype=torch.float64).to(x)
            taken = chance * weight < there
            x, weight = torch.where(taken[:, None], proposed, x), torch.where(taken, there, weight)
        return x

    def _slope(self) -> float:
        """‖∇f‖/‖f‖ in L², by differences: the points follow f², so the mean of |∇f|²/f² is the ratio squared.

        The mean is taken as that of |f(x+h) − f(x−h)|² over two draws, which no zero of f can spoil.
        """
        h = 1e-4 * (self.upper - self.lower)
        total = torch.zeros_like(self.x[:, 0])
        here = self.source(self.x).detach().double()
        for axis in range(self.x.shape[1]):
            move = torch.zeros_like(h)
            move[axis] = h[axis]
            ahead, behind = (self.source(self.x + sign * move).detach().double() for sign in (1, -1))
            total = total + ((ahead - behind) / (2 * h[axis])).square()
        # E_{f²}[|∇f|²/f²] = ‖∇f‖²/‖f‖²; points where f is within rounding of zero are not drawn.
        ratio = (total / here.square().clamp(min=torch.finfo(here.dtype).tiny)).clamp(max=1e30)
        return math.sqrt(float(ratio.quantile(0.99).clamp(min=0) if len(ratio) < 4 else _trimmed(ratio)))


def _trimmed(values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean without the largest 2 %: |∇f|²/f² has heavy tails at the zeros of f."""
    kept = values.sort().values[: max(1, int(0.98 * len(values)))]
    return kept.mean()


def localise(net: nn.Module, draw: SourceDraw, random: torch.Generator, share: float = 0.6, least: float = 2.0) -> None:
    """Puts the hyperplanes of first layers where the source is: w ~ N(0, k²), through a point drawn from f².

    `share` of the neurons are placed so; the others have |w| log-uniform between `least` and the larger of it and k,
    through uniform points of the box. The last layer becomes zero: the first Gauss–Newton step is then the exact
    linear least squares of the output weights.
    """
    for mlp in _mlps(net):
        W, b = mlp.weights[0], mlp.biases[0]
        if W.shape[1] != mlp.ndim:
            continue  # an embedding stands before the layer
        half = (draw.upper - draw.lower) / 2
        middle = (draw.upper + draw.lower) / 2
        with torch.no_grad():
            n, d = W.shape
            local = round(share * n) if draw.found and draw.wavenumber > 0 else 0
            k = draw.wavenumber * half
            direction = torch.randn((n, d), generator=random, dtype=torch.float64).to(half)
            top = max(float(k.max()), least)
            spread = torch.rand((n, 1), generator=random, dtype=torch.float64).to(half)
            size = (least * (top / least) ** spread).expand(n, d).clone()
            size[:local] = k.clamp(min=0.5)
            # |w| grows with √d; beyond three dimensions it is the wavenumber itself: the feature's own along any line.
            weight = size * direction / (math.sqrt(d) if d > 3 else 1.0)
            through = 2 * torch.rand((n, d), generator=random, dtype=torch.float64).to(half) - 1
            picks = torch.randint(len(draw.x), (n,), generator=random)
            through[:local] = ((draw.x[picks] - middle) / half)[:local]
            W.copy_(weight)
            b.copy_(-(weight * through).sum(1))
            mlp.weights[-1].zero_()
            mlp.biases[-1].zero_()


def spread_hyperplanes(mlp: MLP, random: torch.Generator, size: float) -> None:
    """First-layer hyperplanes through uniform points of the network's own box, w ~ N(0, size²); zero last layer."""
    W, b = mlp.weights[0], mlp.biases[0]
    with torch.no_grad():
        W.copy_(size * torch.randn(W.shape, generator=random, dtype=torch.float64))
        through = 2 * torch.rand(W.shape, generator=random, dtype=torch.float64).to(W) - 1
        b.copy_(-(W * through).sum(1))
        mlp.weights[-1].zero_()
        mlp.biases[-1].zero_()


def _mlps(net: nn.Module) -> Sequence[MLP]:
    if isinstance(net, MLP):
        return [net]
    if isinstance(net, Sum):
        return [part for part in net.nets if isinstance(part, MLP)]
    return []
