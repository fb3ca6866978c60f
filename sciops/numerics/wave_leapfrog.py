"""Central differences in time for M u″ + C u′ + K u = M f with diagonal M and C: the step of every wave generator."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError

SIDES = ("dirichlet", "neumann", "absorbing")
"""What a side of the box can do to a wave: u = 0, μ ∂u/∂n = 0, μ ∂u/∂n = −√(ρμ) ∂u/∂t."""

FACES = ("x0", "x1", "y0", "y1")


@dataclass(frozen=True)
class WaveSystem:
    """ρ u_tt − ∇·(μ ∇u) + η u_t = f after discretisation in space, on n cases at once (or one for all).

    restore   u (n, *s) ↦ −M⁻¹K u, zero at nodes that are held
    rate      C/M: damping in the volume and at absorbing sides, (n | 1, *s)
    mass      diagonal of M, (*s)
    free      1 at nodes that move, 0 at those that are held at u = 0, (*s)
    density   ρ
    largest   the largest stable step, 2/√λ with a bound λ of the eigenvalues of M⁻¹K
    """

    restore: Callable[[Float[Tensor, "n *s"]], Float[Tensor, "n *s"]]
    rate: Tensor
    mass: Tensor
    free: Tensor
    density: float
    largest: float

    def rest(self, u: Float[Tensor, "n *s"], v: Float[Tensor, "n *s"] | None = None) -> Float[Tensor, "n 3 *s"]:
        """The state (u, u_t, −M⁻¹K u) from displacement and velocity (zero if absent)."""
        u = u * self.free
        v = torch.zeros_like(u) if v is None else v * self.free
        return torch.stack([u, v, self.restore(u)], 1)

    def energy(self, state: Float[Tensor, "n 3 *s"], dt: float = 0.0) -> Float[Tensor, " n"]:
        """½ vᵀMv + ½ uᵀKu − (dt²/8) aᵀMa, a = −M⁻¹K u; with dt > 0 the energy that leapfrog with that step conserves
        exactly (C = 0, f = 0), with dt = 0 that of the system in continuous time."""
        u, v, a = state.unbind(1)
        density = self.mass * (v.square() - u * a - (dt / 2) ** 2 * a.square())
        return 0.5 * density.flatten(1).sum(1)


def leapfrog(
    system: WaveSystem, dt: float, force: Callable[[float], Tensor] | None = None
) -> Callable[[Float[Tensor, "n 3 *s"], float], Float[Tensor, "n 3 *s"]]:
    """(u⁺ − 2u + u⁻)/dt² + (C/M)(u⁺ − u⁻)/(2dt) + M⁻¹K u = f/ρ, written as a step of (u, u_t, −M⁻¹K u).

    Half a kick, a drift, half a kick: the same numbers as the three-term recursion, but the state does not depend on
    dt, so that steps may change length. Second order; stable for dt ≤ 2/√λ_max(M⁻¹K) whatever the damping.
    `force(t)`: f at the nodes, zero if absent. One application of K a step. Raises UsageError where dt is too long.
    """
    if not 0 < dt < math.inf:
        raise UsageError(f"The time step must be positive; got dt = {dt:g}.")
    if dt > system.largest * (1 + 1e-9):
        raise UsageError(f"CFL violation: dt = {dt:.4g} is not stable on this grid; take dt ≤ {system.largest:.4g}.")
    half, implicit = dt / 2, 1 / (1 + dt / 2 * system.rate)
    damped = bool(system.rate.any())
    scale = system.free / system.density

    def step(state: Tensor, t: float) -> Tensor:
        u, v, a = state.unbind(1)
        kick = a if force is None else a + scale * force(t)
        if damped:
            kick = kick - system.rate * v
        v = v + half * kick
        u = u + dt * v
        a = system.restore(u)
        v = v + half * (a if force is None else a + scale * force(t + dt))
        return torch.stack([u, v * implicit if damped else v, a], 1)

    return step


def march(
    system: WaveSystem,
    state: Float[Tensor, "n 3 *s"],
    times: Sequence[float],
    dt: float,
    force: Callable[[float], Tensor] | None = None,
    keep: tuple[slice, ...] = (),
    hold: Callable[[Tensor, float], None] | None = None,
) -> tuple[Float[Tensor, "n t *w"], Float[Tensor, " n"]]:
    """u at `times`, equally spaced from t = 0 in whole numbers of equal steps, and the defect of the last step.

    The numbers of `leapfrog` by the three-term recursion, which moves half the memory. `keep`: the part of space that
    is stored. `hold(u, t)` writes given values into nodes that do not move freely, after every step. The defect is that
    of the central-difference equation at the free nodes, relative to M⁻¹K u: rounding, as it grew.
    """
    gap = times[1] - times[0] if len(times) > 1 else times[0] or dt
    h = gap / max(1, math.ceil(gap / dt - 1e-9))
    first = leapfrog(system, h, force)
    scale, damped = system.free / system.density, bool(system.rate.any())
    backward, implicit = 1 - h / 2 * system.rate, 1 / (1 + h / 2 * system.rate)

    def pull(u: Tensor, t: float) -> Tensor:
        a = system.restore(u)
        return a if force is None else a.addcmul_(scale, force(t))

    window = (slice(None), *keep)
    frames, t, now = [], 0.0, state[:, 0]
    older = before = now
    for end in times:
        for k in range(round((end - t) / h)):
            if before is now:
                after = first(state, t)[:, 0]
            else:
                after = pull(now, t + k * h).mul_(h * h).add_(now, alpha=2)
                after = after.addcmul_(backward, before, value=-1).mul_(implicit) if damped else after.sub_(before)
            if hold is not None:
                hold(after, t + (k + 1) * h)
            older, before, now = before, now, after
        t = end
        frames.append(now[window].clone())
    right = pull(before, t - h)
    left = (now - 2 * before + older) / h**2 + system.rate * (now - older) / (2 * h)
    left = left * system.free
    size = torch.stack([left, right]).flatten(2).norm(dim=2).amax(0).clamp_min(1e-300)
    defect = (left - right).flatten(1).norm(dim=1) / size
    return torch.stack(frames, 1), defect if older is not before else torch.zeros_like(defect)


def ricker(t: float, frequency: Float[Tensor, "*n"], delay: float = 1.0) -> Float[Tensor, "*n"]:
    """(1 − 2a) e^{−a}, a = (π φ (t − t₀))², t₀ = delay/φ: the second derivative of a Gaussian, peak frequency φ.

    With delay 1 it starts at −10⁻³ of its peak and is below that again after t = 2/φ.
    """
    a = (math.pi * (frequency * t - delay)) ** 2
    return (1 - 2 * a) * torch.exp(-a)
