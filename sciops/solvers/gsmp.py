"""Gaussian process with a sparse spectral mixture kernel, in weight space: frequencies are found, none is optimised."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.numerics.modulated_features import ModulatedFeatures
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, relative_residual
from sciops.solvers.gsmp_fit import Expansion, Points, fit, strongest
from sciops.solvers.gsmp_lines import find_lines
from sciops.solvers.gsmp_signals import line_signal, rows_signal

CAPS = (100, 5_000, 20_000)
"""Most collocation points in 1-D, 2-D, 3-D; in 1-D one per wavelength of the highest line where that is more."""
CHECKS = (100, 500, 1_000)
"""Held-out points."""
DEGREES = (2, 4, 7, 10, 13)
"""Polynomials per envelope, in this order until the residual stops falling."""
ROUNDING = 1e-13
"""Relative residual below which there is nothing left to find."""


@dataclass
class _Search:
    """What the search on one case has come to."""

    lines: list[list[float]]
    check: Float[Tensor, "N d"]
    best: Expansion | None = None
    points: Points | None = None
    residual: float = float("inf")
    remainder: float = 0.0
    ceiling: float = 0.0
    rounds: int = 0
    fits: int = 0
    sought: int = 0
    needed: int = 0
    unfinished: bool = False
    converged: bool = True
    trace: list[tuple[float, Expansion]] = field(default_factory=list)


class GSMP(CollocationSolver):
    """L(u) = f, u = g or ∂u/∂n = g with u ~ GP(0, Σ_a θ_a envelope(length ~ box) × Π_p cos 2πν_{a,p} s_p).

    Per axis the weights θ of a fixed frequency grid are fitted to f (to the boundary data where f vanishes) by a
    closed-form majorisation step; their peaks are the lines. Each combination of lines becomes a block of features
    {T_α(x) cos, T_α(x) sin}, which hold any slow envelope, and one least squares over equation and boundary rows gives
    the weights; Newton's method around it where the equation is nonlinear. Then lines are sought in what is left, and
    so on. The frequency ceiling starts at 32 cycles per box and doubles while lines leave the data unexplained.

    points    most collocation points (default: 100, or one per wavelength of the highest line, in 1-D; 5 000; 20 000);
              a number given here rules the fallback out, which would take more
    fallback  "chebyshev", "partition" (1-D) or None: who is asked where the relative residual stays above `tol`
    rounds    most rounds of looking at what is left
    tol       relative residual at held-out points above which an answer is UNRESOLVED (`Budget.tol` overrides)
    seed      of the points

    One configuration serves every problem. `Answer.std` is the posterior's; `error_estimate` compares two fits on
    disjoint points. `stats`: lines (cycles per box length, per axis), ceiling, rounds, degree, features, check_points,
    who answered (`fallback`). In 2-D and 3-D `points` counts those of the search as well.
    Cost: O(N n²) per fit, n features, N ≥ n points; 10 lines need tens of milliseconds in 1-D. Fails, and says so,
    where the spectrum is not a few lines with slow envelopes: chirps, thin layers, rough data.
    References: Suwandi, Lin, Yin, Wang, Theodoridis (2309.08201) for the objective over θ; Fang et al. (2311.04465)
    for the problems; Chen, Hosseini, Owhadi, Stuart (2103.12959) for Gauss–Newton around Gaussian processes.
    """

    def __init__(
        self,
        points: int | None = None,
        fallback: str | None = "chebyshev",
        rounds: int = 5,
        tol: float = 1e-6,
        seed: int = 0,
    ) -> None:
        if fallback not in ("chebyshev", "partition", None):
            raise UsageError(f"GSMP fallback must be 'chebyshev', 'partition' or None; got {fallback!r}.")
        if points is not None and points < 10:
            raise UsageError(f"GSMP needs at least 10 points; got {points}.")
        if rounds < 1 or not tol > 0:
            raise UsageError(f"GSMP needs rounds ≥ 1 and tol > 0; got rounds={rounds}, tol={tol}.")
        self.points, self.fallback, self.rounds, self.tol, self.seed = points, fallback, rounds, tol, seed

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        begun = time.perf_counter()

        def late() -> bool:
            return budget.seconds is not None and time.perf_counter() - begun > budget.seconds

        tol = budget.tol or self.tol
        d, random = equation.ndim, torch.Generator().manual_seed(self.seed)
        search = _Search([[] for _ in range(d)], equation.interior_points(CHECKS[d - 1], random))
        most = self.points or CAPS[d - 1]
        pool = equation.interior_points(2 * max(most, 4096 if d == 1 else 0), random)
        self._search(equation, search, pool, random, late, budget.maxiter, begun)
        answer = self._answer(equation, search, pool, tol)
        if answer.status is not Status.UNRESOLVED or self.fallback is None or self.points is not None:
            return answer
        if late():
            answer.status, answer.advice = (
                Status.BUDGET,
                "The time budget ended before the residual was small; raise it.",
            )
            return answer
        left = None if budget.seconds is None else budget.seconds - (time.perf_counter() - begun)
        return self._fall_back(equation, answer, Budget(left, tol, budget.maxiter), begun)

    # ---- search and fit

    def _search(
        self,
        equation: Equation,
        search: _Search,
        pool: Float[Tensor, "M d"],
        random: torch.Generator,
        late: Callable[[], bool],
        maxiter: int | None,
        begun: float,
    ) -> None:
        """Rounds of looking for lines and fitting them."""
        d, cap = equation.ndim, self.points or CAPS[equation.ndim - 1]
        sides = [equation.face_points(face, 2048 if d == 3 else 512, random) for face in equation.faces]
        for _ in range(self.rounds):
            before = search.residual
            if not self._look(equation, search, random, pool[:cap]) and search.best is not None:
                break
            search.rounds += 1
            if d == 1 and self.points is None:
                cap = min(max(cap, round(max(search.lines[0], default=0.0))), len(pool) // 2)
            self._fit(equation, search, cap, pool, sides, late, maxiter)
            if search.best is not None:
                search.trace.append((time.perf_counter() - begun, search.best))
            hopeless = d > 1 and search.remainder > 0.1 and search.residual > 0.1
            if search.residual < 1e-11 or search.residual > 0.3 * before or hopeless or late():
                break
        search.unfinished = late() and search.residual > self.tol

    def _look(self, equation: Equation, search: _Search, random: torch.Generator, x: Tensor) -> bool:
        """Add lines of f, or of what the last fit left; False where there are none."""
        found = False
        for axis, known in enumerate(search.lines):
            if equation.ndim == 1:
                seen = x if search.best is None else search.check
                signal, taken = rows_signal(equation, seen, search.best), len(seen) if search.best is not None else 0
            else:
                signal, taken = line_signal(equation, axis, random, search.best)
            search.sought += taken
            lines = find_lines(signal, known)
            search.ceiling = max(search.ceiling, lines.ceiling)
            search.remainder = max(search.remainder, lines.remainder) if search.best is None else search.remainder
            # Below one cycle per box the polynomials do it; in 1-D such a line costs little and helps now and then.
            fresh = [nu for nu in lines.cycles if nu > (0.25 if equation.ndim == 1 else 1.0)]
            search.lines[axis] = known + fresh
            found |= bool(fresh)
        return found

    def _fit(
        self,
        equation: Equation,
        search: _Search,
        cap: int,
        pool: Float[Tensor, "M d"],
        sides: list[Float[Tensor, "m d"]],
        late: Callable[[], bool],
        maxiter: int | None,
    ) -> None:
        """Fits of growing degree; the best one by the residual at held-out points stays in `search`."""
        waves = tuple(product(*([0.0, *lines] for lines in search.lines)))
        box = tuple(equation.lower.tolist()), tuple(equation.upper.tolist())
        cap = cap if equation.ndim == 1 else cap - search.sought
        start, stalled = search.best, 0
        for count in DEGREES:
            features = ModulatedFeatures(*box, waves, count)
            points = _points(equation, features, cap, pool, sides)
            if points is None:
                search.needed = _wanted(equation, features)
                break
            # Newton's method need not end below what these features can represent.
            goal = 1e-11 if count > 4 else 1e-4
            start = fit(equation, features, points, start, steps=min(12, maxiter or 12), tol=goal, stop=late)
            search.fits += start.steps
            residual = _residual(equation, search.check, start)
            if residual < 0.5 * search.residual:
                search.best, search.points, search.residual, stalled = start, points, residual, 0
                search.converged = start.change < 1e-6
            else:
                stalled += 1
            if late() or residual < ROUNDING or stalled == 2:
                break
            waves = strongest(equation, start, points, 0.01 * residual)

    # ---- what comes out

    def _answer(self, equation: Equation, search: _Search, pool: Tensor, tol: float) -> Answer:
        best, points = search.best, search.points
        stats = {
            "lines": [sorted(lines) for lines in search.lines],
            "ceiling": search.ceiling,
            "rounds": search.rounds,
            "check_points": len(search.check),
            "fallback": None,
        }
        if best is None or points is None:
            advice = (
                f"{search.needed} points are needed for the {sum(map(len, search.lines))} lines found in f, "
                f"{self.points or CAPS[equation.ndim - 1]} are allowed: raise points."
            )
            status = Status.BUDGET if search.unfinished else Status.UNRESOLVED
            return Answer(_nothing, status, residual=1.0, advice=advice, points=search.sought, stats=stats)
        stats |= {"degree": best.features.count, "features": len(best.features)}
        estimate = _error_estimate(equation, search, best, points, pool)
        status, advice = Status.OK, ""
        if search.unfinished:
            status, advice = Status.BUDGET, "The time budget ended before the residual was small; raise it."
        elif not search.converged and not equation.linear:
            status, advice = Status.MAX_ITER, "Newton's method stopped at its limit; raise maxiter."
        elif not search.residual <= tol:
            status, advice = (
                Status.UNRESOLVED,
                f"Relative residual {search.residual:.0e} at held-out points: "
                + (
                    f"the lines found need {search.needed} points; raise points."
                    if search.needed and search.remainder < 1e-2
                    else "the spectrum is not a few lines with slow envelopes; use ChebyshevCollocation or more points."
                ),
            )
        elif not estimate <= 1e3 * tol:
            status = Status.UNRESOLVED
            advice = f"The residual is small, but the points leave u open to {estimate:.0e}; use more points."
        return Answer(
            best,
            status,
            std=best.std,
            residual=search.residual,
            error_estimate=estimate,
            advice=advice,
            iterations=search.fits,
            points=points.count + search.sought,
            trace=search.trace,  # type: ignore[arg-type]
            stats=stats,
        )

    def _fall_back(self, equation: Equation, answer: Answer, budget: Budget, begun: float) -> Answer:
        """The other method's answer where it is resolved or the better one; its points come on top."""
        if self.fallback == "partition" and equation.ndim == 1:
            from sciops.solvers.partition import PartitionOfUnity

            other: CollocationSolver = PartitionOfUnity(seed=self.seed)
        elif self.fallback == "chebyshev":
            from sciops.solvers.chebyshev import ChebyshevCollocation

            other = ChebyshevCollocation()
        else:
            return answer
        ended = time.perf_counter() - begun
        theirs = other.solve_case(equation, budget)
        if theirs.status is not Status.OK and not theirs.residual < answer.residual:
            answer.advice += f" {other.name} did not resolve it either."
            return answer
        theirs.points += answer.points
        theirs.trace = answer.trace + [(ended + seconds, u) for seconds, u in theirs.trace]
        theirs.stats = answer.stats | theirs.stats | {"fallback": self.fallback, "residual_before": answer.residual}
        return theirs


def _nothing(x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
    return torch.zeros_like(x[:, 0])


def _residual(equation: Equation, x: Float[Tensor, "N d"], answer: Expansion) -> float:
    """The larger of the relative residual inside and the relative misfit of the boundary data, at held-out points."""
    inside = relative_residual(equation, x, answer.state(x))
    random = torch.Generator().manual_seed(1)
    missed, given = [], []
    for face in equation.faces:
        at = equation.face_points(face, max(len(x) // 10, 10), random)
        rows = equation.boundary_rows(face, at)
        missed.append(rows.apply(answer.state(at)))
        given.append(rows.rhs)
    size = torch.cat(given).norm() + answer(x).norm() * (sum(map(len, given)) / len(x)) ** 0.5
    return max(inside, float(torch.cat(missed).norm() / size.clamp(min=1e-300)))


def _error_estimate(
    equation: Equation, search: _Search, best: Expansion, points: Points, pool: Float[Tensor, "M d"]
) -> float:
    """Relative L² error: the distance to a second fit with the same features on other points, or the posterior's
    deviation, whichever is larger, and the rounding of the carriers that both fits share."""
    other = Points(pool[len(pool) // 2 :][: len(points.interior)], [at.flip(0) for at in points.faces])
    again = fit(equation, best.features, other, best, steps=1)
    x = search.check
    u = best(x)
    size = max(float(u.norm()), 1e-300)
    spread = max(float((again(x) - u).norm()), float(best.std(x).norm())) / size
    top = max(max(wave) for wave in best.features.waves)
    return spread + torch.finfo(u.dtype).eps * max(1.0, 0.5 * math.pi * top)


def _wanted(equation: Equation, features: ModulatedFeatures) -> int:
    """Least number of points from which these features can be fitted."""
    n = len(features)
    return (
        math.ceil(n / 0.85) + 2 if equation.ndim == 1 else math.ceil(1.15 * n) + sum(_face_counts(equation, features))
    )


def _face_counts(equation: Equation, features: ModulatedFeatures) -> list[int]:
    """Points per face: 1.6 for each different trace that the features leave there."""
    d, counts = equation.ndim, []
    for face in equation.faces:
        traces = {tuple(nu for j, nu in enumerate(wave) if j != face.axis) for wave in features.waves}
        carriers = sum(2 ** sum(nu > 0 for nu in trace) for trace in traces)
        counts.append(max(20, int(1.6 * carriers * math.comb(features.count + d - 2, d - 1))) if d > 1 else 1)
    return counts


def _points(
    equation: Equation, features: ModulatedFeatures, cap: int, pool: Tensor, sides: list[Tensor]
) -> Points | None:
    """As many of the drawn points as these features want; None where `cap` is too few for them."""
    if _wanted(equation, features) > cap:
        return None
    counts = _face_counts(equation, features)
    faces = [at[:count] for at, count in zip(sides, counts, strict=True)]
    inside = cap - sum(map(len, faces))
    if equation.ndim > 1:
        inside = min(max(300, int(1.6 * len(features))), inside)
    return Points(pool[:inside], faces)
