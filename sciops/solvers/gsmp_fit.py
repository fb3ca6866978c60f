"""An equation fitted by features: rows, weights of the boundary, Newton's method, expansions as functions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.calculus import Order, State
from sciops.numerics.modulated_features import ModulatedFeatures
from sciops.numerics.weight_space import WeightPosterior, least_squares
from sciops.solvers.collocation import Equation, Rows


@dataclass(frozen=True)
class Expansion:
    """u = Σ_i w_i φ_i with the posterior of w; `change` is the last relative step of Newton's method."""

    features: ModulatedFeatures
    posterior: WeightPosterior
    change: float = 0.0
    steps: int = 1

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.features(x, (0,) * self.features.ndim) @ self.posterior.mean

    def std(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.posterior.std(self.features(x, (0,) * self.features.ndim))

    def state(self, x: Float[Tensor, "N d"]) -> State:
        """Derivatives of u at points, each computed once."""
        known: dict[Order, Tensor] = {}

        def derivative(order: Order) -> Tensor:
            if order not in known:
                known[order] = self.features(x, order) @ self.posterior.mean
            return known[order]

        return derivative


@dataclass(frozen=True)
class Points:
    """Collocation points inside and on each face."""

    interior: Float[Tensor, "N d"]
    faces: list[Tensor]

    @property
    def count(self) -> int:
        return len(self.interior) + sum(len(x) for x in self.faces)


def zero_state(x: Float[Tensor, "N d"]) -> State:
    """The state u = 0."""
    return lambda order: torch.zeros_like(x[:, 0])


def matrix(rows: Rows, features: ModulatedFeatures, x: Float[Tensor, "N d"]) -> Float[Tensor, "N n"]:
    """The rows applied to every feature."""
    total: Tensor | None = None
    for order, coefficient in rows.terms.items():
        if bool((coefficient == 0).all()):
            continue
        part = features(x, order).mul_(coefficient[:, None])
        total = part if total is None else total.add_(part)
    return x.new_zeros(len(x), len(features)) if total is None else total


@dataclass(frozen=True)
class Fitted:
    """An expansion with the rows A w ≈ y that it was fitted to, boundary first."""

    expansion: Expansion
    A: Float[Tensor, "M n"]
    y: Float[Tensor, " M"]

    @property
    def left(self) -> Float[Tensor, " M"]:
        return self.y - self.A @ self.expansion.posterior.mean


def fit(
    equation: Equation,
    features: ModulatedFeatures,
    points: Points,
    start: Expansion | None = None,
    steps: int = 12,
    tol: float = 1e-11,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Least squares over all rows; where the equation is nonlinear, again with its tangent at the last answer.

    Rows of a face are scaled so that its largest column has the energy of the largest column inside. They stand
    first: Householder's method is stable row by row when heavy rows come first.
    """
    x = points.interior
    eps = torch.finfo(x.dtype).eps
    sides = _boundary(equation, features, points)
    current, last = start, None
    for step in range(1, steps + 1):
        rows = equation.rows(x, None if equation.linear else (current.state(x) if current else zero_state(x)))
        A, y = _stacked(matrix(rows, features, x), rows.rhs, sides)
        posterior = least_squares(A, y, floor=eps * float(y.square().mean().sqrt()))
        moved = Expansion(features, posterior, 0.0, step)
        if equation.linear:
            return Fitted(moved, A, y)
        new = moved(x)
        old = current(x) if current is not None else torch.zeros_like(new)
        change = float((new - old).norm() / new.norm().clamp(min=1e-300))
        current = Expansion(features, posterior, change, step)
        # Quadratic convergence ends where rounding takes over: a step that is small and no smaller than the last.
        if change < tol or (last is not None and change < 1e-6 and change > 0.1 * last) or stop():
            break
        last = change
    assert current is not None
    return Fitted(current, A, y)


Sides = list[tuple[Tensor, Tensor]]
"""Per face the rows applied to the features (m, n) and what they should give (m,)."""


def _boundary(equation: Equation, features: ModulatedFeatures, points: Points) -> Sides:
    sides = []
    for face, at in zip(equation.faces, points.faces, strict=True):
        rows = equation.boundary_rows(face, at)
        sides.append((matrix(rows, features, at), rows.rhs))
    return sides


def _stacked(G: Float[Tensor, "N n"], rhs: Float[Tensor, " N"], sides: Sides) -> tuple[Tensor, Tensor]:
    size = float(G.square().mean(0).sqrt().max()) * (len(G) / max(sum(len(b) for b, _ in sides), 1)) ** 0.5
    blocks, given = [], []
    for block, values in sides:
        weight = size / max(float(block.square().mean(0).sqrt().max()), 1e-300)
        blocks.append(weight * block)
        given.append(weight * values)
    return torch.cat([*blocks, G]), torch.cat([*given, rhs])


def steep(fitted: Fitted) -> list[int]:
    """Waves whose envelopes still need their two highest degrees: the part of these in the rows stands out from what
    noise of the size of the misfit would put there, and is not far below the largest such part."""
    posterior, features = fitted.expansion.posterior, fitted.expansion.features
    parts = fitted.A * posterior.mean
    tails, chances = [], []
    for b, count in enumerate(features.counts):
        top = (features.wave_of == b) & (features.degree_of >= max(count - 2, 1))
        tails.append(float(parts[:, top.to(parts.device)].sum(1).norm()))
        chances.append(posterior.noise * float(top.sum()) ** 0.5)
    least = 0.01 * max(tails)
    return [b for b, (tail, chance) in enumerate(zip(tails, chances, strict=True)) if tail > max(2 * chance, least)]


def missing(
    equation: Equation, fitted: Fitted, points: Points, unused: list[tuple[float, ...]], most: int = 8
) -> list[tuple[float, ...]]:
    """Waves that would explain most of what is left, each by itself with linear envelopes; none that chance makes."""
    if not unused:
        return []
    like = fitted.expansion.features
    features = ModulatedFeatures(like.lower, like.upper, tuple(unused), (2,) * len(unused))
    x = points.interior
    rows = equation.rows(x, None if equation.linear else fitted.expansion.state(x))
    A, _ = _stacked(matrix(rows, features, x), rows.rhs, _boundary(equation, features, points))
    left = fitted.left
    shares = []
    for b in range(len(unused)):
        block = A[:, (features.wave_of == b).to(A.device)]
        Q = torch.linalg.qr(block / block.norm(dim=0).clamp(min=1e-300))[0]
        shares.append(
            float((Q.T @ left).square().sum() / left.square().sum().clamp(min=1e-300)) - 2 * Q.shape[1] / len(A)
        )
    chosen = sorted(range(len(unused)), key=lambda b: -shares[b])[:most]
    return [unused[b] for b in chosen if shares[b] > max(0.2 * max(shares), 0.0)]
