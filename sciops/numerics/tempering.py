"""Finding where a function of many variables is large: a path of densities from the uniform one to its square."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

LogTarget = Callable[[Tensor], Tensor]
"""Points (N, d) ↦ log of a density that is not normalised (N,); −∞ where it vanishes."""


@dataclass
class GaussianMixture:
    """Σ_k w_k N(m_k, L_k L_kᵀ), cut to a box: weights (K,), means (K, d), lower factors (K, d, d), mass in the box."""

    weights: Tensor
    means: Tensor
    factors: Tensor
    lower: Tensor
    upper: Tensor
    mass: float = 1.0

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        inside = ((x >= self.lower) & (x <= self.upper)).all(1)
        return torch.where(inside, torch.logsumexp(self.parts(x), 1) - math.log(self.mass), -math.inf)

    def parts(self, x: Float[Tensor, "N d"]) -> Float[Tensor, "N K"]:
        """log w_k N(x; m_k, …), not cut."""
        offsets = (x[None] - self.means[:, None]).transpose(1, 2)
        z = torch.linalg.solve_triangular(self.factors, offsets, upper=False)
        scale = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * x.shape[1] * math.log(2 * math.pi)
        return (self.weights.log()[:, None] - 0.5 * z.square().sum(1) - scale[:, None]).T

    def sample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """Points by rejection of those outside; `mass` is what the rejection found."""
        found: list[Tensor] = []
        missing, tried = n, 0
        weights, d = self.weights.cpu(), self.means.shape[1]
        while missing > 0:
            m = max(2 * missing, 64)
            which = torch.multinomial(weights, m, True, generator=random).to(self.means.device)
            noise = torch.randn((m, d, 1), generator=random, dtype=torch.float64).to(self.means)
            x = self.means[which] + (self.factors[which] @ noise)[..., 0]
            x = x[((x >= self.lower) & (x <= self.upper)).all(1)]
            found.append(x[:missing])
            missing, tried = missing - len(found[-1]), tried + m
            if tried > 1000 * n:
                raise RuntimeError("a mixture with means inside the box hardly meets it")
        return torch.cat(found)

    def weigh(self, random: torch.Generator, n: int = 4000) -> "GaussianMixture":
        """The same with its mass in the box estimated."""
        which = torch.multinomial(self.weights.cpu(), n, True, generator=random).to(self.means.device)
        noise = torch.randn((n, self.means.shape[1], 1), generator=random, dtype=torch.float64).to(self.means)
        x = self.means[which] + (self.factors[which] @ noise)[..., 0]
        self.mass = max(float(((x >= self.lower) & (x <= self.upper)).all(1).double().mean()), 1 / n)
        return self


@dataclass
class TemperedPath:
    """Levels of mixtures that narrow from the box to the target; `found` is False where the target has no scale."""

    lower: Tensor
    upper: Tensor
    levels: list[GaussianMixture] = field(default_factory=list)
    uniform: float = 0.2
    found: bool = True

    def log_prob(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        """Density of the whole path: `uniform` of it uniform, the rest shared equally by the levels."""
        flat = torch.full_like(x[:, 0], -float((self.upper - self.lower).log().sum()))
        if not self.levels:
            return flat
        share = math.log((1 - self.uniform) / len(self.levels))
        parts = [level.log_prob(x) + share for level in self.levels]
        return torch.logsumexp(torch.stack([flat + math.log(self.uniform), *parts]), 0)

    def sample(self, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
        """n points of the whole path in random order."""
        count = len(self.levels)
        shares = torch.full((count + 1,), (1 - self.uniform) / max(count, 1), dtype=torch.float64)
        shares[0] = self.uniform if count else 1.0
        edges = torch.cat([torch.zeros(1, dtype=torch.float64), shares.cumsum(0)]) * n
        shift = float(torch.rand((), generator=random, dtype=torch.float64))
        counts = ((edges[1:] + shift).floor() - (edges[:-1] + shift).floor()).long().tolist()
        counts[0] += n - sum(counts)
        unit = torch.rand((counts[0], len(self.lower)), generator=random, dtype=torch.float64).to(self.lower)
        pieces = [self.lower + unit * (self.upper - self.lower)]
        pieces += [level.sample(k, random) for level, k in zip(self.levels, counts[1:], strict=True) if k]
        x = torch.cat(pieces)
        return x[torch.randperm(n, generator=random).to(x.device)]


def tempered_path(
    log_target: LogTarget,
    lower: Float[Tensor, " d"],
    upper: Float[Tensor, " d"],
    random: torch.Generator,
    count: int = 5000,
    components: int = 4,
    effective: float = 0.1,
    uniform: float = 0.2,
    most: int = 30,
) -> TemperedPath:
    """Mixtures fitted to target^γ, γ from 0 to 1, each from importance-weighted draws of the one before.

    Method: population Monte Carlo with tempering; γ is the largest power at which the weights of `count` draws have an
    effective size of `effective`·count, so every level is found from the one before it with bounded variance, however
    small the share of the volume where the target lives. The mixtures of `components` Gaussians follow by a few
    rounds of weighted expectation–maximisation. Ends when γ = 1 was fitted twice.
    Cost: `count` evaluations a level, about (log of the volume ratio)/2 levels. Fails (one flat level is missed) where
    the target is flat but for a feature that no tempered density leads to: a needle without a slope.
    Reference: Cappé, Guillin, Marin, Robert, "Population Monte Carlo", J. Comput. Graph. Stat. 13 (2004).
    """
    fitted: list[tuple[float, GaussianMixture]] = []
    done = 0
    for _ in range(most):
        guarded = TemperedPath(lower, upper, [mixture for _, mixture in fitted[-1:]], uniform)
        x = guarded.sample(count, random)
        known, law = log_target(x), guarded.log_prob(x)
        known = torch.where(torch.isfinite(known), known, -math.inf)
        if not bool(torch.isfinite(known).any()):
            break
        power = _power(known, law, effective * count)
        mixture = _fitted(x, _normal(power, known, law), components, lower, upper, random)
        # A level that had to go back to a lower power takes the place of those that went too far.
        fitted = [entry for entry in fitted if entry[0] < power] + [(power, mixture)]
        done = done + 1 if power == 1 else 0
        if done == 2:
            break
    return TemperedPath(lower, upper, [mixture for _, mixture in fitted], uniform, bool(fitted))


def _normal(power: float, known: Tensor, law: Tensor) -> Float[Tensor, " N"]:
    scaled = power * known - law if power else -law
    return torch.softmax(torch.nan_to_num(scaled, neginf=-1e300), 0)


def _power(known: Tensor, law: Tensor, size: float) -> float:
    """The largest γ ≤ 1 whose weights have the effective size, by bisection."""

    def effective(power: float) -> float:
        return float(1 / _normal(power, known, law).square().sum())

    if effective(1.0) >= size:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= size else (low, middle)
    return low


def _fitted(
    x: Float[Tensor, "N d"],
    w: Float[Tensor, " N"],
    components: int,
    lower: Tensor,
    upper: Tensor,
    random: torch.Generator,
    rounds: int = 8,
) -> GaussianMixture:
    """Weighted expectation–maximisation from centres drawn by the weights; components without mass are dropped."""
    d = x.shape[1]
    floor = (1e-4 * (upper - lower)).square().diag()

    def moments(share: Tensor) -> tuple[Tensor, Tensor]:
        mass = share.sum()
        mean = (share[:, None] * x).sum(0) / mass
        offsets = x - mean
        return mean, (share[:, None] * offsets).T @ offsets / mass + floor

    _, whole = moments(w)
    first = x[torch.multinomial(w.cpu(), components, True, generator=random).to(x.device)]
    mixture = GaussianMixture(
        w.new_full((components,), 1 / components),
        first,
        torch.linalg.cholesky(whole).expand(components, d, d),
        lower,
        upper,
    )
    if components == 1:
        rounds = 1
    for _ in range(rounds):
        share = torch.softmax(mixture.parts(x), 1) * w[:, None]
        mass = share.sum(0)
        # A covariance from fewer than a few times d effective points is not one.
        size = mass.square() / share.square().sum(0).clamp(min=1e-300)
        alive = (mass > 0.02) & (size > 3 * d)
        if not bool(alive.any()):
            share, alive, mass = w[:, None], torch.tensor([True], device=x.device), w.sum()[None]
        found = [moments(column) for column in share.T[alive]]
        mass = mass[alive] / mass[alive].sum()
        factors = torch.linalg.cholesky(torch.stack([cov for _, cov in found]))
        mixture = GaussianMixture(mass, torch.stack([mean for mean, _ in found]), factors, lower, upper)
    return mixture.weigh(random)
