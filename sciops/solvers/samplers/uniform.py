"""Points that know nothing of the residual: drawn once, or anew at each refresh."""

from jaxtyping import Float
from torch import Tensor

from sciops.solvers.samplers.base import Points, Residual, Sampler


class Uniform(Sampler):
    """Uniform random points, drawn once: the population never changes.

    `propose` draws new ones for whoever asks.
    """

    policy = "fixed"

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        return self.uniform(n)

    def refresh(self, points: Points, n: int, residual: Residual) -> Points:
        return points

    def density(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return (1 / self.volume) * ((x >= self.lower) & (x <= self.upper)).all(-1).to(x.dtype)


class UniformResample(Uniform):
    """Uniform random points, all drawn anew at each refresh.

    With a network trained by stochastic steps this is plain Monte Carlo: no overfitting to a draw, and no attention to
    features that hold a small share of the volume.
    """

    policy = "replace"

    def refresh(self, points: Points, n: int, residual: Residual) -> Points:
        return self.propose(n, residual, points)
