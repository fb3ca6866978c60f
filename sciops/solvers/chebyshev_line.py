"""One-dimensional equations for `ChebyshevCollocation`: ultraspherical solves at growing length, Newton around them."""

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from sciops.numerics import ultraspherical
from sciops.numerics.chebyshev import (
    EPS,
    Series,
    blend,
    l2_norm,
    lobatto,
    relative_change,
    resolved_length,
    tail,
    to_coefficients,
)
from sciops.numerics.ultraspherical import Condition
from sciops.solvers.collocation import Equation

DENSE = 2048
"""Longest series where the matrix is dense, because a coefficient is about as long as the solution."""

ENOUGH = 1e-11
"""Growth ends where the answer changes less, though its coefficients may not have reached a plateau."""

STEPS = 10
"""Most Newton steps at one size; a series that is too short need not have a solution."""

PROBES = 8
"""Points, not used for the interpolant, at which sampled functions are compared with their interpolants."""


@dataclass
class Attempts:
    """What a sequence of solves at growing resolution has found so far, and how it ended."""

    seconds: float | None = None
    begun: float = field(default_factory=time.perf_counter)
    found: list[tuple[float, Series]] = field(default_factory=list)
    iterations: int = 0
    points: int = 0
    resolved: bool = False
    out_of_time: bool = False
    diverged: bool = False
    change: float = float("inf")
    """Relative change between the last two answers, or the rounding that a second, different computation showed."""

    def late(self) -> bool:
        """True, and remembered, once the time is up."""
        if self.seconds is not None and time.perf_counter() - self.begun >= self.seconds:
            self.out_of_time = True
        return self.out_of_time

    def add(self, u: Series) -> None:
        self.found.append((time.perf_counter() - self.begun, u))


@dataclass(frozen=True)
class Sampled:
    """An equation Σ terms[k] u^(k) = forcing as Chebyshev series, from n points."""

    terms: dict[int, ndarray | float]
    forcing: Float[ndarray, " m"]
    resolved: bool
    n: int

    @property
    def order(self) -> int:
        return max(self.terms)

    @property
    def width(self) -> int:
        return max([1, *(len(a) for a in self.terms.values() if isinstance(a, np.ndarray))])


class LineProblem:
    """One case on an interval, and its answers at any length."""

    def __init__(self, equation: Equation, most: int) -> None:
        self.equation, self.most = equation, most
        self.lower, self.upper = float(equation.lower[0]), float(equation.upper[0])
        self.length = self.upper - self.lower
        self.conditions = []
        for face in equation.faces:
            end = torch.tensor([[(self.lower, self.upper)[face.side]]], dtype=torch.float64)
            rows = equation.boundary_rows(face, end)
            ((order, sign),) = rows.terms.items()
            self.conditions.append(Condition(face.side, order[0], float(rows.rhs[0] / sign[0])))
        inner = equation.interior_points(PROBES, torch.Generator().manual_seed(1))
        self.probes = inner.sort(0).values

    def series(self, c: Float[ndarray, " n"]) -> Series:
        return Series(torch.from_numpy(np.ascontiguousarray(c)), self.equation.lower, self.equation.upper)

    def sample(self, n: int, at: Series | None = None) -> Sampled:
        """The equation (its tangent at a function) interpolated at n Lobatto points, cut where it is resolved."""
        x = lobatto(n, self.lower, self.upper)[:, None]
        rows = self.equation.rows(x, at.on_lobatto((n,)) if at else None)
        check = self.equation.rows(self.probes, at.state(self.probes) if at else None)
        values = {order[0]: c for order, c in rows.terms.items()}
        others = {order[0]: c for order, c in check.terms.items()}
        top = values[max(values)]
        factors = [(torch.ones_like(top), torch.ones_like(check.rhs))]
        if _varies(top) and bool((top.abs() > 1e-6 * top.abs().max()).all()):
            lead = others[max(values)]
            factors += [(1 / top, 1 / lead), (1 / top**2, 1 / lead**2)]
        candidates = []
        for g, g_probe in factors:  # the equation may be multiplied by what makes it shortest
            terms: dict[int, ndarray | float] = {}
            complete, width = True, 0
            for k, value in values.items():
                product = value * g
                if not _varies(product):
                    terms[k] = float(product.mean())
                    continue
                c, fits = self._cut(product, others[k] * g_probe)
                terms[k], complete, width = c, complete and fits, max(width, len(c))
            f, fits = self._cut(rows.rhs * g, check.rhs * g_probe)
            candidates.append((not (complete and fits), width, Sampled(terms, f, complete and fits, n)))
        return min(candidates, key=lambda entry: entry[:2])[2]

    def _cut(self, values: Float[Tensor, " n"], probed: Float[Tensor, " p"]) -> tuple[ndarray, bool]:
        c = to_coefficients(values)
        length = resolved_length(c)
        missed = (self.series(c.numpy())(self.probes) - probed).abs().max()
        good = (length < len(c) or float(values.abs().max()) == 0.0) and bool(missed <= 1e-8 * values.abs().max())
        return c[: length if good else len(c)].numpy(), good

    def solve(self, sampled: Sampled, n: int) -> Series:
        """The answer with n coefficients."""
        return self.series(ultraspherical.solve(sampled.terms, sampled.forcing, self.conditions, n, self.length))

    @staticmethod
    def _note(attempts: Attempts, u: Series) -> None:
        if attempts.found:
            attempts.change = relative_change(u, attempts.found[-1][1])
        attempts.add(u)

    def _longest(self, sampled: Sampled) -> int:
        return self.most if 8 * sampled.width <= DENSE else min(self.most, DENSE)

    def run(self, attempts: Attempts, fixed: int | None, maxiter: int) -> None:
        """Solve at growing lengths until the series is resolved or may not grow."""
        if self.equation.linear:
            self.linear(attempts, fixed)
        else:
            self.newton(attempts, fixed, maxiter)

    # ---- linear equations

    def linear(self, attempts: Attempts, fixed: int | None) -> None:
        """Sample until the equation is resolved, solve until the solution is, then measure the rounding."""
        n = fixed or 33
        sampled = self.sample(n)
        while not fixed and not sampled.resolved and 2 * n - 1 <= self.most and not attempts.late():
            if sampled.order < n <= self._longest(sampled):
                self._note(attempts, self.solve(sampled, n))
                if attempts.change < ENOUGH:
                    break
            n = 2 * n - 1
            sampled = self.sample(n)
        size = fixed or min(self.most, max(32, round(1.3 * len(sampled.forcing)) + 8), self._longest(sampled))
        while True:
            u = self.solve(sampled, size)
            attempts.iterations += 1
            attempts.points, last = max(size, sampled.n), attempts.change
            self._note(attempts, u)
            stagnant = attempts.change < 1e-7 and attempts.change > 0.1 * last
            short = resolved_length(u.coefficients) < size and sampled.resolved
            attempts.resolved = sampled.resolved and (short or stagnant)
            most = self._longest(sampled)
            if attempts.resolved or fixed or size >= most or attempts.change < ENOUGH or attempts.late():
                break
            size = min(2 * size, most)
        if attempts.resolved and not attempts.late():
            again = self.sample(round(1.25 * sampled.n) + 1)
            attempts.change = relative_change(self.solve(again, round(1.25 * size) + 2), u)

    # ---- Newton's method

    def newton(self, attempts: Attempts, fixed: int | None, maxiter: int) -> None:
        """Newton's method at every length, each started from the answer of the last."""
        nothing = self.series(np.zeros(2))
        zero = self.sample(fixed or 33, nothing)
        longest = min(self.most, 4 * DENSE)
        while not fixed and not zero.resolved and 2 * zero.n - 1 <= longest and not attempts.late():
            zero = self.sample(2 * zero.n - 1, nothing)
        # Powers of u make f longer than u, so the first length is a part of f's. What stays unresolved may be rounding
        # of a forcing that is zero.
        guess = round(0.5 * len(zero.forcing)) + zero.order if zero.resolved else 32
        size = fixed or min(self.most, max(32, guess), DENSE)
        u = self.solve(zero, size)
        attempts.iterations += 1
        while True:
            u, converged, sampled_well = self._newton_at(u, size, attempts, maxiter)
            attempts.points, last = 3 * size, attempts.change
            self._note(attempts, u)
            attempts.diverged = not converged
            short = resolved_length(u.coefficients) < size
            stagnant = attempts.change < 1e-7 and attempts.change > 0.1 * last
            attempts.resolved = converged and sampled_well and (short or stagnant)
            ended = attempts.resolved or fixed or attempts.iterations >= maxiter or attempts.change < ENOUGH
            if ended or round(1.6 * size) > min(self.most, DENSE) or attempts.late():
                break
            size = round(1.6 * size)
        if attempts.resolved and not attempts.late():
            again = self._newton_at(u, round(1.25 * size) + 2, attempts, maxiter + 1)[0]
            attempts.change = relative_change(again, u)

    def _newton_at(self, u: Series, size: int, attempts: Attempts, maxiter: int) -> tuple[Series, bool, bool]:
        """u, whether Newton's method converged at this length, whether the tangent was resolved."""
        n = 3 * size  # products of u in the tangent are longer than u
        best, sampled, step = self._defect(u, n), None, float("inf")
        for _ in range(STEPS):
            if attempts.iterations >= maxiter or attempts.late():
                break
            sampled = self.sample(n, u)
            target = self.solve(sampled, size)
            attempts.iterations += 1
            previous, step = step, relative_change(target, u)
            before = best
            u, best = self._damped(u, target, best, step, n)
            settled = step < 1e-12 or (step < 1e-8 and step > 0.1 * previous)
            if settled or step < 0.1 * tail(u.coefficients):  # no need to be more exact than the length allows
                return u, True, sampled.resolved
            if (best > before and step > 1e-6) or not np.isfinite(best):
                break  # no descent: a longer series may have it
        return u, step < 1e-8, sampled is not None and sampled.resolved

    def _damped(self, u: Series, target: Series, best: float, step: float, n: int) -> tuple[Series, float]:
        """The longest of the steps 1, ½, ¼, … towards the target that lowers the residual, and the residual; the whole
        step near the end, where only rounding is left of it."""
        share = 1.0
        while True:
            trial = target if share == 1.0 else blend(u, target, share)
            defect = self._defect(trial, n)
            if defect <= best or step * share < 1e-6 or share < 1e-3:
                return trial, defect
            share *= 0.5

    def _defect(self, u: Series, n: int) -> float:
        x = lobatto(n, self.lower, self.upper)[:, None]
        return float(self.equation.residual(x, u.on_lobatto((n,))).norm())


def error_estimate(u: Series, change: float, resolved: bool) -> float:
    """Of the relative L² error: what two computations disagree in, what the tail lacks, what rounding of x allows."""
    size = l2_norm(u)
    if size == 0.0:
        return EPS
    floor = EPS
    for axis in range(u.ndim):
        slope = u.derivative(tuple(int(j == axis) for j in range(u.ndim)))
        reach = max(abs(float(u.lower[axis])), abs(float(u.upper[axis])))
        floor += EPS * reach * l2_norm(slope) / size
    tails = max(tail(u.coefficients, axis, 0.03) for axis in range(u.ndim))
    if resolved:
        return max(2.0 * change, floor, min(tails, 10.0 * change + floor))
    return max(tails, floor, min(change, 1.0) if np.isfinite(change) else 0.0)


def _varies(values: Float[Tensor, " n"]) -> bool:
    """Whether a coefficient is more than a number with rounding."""
    return bool((values - values[0]).abs().max() > 1e-14 * values.abs().max())
