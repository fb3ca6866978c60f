"""Gaussian process with a sparse spectral mixture kernel, in weight space: frequencies are found, none is optimised."""

import time

import torch

from sciops.core.errors import UsageError
from sciops.core.linear import Status
from sciops.core.solver import Budget
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function
from sciops.solvers.gsmp_search import Search, band

OUT_OF_TIME = "The time budget ended before the residual was small; raise it."


class GSMP(CollocationSolver):
    """L(u) = f, u = g or ∂u/∂n = g with u ~ GP(0, Σ_a θ_a envelope(length ~ box) × Π_p cos 2πν_{a,p} s_p).

    Per axis the weights θ of a fixed frequency grid are fitted to f (to the boundary data where f vanishes) by a
    closed-form majorisation step; their peaks are the lines. Each combination of lines becomes a block of features
    {T_α(x) cos, T_α(x) sin}, which hold any slow envelope, and one least squares over equation and boundary rows gives
    the weights; Newton's method around it where the equation is nonlinear. Then lines are sought in what is left, and
    so on. The frequency ceiling starts at 32 cycles per box and doubles while lines leave the data unexplained.

    points    most collocation points (default: 100, or one per wavelength of the highest line, in 1-D; 5 000; 20 000);
              a number given here rules the fallback out, which would take more
    fallback  "chebyshev" or None: who is asked where the relative residual or the estimated error stays above `tol`
    rounds    most rounds of looking at what is left
    tol       relative residual at held-out points above which an answer is UNRESOLVED (`Budget.tol` overrides)
    seed      of the points

    One configuration serves every problem. `Answer.std` is the posterior's with a rounding floor; `error_estimate` is
    the distance of two fits on disjoint points (`Search.error_estimate`). `points` counts those of the largest fit and
    of the search for lines. `stats`: lines (cycles per box length, per axis), ceiling, rounds, degree, waves, features,
    who answered (`fallback`), and `check_points`, which come on top: those of the held-out residual and of the second
    fit. In 1-D, later rounds look for lines in the held-out points, which then count among `points`.
    Cost: O(N n²) per fit, n features, N ≥ n points; a second or less in 1-D. Fails, and says so,
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
        if fallback not in ("chebyshev", None):
            raise UsageError(f"GSMP fallback must be 'chebyshev' or None; got {fallback!r}.")
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
        search = Search(equation, self.points, self.seed, budget.maxiter)
        trace: list[tuple[float, Function]] = []
        for _ in range(self.rounds):
            more = search.round(late)
            if search.best is not None:
                trace.append((time.perf_counter() - begun, search.best))
            if not more:
                break
        answer = self._answer(search, tol, late())
        answer.trace = trace
        good = answer.status is Status.OK and answer.error_estimate is not None and answer.error_estimate <= tol
        if (
            good
            or answer.status in (Status.BUDGET, Status.MAX_ITER)
            or self.fallback is None
            or self.points is not None
        ):
            return answer
        left = None if budget.seconds is None else budget.seconds - (time.perf_counter() - begun)
        return self._fall_back(equation, answer, Budget(left, budget.tol, budget.maxiter), begun)

    def _answer(self, search: Search, tol: float, late: bool) -> Answer:
        """The best fit with its status."""
        found = sum(map(len, search.lines))
        stats = {
            "lines": [sorted(lines) for lines in search.lines],
            "ceiling": search.ceiling,
            "rounds": search.rounds,
            "check_points": search.checked,
            "fallback": None,
        }
        if search.best is None or search.points is None:
            advice = (
                f"{search.needed} points are needed for the {found} lines found, {search.cap} allowed: raise points."
            )
            status = Status.BUDGET if late else Status.UNRESOLVED
            u: Function = lambda x: torch.zeros_like(x[:, 0])  # noqa: E731
            return Answer(u, status, residual=1.0, advice=advice, points=search.sought, stats=stats)
        counts = search.best.features.counts
        stats |= {"degree": max(counts) - 1, "waves": len(counts), "features": len(search.best.features)}
        estimate = search.error_estimate()
        stats["check_points"] = search.checked
        status, advice = Status.OK, ""
        if not search.residual <= tol:
            status, advice = Status.UNRESOLVED, f"Relative residual {search.residual:.0e} at held-out points: "
            if search.needed > search.cap and search.remainder < 1e-2:
                advice += (
                    f"the {found} lines found need {search.needed} points, {search.cap} are allowed; raise points."
                )
            else:
                advice += (
                    "the spectrum is not a few lines with slow envelopes; use ChebyshevCollocation or more points."
                )
            if late:
                status, advice = Status.BUDGET, OUT_OF_TIME
        elif not search.converged:
            status, advice = Status.MAX_ITER, "Newton's method stopped at its limit; raise maxiter."
        elif not estimate <= 1e3 * tol:
            status = Status.UNRESOLVED
            advice = f"The residual is small, but the points leave u open to {estimate:.0e}; use more points."
        return Answer(
            search.best,
            status,
            std=band(search.best, search.widening),
            residual=search.residual,
            error_estimate=estimate,
            advice=advice,
            iterations=search.fits,
            points=search.taken + search.sought,
            stats=stats,
        )

    def _fall_back(self, equation: Equation, answer: Answer, budget: Budget, begun: float) -> Answer:
        """The other method's answer where it is resolved or the better one; its points come on top."""
        from sciops.solvers.chebyshev import ChebyshevCollocation

        other = ChebyshevCollocation()
        ended = time.perf_counter() - begun
        theirs = other.solve_case(equation, budget)
        if theirs.status is not Status.OK:
            if answer.status is Status.UNRESOLVED:
                answer.advice += f" {other.name} did not resolve it either."
            if answer.status is Status.OK or not theirs.residual < answer.residual:
                return answer
        theirs.points += answer.points
        theirs.trace = [*answer.trace, *((ended + seconds, u) for seconds, u in theirs.trace)]
        theirs.stats = answer.stats | theirs.stats | {"fallback": self.fallback, "residual_before": answer.residual}
        return theirs
