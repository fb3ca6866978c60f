"""A per-instance contestant for the harness tests: polynomial collocation on a line, with all that it can say."""

import time

import numpy as np
import torch
from numpy.polynomial import chebyshev

from sciops import Budget, Cases, Grid, Solution
from sciops.core.linear import Status
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function


class Polynomials(CollocationSolver):
    """Least squares in Chebyshev polynomials up to `degree`: unresolved where the residual stays above 1e-6."""

    def __init__(self, degree: int = 16, pause: float = 0.0, optimism: float = 1.0):
        self.degree, self.pause, self.optimism = degree, pause, optimism

    @property
    def name(self) -> str:
        return f"Polynomials {self.degree}"

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        started, trace = time.perf_counter(), []
        for degree in (self.degree // 4, self.degree // 2, self.degree):
            time.sleep(self.pause / 3)
            coarse = trace[-1][1] if trace else None
            u, residual = self.fit(equation, degree)
            trace.append((time.perf_counter() - started, u))
        nodes = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)[:, None]
        gap = float((u(nodes) - coarse(nodes)).norm() / u(nodes).norm())
        # A polynomial of half the degree has about the square root of the error.
        estimate = self.optimism * gap**2
        status = Status.OK if residual < 1e-6 else Status.UNRESOLVED
        return Answer(
            u,
            status,
            std=lambda p: torch.full_like(p[:, 0], estimate),
            residual=residual,
            error_estimate=estimate,
            points=3 * degree,
            trace=trace,
        )

    def fit(self, equation: Equation, degree: int) -> tuple[Function, float]:
        lower, length = float(equation.lower[0]), float(equation.lengths[0])
        basis = [chebyshev.Chebyshev.basis(k, domain=[lower, lower + length]) for k in range(degree + 1)]

        def columns(x, terms):
            parts = [
                c[:, None] * torch.tensor(np.stack([b.deriv(m)(x[:, 0].numpy()) for b in basis], 1))
                for (m,), c in terms.items()
            ]
            return sum(parts)

        t = torch.linspace(0.0, torch.pi, 3 * degree, dtype=torch.float64)
        x = lower + length * (1 - t.cos())[:, None] / 2
        rows = equation.rows(x)
        blocks = [(columns(x, rows.terms), rows.rhs)]
        for face in equation.faces:
            ends = equation.face_points(face, 1, torch.Generator())
            edge = equation.boundary_rows(face, ends)
            blocks.append((1e3 * columns(ends, edge.terms), 1e3 * edge.rhs))
        matrix, b = (torch.cat(part) for part in zip(*blocks, strict=True))
        a = torch.linalg.lstsq(matrix, b[:, None], driver="gelsd").solution[:, 0]
        series = chebyshev.Chebyshev(a.numpy(), domain=[lower, lower + length])
        return lambda p: torch.tensor(series(p[:, 0].numpy())), float((matrix @ a - b).norm() / b.norm())


class Counted(Polynomials):
    """Counts its solves on the class."""

    solves = 0

    def solve(self, cases: Cases, out: Grid, budget: Budget | None = None) -> Solution:
        Counted.solves += 1
        return super().solve(cases, out, budget)


class ClassicalPolynomials(Polynomials):
    """The same as a baseline."""

    kind = "classical"
