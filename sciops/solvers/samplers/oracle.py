"""Adversarial sampling with the exact critic: the best density against the residual by one cosine transform."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.models.densities.base import Uniform
from sciops.models.densities.mixture import Mixture
from sciops.models.densities.tabulated import Tabulated
from sciops.numerics.critic import OBSTACLE, coverage, critic_density, critic_with_coverage, midpoints
from sciops.solvers.samplers.base import Points, Residual, Sampler, magnitudes
from sciops.solvers.samplers.rad import relative_power


class Oracle(Sampler):
    """max over p of ∫ q p − β ∫|∇p|², q = r²/mean r², solved exactly on a grid of cells in 1, 2 or 3 dimensions.

    The box counts as the unit cube (for a cube of edge L, β means β L^(d+2) in physical units) and q as its ratio to
    its mean, so β depends neither on the size of the residual nor on that of the box. Each `propose` evaluates r at
    the cell midpoints, adapts β by ×1.5 or ÷1.5 until the coverage χ = 1/(|Ω|∫p²) lies in `coverage`, tabulates p*
    and draws from (1 − ε) p* + ε uniform, replacing all points.

    beta      start value, 0.005: a point feature then gets a disc of radius 4√β = 0.28 in 2-D
    coverage  [0.05, 0.5]; None keeps β fixed
    uniform   ε = 0.3: importance weights stay below 1/ε
    cells     65,536 in all: 256² in 2-D, 40³ in 3-D; one residual evaluation each
    k         q = |r|^k/mean|r|^k, 2 as derived
    obstacle  "exact", to the tolerance `tol`; or "project", cheaper, but it never concentrates beyond the Green's
              function of the box, whatever β

    Sees nothing narrower than a cell. Cost per refresh: the residual at the cells and some transforms.
    """

    kept = ("beta", "table", "chi")

    def __init__(
        self,
        beta: float = 0.005,
        coverage: tuple[float, float] | None = (0.05, 0.5),
        uniform: float = 0.3,
        cells: int = 65_536,
        k: float = 2.0,
        obstacle: str = "exact",
        tol: float = 1e-3,
    ) -> None:
        if beta <= 0 or not 0 <= uniform < 1 or cells < 8 or k <= 0 or obstacle not in OBSTACLE:
            raise UsageError(
                "Oracle needs beta > 0, 0 ≤ uniform < 1, cells ≥ 8, k > 0 and obstacle one of "
                f"{', '.join(OBSTACLE)}; got {beta}, {uniform}, {cells}, {k} and '{obstacle}'."
            )
        if coverage is not None and not 0 < coverage[0] < coverage[1] <= 1:
            raise UsageError(f"coverage must be 0 < low < high ≤ 1 or None; got {coverage}.")
        self.first_beta, self.tol = beta, tol
        self.range, self.eps, self.cells, self.k, self.obstacle = coverage, uniform, cells, k, obstacle

    def begin(self) -> None:
        if self.ndim > 3:
            raise UsageError(f"Oracle tabulates the box and takes 1 to 3 dimensions; got {self.ndim}; use AAS or DAS.")
        self.shape = (max(2, round(self.cells ** (1 / self.ndim))),) * self.ndim
        self.beta, self.chi = self.first_beta, 1.0
        self.table = Tabulated(self.lower, self.upper, torch.ones(self.shape, dtype=self.lower.dtype))

    @property
    def law(self) -> Mixture:
        """What points are drawn from."""
        return Mixture([self.table, Uniform(self.lower, self.upper)], [1 - self.eps, self.eps])

    def critic(self, residual: Residual) -> None:
        """The table for a new residual."""
        r = magnitudes(residual, midpoints(self.lower, self.upper, self.shape))
        q = relative_power(r, self.k).reshape(self.shape)
        unit = (1.0,) * self.ndim
        if self.range is None or float(q.max() - q.min()) <= 1e-12 * float(q.max()):
            p = critic_density(q, unit, self.beta, self.obstacle, self.tol)
        else:
            p, self.beta = critic_with_coverage(q, unit, self.beta, *self.range, self.obstacle, self.tol)
        self.chi = coverage(p)
        self.table.fill(p)

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        self.critic(residual)
        law = self.law
        x = law.sample(n, self.random)
        return Points(x, law.prob(x))

    def density(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.law.prob(x)
