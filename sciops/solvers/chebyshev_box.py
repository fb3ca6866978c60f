"""Second-order equations on boxes for `ChebyshevCollocation`: tensor collocation at growing size, Newton around it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order
from sciops.numerics.chebyshev import (
    EPS,
    Series,
    grown,
    l2_norm,
    lobatto,
    profile,
    relative_change,
    resolved_length,
    tail,
    to_coefficients,
    to_values,
)
from sciops.numerics.tensor_collocation import Axis, Diagonalised, TensorGrid, gmres, separable_part
from sciops.solvers.chebyshev_line import ENOUGH, Attempts
from sciops.solvers.collocation import Equation

START = 24
"""Points per axis where nothing asks for more."""


@dataclass
class _Tangent:
    """Σ terms ∂^α u = rhs at the interior points, and the solver of what separates in it."""

    terms: dict[Order, Tensor]
    rhs: Float[Tensor, "*m"]
    inverse: Diagonalised
    exact: bool


class BoxProblem:
    """One case on a box, and its answers at any size."""

    def __init__(self, equation: Equation, most: int) -> None:
        self.equation, self.most, self.ndim = equation, most, equation.ndim
        self.lower, self.upper = equation.lower.tolist(), equation.upper.tolist()
        self.orders = [
            tuple(int(f.kind == "neumann") for f in sorted(equation.faces, key=lambda f: f.side) if f.axis == j)
            for j in range(self.ndim)
        ]
        self.zero = Series(torch.zeros((2,) * self.ndim, dtype=torch.float64), equation.lower, equation.upper)

    # ---- sizes

    def first_sizes(self) -> list[int]:
        """Points per axis that resolve the forcing and the boundary data along some lines: a start for the growth."""
        return [self._first_size(j) for j in range(self.ndim)]

    def _first_size(self, axis: int) -> int:
        equation, longest = self.equation, START
        random = torch.Generator().manual_seed(2 + axis)
        for face in [None, None, None, *(f for f in equation.faces if f.axis != axis)]:
            base = equation.interior_points(1, random) if face is None else equation.face_points(face, 1, random)
            n = 2 * START + 1
            while True:
                x = base.repeat(n, 1)
                x[:, axis] = lobatto(n, self.lower[axis], self.upper[axis])
                if face is not None:
                    values = equation.boundary_rows(face, x).rhs
                else:
                    values = equation.rows(x, None if equation.linear else self.zero.state(x)).rhs
                length = resolved_length(to_coefficients(values))
                if length < n or 2 * n - 1 > 2 * self.most:
                    break
                n = 2 * n - 1
            if float(values.abs().max()) > 0:
                longest = max(longest, length)
        # Powers of u make f longer than u.
        return min(self.most, round((1.1 if equation.linear else 0.5) * longest) + 10)

    def grown_sizes(self, u: Series, change: float, last: float) -> list[int] | None:
        """The next points per axis, larger where the tail of u is not flat yet; None where all are resolved."""
        sizes = list(u.coefficients.shape)
        stagnant = change < 1e-7 and change > 0.1 * last
        unresolved = [
            j
            for j, n in enumerate(sizes)
            if resolved_length(profile(u.coefficients, j)) >= n and not (stagnant or tail(u.coefficients, j) < 1e-13)
        ]
        if not unresolved:
            return None
        for j in unresolved:
            sizes[j] = min(self.most, max(round(1.5 * sizes[j]), sizes[j] + 8))
        return sizes

    # ---- solves

    def run(self, attempts: Attempts, fixed: int | None, maxiter: int) -> None:
        """Solve at growing sizes until the series is resolved or may not grow."""
        sizes = [fixed] * self.ndim if fixed else self.first_sizes()
        u = self.zero
        while True:
            u, converged, rounding = self._solve(sizes, u, attempts, maxiter)
            attempts.points = math.prod(sizes)
            last, attempts.diverged = attempts.change, not converged
            if attempts.found:
                attempts.change = relative_change(u, attempts.found[-1][1])
            attempts.add(u)
            larger = self.grown_sizes(u, attempts.change, last)
            attempts.resolved = converged and larger is None
            if attempts.resolved:
                attempts.change = rounding
                return
            if fixed or not converged or larger == sizes or attempts.change < ENOUGH or attempts.late():
                return
            assert larger is not None
            sizes = larger

    def _solve(self, sizes: list[int], start: Series, attempts: Attempts, maxiter: int) -> tuple[Series, bool, float]:
        """The answer with these numbers of points, whether the iterations converged, and its rounding error."""
        grid = TensorGrid(
            [Axis(n, *limits) for n, *limits in zip(sizes, self.lower, self.upper, self.orders, strict=True)]
        )
        x, data = grid.points(), self._data(grid)
        if self.equation.linear:
            tangent = self._tangent(grid, x, None)
            u, converged, noise = self._linear(grid, data, tangent, attempts, 1e-14, maxiter)
        else:
            u, converged, noise = self._newton(grid, data, x, self._restrict(start, grid, data), attempts, maxiter)
        series = Series(to_coefficients(u, range(self.ndim)), self.equation.lower, self.equation.upper)
        return series, converged, noise

    def _data(self, grid: TensorGrid) -> dict[tuple[int, int], Tensor]:
        found = {}
        for face in self.equation.faces:
            rows = self.equation.boundary_rows(face, grid.face_points(face.axis, face.side))
            ((_, sign),) = rows.terms.items()
            others = [n for j, n in enumerate(grid.shape) if j != face.axis]
            found[face.axis, face.side] = (rows.rhs / sign).reshape(others)
        return found

    def _restrict(self, u: Series, grid: TensorGrid, data: dict[tuple[int, int], Tensor]) -> Tensor:
        """Values of an earlier answer on the grid, with the grid's boundary data."""
        shape = [max(n, m) for n, m in zip(grid.shape, u.coefficients.shape, strict=True)]
        c = grown(u.coefficients, shape)[tuple(slice(0, n) for n in grid.shape)]
        values = to_values(c, range(self.ndim))
        return grid.extend(values[(slice(1, -1),) * self.ndim], data)

    def _tangent(self, grid: TensorGrid, x: Tensor, u: Tensor | None) -> _Tangent:
        state = None if u is None else lambda order: grid.differentiate(u, order).flatten()
        rows = self.equation.rows(x, state)
        terms, rhs = dict(rows.terms), rows.rhs
        lead = terms[(2,) + (0,) * (self.ndim - 1)]
        if bool((lead - lead[0]).abs().max() > 1e-14 * lead.abs().max()) and bool((lead * lead[0] > 0).all()):
            # A common factor would spoil the means: −∇·(a∇u) = f becomes −Δu − ∇(log a)·∇u = f/a.
            terms, rhs = {order: c / lead for order, c in terms.items()}, rhs / lead
        inverse, exact = separable_part(terms, grid)
        return _Tangent(terms, rhs.reshape(grid.inner), inverse, exact)

    def _linear(
        self,
        grid: TensorGrid,
        data: dict[tuple[int, int], Tensor],
        tangent: _Tangent,
        attempts: Attempts,
        tol: float,
        maxiter: int,
        start: Tensor | None = None,
    ) -> tuple[Tensor, bool, float]:
        """u on the whole grid, whether GMRES converged, the relative size of what refinement still changed."""
        inner = (slice(1, -1),) * self.ndim
        v = torch.zeros(grid.inner, dtype=torch.float64) if start is None else start[inner]
        converged, change = True, float("inf")
        for sweep in range(4):
            defect = tangent.inverse(tangent.rhs - grid.apply(tangent.terms, grid.extend(v, data)))
            if tangent.exact:
                step = defect
                attempts.iterations += int(sweep == 0)
            else:
                step, left, used = gmres(
                    lambda w: tangent.inverse(grid.apply(tangent.terms, grid.extend(w))),
                    defect,
                    max(tol, 1e-10) if sweep == 0 else 1e-3,
                    max(maxiter, 1) if sweep == 0 else 20,
                    late=attempts.late,
                )
                attempts.iterations += used
                if sweep == 0 and left > max(10 * tol, 1e-8):
                    return grid.extend(v + step, data), False, left
            v = v + step
            size = float(v.norm())
            previous, change = change, float(step.norm()) / size if size else 0.0
            if (sweep and (change <= tol or change > 0.1 * previous)) or attempts.late():
                break
        return grid.extend(v, data), converged, change + self._noise(grid, tangent, v, data)

    def _noise(self, grid: TensorGrid, tangent: _Tangent, v: Tensor, data: dict[tuple[int, int], Tensor]) -> float:
        """What rounding of the forcing does to u, by a draw of it: f carries that of its arguments, ε Σ|x_j ∂_j f|, and
        f varies about as fast as u."""
        u = Series(to_coefficients(grid.extend(v, data), range(self.ndim)), self.equation.lower, self.equation.upper)
        size = l2_norm(u)
        if size == 0.0:
            return 0.0
        factor = 1.0
        for j in range(self.ndim):
            reach = max(abs(self.lower[j]), abs(self.upper[j]))
            factor += reach * l2_norm(u.derivative(tuple(int(k == j) for k in range(self.ndim)))) / size
        random = torch.Generator().manual_seed(3)
        draw = torch.randn(grid.inner, generator=random, dtype=torch.float64)
        return float(tangent.inverse(EPS * factor * tangent.rhs * draw).norm() / v.norm())

    def _newton(
        self,
        grid: TensorGrid,
        data: dict[tuple[int, int], Tensor],
        x: Tensor,
        u: Tensor,
        attempts: Attempts,
        maxiter: int,
    ) -> tuple[Tensor, bool, float]:
        """u on the whole grid, whether Newton's method converged, the size of its last step."""
        step, noise, steps = float("inf"), float("inf"), 0
        while steps < maxiter and not attempts.late():
            tangent = self._tangent(grid, x, u)
            defect = float((grid.apply(tangent.terms, u) - tangent.rhs).norm())
            tol = min(1e-2, max(1e-14, 0.01 * step**2))
            target, solved, noise = self._linear(grid, data, tangent, attempts, tol, 300, u)
            steps += 1
            previous, step = step, float((target - u).norm() / target.norm().clamp(min=1e-300))
            share = 1.0
            while share > 1e-3 and step * share > 1e-6:
                trial = u + share * (target - u)
                if self._defect(grid, x, trial) <= defect:
                    break
                share *= 0.5
            u = u + share * (target - u)
            if not solved or (step > 1e-3 and not math.isfinite(step)):
                return u, False, step
            if step < 1e-12 or (step < 1e-8 and step > 0.1 * previous):
                return u, True, max(noise, step if step > 1e-12 else 0.0)
        return u, step < 1e-8, step

    def _defect(self, grid: TensorGrid, x: Tensor, u: Tensor) -> float:
        return float(self.equation.residual(x, lambda order: grid.differentiate(u, order).flatten()).norm())
