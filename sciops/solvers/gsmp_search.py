"""The search of GSMP on one case: lines are looked for, envelopes grow, the best fit is kept."""

import math
from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.numerics.modulated_features import ModulatedFeatures
from sciops.solvers.collocation import Equation, relative_residual
from sciops.solvers.gsmp_fit import Expansion, Points, fit, missing, steep
from sciops.solvers.gsmp_lines import find_lines
from sciops.solvers.gsmp_signals import line_signal, rows_signal

CAPS = (100, 5_000, 20_000)
"""Most collocation points in 1-D, 2-D, 3-D; in 1-D one per wavelength of the highest line where that is more."""
CHECKS = (100, 500, 1_000)
"""Held-out points."""
DEGREES = (2, 4, 6, 8, 10, 13, 16, 20, 25)
"""Polynomials per envelope: the steps in which one grows."""
FEATURES = 1_500
"""Most features: what takes more is too expensive for one least squares."""
ENOUGH = (1e-13, 1e-11, 1e-11)
"""Relative residual at which the search ends. In 1-D a fit costs nothing; above, the last digits are not worth it."""


class Search:
    """Rounds of looking for lines and fitting them, on points drawn once.

    best, points, residual   the best fit by the residual at held-out points
    lines, ceiling           cycles per box length, per axis; how high the search had to look
    remainder                share of the signal that the first lines left: above 0.1, the spectrum is not lines
    needed                   points that the fit which was not made for want of points would have needed
    sought, taken, checked   points of the equation: those of the search for lines, of the largest fit, and those that
                             served the residual and the error estimate alone
    """

    def __init__(self, equation: Equation, cap: int | None, seed: int, maxiter: int | None = None) -> None:
        d, self.random = equation.ndim, torch.Generator().manual_seed(seed)
        self.equation, self.fixed, self.limit = equation, cap is not None, maxiter or 12
        self.cap = CAPS[d - 1] if cap is None else cap
        self.check = equation.interior_points(CHECKS[d - 1], self.random)
        # The second half of every pool is for a second opinion.
        self.pool = equation.interior_points(2 * max(self.cap, 4096 if d == 1 else 0), self.random)
        self.sides = [equation.face_points(face, (1, 1024, 4096)[d - 1], self.random) for face in equation.faces]
        self.lines: list[list[float]] = [[] for _ in range(d)]
        self.best: Expansion | None = None
        self.points: Points | None = None
        self.residual, self.remainder, self.ceiling = float("inf"), 0.0, 0.0
        self.rounds, self.fits, self.needed = 0, 0, 0
        self.sought, self.taken, self.checked = 0, 0, len(self.check)
        self.widening = 1.0

    def round(self, stop: Callable[[], bool]) -> bool:
        """Look once and fit; False where there is nothing more to do."""
        before, ndim = self.residual, self.equation.ndim
        if ndim > 1 and self.rounds and self.sought * (1 + 1 / self.rounds) + self.taken > self.cap:
            return False  # no points left for another look
        if not self._look() and self.best is not None:
            return False
        self.rounds += 1
        if ndim == 1 and not self.fixed:
            self.cap = min(max(self.cap, round(max(self.lines[0], default=0.0))), len(self.pool) // 2)
        self._grow(stop)
        hopeless = ndim > 1 and self.remainder > 0.1 and self.residual > 0.1
        return not (self.residual < 1e-11 or self.residual > 0.3 * before or hopeless or stop())

    def _look(self) -> bool:
        """Add lines of f, or of what the best fit left; False where there are none."""
        equation, found = self.equation, False
        for axis, known in enumerate(self.lines):
            if equation.ndim == 1:
                seen = self.pool[: self.cap] if self.best is None else self.check
                signal, taken = rows_signal(equation, seen, self.best), 0 if self.best is None else len(seen)
            else:
                signal, taken = line_signal(equation, axis, self.random, self.best)
            self.sought += taken
            # f of a nonlinear equation holds overtones that u does not have: one look at it, then at residuals.
            lines = find_lines(signal, known, passes=5 if equation.linear else 1)
            self.ceiling = max(self.ceiling, lines.ceiling)
            if self.best is None:
                self.remainder = max(self.remainder, lines.remainder)
            # Below one cycle per box polynomials do it; in 1-D such a line costs little and helps now and then.
            fresh = [nu for nu in lines.cycles if nu > (0.25 if equation.ndim == 1 else 1.0)]
            self.lines[axis] = known + fresh
            found |= bool(fresh)
        return found

    def _grow(self, stop: Callable[[], bool]) -> None:
        """Fits that grow where it pays: longer envelopes for the waves that need them; in 2-D and 3-D also more
        combinations of lines."""
        equation = self.equation
        waves = list(product(*([0.0, *lines] for lines in self.lines)))
        box = tuple(equation.lower.tolist()), tuple(equation.upper.tolist())
        counts = dict.fromkeys(waves if equation.ndim == 1 else waves[:1], DEGREES[0])
        if self.best is not None:
            counts |= dict(zip(self.best.features.waves, self.best.features.counts, strict=True))
        enough, goal, stalled = ENOUGH[equation.ndim - 1], 1e-3, 0
        while True:
            features = ModulatedFeatures(*box, tuple(counts), tuple(counts.values()))
            points = self._points(features)
            if points is None or len(features) > FEATURES:
                self.needed = self._wanted(features)
                break
            # A poor answer is a worse place to linearise at than zero.
            state = self.best if self.residual < 0.05 else None
            fitted = fit(equation, features, points, state, min(2 if state is None else 4, self.limit), goal, stop)
            self.fits += fitted.expansion.steps
            self.taken = max(self.taken, points.count)
            residual = self._residual(fitted.expansion)
            stalled = 0 if residual < 0.5 * self.residual else stalled + 1
            if not stalled:
                self.best, self.points, self.residual = fitted.expansion, points, residual
            if stop() or residual < enough or stalled == (3 if self.residual > 100 * enough else 2):
                break
            # Newton's method need not go below what these features can represent.
            goal = max(1e-11, 1e-4 * residual)
            # Where growth of some did not help, all grow.
            longer = [] if stalled else [list(counts)[b] for b in steep(fitted)]
            longer = [wave for wave in longer or counts if counts[wave] < DEGREES[-1]]
            fresh = missing(equation, fitted, points, [wave for wave in waves if wave not in counts])
            if not longer and not fresh:
                break
            for wave in longer:
                counts[wave] = next(count for count in DEGREES if count > counts[wave])
            counts |= dict.fromkeys(fresh, DEGREES[0])
        best = self.best
        if best is not None and self.points is not None and not equation.linear and best.change > 1e-9:
            self.best = fit(equation, best.features, self.points, best, self.limit, stop=stop).expansion
            self.fits += self.best.steps
            self.residual = self._residual(self.best)

    # ---- how good it is

    @property
    def converged(self) -> bool:
        """Has Newton's method come to rest?"""
        return self.equation.linear or self.best is None or self.best.change < 1e-6

    def _residual(self, answer: Expansion) -> float:
        """The larger of the relative residual inside and the relative misfit of the boundary data, held out."""
        inside = relative_residual(self.equation, self.check, answer.state(self.check))
        random = torch.Generator().manual_seed(1)
        missed, given = [], []
        for face in self.equation.faces:
            at = self.equation.face_points(face, max(len(self.check) // 10, 10), random)
            rows = self.equation.boundary_rows(face, at)
            missed.append(rows.apply(answer.state(at)))
            given.append(rows.rhs)
        count = sum(map(len, given))
        size = torch.cat(given).norm() + answer(self.check).norm() * (count / len(self.check)) ** 0.5
        return max(inside, float(torch.cat(missed).norm() / size.clamp(min=1e-300)))

    def error_estimate(self) -> float:
        """Relative L² error of the best fit: its distance to a second fit with the same features on other points, and
        the rounding of the carriers that both fits share.

        Where the posterior deviation is larger, the geometric mean of both: two fits may agree by luck, while the
        deviation is too large where the misfit is not white.
        """
        assert self.best is not None
        best, x = self.best, self.check
        other = self._points(best.features, second=True)
        self.checked += other.count if other else 0
        again = fit(self.equation, best.features, other, best, steps=1).expansion if other else best
        u = best(x)
        apart, deviation = float((again(x) - u).norm()), float(best.std(x).norm())
        spread = math.sqrt(apart * max(apart, deviation)) if other else deviation
        # Fits on disjoint points differ by √2 deviations, unless their misfits are no white noise.
        self.widening = max(1.0, apart / (math.sqrt(2) * deviation)) if deviation > 0 else 1.0
        return spread / max(float(u.norm()), 1e-300) + rounding(best)

    # ---- points

    def _wanted(self, features: ModulatedFeatures) -> int:
        """Least number of points from which these features can be fitted, those of the search included."""
        n = len(features)
        if self.equation.ndim == 1:
            return math.ceil(n / 0.85) + 2
        return math.ceil(1.15 * n) + sum(self._face_counts(features)) + self.sought

    def _face_counts(self, features: ModulatedFeatures) -> list[int]:
        """Points per face: 1.6 for each different trace that the features leave there."""
        d, counts = self.equation.ndim, []
        for face in self.equation.faces:
            traces: dict[tuple[float, ...], int] = {}
            for wave, count in zip(features.waves, features.counts, strict=True):
                trace = tuple(nu for j, nu in enumerate(wave) if j != face.axis)
                traces[trace] = max(count, traces.get(trace, 0))
            columns = sum(2 ** sum(nu > 0 for nu in t) * math.comb(c + d - 2, d - 1) for t, c in traces.items())
            counts.append(max(20, int(1.6 * columns)) if d > 1 else 1)
        return counts

    def _points(self, features: ModulatedFeatures, second: bool = False) -> Points | None:
        """As many of the drawn points as these features want; None where the cap is too low for them."""
        if self._wanted(features) > self.cap:
            return None
        counts = self._face_counts(features)
        inside = self.cap - sum(counts)
        if self.equation.ndim > 1:
            inside = min(max(300, int(1.6 * len(features))), inside - self.sought)
        pools: list[Tensor] = [self.pool, *self.sides]
        first, *faces = (
            pool if len(pool) == 1 else pool[len(pool) // 2 * second :][: min(count, len(pool) // 2)]
            for pool, count in zip(pools, [inside, *counts], strict=True)
        )
        return Points(first, faces)


def rounding(answer: Expansion) -> float:
    """Relative rounding of the carriers cos 2πνs: ε times a quarter of the largest phase, and of the values."""
    top = max(max(wave) for wave in answer.features.waves)
    return torch.finfo(answer.posterior.mean.dtype).eps * max(1.0, 0.5 * math.pi * top)


def band(answer: Expansion, widening: float = 1.0) -> Callable[[Float[Tensor, "N d"]], Float[Tensor, " N"]]:
    """Posterior standard deviation, widened to what two fits differ by, with the rounding of the answer itself."""

    def std(x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        floor = rounding(answer) * answer(x).abs().mean()
        return ((widening * answer.std(x)).square() + floor**2).sqrt()

    return std
