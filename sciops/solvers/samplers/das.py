"""Deep adaptive sampling: a flow is fitted to the squared residual, and points are drawn from the flow."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.solvers.samplers.base import effective_size
from sciops.solvers.samplers.flow_sampler import SPLINE, FlowSampler, log_magnitude, tempered


class DASR(FlowSampler):
    """p_α ≈ r²/∫r² by importance-sampled cross-entropy; all points are replaced (DAS-R).

    Minimises −mean_i[ w_i log p_α(x_i) ] over points of the present law p_old, w_i ∝ |r_i|^{kτ}/p_old(x_i). τ = 1 is
    the published target; where the pool cannot carry it, τ is the largest exponent that leaves an effective size of
    `ess` times the pool, and the next round starts from a pool that is closer (an annealed cross-entropy method). That
    is what finds a peak in ten dimensions, of which a uniform pool has no point. The rounds of a refresh end early once
    τ = 1 and the effective size of the pool is `enough`·N: a law that still fits costs one round.

    ess     0.1; 0 for the published form without tempering
    enough  0.5; with ε = 0.3 uniform points a perfect flow reaches 0.7 on a narrow feature. 1 never ends early
    k       2; a larger one where a flat residual holds more of ∫r² than a feature worth finding
    others  see `FlowSampler`. Published: KRnet, all points of the last set as the pool, 3,000 steps of Adam at 1e-4,
            log p clipped to [−23, 5], which cuts peaks above p = 148; nothing is clipped here

    Tang, Wan, Yang, "DAS-PINNs: a deep adaptive sampling method for solving high-dimensional partial differential
    equations", JCP 476, 2023. Fails where the residual elsewhere hides the feature from every pool.
    """

    kept = (*FlowSampler.kept, "tau")

    def __init__(
        self,
        flow: str | dict[str, Any] = SPLINE,
        uniform: float = 0.3,
        pool: int = 4000,
        rounds: int = 5,
        steps: int = 40,
        batch: int = 1000,
        lr: float = 3e-3,
        clip: float = 10.0,
        ess: float = 0.1,
        k: float = 2.0,
        enough: float = 0.5,
    ) -> None:
        super().__init__(flow, uniform, pool, rounds, steps, batch, lr, clip)
        if not 0 <= ess < 1 or not k > 0:
            raise UsageError(f"{type(self).__name__} needs 0 ≤ ess < 1 and k > 0; got {ess} and {k}.")
        self.ess, self.k, self.enough = ess, k, enough

    def begin(self) -> None:
        super().begin()
        self.tau = 0.0

    def targets(self, r: Float[Tensor, " N"], x: Float[Tensor, "N d"], p: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        if float(r.max()) == 0:
            self.tau = 1.0
            return 1 / p / (1 / p).mean()
        weights, self.tau = tempered(log_magnitude(r), p.log(), self.k, self.ess)
        return weights

    def settled(self, targets: Float[Tensor, " N"]) -> bool:
        return self.tau == 1.0 and effective_size(targets) >= self.enough * len(targets)

    def loss(self, x: Float[Tensor, "n d"], p: Float[Tensor, " n"], target: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        return self.cross_entropy(x, target)


class DASG(DASR):
    """DAS-G: like DAS-R, but the new points are added to the old ones, which keep their own density.

    Published: 1,000 points more per stage, and a number of epochs per stage that stays constant while the set grows.
    """

    policy = "append"
