"""Adversarial adaptive sampling: the density and the network play a min–max game over the residual."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.models.densities.base import Density
from sciops.models.densities.krnet import KRnet
from sciops.numerics.critic import adapted
from sciops.solvers.samplers.base import Residual
from sciops.solvers.samplers.flow_sampler import SPLINE, FlowSampler, log_magnitude, tempered


class AAS(FlowSampler):
    """max over α of ∫ q p_α − β ∫|∇p_α|²,  q = r²/mean r², by steps on a flow; all points are replaced.

    The box counts as the unit cube and q as a ratio to its mean, so β depends neither on the size of the residual nor
    on that of the box (a cube of edge L: β L^(d+2) in physical units). A round draws x_i from the present law p_old,
    evaluates r once and takes steps uphill on

        mean_i[ ((q_i − b) p_α(x_i) − β |∇p_α(x_i)|²) / p_old(x_i) ],     b = mean q,

    where b is free because ∫p_α = 1, and cuts the variance of the gradient. After each round β moves by ×1.5 or ÷1.5
    while the coverage χ = 1/(|Ω|∫p²) is outside `coverage`. The network's step uses the points with their density
    detached: the gradient of max_p is that at the best p, so it never runs through the sampler.

    beta      start value, 0.005; an exact critic then gives a point feature a disc of radius 4√β in 2-D
    coverage  [0.05, 0.5] in up to two dimensions, to the power d/2 in more, so that a feature of one width per axis
              counts alike; None keeps β fixed
    warm      rounds of the cross-entropy of DAS-R before the first step of the game: none in up to three dimensions,
              6 in more, where uniform points see no spike and ascent alone finds it slowly
    baseline  False for b = 0
    k         q ∝ |r|^k
    ess       tempering of q as in DAS-R, 0.1: where a pool cannot carry q, its largest bearable power
    slope     ∇p by a second reverse pass ("exact") or by a "difference" in one random direction per point, right in
              expectation; "auto": exact for KRnet in up to three dimensions
    others    see `FlowSampler`

    Twice differentiable flows only: the spline flow, or KRnet with a smooth conditioner, whose penalty counts in the
    box alone, not in the layer beyond it. Cost per step: a forward and two reverse passes of the flow over a batch.
    Tang, Zhai, Wan, Yang, "Adversarial adaptive sampling: unify PINN and optimal transport for the approximation of
    PDEs", ICLR 2024.
    """

    kept = (*FlowSampler.kept, "beta", "chi", "tau", "cold")

    def __init__(
        self,
        flow: str | dict[str, Any] = SPLINE,
        beta: float = 0.005,
        coverage: tuple[float, float] | None = (0.05, 0.5),
        uniform: float = 0.3,
        pool: int = 2000,
        rounds: int = 5,
        steps: int = 20,
        batch: int = 1000,
        lr: float = 3e-3,
        clip: float = 10.0,
        baseline: bool = True,
        k: float = 2.0,
        ess: float = 0.1,
        warm: int | None = None,
        slope: str = "auto",
    ) -> None:
        super().__init__(flow, uniform, pool, rounds, steps, batch, lr, clip)
        if not beta > 0 or not k > 0 or not 0 <= ess < 1:
            raise UsageError(f"AAS needs beta > 0, k > 0 and 0 ≤ ess < 1; got {beta}, {k} and {ess}.")
        if coverage is not None and not 0 < coverage[0] < coverage[1] <= 1:
            raise UsageError(f"coverage must be 0 < low < high ≤ 1 or None; got {coverage}.")
        self.first_beta, self.range, self.baseline, self.k, self.ess = beta, coverage, baseline, k, ess
        if slope not in ("auto", "exact", "difference"):
            raise UsageError(f"slope must be auto, exact or difference; got '{slope}'.")
        self.warm, self.slope = warm, slope

    def begin(self) -> None:
        super().begin()
        self.beta, self.chi, self.tau = self.first_beta, 1.0, 1.0
        self.cold = (0 if self.ndim <= 3 else 6) if self.warm is None else self.warm

    def fit(self, residual: Residual) -> None:
        rounds = self.rounds
        self.rounds += self.cold  # the first fit only
        try:
            super().fit(residual)
        finally:
            self.rounds = rounds

    def targets(self, r: Float[Tensor, " N"], x: Float[Tensor, "N d"], p: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """q − b: relative to the mean over the box, which the importance weights estimate."""
        if self.cold == 0:
            self.adapt(x, p)
        if float(r.max()) == 0:
            return torch.zeros_like(r)
        weighted, self.tau = tempered(log_magnitude(r), p.log(), self.k, self.ess)
        if self.cold > 0:
            return weighted
        q = weighted * p * self.volume  # weights have mean 1, so q has volume mean 1
        return q - 1 if self.baseline else q

    def adapt(self, x: Float[Tensor, "N d"], p: Float[Tensor, " N"]) -> None:
        """One step of β, from the coverage of the flow as it is."""
        with torch.no_grad():
            self.chi = float(1 / (self.volume * (self.flow.prob(x) ** 2 / p).mean()))
        if self.range is not None:
            power = max(1.0, self.ndim / 2)
            self.beta = adapted(self.beta, self.chi, self.range[0] ** power, self.range[1] ** power)

    def one_round(self, residual: Residual) -> bool:
        done = super().one_round(residual)
        self.cold = max(0, self.cold - 1)
        return done

    def loss(self, x: Float[Tensor, "n d"], p: Float[Tensor, " n"], target: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        if self.cold > 0:
            return self.cross_entropy(x, target)
        exact = isinstance(self.flow, KRnet) and self.ndim <= 3 if self.slope == "auto" else self.slope == "exact"
        random = None if exact else self.random
        return -objective(self.flow, x, p, target, self.beta, self.lower, self.upper, random)


def objective(
    flow: Density,
    x: Float[Tensor, "n d"],
    p_old: Float[Tensor, " n"],
    q: Float[Tensor, " n"],
    beta: float,
    lower: Float[Tensor, " d"],
    upper: Float[Tensor, " d"],
    random: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """∫ q p − β ∫|∇p|² from points of p_old, in coordinates where the box is the unit cube; q may have a baseline.

    With a generator |∇p|² is d ((p(x + δv) − p(x))/δ)² for one random unit vector v per point, which is right in
    expectation to O(δ), δ = 1e-4 (float32: 1e-3) of the edges; without, it comes from a second reverse pass.
    """
    widths = upper - lower
    if random is None:
        points = x.detach().requires_grad_(True)
        p = flow.prob(points) * widths.prod()
        (slope,) = torch.autograd.grad(p.sum(), points, create_graph=True)
        square = (slope * widths).square().sum(-1)
    else:
        delta = 1e-4 if x.dtype == torch.float64 else 1e-3
        v = torch.randn(x.shape, generator=random, dtype=x.dtype).to(x.device)
        step = delta * widths * v / v.norm(dim=-1, keepdim=True)
        step = torch.where((x + step > upper) | (x + step < lower), -step, step)  # mirrored at the walls
        p, beside = (flow.prob(torch.cat([x, x + step])) * widths.prod()).chunk(2)
        square = x.shape[1] * ((beside - p) / delta) ** 2
    inside = ((x >= lower) & (x <= upper)).all(-1)
    return ((q * p - beta * torch.where(inside, square, 0.0)) / (p_old * widths.prod())).mean()
