"""Sparse spectra from scattered data: non-negative weights on a fixed grid of frequencies, by majorisation."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Weights θ of the components, the noise variance, and the objective before every step and after the last."""

    weights: Float[Tensor, " A"]
    noise: float
    objective: list[float] = field(default_factory=list)


def objective(G: Float[Tensor, "N A k"], Y: Float[Tensor, "N r"], weights: Float[Tensor, " A"], noise: float) -> float:
    """tr(YᵀC⁻¹Y)/r + log|C| with C = Σ_a θ_a G_a G_aᵀ + noise·I: −2/r × log-likelihood up to a constant."""
    L = torch.linalg.cholesky(_covariance(G, weights, noise))
    white = torch.linalg.solve_triangular(L, Y, upper=False)
    return float(white.square().sum() / Y.shape[1] + 2 * L.diagonal().log().sum())


def majorise(
    G: Float[Tensor, "N A k"],
    Y: Float[Tensor, "N r"],
    steps: int = 40,
    floor: float = 1e-3,
    drop: float = 1e-7,
    start: Spectrum | None = None,
) -> Spectrum:
    """min_θ tr(YᵀC⁻¹Y)/r + log|C| over θ ≥ 0, C = Σ_a θ_a G_a G_aᵀ + σ²I, components of rank k.

    Majorise log|C| by its tangent and yᵀC⁻¹y by Σ_a (θ'_a)² y'ᵀK_a y'/θ_a (y' = C'⁻¹y): the minimiser of the bound is
        θ_a ← θ_a · sqrt( Σ_r y_rᵀC⁻¹K_aC⁻¹y_r / (r tr(C⁻¹K_a)) ),
    so the objective never increases, θ stays positive and unneeded components decay geometrically. σ² is one more
    component (K = I), not let below (floor · rms Y)²: the constrained minimiser of the same bound.

    Components below `drop` of the largest are left out (θ = 0) from then on, which may raise the objective a little.
    One Cholesky of N × N a step, O(N² A k).
    Converges to a stationary point, not always the best one: close frequencies share weight.
    Reference: Hunter & Lange 2004 (majorisation); Suwandi et al. 2023 (2309.08201) for the objective.
    """
    n, components, rank = G.shape
    power = float(Y.square().mean())
    if power == 0:
        return Spectrum(torch.zeros(components, dtype=G.dtype, device=G.device), 0.0)
    least = floor**2 * power
    theta = G.new_full((components,), power / (components * float(G.square().mean()) * rank))
    noise = 0.1 * power
    if start is not None:
        theta, noise = start.weights.clone(), max(start.noise, least)
    history: list[float] = []
    active = torch.arange(components, device=G.device)
    for _ in range(steps):
        keep = theta[active] > drop * theta.max()
        if not bool(keep.all()):
            theta[active[~keep]] = 0.0
            active = active[keep]
        part = G[:, active].reshape(n, -1)
        L = torch.linalg.cholesky(_covariance(G[:, active], theta[active], noise))
        white = torch.linalg.solve_triangular(L, Y, upper=False)
        history.append(float(white.square().sum() / Y.shape[1] + 2 * L.diagonal().log().sum()))
        inverse = torch.linalg.solve_triangular(L, torch.eye(n, dtype=G.dtype, device=G.device), upper=False)
        alpha = inverse.T @ white
        fit = (part.T @ alpha).square().sum(1).reshape(-1, rank).sum(1) / Y.shape[1]
        cost = (inverse @ part).square().sum(0).reshape(-1, rank).sum(1)
        theta[active] = theta[active] * torch.sqrt(fit / cost)
        noise = max(noise * float(torch.sqrt(alpha.square().sum() / Y.shape[1] / inverse.square().sum())), least)
    history.append(objective(G[:, active], Y, theta[active], noise))
    return Spectrum(theta, noise, history)


def support(weights: Float[Tensor, " A"], threshold: float = 1e-3, most: int | None = None) -> Int[Tensor, " s"]:
    """Local maxima above `threshold` of the largest weight, heaviest first; index 0 is left to the caller.

    Frequencies between two grid points leak into both, so the weights themselves are not sparse; their peaks are.
    """
    if len(weights) < 2:
        return torch.zeros(0, dtype=torch.int64, device=weights.device)
    padded = torch.nn.functional.pad(weights, (0, 1))
    middle, left, right = padded[1:-1], padded[:-2], padded[2:]
    # A component next to the constant is a peak even where the constant outweighs it: the two differ in kind.
    left = torch.cat([torch.zeros_like(left[:1]), left[1:]])
    peaks = torch.nonzero((middle > left) & (middle >= right) & (middle > threshold * weights.max()))[:, 0] + 1
    return peaks[weights[peaks].argsort(descending=True, stable=True)][:most]


def _covariance(G: Float[Tensor, "N A k"], weights: Float[Tensor, " A"], noise: float) -> Float[Tensor, "N N"]:
    part = (G * weights.sqrt()[None, :, None]).reshape(len(G), -1)
    C = part @ part.T
    C.diagonal().add_(noise + 1e-12 * float(C.diagonal().mean()))
    return C
