"""Optimisation of GP-HM's kernel parameters on the evidence: weights by multiplicative steps, then all by Adam."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.numerics.spectral_covariance import OSCILLATING
from sciops.solvers.gp_hm_evidence import LineEvidence, Theta

WARM_NOISE = 1e-3
LEAST_WEIGHT = math.log(1e-30)
WIDEST = 3.0
"""Longest envelope, in lengths of the domain: beyond it the kernel's rank falls to two per line, and what the line's
frequency lacks can no longer be made up by the envelope."""


@dataclass
class Learner:
    """Θ of B starts at once, moved towards higher evidence.

    warm    w_q ← w_q √(data part/determinant part) of the gradient: the minimiser of the bound that keeps the data term
            and linearises log|M|. Positive, normalised, prunes; a few steps find the lines near starting frequencies
    adam    log w (normalised by softmax), s, and μ in units of 1/length; relative noise annealed from 1e-3 to `noise`,
            step size falling as a half cosine over `steps`
    μ is reflected into [0, ceiling] and envelopes kept between twice the spacing's and 3 times the domain's length.
    """

    evidence: LineEvidence
    theta: Theta
    ceilings: list[float]
    steps: int
    lr: float
    noise: float
    done: int = 0

    def __post_init__(self) -> None:
        lengths = self.evidence.nodes.lengths
        self.leaves = [
            [log_weight.clone(), s.clone(), mu * length]
            for (log_weight, s, mu), length in zip(self.theta, lengths, strict=True)
        ]
        flat = [leaf.requires_grad_() for axis in self.leaves for leaf in axis]
        self.adam = torch.optim.Adam(flat, self.lr)
        self.value = torch.full((len(self.theta[0][0]),), torch.inf, dtype=torch.float64)

    def current(self) -> Theta:
        """Θ as it enters the kernel."""
        lengths = self.evidence.nodes.lengths
        return [
            (log_weight.log_softmax(-1), s, mu / length)
            for (log_weight, s, mu), length in zip(self.leaves, lengths, strict=True)
        ]

    def best(self) -> list[tuple[Float[Tensor, " q"], Float[Tensor, " q"], Float[Tensor, " q"]]]:
        """Θ of the start with the highest evidence."""
        i = int(self.value.nan_to_num(torch.inf).argmin())
        return [(w[i].detach().clone(), s[i].detach().clone(), mu[i].detach().clone()) for w, s, mu in self.current()]

    def warm(self, steps: int, clock: Callable[[], bool] = lambda: False) -> None:
        """Multiplicative steps on the weights."""
        for _ in range(steps):
            if clock():
                return
            theta = [(log_weight.detach().requires_grad_(), s, mu) for log_weight, s, mu in self.current()]
            weights = [axis[0] for axis in theta]
            value, determinant, data = self.evidence(theta, WARM_NOISE)
            self.value = value.detach()
            up = torch.autograd.grad(data.sum(), weights, retain_graph=True, allow_unused=True)
            down = torch.autograd.grad(determinant.sum(), weights, allow_unused=True)
            with torch.no_grad():
                for leaf, log_weight, a, b in zip(self.leaves, weights, up, down, strict=True):
                    if a is None or b is None:  # no line says anything about this axis
                        continue
                    sound = torch.isfinite(a) & torch.isfinite(b) & (a > 0) & (b > 0)
                    step = torch.where(sound, (a / b).log() / 2, 0.0)
                    leaf[0].copy_((log_weight + step).log_softmax(-1).clamp(min=LEAST_WEIGHT))

    def adam_steps(self, steps: int, clock: Callable[[], bool] = lambda: False) -> None:
        """Joint steps on all parameters."""
        for _ in range(steps):
            if clock() or self.done >= self.steps:
                return
            t = self.done / max(self.steps, 1)
            # Anneal over 60 % of the steps, then settle.
            noise = 10 ** (math.log10(WARM_NOISE) + min(t / 0.6, 1.0) * math.log10(self.noise / WARM_NOISE))
            for group in self.adam.param_groups:
                group["lr"] = self.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * t)))
            self.adam.zero_grad()
            value, determinant, data = self.evidence(self.current(), noise)
            self.value = value.detach()
            sound = torch.isfinite(value)
            if bool(sound.any()):
                (determinant - data)[sound].sum().backward()
                with torch.no_grad():
                    for axis in self.leaves:
                        for leaf in axis:
                            if leaf.grad is not None:
                                leaf.grad.nan_to_num_(0.0, 0.0, 0.0)
                self.adam.step()
                self._into_bounds()
            self.done += 1

    @torch.no_grad()
    def _into_bounds(self) -> None:
        nodes, family = self.evidence.nodes, self.evidence.family
        for axis, length, spacing, ceiling in zip(
            self.leaves, nodes.lengths, nodes.spacing, self.ceilings, strict=True
        ):
            low, high = -math.log(WIDEST * length), -math.log(2 * spacing)
            if family in ("gaussian", "se"):
                low, high = 2 * low, 2 * high
            axis[1].clamp_(low, high)
            if family in OSCILLATING:
                folded = axis[2].abs()
                axis[2].copy_(torch.where(folded > ceiling * length, 2 * ceiling * length - folded, folded).abs())
