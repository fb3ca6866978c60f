"""Points at every scale between the box and a small feature, in any dimension."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.tempering import GaussianMixture, TemperedPath, tempered_path
from sciops.solvers.samplers.base import Points, Residual, Sampler, magnitudes
from sciops.solvers.samplers.rad import drawn, relative_power

COUNT = 5000
"""Draws per level of the first path; half of it for later ones."""


class Tempered(Sampler):
    """p = ε/|Ω| + (1 − ε)/L Σ_l p_l, p_l ≈ |r|^{2γ_l} normalised, 0 < γ_1 < … < γ_L = 1; chosen by |r|^k among these.

    Uniform points miss a feature that fills 1e-5 of the volume. The path of tempered densities (`tempered_path`) walks
    from the box to the square of the first residual, that of the zero network: the source. All of its levels together
    are the law of the candidates, so that points lie at every distance from the feature: a population at the feature
    alone leaves the network free around it. A second path follows the present residual: networks make spurious bumps
    between the points, which uniform points hardly meet either. From `pool` candidates a population is drawn with
    chances ∝ |r|^k/mean|r|^k + c, r the present residual.

    k, c        as in RAD: 1 and 1
    pool        candidates, 10,000; one residual evaluation each
    components  Gaussians per level, 4: as many separate features are followed at least approximately
    refit       proposals between new paths for the present residual, 1; 0: never
    uniform     ε, 0.1
    Cost: the path, four to eight times 5000 residuals once; then half of that and the pool at each proposal.
    Fails to see features that no slope leads to; ε keeps a uniform share for them.
    """

    kept = ("proposals", "fixed", "stored")
    source: Residual | None = None
    """The residual of the zero function, which a solver may set; the first path follows it, else the first residual."""

    def __init__(
        self,
        k: float = 1.0,
        c: float = 1.0,
        pool: int = 10_000,
        components: int = 4,
        refit: int = 1,
        uniform: float = 0.1,
    ) -> None:
        if k < 0 or c < 0 or pool < 1 or components < 1 or refit < 0 or not 0 < uniform <= 1:
            raise UsageError(
                "Tempered needs k ≥ 0, c ≥ 0, pool and components ≥ 1, refit ≥ 0 and uniform in (0, 1]; got "
                f"{k}, {c}, {pool}, {components}, {refit}, {uniform}."
            )
        self.k, self.c, self.pool, self.components, self.refit, self.share = k, c, pool, components, refit, uniform

    def begin(self) -> None:
        self.path: TemperedPath | None = None
        self.proposals = self.fixed = 0

    def propose(self, n: int, residual: Residual, points: Points | None = None) -> Points:
        if self.path is None:
            self.path = self._localised(residual if self.source is None else self.source, COUNT)
            self.fixed = len(self.path.levels)
        elif self.refit and self.proposals % self.refit == 0:
            now = self._localised(residual, COUNT // 2)
            levels = self.path.levels[: self.fixed] + now.levels
            self.path = TemperedPath(self.lower, self.upper, levels, self.share, bool(levels))
        self.proposals += 1
        pool = self.path.sample(max(self.pool, 2 * n), self.random)
        relative = relative_power(magnitudes(residual, pool), self.k) + self.c
        chosen = drawn(pool, relative, n, self.random, self.volume)
        # `drawn` supposes a uniform pool.
        assert chosen.density is not None
        return Points(chosen.x, chosen.density * self.volume * self.path.log_prob(chosen.x).exp())

    def _localised(self, residual: Residual, count: int) -> TemperedPath:
        def target(x: Tensor) -> Tensor:
            return 2 * magnitudes(residual, x).log()

        path = tempered_path(target, self.lower, self.upper, self.random, count, self.components, uniform=self.share)
        if not path.found:
            self.notes.append("The residual vanishes at every point that was tried; the points are uniform.")
        return path

    def density(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"] | None:
        return None if self.path is None else self.path.log_prob(x).exp()

    @property
    def stored(self) -> list[tuple[Tensor, Tensor, Tensor, float]] | None:
        """The path as plain tensors."""
        if self.path is None:
            return None
        return [(level.weights, level.means, level.factors, level.mass) for level in self.path.levels]

    @stored.setter
    def stored(self, levels: Any) -> None:
        if levels is None:
            self.path = None
            return
        made = [GaussianMixture(w, m, f, self.lower, self.upper, mass) for w, m, f, mass in levels]
        self.path = TemperedPath(self.lower, self.upper, made, self.share, bool(made))
