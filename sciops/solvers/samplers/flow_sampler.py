"""Samplers whose law is a flow that is trained against the residual."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.config import build
from sciops.core.errors import UsageError
from sciops.core.random import case_seed
from sciops.models.densities.base import Arcsine, Density, MassLost, Uniform, check_mass
from sciops.models.densities.krnet import KRnet
from sciops.models.densities.mixture import Mixture, safeguarded
from sciops.solvers.samplers.base import Points, Residual, Sampler, effective_size, magnitudes

SPLINE = "sciops.models.densities.SplineFlow"


class FlowSampler(Sampler):
    """Points from (1 − ε) p_α + ε/|Ω|, p_α a flow; a subclass writes `loss`, what the flow minimises.

    `fit` works in rounds: draw a pool from the present law, evaluate |r| on it once, take `steps` Adam steps on
    batches of it, so that importance ratios p_α/p_old never run far from 1. Points outside the box are drawn again.
    A flow that stops being finite or loses its mass is replaced by a fresh, nearly uniform one, and `notes` says so.

    flow      class path of a `Density` with parameters, or {class_path, init_args}; the spline flow on the box
    uniform   ε: importance weights stay below 1/ε
    pool, rounds, steps, batch, lr   see above; `steps` counts per round
    clip      bound on the norm of the gradient
    """

    kept: tuple[str, ...] = ("flow", "optimiser", "restarts")

    def __init__(
        self,
        flow: str | dict[str, Any] = SPLINE,
        uniform: float = 0.3,
        pool: int = 2000,
        rounds: int = 5,
        steps: int = 20,
        batch: int = 1000,
        lr: float = 3e-3,
        clip: float = 10.0,
    ) -> None:
        if not 0 < uniform < 1 or min(pool, rounds, steps, batch) < 1 or not lr > 0 or not clip > 0:
            raise UsageError(
                f"{type(self).__name__} needs 0 < uniform < 1, lr > 0, clip > 0 and pool, rounds, steps, batch ≥ 1; "
                f"got {uniform}, {lr}, {clip}, {pool}, {rounds}, {steps} and {batch}."
            )
        self.config: dict[str, Any] = {"class_path": flow} if isinstance(flow, str) else dict(flow)
        self.eps, self.pool, self.rounds, self.steps = uniform, pool, rounds, steps
        self.batch, self.lr, self.clip = min(batch, pool), lr, clip

    def begin(self) -> None:
        self.restarts = 0
        self.fresh()

    def fresh(self) -> None:
        """A flow at its start, with a new optimiser."""
        given = {"seed": case_seed(self.seed, self.restarts, "flow"), **(self.config.get("init_args") or {})}
        corners = {"lower": self.lower, "upper": self.upper}
        self.flow: Density = build(
            {**self.config, "init_args": {**corners, **given}},
            Density,  # type: ignore[type-abstract]
        )
        self.optimiser = torch.optim.Adam(self.flow.parameters(), lr=self.lr)

    @property
    def law(self) -> Mixture:
        """The safeguarded mixture that points are drawn from; frozen use only."""
        return safeguarded(self.flow, self.eps, self.lower, self.upper, self.mass_random())

    def mass_random(self) -> torch.Generator:
        """A generator of its own for the share of the flow inside the box, so that pictures do not move the state."""
        return torch.Generator().manual_seed(case_seed(self.seed, self.restarts, "mass"))

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        self.fit(residual)
        law = self.law
        x = law.sample(n, self.random)
        with torch.no_grad():
            return Points(x, law.prob(x))

    def density(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        with torch.no_grad():
            return self.law.prob(x)

    # ---- training

    def fit(self, residual: Residual) -> None:
        """Train the flow against the present residual."""
        try:
            for _ in range(self.rounds):
                if self.one_round(residual):
                    break
            check_mass(self.flow, self.mass_random())
            _ = self.law  # says so where too little of the flow is left inside the box
        except MassLost as lost:
            self.restarts += 1
            self.notes.append(f"{lost} It was restarted from nearly uniform (restart {self.restarts}).")
            self.fresh()

    def one_round(self, residual: Residual) -> bool:
        """Pool, weights, steps; True where the remaining rounds can be left out."""
        x, p = self.draw_pool()
        targets = self.targets(magnitudes(self.extended(residual), x), x, p)
        for _ in range(self.steps):
            chosen = self.pick(len(x))
            self.step(self.loss(x[chosen], p[chosen], targets[chosen]))
        return self.settled(targets)

    def settled(self, targets: Float[Tensor, " N"]) -> bool:
        """Whether the pool of this round came from a law so good that the remaining rounds can be left out."""
        return False

    def draw_pool(self) -> tuple[Float[Tensor, "N d"], Float[Tensor, " N"]]:
        """Points of the present flow and its uniform share, on the flow's whole support, and their density.

        For KRnet in up to three dimensions both are evenly spread, and the share crowds at the walls: ∇p has layers
        there, of which uniform points see a few per cent.
        """
        layers = isinstance(self.flow, KRnet) and self.ndim <= 3
        whole = (Arcsine if layers else Uniform)(self.flow.lower, self.flow.upper)
        law = Mixture([self.flow, whole], [1 - self.eps, self.eps])
        if layers:
            few = round(self.eps * self.pool)
            x = torch.cat([self.flow.spread(self.pool - few, self.random), whole.spread(few, self.random)])
        else:
            x = law.sample(self.pool, self.random)
        with torch.no_grad():
            p = law.prob(x)
        if not bool(torch.isfinite(x).all() & torch.isfinite(p).all()):
            raise MassLost(f"{type(self.flow).__name__} is no longer finite.")
        return x, p

    def extended(self, residual: Residual) -> Residual:
        """|r| on the support of the flow: beyond the box the value at its nearest point, times the root of h(x)."""
        flow = self.flow
        if not isinstance(flow, KRnet):
            return residual
        return lambda x: residual(x.clamp(self.lower, self.upper)) * flow.cut_off(x).sqrt()

    def pick(self, n: int) -> Tensor:
        """A batch of a pool; all of it, in order, where they are of one size."""
        if self.batch >= n:
            return torch.arange(n, device=self.lower.device)
        return torch.randperm(n, generator=self.random)[: self.batch].to(self.lower.device)

    def step(self, loss: Tensor) -> None:
        """One Adam step downhill."""
        self.optimiser.zero_grad()
        loss.backward()
        parameters = list(self.flow.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        if not bool(torch.isfinite(norm)):
            raise MassLost(f"The gradient of {type(self.flow).__name__} is not finite.")
        self.optimiser.step()

    def cross_entropy(self, x: Float[Tensor, "n d"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """−mean w log p_α(x), over the points of positive weight."""
        seen = weights > 0
        return -(weights[seen] * self.flow.log_prob(x[seen])).sum() / len(x)

    @abstractmethod
    def targets(self, r: Float[Tensor, " N"], x: Float[Tensor, "N d"], p: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """What `loss` needs per point of the pool, from |r| and the density p that it was drawn from."""

    @abstractmethod
    def loss(self, x: Float[Tensor, "n d"], p: Float[Tensor, " n"], target: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """What one step decreases."""


def tempered(
    log_r: Float[Tensor, " N"], log_p: Float[Tensor, " N"], k: float, least: float
) -> tuple[Float[Tensor, " N"], float]:
    """Importance weights of |r|^{kτ} against p, mean 1, and the largest τ ≤ 1 whose effective size is `least`·N.

    A feature that fills 1e-6 of the box gets all weight onto one point of the pool; fitted to that, a flow would learn
    the draw. Tempering flattens the target as far as the pool can carry it; the next pool carries more.
    """

    def weights(tau: float) -> Tensor:
        log_w = tau * k * log_r - log_p
        w = torch.exp(log_w - log_w.max())
        return w / w.mean()

    n = len(log_r)
    # The effective size of τ = 0 is what p leaves of it: less cannot be asked.
    floor = min(least * n, 0.9 * effective_size(weights(0.0)))
    if effective_size(weights(1.0)) >= floor:
        return weights(1.0), 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if effective_size(weights(middle)) >= floor:
            low = middle
        else:
            high = middle
    return weights(low), low


def log_magnitude(r: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log |r| with zeros a little below the smallest number."""
    return r.clamp(min=torch.finfo(r.dtype).tiny).log()
