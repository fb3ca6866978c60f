"""Gaussian-process collocation in weight space: features of the kernel, one QR factorisation, Newton outside."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.calculus import Order, State
from sciops.core.grid import Grid
from sciops.core.random import case_seed, generator
from sciops.numerics.modulated_features import chebyshev_table
from sciops.numerics.spectral_covariance import covariance, grid_lags, toeplitz
from sciops.solvers.collocation import Equation, Rows, relative_residual

RANK_TOL = 1e-13
EXACT_STD = 600
"""Features up to which standard deviations are exact; beyond, they come from `SAMPLES` posterior samples."""
SAMPLES = 64
SMOOTH_VARIANCE, POLYNOMIALS = 1e-4, 8


class TensorFeatures:
    """φ_a(x) = Π_j φ_{j,a_j}(x_j) with φ_j(x) = k_j(x, nodes_j) V_j Λ_j^{−1/2} and K_j = V_j Λ_j V_jᵀ on the nodes.

    Then Σ_a φ_a(x) φ_a(x′) = k(x, x′) between nodes, up to eigenvalues below 1e-13 of the largest, and z ~ N(0, I) is
    the prior of the coefficients: jitter is not needed. Of the products, the `limit` of largest prior variance are
    kept. In one dimension a few Chebyshev polynomials of small prior variance join them: second derivatives of waves
    are nearly orthogonal to constants, so a smooth part of f, tiny beside the rest, would be left in the residual,
    where the inverse of the operator makes it large in u. Derivatives are exact. Cost O(n_j³) once; O(N n_j r_j) per
    axis and order at N points, fewer where coordinates repeat.
    """

    def __init__(
        self, nodes: Grid, family: str, theta: Sequence[tuple[Tensor, Tensor, Tensor]], limit: int = 2500
    ) -> None:
        self.nodes, self.family = nodes, family
        self.theta = [_significant(*axis) for axis in theta]
        self.polynomials = POLYNOMIALS if nodes.ndim == 1 else 0
        self.bases, energies = [], []
        for n, h, axis in zip(nodes.shape, nodes.spacing, self.theta, strict=True):
            (k,) = covariance(family, grid_lags(n, h, axis[0]), (0,), *axis)
            values, vectors = torch.linalg.eigh(toeplitz(k))
            keep = values > RANK_TOL * values[-1]
            self.bases.append(vectors[:, keep] / values[keep].sqrt())
            smooth = values.new_full((self.polynomials,), math.log(n * SMOOTH_VARIANCE))
            energies.append(torch.cat([values[keep].log(), smooth]))
        self.index = _largest(energies, limit)

    @property
    def count(self) -> int:
        return len(self.index)

    def __call__(self, x: Float[Tensor, "N d"], order: Order) -> Float[Tensor, "N f"]:
        """∂^α φ_a at points."""
        total: Tensor | None = None
        for j, (axis, basis) in enumerate(zip(self.theta, self.bases, strict=True)):
            unique, place = x[:, j].unique(return_inverse=True)
            lag = (unique[:, None] - self.nodes.axis(j, x.dtype, x.device)).reshape(-1)
            (k,) = covariance(self.family, lag, (order[j],), *axis)
            rows = k.reshape(len(unique), -1) @ basis
            if self.polynomials:
                rows = torch.cat([rows, self._polynomials(j, unique, order[j])], 1)
            rows = rows[:, self.index[:, j]][place]
            total = rows if total is None else total * rows
        assert total is not None
        return total

    def _polynomials(self, axis: int, x: Float[Tensor, " N"], order: int) -> Float[Tensor, "N j"]:
        length = self.nodes.lengths[axis]
        t = 2 * (x - self.nodes.lower[axis]) / length - 1
        table = chebyshev_table(t, self.polynomials, order)[order]
        return math.sqrt(SMOOTH_VARIANCE) * (2 / length) ** order * table

    def at(self, x: Float[Tensor, "N d"]) -> Callable[[Order], Tensor]:
        """Derivatives of the features at fixed points, each made once."""
        known: dict[Order, Tensor] = {}

        def derivative(order: Order) -> Tensor:
            if order not in known:
                known[order] = self(x, order)
            return known[order]

        return derivative


def _significant(log_weight: Tensor, s: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Components that carry more than rounding of the kernel, weights normalised."""
    log_weight = log_weight.detach().log_softmax(-1)
    keep = log_weight > math.log(1e-17)
    return log_weight[keep], s.detach()[keep], mu.detach()[keep]


def _largest(energies: list[Tensor], limit: int) -> Int[Tensor, "f d"]:
    """Index tuples of the products Π_j λ_j of largest value."""
    # No product of the largest `limit` has a factor beyond the largest `limit` of its axis.
    ranked = [e.argsort(descending=True)[:limit] for e in energies]
    total = energies[0][ranked[0]]
    index = ranked[0][:, None]
    for e, r in zip(energies[1:], ranked[1:], strict=True):
        whole = total[:, None] + e[r]
        best = whole.flatten().argsort(descending=True)[:limit]
        index = torch.cat([index[best // len(r)], r[best % len(r)][:, None]], 1)
        total = whole.flatten()[best]
    return index


@dataclass
class Mean:
    """u = Σ_a z_a φ_a."""

    features: TensorFeatures
    z: Float[Tensor, " f"]

    def __call__(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.features(x, (0,) * x.shape[1]) @ self.z


class Posterior:
    """z | data of y = G z + noise, z ~ N(0, s²I), noise of row i ~ N(0, (s ρ |G_i|)²), and u = Σ_a z_a φ_a.

    Rows are divided by their prior standard deviation |G_i|, so that equation and boundary rows carry equal energy,
    and [G; ρI] z = [y; 0] is solved by QR: the condition is that of G, not its square. s² = mean of the misfit over
    the rows (empirical Bayes). `inflation` multiplies standard deviations; see `calibrate`.
    """

    def __init__(self, features: TensorFeatures, noise: float) -> None:
        self.features, self.noise, self.inflation = features, noise, 1.0
        self.z = torch.zeros(features.count, dtype=torch.float64, device=features.index.device)
        self.root = torch.eye(features.count, dtype=torch.float64, device=features.index.device)
        self.scale = 0.0

    def update(self, G: Float[Tensor, "N f"], y: Float[Tensor, " N"]) -> None:
        """Condition on rows."""
        size = G.norm(dim=1).clamp(min=torch.finfo(G.dtype).tiny)
        G, y = G / size[:, None], y / size
        eye = torch.eye(G.shape[1], dtype=G.dtype, device=G.device)
        Q, self.root = torch.linalg.qr(torch.cat([G, self.noise * eye]))
        self.z = torch.linalg.solve_triangular(self.root, (Q[: len(y)].T @ y)[:, None], upper=True)[:, 0]
        misfit = self.z.square().sum() + (G @ self.z - y).square().sum() / self.noise**2
        self.scale = math.sqrt(float(misfit) / len(y))

    def mean(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return Mean(self.features, self.z)(x)

    def state(self, x: Float[Tensor, "N d"]) -> State:
        """Derivatives of the mean at points."""
        phi = self.features.at(x)
        return lambda order: phi(order) @ self.z

    def deviation(self, G: Float[Tensor, "N f"]) -> Float[Tensor, " N"]:
        """Standard deviation of G z under the posterior."""
        size = self.inflation * self.scale * self.noise
        if G.shape[1] <= EXACT_STD:
            return size * torch.linalg.solve_triangular(self.root.T, G.T, upper=False).norm(dim=0)
        random = generator(case_seed(0, G.shape[1], "posterior samples"))
        draws = torch.randn((G.shape[1], SAMPLES), generator=random, dtype=G.dtype).to(G.device)
        samples = G @ torch.linalg.solve_triangular(self.root, draws, upper=True)
        return size * samples.square().mean(1).sqrt()

    def std(self, x: Float[Tensor, "N d"]) -> Float[Tensor, " N"]:
        return self.deviation(self.features(x, (0,) * x.shape[1]))

    def calibrate(self, equation: Equation, x: Float[Tensor, "N d"]) -> tuple[float, float]:
        """Widen the bands where residuals at points that were not fitted are larger than their predicted deviation.

        Returns the relative residual at the points and the relative size of the band there.
        """
        phi = self.features.at(x)

        def state(order: Order) -> Tensor:
            return phi(order) @ self.z

        rows = equation.rows(x, state)
        predicted = self.deviation(_matrix(phi, rows)).square().mean().sqrt()
        found = rows.apply(state).square().mean().sqrt()
        if bool(predicted > 0) and bool(torch.isfinite(found)):
            self.inflation = max(1.0, float(found / predicted))
        zero = (0,) * x.shape[1]
        band = self.deviation(phi(zero)).norm() / state(zero).norm().clamp(min=1e-300)
        return relative_residual(equation, x, state), float(band)


def _matrix(phi: Callable[[Order], Tensor], rows: Rows) -> Float[Tensor, "N f"]:
    terms = [c[:, None] * phi(order) for order, c in rows.terms.items()]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


class Collocation:
    """Rows of the equation at nodes and of the boundary at nodes on faces, at most `limit` of each, at random."""

    def __init__(self, equation: Equation, nodes: Grid, limit: int, seed: int) -> None:
        self.equation = equation
        random = generator(case_seed(seed, 1, "gp_hm rows"))
        device = equation.lower.device
        everything = nodes.points(torch.float64, device)
        self.x = everything[_some(len(everything), limit, random).to(device)]
        index = torch.arange(nodes.size).reshape(nodes.shape)
        self.boundary: list[tuple[Tensor, Rows]] = []
        for face in equation.faces:
            here = index.select(face.axis, -1 if face.side else 0).reshape(-1)
            here = here[_some(len(here), max(limit // (2 * len(equation.faces)), 1), random)].to(device)
            points = everything[here]
            self.boundary.append((points, equation.boundary_rows(face, points)))
        self.points = len(self.x) + sum(len(points) for points, _ in self.boundary)

    def solve(
        self, features: TensorFeatures, noise: float, newton: int = 20, clock: Callable[[], bool] = lambda: False
    ) -> tuple[Posterior, int]:
        """The posterior and the number of Newton steps (1 where the equation is linear).

        Nonlinear: tangent at the current mean from u = 0 on, until the coefficients change by less than 1e-10 or
        no less than before, or the steps or the time are used up.
        """
        posterior, steps = Posterior(features, noise), 0
        edge = [(_matrix(features.at(points), rows), rows.rhs) for points, rows in self.boundary]
        phi, last = features.at(self.x), math.inf
        while steps < newton:
            steps += 1
            rows = self.equation.rows(self.x, None if self.equation.linear else lambda order: phi(order) @ posterior.z)
            G = _matrix(phi, rows)
            before = posterior.z
            posterior.update(torch.cat([G, *(g for g, _ in edge)]), torch.cat([rows.rhs, *(y for _, y in edge)]))
            change = float((posterior.z - before).norm() / posterior.z.norm().clamp(min=1e-300))
            # Rounding keeps ill-determined coefficients moving: where a small change no longer shrinks, it is done.
            done = change < 1e-10 or (change < 1e-3 and change > 0.2 * last) or not math.isfinite(change)
            if self.equation.linear or done or clock():
                break
            last = change
        return posterior, steps


def _some(total: int, limit: int, random: torch.Generator) -> Int[Tensor, " k"]:
    if total <= limit:
        return torch.arange(total)
    return torch.randperm(total, generator=random)[:limit].sort().values
