"""Any equation and any conditions for `ChebyshevCollocation`: more rows than coefficients, by least squares."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order
from sciops.numerics.chebyshev import (
    Series,
    basis,
    derivative,
    ends,
    gauss,
    lobatto,
    relative_change,
)
from sciops.solvers.chebyshev_line import ENOUGH, Attempts
from sciops.solvers.chebyshev_sizes import first_sizes, grown_sizes
from sciops.solvers.collocation import Equation, Rows

UNKNOWNS = 6000
"""Most coefficients: the dense matrix then has about 10⁴ rows."""

RANK = 1e-13
"""Directions whose singular values are smaller, relative to the largest, are left out."""


class RectangularProblem:
    """One case as weighted least squares for its coefficients, with 1 to 1.25 points per coefficient and axis.

    Rows of the equation sit at Gauss points, those of the boundary at Lobatto points of the faces, each divided by
    the size that it has for the highest wave of the basis. Orthogonal factorisation, with column pivoting where the
    matrix turns out to lack rank. O(Π n_j)³.
    Reference: Driscoll & Hale, Rectangular spectral collocation, IMA J. Numer. Anal. 36 (2016).
    """

    def __init__(self, equation: Equation, most: int) -> None:
        self.equation, self.most, self.ndim = equation, most, equation.ndim
        self.lower, self.upper = equation.lower.tolist(), equation.upper.tolist()
        self.lengths = equation.lengths.tolist()

    def run(self, attempts: Attempts, fixed: int | None, maxiter: int) -> None:
        """Solve at growing sizes until the series is resolved or may not grow."""
        sizes = [fixed] * self.ndim if fixed else first_sizes(self.equation, self.most, 6)
        u = Series(torch.zeros((2,) * self.ndim, dtype=torch.float64), self.equation.lower, self.equation.upper)
        if math.prod(sizes) > UNKNOWNS:
            shrink = (UNKNOWNS / math.prod(sizes)) ** (1 / self.ndim)
            sizes = [max(4, int(n * shrink)) for n in sizes]
        while True:
            u, converged, left = self._solve(sizes, u, attempts, maxiter)
            last, attempts.diverged = attempts.change, not converged
            if attempts.found:
                attempts.change = relative_change(u, attempts.found[-1][1])
            attempts.add(u)
            larger = grown_sizes(u, attempts.change, last, self.most)
            attempts.resolved = converged and larger is None and left < 1e-6
            if attempts.resolved:
                attempts.change = left
                return
            if fixed or larger is None or larger == sizes or not converged or attempts.change < ENOUGH:
                return
            if math.prod(larger) > UNKNOWNS or attempts.late():
                return
            sizes = larger

    def _solve(self, sizes: list[int], start: Series, attempts: Attempts, maxiter: int) -> tuple[Series, bool, float]:
        """The answer of these sizes, whether Newton's method converged, the relative residual of all rows."""
        u, step, left = start, float("inf"), float("inf")
        for _ in range(1 if self.equation.linear else maxiter):
            matrix, rhs = self._rows(sizes, u, attempts)
            c, left = least_squares(matrix, rhs)
            target = Series(c.reshape(sizes), u.lower, u.upper)
            attempts.iterations += 1
            previous, step = step, relative_change(target, u)
            u = target
            if self.equation.linear or step < 1e-12 or (step < 1e-8 and step > 0.1 * previous) or attempts.late():
                return u, True, left
        return u, step < 1e-8, left

    def _rows(self, sizes: list[int], u: Series, attempts: Attempts) -> tuple[Tensor, Tensor]:
        counts = self._counts(sizes, u)
        highest = [2.0 * n / length for n, length in zip(sizes, self.lengths, strict=True)]
        lines = [gauss(m, *ends_) for m, *ends_ in zip(counts, self.lower, self.upper, strict=True)]
        x = _mesh(lines)
        rows = self.equation.rows(x, None if self.equation.linear else u.state(x))
        blocks = [self._block(rows, lines, sizes, highest)]
        walls = [lobatto(m, *ends_) for m, *ends_ in zip(counts, self.lower, self.upper, strict=True)]
        for face in self.equation.faces:
            on_face = [
                torch.tensor([(self.lower, self.upper)[face.side][j]], dtype=torch.float64) if j == face.axis else line
                for j, line in enumerate(walls)
            ]
            rows = self.equation.boundary_rows(face, _mesh(on_face))
            blocks.append(self._block(rows, on_face, sizes, highest))
        attempts.points = sum(len(rhs) for _, rhs in blocks)
        return torch.cat([matrix for matrix, _ in blocks]), torch.cat([rhs for _, rhs in blocks])

    def _counts(self, sizes: list[int], u: Series) -> list[int]:
        """Points per axis: n where the operator has constant coefficients, so that L u has u's degree."""
        x = self.equation.interior_points(20, torch.Generator().manual_seed(6))
        terms = self.equation.rows(x, None if self.equation.linear else u.state(x)).terms.values()
        constant = all(bool((c - c[0]).abs().max() <= 1e-14 * c.abs().max()) for c in terms)
        return [n if constant else math.ceil(1.25 * n) + 2 for n in sizes]

    def _block(
        self, rows: Rows, lines: list[Tensor], sizes: list[int], highest: list[float]
    ) -> tuple[Float[Tensor, "N n"], Float[Tensor, " N"]]:
        """Rows at a tensor of points, in coefficients, scaled."""
        size = max(
            float(c.square().mean().sqrt()) * math.prod(h**k for h, k in zip(highest, order, strict=True))
            for order, c in rows.terms.items()
        )
        weight = 1.0 / (size * math.sqrt(len(rows.rhs)))
        total = torch.zeros((len(rows.rhs), math.prod(sizes)), dtype=torch.float64)
        for order, c in rows.terms.items():
            total += c[:, None] * self._table(lines, sizes, order)
        return weight * total, weight * rows.rhs

    def _table(self, lines: list[Tensor], sizes: list[int], order: Order) -> Float[Tensor, "N n"]:
        """∂^α of every product of T_k at every point of the tensor."""
        whole = torch.ones((1, 1), dtype=torch.float64)
        for j, (line, n, times) in enumerate(zip(lines, sizes, order, strict=True)):
            if len(line) == 1 and float(line[0]) in (self.lower[j], self.upper[j]):
                table = ends(n, times, int(float(line[0]) == self.upper[j]), self.lengths[j])[None]
            else:
                t = (2.0 * line - (self.lower[j] + self.upper[j])) / self.lengths[j]
                table = basis(t, n) @ derivative(torch.eye(n, dtype=torch.float64), 1, times, self.lengths[j]).T
            whole = torch.kron(whole, table)
        return whole


def least_squares(A: Float[Tensor, "N n"], b: Float[Tensor, " N"]) -> tuple[Float[Tensor, " n"], float]:
    """x of least ‖A x − b‖ and that residual relative to ‖b‖; of least norm where A lacks rank."""
    size = A.norm(dim=0).clamp(min=torch.finfo(A.dtype).tiny)
    # The triangular factor of [A b] holds that of A and Qᵀb, so Q is never formed.
    R = torch.linalg.qr(torch.cat([A / size, b[:, None]], 1), mode="r").R
    n = A.shape[1]
    heights = R.diagonal()[:n].abs()
    if len(R) >= n and float(heights.min()) > RANK * float(heights.max()):
        y = torch.linalg.solve_triangular(R[:n, :n], R[:n, n:], upper=True)[:, 0]
    else:
        y = torch.linalg.lstsq(A / size, b[:, None], rcond=RANK, driver="gelsy").solution[:, 0]
    x = y / size
    scale = float(b.norm())
    return x, float((A @ x - b).norm()) / scale if scale else 0.0


def _mesh(lines: list[Tensor]) -> Float[Tensor, "N d"]:
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))
