"""Chebyshev spectral solvers: the classical bar for smooth solutions of any frequency."""

from collections.abc import Sequence

import numpy as np
import torch

from sciops.core.calculus import Order
from sciops.core.errors import UsageError
from sciops.core.linear import ADVICE, Status
from sciops.core.solver import Budget
from sciops.numerics.chebyshev import EPS, Series
from sciops.solvers.chebyshev_box import BoxProblem
from sciops.solvers.chebyshev_line import Attempts, LineProblem, error_estimate
from sciops.solvers.chebyshev_rectangular import RectangularProblem
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function, relative_residual

LIMITS = {1: 1 << 16, 2: 600, 3: 96}
"""Default bounds on points per axis."""


class ChebyshevCollocation(CollocationSolver):
    """L u = f in a box, u or ∂u/∂n on its faces, u as a Chebyshev series as long as the solution needs.

    One dimension: ultraspherical method (banded, any order, variable coefficients). Two and three: tensor collocation
    with one row per boundary point and fast diagonalisation, which solves equations that separate and preconditions
    GMRES for the others. Any other combination of equation and conditions: rectangular least squares, up to 6000
    coefficients. Nonlinear: Newton's method, damped where the residual would grow, warm from size to size.
    The size grows until the coefficients have fallen to their rounding plateau on every axis; other points, refinement
    or rounded data then measure what rounding has left. Runs on the CPU in float64, wherever the cases are.
    Cost for n per axis: O(n·b²) in 1-D with bandwidth b; O(n³) in 2-D, O(n⁴) in 3-D.

    `points`       points per axis, at most `max_points`; None (the default): as many as needed
    `max_points`   where growth ends: UNRESOLVED (defaults 65536, 600², 96³)
    `tol`          relative error up to which an answer is called OK (1e-8); `Budget.tol` overrides it. Accuracy does
                   not depend on it: every answer goes to rounding where the points suffice.

    OK needs an error estimate below `tol` and a small residual at random points that no equation was posed at.
    `error_estimate` covers the equation as it was given: where inputs had to be interpolated
    from a grid there is none. Fails (UNRESOLVED) at singularities and for more waves than max_points/π per axis.
    Reference: Olver & Townsend, SIAM Review 55 (2013); Haidvogel & Zang, J. Comput. Phys. 30 (1979); Boyd (2001).
    """

    kind = "classical"

    probes = 1000
    """Random points at which the residual is measured."""

    def __init__(self, points: int | None = None, max_points: int | None = None, tol: float = 1e-8) -> None:
        if points is not None and points < 4:
            raise UsageError(f"ChebyshevCollocation points must be at least 4 per axis; got {points}.")
        if max_points is not None and max_points < 8:
            raise UsageError(f"ChebyshevCollocation max_points must be at least 8 per axis; got {max_points}.")
        if not tol > 0:
            raise UsageError(f"ChebyshevCollocation tol must be positive; got {tol}.")
        self.points, self.max_points, self.tol = points, max_points, tol

    @property
    def name(self) -> str:
        return type(self).__name__ if self.points is None else f"{type(self).__name__} n={self.points}"

    def ladder(self) -> Sequence["ChebyshevCollocation"]:
        sizes = (16, 32, 64, 128, 256, 512, 1024)
        return (*(ChebyshevCollocation(n, self.max_points, self.tol) for n in sizes), self)

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        equation = Equation(equation.case.to(device="cpu"))
        attempts = Attempts(budget.seconds)
        limit = self.max_points or LIMITS[equation.ndim]
        fixed = min(self.points, limit) if self.points else None
        most = fixed or limit
        maxiter = budget.maxiter or (300 if equation.linear else 50)
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                self._run(equation, attempts, most, fixed, maxiter)
            except np.linalg.LinAlgError as error:
                if not attempts.found:
                    raise torch.linalg.LinAlgError(str(error)) from None
        return self._answer(equation, attempts, budget.tol or self.tol, maxiter)

    def _run(self, equation: Equation, attempts: Attempts, most: int, fixed: int | None, maxiter: int) -> None:
        orders = _orders(equation)
        square = all(sum(face.axis == j for face in equation.faces) == 2 for j in range(equation.ndim))
        second = all(tuple(2 * int(k == j) for k in range(equation.ndim)) in orders for j in range(equation.ndim))
        if equation.ndim == 1 and max(orders)[0] == len(equation.faces):
            LineProblem(equation, most).run(attempts, fixed, maxiter)
        elif equation.ndim > 1 and square and second and max(map(sum, orders)) == 2:
            BoxProblem(equation, most).run(attempts, fixed, maxiter)
        else:
            RectangularProblem(equation, most).run(attempts, fixed, maxiter)

    def _answer(self, equation: Equation, attempts: Attempts, tol: float, maxiter: int) -> Answer:
        if not attempts.found:
            return Answer(lambda p: torch.zeros_like(p[:, 0]), Status.BUDGET)
        u = attempts.found[-1][1]
        x = equation.interior_points(self.probes, torch.Generator().manual_seed(0))
        residual = relative_residual(equation, x, u.state(x))
        estimate = error_estimate(u, attempts.change, attempts.resolved)
        if not attempts.resolved:  # the forcing may lack what the tail of u cannot show
            estimate = max(estimate, residual if residual > 0.1 else 0.1 * residual)
        # Second derivatives of a series of n terms carry its rounding about n² times.
        exact_inputs = _exact_inputs(equation)  # interpolants have kinks, at which the equation holds less well
        allowed = (1e-6 if exact_inputs else 1e-3) + 100 * EPS * max(u.coefficients.shape) ** 2
        good = estimate <= tol and residual <= allowed and not attempts.diverged
        status, advice = Status.OK, ""
        if attempts.out_of_time and not good:
            status = Status.BUDGET
        elif attempts.diverged and attempts.iterations >= maxiter:
            status = Status.MAX_ITER
        elif not good:
            status, advice = Status.UNRESOLVED, self._remedy(u, attempts, residual, estimate)
        return Answer(
            on_any_device(u),
            status,
            residual=residual,
            error_estimate=estimate if exact_inputs else None,
            advice=advice or ADVICE[status],
            iterations=attempts.iterations,
            points=attempts.points,
            trace=[(seconds, on_any_device(v)) for seconds, v in attempts.found],
            stats={"terms": tuple(u.coefficients.shape), "interpolated_inputs": not exact_inputs},
        )

    def _remedy(self, u: Series, attempts: Attempts, residual: float, estimate: float) -> str:
        if attempts.resolved:
            return f"The series is resolved, but rounding leaves an estimated error of {estimate:.1e}: loosen tol."
        size, bound = "×".join(map(str, u.coefficients.shape)), "points" if self.points else "max_points"
        return (
            f"The series of {size} terms does not resolve the solution (residual {residual:.1e}, estimated error "
            f"{estimate:.1e}): raise {bound}, or take a method for solutions that are not smooth."
        )


def on_any_device(u: Series) -> Function:
    """u as a function of points that may live elsewhere: the series itself is computed on the CPU."""
    return lambda x: u(x.to("cpu", torch.float64)).to(x.device)


def _orders(equation: Equation) -> set[Order]:
    """Derivatives that the equation has somewhere."""
    x = equation.interior_points(5, torch.Generator().manual_seed(4))
    state = None if equation.linear else lambda order: torch.ones_like(x[:, 0])
    return {order for order, c in equation.rows(x, state).terms.items() if bool(c.any())}


def _exact_inputs(equation: Equation) -> bool:
    middle = 0.5 * (equation.lower + equation.upper)
    exactness = equation.case.at(middle[None, None]).exactness
    return all(rule == "formula" for rule in exactness.values())
