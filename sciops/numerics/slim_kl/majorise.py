"""One closed-form step that never raises yᵀC⁻¹y + log|C|, with or without the terms of a consensus.

Objective of weights θ ≥ 0, C = Σ_a θ_a K_a + σ² I, R right-hand sides:

    L(θ) = Σ_r y_rᵀ C⁻¹ y_r + R log|C|  +  λᵀ(θ − g) + (ρ/2) ‖θ − g‖²

Bound at θ⁰, with α = C₀⁻¹ y, p_a = Σ_r α_rᵀ K_a α_r and q_a = R tr(C₀⁻¹ K_a):

 1. yᵀ C⁻¹ y is the minimum of Σ_a v_aᵀ (θ_a K_a)⁺ v_a + v₀ᵀv₀/σ² over all splits Σ v_a + v₀ = y. The split that is the
    best at θ⁰, v_a = θ⁰_a K_a α and v₀ = σ² α, is allowed at any θ, hence yᵀC⁻¹y ≤ Σ_a (θ⁰_a)² p_a / θ_a + const.
 2. log|C| is concave: log|C| ≤ log|C₀| + Σ_a tr(C₀⁻¹K_a)(θ_a − θ⁰_a).

Both touch at θ⁰: the minimiser of the bound cannot raise L. It separates; with P = (θ⁰_a)² p_a, b = q_a + λ_a − ρ g_a,

    h(z) = P/z + b z + (ρ/2) z²,    h′(z) = 0  ⇔  ρ z³ + b z² − P = 0,

which for P > 0 has exactly one positive root, since h is strictly convex there; for P = 0 the minimum is max(0, −b/ρ).
With ρ = λ = 0 it is z = θ⁰_a sqrt(p_a / q_a).

The noise is a component with K = I: where it is learned, σ² ← max(σ² sqrt(Σ_r |α_r|² / (R tr C⁻¹)), least), again the
minimiser of the bound. It belongs to the data of one worker and never enters a consensus.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.numerics.slim_kl.components import Components


@dataclass(frozen=True)
class Penalty:
    """λᵀ(θ − g) + (ρ/2) ‖θ − g‖²: what ties one worker's weights to the common ones g."""

    multiplier: Float[Tensor, " A"]
    centre: Float[Tensor, " A"]
    rho: float

    def value(self, theta: Float[Tensor, " A"]) -> Float[Tensor, ""]:
        gap = theta - self.centre
        return self.multiplier @ gap + 0.5 * self.rho * gap.square().sum()


@dataclass(frozen=True)
class Bound:
    """L(θ) and the coefficients p, q of its bound there."""

    objective: Float[Tensor, ""]
    p: Float[Tensor, " A"]
    q: Float[Tensor, " A"]
    alpha: Float[Tensor, "N R"]
    inverse: Float[Tensor, "N N"]


@dataclass(frozen=True)
class Minimum:
    """Where a descent ended: weights, noise variance, the objective before every step, and whether it came to rest."""

    theta: Float[Tensor, " A"]
    noise: float
    history: list[float]
    converged: bool


def bound(
    components: Components,
    y: Float[Tensor, "N R"],
    noise: float,
    theta: Float[Tensor, " A"],
    penalty: Penalty | None = None,
) -> Bound:
    """One Cholesky factorisation: O(N³) and the traces. Raises UsageError where C is not positive definite."""
    C = components.total(theta)
    C.diagonal().add_(noise)
    factor, failed = torch.linalg.cholesky_ex(C)
    if int(failed) or not bool(torch.isfinite(factor.diagonal()).all()):
        raise UsageError(
            f"The covariance of {len(y)} points is singular with noise {noise:.1e}; give a larger noise or merge "
            "points that coincide."
        )
    inverse = torch.cholesky_inverse(factor)
    alpha = torch.cholesky_solve(y, factor)
    R = y.shape[1]
    objective = (y * alpha).sum() + 2 * R * factor.diagonal().log().sum()
    if penalty is not None:
        objective = objective + penalty.value(theta)
    return Bound(objective, components.quadratics(alpha), R * components.traces(inverse), alpha, inverse)


def smallest(P: Float[Tensor, " A"], b: Float[Tensor, " A"], rho: float) -> Float[Tensor, " A"]:
    """The minimiser of P/z + b z + (ρ/2) z² over z ≥ 0, for each entry; P ≥ 0, and b > 0 where ρ = 0.

    Newton's method on f(z) = ρ z³ + b z² − P from a point right of the root, where f is convex and increasing: it falls
    monotonically to the root, so no safeguard is needed. Start: f(z) ≥ ρ z³ − P and ≥ b z² − P for b ≥ 0; with
    z₀ = −b/ρ > 0, f(z) = ρ z² (z − z₀) − P ≥ max(ρ (z − z₀)³, ρ z₀² (z − z₀)) − P.
    """
    if rho == 0.0:
        return (P / b).sqrt()
    base = (-b / rho).clamp_min(0.0)
    cube = (P / rho) ** (1 / 3)
    negative = b < 0
    other = torch.where(negative, P / (rho * base.square()), (P / b.abs()).sqrt())
    z = base + torch.fmin(cube, other)
    for _ in range(60):
        slope = z * (3 * rho * z + 2 * b)
        value = z.square() * (rho * z + b) - P
        following = torch.where(slope > 0, z - value / slope, z)
        following = torch.maximum(torch.minimum(following, z), base)
        if bool((z - following <= 1e-15 * z).all()):
            break
        z = following
    return torch.where(P > 0, z, base)


def step(
    components: Components,
    y: Float[Tensor, "N R"],
    noise: float,
    theta: Float[Tensor, " A"],
    penalty: Penalty | None = None,
) -> tuple[Float[Tensor, " A"], Float[Tensor, ""]]:
    """The minimiser of the bound at θ, and L(θ) before the step."""
    at = bound(components, y, noise, theta, penalty)
    return following(at, theta, penalty), at.objective


def following(at: Bound, theta: Float[Tensor, " A"], penalty: Penalty | None = None) -> Float[Tensor, " A"]:
    P = theta.square() * at.p
    if penalty is None:
        return smallest(P, at.q, 0.0)
    return smallest(P, at.q + penalty.multiplier - penalty.rho * penalty.centre, penalty.rho)


def minimise(
    components: Components,
    y: Float[Tensor, "N R"],
    noise: float,
    theta: Float[Tensor, " A"],
    penalty: Penalty | None = None,
    *,
    steps: int = 100,
    tol: float = 1e-3,
    least_noise: float | None = None,
) -> Minimum:
    """Steps until max |θ⁺ − θ| ≤ tol · max θ⁺. Cost per step: one N × N Cholesky and the traces.

    least_noise  learn σ² too, from `noise` on and never below this; None: σ² is fixed
    """
    history: list[float] = []
    for _ in range(steps):
        at = bound(components, y, noise, theta, penalty)
        history.append(float(at.objective))
        new = following(at, theta, penalty)
        change, theta = (new - theta).abs().max(), new
        if least_noise is not None:
            ratio = at.alpha.square().mean(1).sum() / at.inverse.diagonal().sum()
            noise = max(noise * float(ratio.sqrt()), least_noise)
        if bool(change <= tol * theta.max()):
            return Minimum(theta, noise, history, True)
    return Minimum(theta, noise, history, False)


def start(components: Components, y: Float[Tensor, "N R"], noise: float) -> Float[Tensor, " A"]:
    """Equal small weights whose sum explains the variance of y beyond the noise.

    θ = 0 is a fixed point of the step, because a weight only ever gets multiplied; equal positive weights are not.
    """
    each = components.traces(torch.eye(len(y), dtype=y.dtype, device=y.device)).mean() / len(y)
    signal = (y.square().mean() - noise).clamp_min(1e-3 * y.square().mean())
    tiny = torch.finfo(y.dtype).tiny
    return (signal / (components.count * each.clamp_min(tiny))).clamp_min(tiny).expand(components.count).clone()
