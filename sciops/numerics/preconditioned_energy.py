"""Minimising an energy in a tensor-product space: the H¹ gradient iteration, and Newton's method built on it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.cases import Cases
from sciops.numerics.energy_spaces import EnergySpace
from sciops.numerics.variational import EnergyDensity


class EnergyFunctional:
    """c ↦ E(g + Σ c_k φ_k) on a space, with g given by its values and gradient at the quadrature points (1 + d, N)."""

    def __init__(self, case: Cases, space: EnergySpace, lift: Float[Tensor, "r N"] | None = None) -> None:
        self.space, self.density = space, EnergyDensity(case, space.points, space.weights)
        self.lift = space.points.new_zeros(1 + space.points.shape[1], len(space.points)) if lift is None else lift

    def fields(self, c: Float[Tensor, "*k"]) -> Float[Tensor, "r N"]:
        return self.lift + self.space.expand(c)

    def value(self, c: Float[Tensor, "*k"]) -> float:
        with torch.no_grad():
            return float(self.density.total(self.fields(c)))

    def gradient(self, c: Float[Tensor, "*k"]) -> tuple[float, Float[Tensor, "*k"]]:
        """E and its derivative in every φ_k."""
        L, slopes = self.density.slopes(self.fields(c))
        return float(self.density.weights @ L), self.space.adjoint(self.density.weights * slopes)

    def hessian(
        self, c: Float[Tensor, "*k"]
    ) -> tuple[float, Float[Tensor, "*k"], Callable[[Tensor], Tensor], Float[Tensor, "r r N"]]:
        """E, DE, the map v ↦ D²E v, and the curvature of L at the points."""
        L, slopes, curvature = self.density.curvatures(self.fields(c))
        w = self.density.weights

        def apply(v: Tensor) -> Tensor:
            return self.space.adjoint(w * torch.einsum("abn,bn->an", curvature, self.space.expand(v)))

        return float(w @ L), self.space.adjoint(w * slopes), apply, curvature


@dataclass
class Descent:
    """Where a minimisation ended: coefficients, energies before each step and at the end, ‖DE‖ in H⁻¹ likewise."""

    c: Tensor
    energies: list[float] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)
    iterations: int = 0
    inner: int = 0
    status: str = "ok"


def h1_descent(
    functional: EnergyFunctional, c: Float[Tensor, "*k"], smoothness: float, steps: int, tol: float = 0.0
) -> Descent:
    """u ← u − (1/M)(−Δ)⁻¹ DE(u), M = `smoothness` the largest curvature of E in the H¹₀ seminorm.

    Where E is m-strongly convex and M-smooth in that seminorm, the gap E − E* shrinks by 1 − m/M or more in every step,
    whatever the space: no mesh size enters. Stops at `tol` relative to the first slope. Fails (status "diverged") where
    the energy rises, because M was too small.
    """
    found = Descent(c)
    for _ in range(steps):
        E, dual = functional.gradient(found.c)
        move = functional.space.riesz(dual)
        slope = math.sqrt(max(float((dual * move).sum()), 0.0))
        found.energies.append(E)
        found.slopes.append(slope)
        if not math.isfinite(E) or (len(found.energies) > 1 and E - found.energies[-2] > 1e-12 * abs(E)):
            found.status = "diverged"
            break
        if slope <= tol * found.slopes[0]:
            break
        found.c = found.c - move / smoothness
        found.iterations += 1
    found.energies.append(functional.value(found.c))
    return found


def newton(
    functional: EnergyFunctional,
    c: Float[Tensor, "*k"],
    tol: float = 1e-12,
    maxiter: int = 50,
    inner: int = 200,
    deadline: float = math.inf,
    watch: Callable[[Tensor], None] | None = None,
) -> Descent:
    """Newton's method on E; each step by conjugate gradients preconditioned with (−Δ)⁻¹, then a line search on E.

    The inner tolerance follows the slope (Eisenstat–Walker), so convergence is fast near the minimiser; conjugate
    gradients need about √(M/m) iterations for one digit, on every mesh. Stops where ‖DE‖_{H⁻¹} has fallen by `tol`, or
    at rounding. Statuses: ok, max_iter, budget, nonfinite (the first energy is not finite), stalled (no descent above
    rounding).
    """
    found = Descent(c)
    for _ in range(maxiter):
        E, dual, hessian, _ = functional.hessian(found.c)
        slope = math.sqrt(max(float((dual * functional.space.riesz(dual)).sum()), 0.0))
        found.energies.append(E)
        found.slopes.append(slope)
        if not (math.isfinite(E) and math.isfinite(slope)):
            found.status = "nonfinite"
            return found
        if slope <= tol * found.slopes[0] or slope == 0.0:
            return found
        if time.perf_counter() > deadline:
            found.status = "budget"
            return found
        forcing = min(0.1, (slope / found.slopes[0]) ** 0.5, 1e3 * max(tol, 1e-15) / (slope / found.slopes[0]) + 1e-4)
        move, used = conjugate_gradients(hessian, dual, functional.space.riesz, forcing, inner)
        found.inner += used
        decrease, share = float((dual * move).sum()), 1.0
        resolvable = 1e-13 * max(abs(E), 1e-300)
        while share > 1e-8:
            trial = functional.value(found.c - share * move)
            # Below rounding of E the full step is taken on trust: the slope decides in the next iteration.
            if trial <= E - 1e-4 * share * decrease or (decrease < resolvable and trial <= E + resolvable):
                break
            share *= 0.5
        else:
            found.status = "stalled"
            return found
        if decrease < resolvable and len(found.slopes) > 1 and slope > 0.5 * found.slopes[-2]:
            return found  # the slope has stopped falling: rounding
        found.c = found.c - share * move
        found.iterations += 1
        if watch is not None:
            watch(found.c)
    found.status = "max_iter"
    return found


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor],
    tol: float,
    maxiter: int,
) -> tuple[Tensor, int]:
    """A x = b to ‖b − A x‖ ≤ tol ‖b‖ in the norm of the preconditioner; ends early at negative curvature."""
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    p, rho = z, float((r * z).sum())
    first = rho
    for k in range(maxiter):
        if rho <= tol**2 * first:
            return x, k
        Ap = apply(p)
        curvature = float((p * Ap).sum())
        if not curvature > 0:
            return (z if k == 0 else x), k
        alpha = rho / curvature
        x, r = x + alpha * p, r - alpha * Ap
        z = precondition(r)
        rho, before = float((r * z).sum()), rho
        p = z + (rho / before) * p
    return x, maxiter
