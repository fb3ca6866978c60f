"""Random feature solvers: one linear least squares for the weights of random waves."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order, State
from sciops.core.errors import UsageError
from sciops.core.linear import ADVICE, Status
from sciops.core.solver import Budget
from sciops.solvers.collocation import Answer, CollocationSolver, Equation, Function, relative_residual

FEATURES = {1: 1000, 2: 2000, 3: 2500}
"""Default number of features."""

SCALES = tuple(2.0**k for k in range(11))
"""Default frequencies, in radians per half length of a patch, that the search tries."""

RIDGE = 1e-14
"""Tikhonov weight relative to a column of the scaled matrix."""


@dataclass(frozen=True)
class Features:
    """φ_k(x) = ψ_p(x) sin(w_k·t + b_k), t the coordinates of patch p scaled to [−1, 1]; ψ a partition of unity.

    ψ is a product of differences of polynomial steps (C⁴), one between two neighbouring patches of an axis, as wide as
    half a patch.
    """

    w: Float[Tensor, "P J d"]
    b: Float[Tensor, "P J"]
    lower: Float[Tensor, " d"]
    upper: Float[Tensor, " d"]
    patches: tuple[int, ...]

    @classmethod
    def draw(cls, equation: Equation, count: int, patches: int, scale: float, seed: int) -> "Features":
        """Normal frequencies with standard deviation `scale`, uniform phases."""
        random = torch.Generator().manual_seed(seed)
        parts = patches**equation.ndim
        each = max(1, math.ceil(count / parts))
        w = scale * torch.randn((parts, each, equation.ndim), generator=random, dtype=torch.float64)
        b = 2 * math.pi * torch.rand((parts, each), generator=random, dtype=torch.float64)
        return cls(w, b, equation.lower, equation.upper, (patches,) * equation.ndim)

    def __len__(self) -> int:
        return self.b.numel()

    def matrix(self, x: Float[Tensor, "N d"], order: Order) -> Float[Tensor, "N n"]:
        """∂^α φ_k(x_i), in closed form."""
        width = (self.upper - self.lower) / torch.tensor(self.patches, dtype=x.dtype)
        columns = []
        for p, cell in enumerate(product(*(range(m) for m in self.patches))):
            middle = self.lower + (torch.tensor(cell, dtype=x.dtype) + 0.5) * width
            theta = ((x - middle) * 2.0 / width) @ self.w[p].T + self.b[p]
            total = torch.zeros_like(theta)
            for inner in product(*(range(k + 1) for k in order)):  # Leibniz' rule, axis by axis
                window = torch.ones_like(x[:, 0])
                factor = torch.ones_like(self.b[p])
                for j, (k, s) in enumerate(zip(order, inner, strict=True)):
                    window = window * math.comb(k, s) * self._window(x[:, j], j, cell[j], k - s)
                    factor = factor * (self.w[p, :, j] * (2.0 / width[j])) ** s
                if bool(window.any()):
                    total += window[:, None] * factor * torch.sin(theta + 0.5 * math.pi * sum(inner))
            columns.append(total)
        return torch.cat(columns, 1)

    def _window(self, x: Float[Tensor, " N"], axis: int, cell: int, order: int) -> Float[Tensor, " N"]:
        """ψ^(order) of one patch along one axis: the step at its lower end minus that at its upper end."""
        m = self.patches[axis]
        width = float(self.upper[axis] - self.lower[axis]) / m
        total = torch.full_like(x, float(cell == 0 and order == 0))
        for edge, sign in ((cell, 1.0), (cell + 1, -1.0)):
            if 0 < edge < m:
                t = (x - (float(self.lower[axis]) + edge * width)) / (0.5 * width) + 0.5
                total = total + sign * _step(t, order) * (2.0 / width) ** order
        return total


class RandomFeatures(CollocationSolver):
    """L u = f in a box, u ≈ Σ_k c_k sin(w_k·x + b_k) with random w, b and least-squares c.

    Rows: the equation at random interior points, the conditions at random boundary points, every block divided by its
    largest entry. Derivatives of the features are closed forms. One scaled, weakly regularised least squares per linear
    equation; Newton's method around it for nonlinear ones.

    `features`   number of features (1000, 2000, 2500 in 1, 2, 3 dimensions)
    `patches`    pieces per axis of a smooth partition of unity, each with its share of the features
    `scale`      standard deviation of w in radians per half length of a patch. None (the default) tries 1, 2, 4, …,
                 1024 and keeps the one with the smallest residual at points held out of the fit, so that one
                 configuration serves all frequencies
    `tol`        estimated relative error up to which an answer is OK (1e-6); `Budget.tol` overrides it

    `error_estimate` is the distance between two answers from different draws, or the residual where that is larger.
    Cost O(points · features²) per solve and up to 12 solves; memory 3 · features². Fails (UNRESOLVED) where there are
    fewer features than about two per wavelength and axis: in 2-D from some 10 waves per axis on with the defaults.
    Reference: Chen, Chi, E, Yang, J. Mach. Learn. 1 (2022), random feature method (partition of unity, rescaled rows);
    Rahimi & Recht, NeurIPS 2007.
    """

    def __init__(
        self,
        features: int | None = None,
        patches: int = 1,
        scale: float | None = None,
        scales: Sequence[float] = SCALES,
        tol: float = 1e-6,
        seed: int = 0,
    ) -> None:
        if features is not None and features < 8:
            raise UsageError(f"RandomFeatures features must be at least 8; got {features}.")
        if patches < 1:
            raise UsageError(f"RandomFeatures patches must be at least 1 per axis; got {patches}.")
        if not all(value > 0 for value in (*scales, scale or 1.0)) or not (scale or len(scales)):
            raise UsageError(f"RandomFeatures scale and scales must be positive; got {scale} and {list(scales)}.")
        if not tol > 0:
            raise UsageError(f"RandomFeatures tol must be positive; got {tol}.")
        self.features, self.patches, self.tol, self.seed = features, patches, tol, seed
        self.scale, self.scales = scale, tuple(scales)

    @property
    def name(self) -> str:
        pieces = f" patches={self.patches}" if self.patches > 1 else ""
        return type(self).__name__ + (f" n={self.features}" if self.features else "") + pieces

    def ladder(self) -> Sequence["RandomFeatures"]:
        sizes = (125, 250, 500, 1000, 2000)
        rungs = [RandomFeatures(n, self.patches, self.scale, self.scales, self.tol, self.seed) for n in sizes]
        return (*(rung for rung in rungs if rung.features != self.features), self)

    def solve_case(self, equation: Equation, budget: Budget) -> Answer:
        equation = Equation(equation.case.to(device="cpu"))
        fit = _Fit(self, equation, budget)
        fit.search()
        if fit.best is None:
            return Answer(lambda p: torch.zeros_like(p[:, 0]), Status.BUDGET)
        converged = equation.linear or fit.newton(budget.maxiter or 30)
        estimate = max(fit.second_opinion(), fit.residual)
        good = estimate <= (budget.tol or self.tol) and fit.residual <= 1e-4
        if good:
            status = Status.OK if converged else Status.MAX_ITER
        elif fit.late():
            status = Status.BUDGET
        else:
            status = Status.UNRESOLVED if converged or fit.residual > 1e-2 else Status.MAX_ITER
        advice = (
            f"{len(fit.best.features)} features leave a residual of {fit.residual:.1e} and an estimated error of "
            f"{estimate:.1e}: raise features, add patches, or take a method whose basis adapts."
        )
        return Answer(
            fit.best,
            status,
            residual=fit.residual,
            error_estimate=estimate if math.isfinite(estimate) else None,
            advice=advice if status is Status.UNRESOLVED else ADVICE[status],
            iterations=fit.solves,
            points=fit.points,
            trace=fit.trace,
            stats={"scale": fit.scale, "features": len(fit.best.features)},
        )


@dataclass(frozen=True)
class Expansion:
    """Σ_k c_k φ_k, a function of points that may live on any device."""

    features: Features
    c: Float[Tensor, " n"]

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.at(x.to("cpu", torch.float64), (0,) * x.shape[1]).to(x.device)

    def at(self, x: Float[Tensor, "N d"], order: Order) -> Float[Tensor, " N"]:
        return torch.cat([self.features.matrix(part, order) @ self.c for part in x.split(2048)])

    def state(self, x: Float[Tensor, "N d"]) -> State:
        return lambda order: self.at(x, order)


class _Fit:
    """One case: its points, the best expansion so far, and how it was found."""

    def __init__(self, solver: RandomFeatures, equation: Equation, budget: Budget) -> None:
        self.solver, self.equation, self.seconds = solver, equation, budget.seconds
        self.begun, self.solves, self.residual, self.scale = time.perf_counter(), 0, float("inf"), 0.0
        self.best: Expansion | None = None
        self.trace: list[tuple[float, Function]] = []
        self.count = solver.features or FEATURES[equation.ndim]
        random = torch.Generator().manual_seed(solver.seed)
        self.inner = equation.interior_points(2 * self.count, random)
        on_face = 4 * math.ceil(self.count ** ((equation.ndim - 1) / equation.ndim))
        self.faces = [(face, equation.face_points(face, on_face, random)) for face in equation.faces]
        self.held_out = equation.interior_points(1000, random)
        self.points = len(self.inner) + sum(len(x) for _, x in self.faces)

    def late(self) -> bool:
        return self.seconds is not None and time.perf_counter() - self.begun >= self.seconds

    def search(self) -> None:
        """Keep the scale whose answer (to the tangent at zero, for nonlinear equations) has the least residual."""
        zero = None if self.equation.linear else _zero
        for index, scale in enumerate([self.solver.scale] if self.solver.scale else self.solver.scales):
            if self.late():
                return
            u = self._solve(self._draw(scale, index), zero)
            residual = self._tangent_residual(u)
            if residual < self.residual:
                self.residual, self.scale, self.best = residual, scale, u
                self.trace.append((time.perf_counter() - self.begun, u))
            elif self.residual < 1e-8 and residual > 1e3 * self.residual:
                return  # past the best one

    def newton(self, maxiter: int) -> bool:
        """Newton's method with the features of the search, damped where the residual would grow."""
        assert self.best is not None
        u, step = self.best, float("inf")
        if self.residual > 1e-2:
            maxiter = min(maxiter, 3)  # these features cannot show what the iteration would converge to
        defect = relative_residual(self.equation, self.held_out, u.state(self.held_out))
        for _ in range(maxiter):
            if self.late():
                break
            target = self._solve(u.features, u)
            share, previous = 1.0, step
            step = float((target(self.held_out) - u(self.held_out)).norm() / target(self.held_out).norm())
            while True:
                trial = Expansion(u.features, u.c + share * (target.c - u.c))
                found = relative_residual(self.equation, self.held_out, trial.state(self.held_out))
                if found <= defect or step * share < 1e-6 or share < 1e-3:
                    break
                share *= 0.5
            u, defect = trial, found
            self.best, self.residual = u, defect
            self.trace.append((time.perf_counter() - self.begun, u))
            if step < 1e-11 or (step < 1e-6 and step > 0.1 * previous):
                return True
        return step < 1e-6

    def second_opinion(self) -> float:
        """Relative distance to the answer of another draw of as many features."""
        assert self.best is not None
        if self.late():
            return float("inf")
        around = None if self.equation.linear else self.best
        other = self._solve(self._draw(self.scale, 100), around)
        values = self.best(self.held_out)
        size = float(values.norm())
        return float((other(self.held_out) - values).norm()) / size if size else 0.0

    def _draw(self, scale: float, index: int) -> Features:
        seed = 1000 * self.solver.seed + index + 1
        return Features.draw(self.equation, self.count, self.solver.patches, scale, seed)

    def _tangent_residual(self, u: Expansion) -> float:
        rows = self.equation.rows(self.held_out, None if self.equation.linear else _zero(self.held_out))
        defect, size = rows.apply(u.state(self.held_out)).norm(), rows.rhs.norm()
        terms = torch.stack([(c * u.at(self.held_out, order)).abs() for order, c in rows.terms.items()]).sum(0).norm()
        worst = float(defect / (size if size > 1e-10 * terms else terms).clamp(min=1e-300))
        return worst if math.isfinite(worst) else float("inf")

    def _solve(self, features: Features, around: "Expansion | object | None") -> Expansion:
        blocks = [(self.equation.rows(self.inner, self._state(around, self.inner)), self.inner)]
        blocks += [(self.equation.boundary_rows(face, x), x) for face, x in self.faces]
        matrices, sides = [], []
        for rows, x in blocks:
            A = torch.zeros((len(x), len(features)), dtype=torch.float64)
            for order, c in rows.terms.items():
                A += c[:, None] * features.matrix(x, order)
            weight = 1.0 / A.abs().max().clamp(min=1e-300)
            matrices.append(weight * A)
            sides.append(weight * rows.rhs)
        self.solves += 1
        return Expansion(features, _ridge(torch.cat(matrices), torch.cat(sides)))

    @staticmethod
    def _state(around: "Expansion | object | None", x: Tensor) -> State | None:
        if around is None:
            return None
        return around.state(x) if isinstance(around, Expansion) else _zero(x)


def _zero(x: Float[Tensor, "N d"]) -> State:
    return lambda order: torch.zeros_like(x[:, 0])


def _ridge(A: Float[Tensor, "N n"], b: Float[Tensor, " N"]) -> Float[Tensor, " n"]:
    """min ‖A x − b‖² + ε²‖D x‖², D the norms of the columns, from one triangular factor."""
    size = A.norm(dim=0).clamp(min=1e-300)
    n = A.shape[1]
    below = torch.cat([RIDGE * math.sqrt(n) * torch.eye(n, dtype=A.dtype), A.new_zeros(n, 1)], 1)
    R = torch.linalg.qr(torch.cat([torch.cat([A / size, b[:, None]], 1), below]), mode="r").R
    return torch.linalg.solve_triangular(R[:n, :n], R[:n, n:], upper=True)[:, 0] / size


def _step(t: Float[Tensor, " N"], order: int) -> Float[Tensor, " N"]:
    """The polynomial step of degree 9, 0 below t = 0 and 1 above t = 1 with four continuous derivatives."""
    coefficients = {5: 126.0, 6: -420.0, 7: 540.0, 8: -315.0, 9: 70.0}
    inside = sum(
        (c * math.perm(k, order) * t.clamp(0.0, 1.0) ** (k - order) for k, c in coefficients.items() if k >= order),
        torch.zeros_like(t),
    )
    return torch.where((t > 0) & (t < 1), inside, (t >= 1).to(t.dtype) if order == 0 else torch.zeros_like(t))
