"""Retain, resample, release: the points with the largest residuals stay, the others are redrawn uniformly."""

from sciops.solvers.samplers.base import Points, Residual, Sampler, magnitudes


class R3(Sampler):
    """A population of constant size: points with |r| above the mean stay, all others become new uniform points.

    Points gather where the residual is large over many refreshes, and leave once it has fallen below the mean. There is
    no density, so no importance weights. Cost: the residual at the population. Slow to find what uniform points miss.
    Daw, Bu, Wang, Perdikaris, Karpatne, "Mitigating propagation failures in physics-informed neural networks using
    retain-resample-release (R3) sampling", ICML 2023.
    """

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        """n uniform points: what R3 refills with."""
        return Points(self.uniform(n).x)

    def refresh(self, points: Points, n: int, residual: Residual) -> Points:
        r = magnitudes(residual, points.x)
        kept = points.x[r > r.mean()][:n]
        return Points(kept) + self.propose(n - len(kept), residual)
