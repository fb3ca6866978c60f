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
    faces: list[Float[Tensor, "m d"]]

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


def fit(
    equation: Equation,
    features: ModulatedFeatures,
    points: Points,
    start: Expansion | None = None,
    steps: int = 12,
    tol: float = 1e-11,
    stop: Callable[[], bool] = lambda: False,
) -> Expansion:
    """Least squares over all rows; where the equation is nonlinear, again with its tangent at the last answer.

    Rows of a face are scaled so that its largest column has the energy of the largest column inside. They stand
    first: Householder's method is stable row by row when heavy rows come first.
    """
    x = points.interior
    blocks, sides = [], []
    for face, at in zip(equation.faces, points.faces, strict=True):
        rows = equation.boundary_rows(face, at)
        blocks.append(matrix(rows, features, at))
        sides.append(rows.rhs)
    boundary, given = torch.cat(blocks), torch.cat(sides)
    eps = torch.finfo(x.dtype).eps
    current, last = start, None
    for step in range(1, steps + 1):
        state = current.state(x) if current is not None else zero_state(x)
        rows = equation.rows(x, None if equation.linear else state)
        G = matrix(rows, features, x)
        size = float(G.square().mean(0).sqrt().max())
        weights = []
        for block in blocks:
            own = float(block.square().mean(0).sqrt().max())
            weights.append(block.new_full((len(block),), size / max(own, 1e-300) * (len(x) / len(boundary)) ** 0.5))
        weight = torch.cat(weights)
        A = torch.cat([weight[:, None] * boundary, G])
        y = torch.cat([weight * given, rows.rhs])
        posterior = least_squares(A, y, floor=eps * float(y.square().mean().sqrt()))
        moved = Expansion(features, posterior, 0.0, step)
        if equation.linear:
            return moved
        new = moved(x)
        old = current(x) if current is not None else torch.zeros_like(new)
        change = float((new - old).norm() / new.norm().clamp(min=1e-300))
        current = Expansion(features, posterior, change, step)
        # Quadratic convergence ends where rounding takes over: a step that is small and no smaller than the last.
        if change < tol or (last is not None and change < 1e-6 and change > 0.1 * last) or stop():
            break
        last = change
    assert current is not None
    return current


def strongest(equation: Equation, answer: Expansion, points: Points, share: float) -> tuple[tuple[float, ...], ...]:
    """Waves whose part of L(u) or of u exceeds `share` of the whole at the points: the others are not needed."""
    x, features = points.interior[:500], answer.features
    rows = equation.rows(x, None if equation.linear else answer.state(x))
    images = matrix(rows, features, x) * answer.posterior.mean
    values = features(x, (0,) * features.ndim) * answer.posterior.mean
    wave = torch.tensor([b for b, _, _ in features.columns], device=x.device)
    kept = []
    for b, nu in enumerate(features.waves):
        mine = wave == b
        parts = [float(t[:, mine].sum(1).norm() / t.sum(1).norm().clamp(min=1e-300)) for t in (images, values)]
        if max(parts) > share or not any(nu):
            kept.append(nu)
    return tuple(kept)
