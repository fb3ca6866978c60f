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
    relative_change,
    to_coefficients,
    to_values,
)
from sciops.numerics.tensor_collocation import Axis, Diagonalised, TensorGrid, gmres, separable_part
from sciops.solvers.chebyshev_line import ENOUGH, STEPS, Attempts
from sciops.solvers.chebyshev_sizes import first_sizes, grown_sizes
from sciops.solvers.collocation import Equation


@dataclass
class _Tangent:
    """Σ terms ∂^α u = rhs at the interior points, and the solver of what separates in it."""

    terms: dict[Order, Tensor]
    rhs: Float[Tensor, "*m"]
    inverse: Diagonalised
    exact: bool
    scale: Tensor | float
    """What the equation was divided by."""


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

    # ---- solves

    def run(self, attempts: Attempts, fixed: int | None, maxiter: int) -> None:
        """Solve at growing sizes until the series is resolved or may not grow."""
        sizes = [fixed] * self.ndim if fixed else first_sizes(self.equation, self.most)
        u = self.zero
        while True:
            u, converged, rounding = self._solve(sizes, u, attempts, maxiter)
            attempts.points = math.prod(sizes)
            last, attempts.diverged = attempts.change, not converged
            if attempts.found:
                attempts.change = relative_change(u, attempts.found[-1][1])
            attempts.add(u)
            larger = grown_sizes(u, attempts.change, last, self.most)
            attempts.resolved = converged and larger is None
            if attempts.resolved:
                attempts.change = rounding
                return
            stuck = not converged and (self.equation.linear or maxiter <= STEPS)
            if fixed or larger is None or larger == sizes or stuck or attempts.change < ENOUGH or attempts.late():
                return
            sizes = larger

    def _solve(self, sizes: list[int], start: Series, attempts: Attempts, maxiter: int) -> tuple[Series, bool, float]:
        """The answer with these numbers of points, whether the iterations converged, and its rounding error."""
        grid = TensorGrid(
            [Axis(n, *limits) for n, *limits in zip(sizes, self.lower, self.upper, self.orders, strict=True)]
        )
        x, data = grid.points(), self._data(grid)
        if self.equation.linear:
            tangent = self._tangent(grid, x, None)
            u, converged, change = self._linear(grid, data, tangent, attempts, 1e-14, maxiter)
        else:
            begin = self._restrict(start, grid, data)
            u, converged, change, tangent = self._newton(grid, data, x, begin, attempts, maxiter)
        change += self._noise(grid, x, u, tangent)
        series = Series(to_coefficients(u, range(self.ndim)), self.equation.lower, self.equation.upper)
        return series, converged, change

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
        scale: Tensor | float = 1.0
        lead = terms[(2,) + (0,) * (self.ndim - 1)]
        if bool((lead - lead[0]).abs().max() > 1e-14 * lead.abs().max()) and bool((lead * lead[0] > 0).all()):
            # A common factor would spoil the means: −∇·(a∇u) = f becomes −Δu − ∇(log a)·∇u = f/a.
            terms, rhs, scale = {order: c / lead for order, c in terms.items()}, rhs / lead, lead
        inverse, exact = separable_part(terms, grid)
        return _Tangent(terms, rhs.reshape(grid.inner), inverse, exact, scale)

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
        change = float("inf")
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
        return grid.extend(v, data), True, change

    def _noise(self, grid: TensorGrid, x: Tensor, u: Tensor, tangent: _Tangent) -> float:
        """What rounding of f does to u: f once more with every coordinate moved by its last digit, as formulas do to
        their arguments, and its values changed in theirs."""
        size = float(u.norm())
        if size == 0.0:
            return 0.0
        random = torch.Generator().manual_seed(3)
        moved = torch.meshgrid(
            *(a.x[1:-1] * (1 + EPS * torch.randn(a.n - 2, generator=random, dtype=torch.float64)) for a in grid.axes),
            indexing="ij",
        )
        state = None if self.equation.linear else lambda order: grid.differentiate(u, order).flatten()
        rows, other = (self.equation.rows(p, state) for p in (x, torch.stack(moved, -1).reshape(-1, self.ndim)))
        draw = 0.5 * EPS * torch.randn(rows.rhs.shape, generator=random, dtype=torch.float64)
        noise = (other.rhs - rows.rhs + draw * rows.rhs) / tangent.scale
        return float(tangent.inverse(noise.reshape(grid.inner)).norm()) / size

    def _newton(
        self,
        grid: TensorGrid,
        data: dict[tuple[int, int], Tensor],
        x: Tensor,
        u: Tensor,
        attempts: Attempts,
        maxiter: int,
    ) -> tuple[Tensor, bool, float, _Tangent]:
        """u on the whole grid, whether Newton's method converged, its rounding or last step, the last tangent."""
        step, steps, tangent = float("inf"), 0, self._tangent(grid, x, u)
        while steps < min(STEPS, maxiter) and not attempts.late():
            tangent = tangent if steps == 0 else self._tangent(grid, x, u)
            defect = float((grid.apply(tangent.terms, u) - tangent.rhs).norm())
            tol = min(1e-2, max(1e-14, 0.01 * step**2))
            target, solved, change = self._linear(grid, data, tangent, attempts, tol, 300, u)
            steps += 1
            previous, step = step, float((target - u).norm() / target.norm().clamp(min=1e-300))
            share = 1.0
            while share > 1e-3 and step * share > 1e-6:
                trial = u + share * (target - u)
                if self._defect(grid, x, trial) <= defect:
                    break
                share *= 0.5
            u = u + share * (target - u)
            if not solved or share <= 1e-3 or not math.isfinite(step):
                return u, False, step, tangent
            if step < 1e-12 or (step < 1e-8 and step > 0.1 * previous):
                return u, True, max(change, step if step > 1e-12 else 0.0), tangent
        return u, step < 1e-8, step, tangent

    def _defect(self, grid: TensorGrid, x: Tensor, u: Tensor) -> float:
        return float(self.equation.residual(x, lambda order: grid.differentiate(u, order).flatten()).norm())
