"""Natural gradient for an energy: one damped solve with a Gram matrix of tangent functions and a line search."""

import math
import time
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.optimisers.gauss_newton import CEILING, Step, require_float64
from sciops.numerics.optimisers.normal_equations import DampedNormal, Dual, Primal


@runtime_checkable
class Energy(Protocol):
    """E(θ) on frozen points, and its tangent (E, ∂E/∂θ, F) with the metric G = FᵀF, F (M, P).

    H¹₀ metric: one row √w_q ∂_k(∂u/∂θ)(x_q) per point q of weight w_q and axis k; for the Hessian of an energy with
    density L, rows of a factor of √w ∂²L.
    """

    def energy(self, theta: Float[Tensor, " P"]) -> float: ...

    def tangent(self, theta: Float[Tensor, " P"]) -> tuple[float, Float[Tensor, " P"], Float[Tensor, "M P"]]: ...


class EnergyNaturalGradient:
    """θ ← θ − t (G + μI)⁻¹∂E/∂θ, t the best of 2⁻ᵏ, k = 0…`halvings`, by the energy on the same frozen points.

    With G the Hessian of E in function space this is Newton's method for E seen through the tangent space of the
    network; for a quadratic energy in its own metric one step solves a linear model.
    μ falls by `decrease` when the full step was best, rises by `increase` when no t lowers E. `Step` holds energies.
    Cost: one tangent and O(M P min(M, P)) a step, `halvings` energies at most.
    Fails by "stalled" at the minimum on these points; with fixed random points E has no lower bound for a flexible
    network: use quadrature, or new points every step. float32 is refused.
    Reference: Müller & Zeinhofer 2023 (arXiv 2302.13163).
    """

    def __init__(
        self,
        theta: Float[Tensor, " P"],
        mu: float = 1e-4,
        form: str = "auto",
        halvings: int = 30,
        decrease: float = 10.0,
        increase: float = 4.0,
        floor: float = 1e-16,
        tries: int = 6,
    ) -> None:
        require_float64(theta, "EnergyNaturalGradient")
        if form not in ("auto", "primal", "woodbury"):
            raise UsageError(f"EnergyNaturalGradient got form {form!r}; use auto, primal or woodbury.")
        self.theta = theta.detach().clone()
        self.mu, self.form, self.halvings = mu, form, halvings
        self.decrease, self.increase, self.floor, self.tries = decrease, increase, floor, tries

    def step(self, problem: Energy) -> Step:
        """Lower the energy of `problem` once."""
        start = time.process_time()
        before, gradient, F = problem.tangent(self.theta)

        def done(energy: float, mu: float, norm: float, tried: int, status: str) -> Step:
            return Step(before, energy, status == "ok", mu, norm, time.process_time() - start, tried, status)

        if not (math.isfinite(before) and bool(torch.isfinite(gradient).all())):
            return done(before, self.mu, 0.0, 0, "nonfinite")
        primal = self.form == "primal" or (self.form == "auto" and F.shape[0] >= F.shape[1])
        normal: DampedNormal = Primal.of(F) if primal else Dual(F)
        mu, finite = self.mu, False
        for tried in range(1, self.tries + 1):
            solution, used = normal.solve_parameters(mu, gradient)
            if bool(torch.isfinite(solution).all()):
                finite = True
                energy, share = self._search(problem, solution, before)
                if energy < before:
                    self.theta = self.theta - share * solution
                    self.mu = max(used / self.decrease if share == 1 else used, self.floor)
                    return done(energy, used, share * float(solution.norm()), tried, "ok")
            mu = max(used * self.increase, self.floor)
            if not mu < CEILING:
                break
        self.mu = min(mu, CEILING)
        return done(before, self.mu, 0.0, tried, "stalled" if finite else "nonfinite")

    def _search(self, problem: Energy, solution: Tensor, before: float) -> tuple[float, float]:
        best, share = math.inf, 1.0
        for k in range(self.halvings + 1):
            energy = float(problem.energy(self.theta - 2.0**-k * solution))
            if energy < best:
                best, share = energy, 2.0**-k
            elif best < before:
                break  # energies along the ray have turned up again below the start
        return best, share

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, beside the options."""
        return {"theta": self.theta.clone(), "mu": self.mu}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["theta"].shape != self.theta.shape:
            raise UsageError(
                f"EnergyNaturalGradient has {len(self.theta)} parameters and the state has {len(state['theta'])}; "
                "load it into an optimiser of the same model."
            )
        self.theta, self.mu = state["theta"].to(self.theta).clone(), float(state["mu"])
