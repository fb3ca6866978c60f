"""Preconditioned conjugate gradients for one system, in three fused passes over memory per step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sciops.core.linear import Status
from sciops.numerics.compiled import system_kernels as kernels
from sciops.numerics.compiled.systems import System
from sciops.numerics.krylov import GROWTH, LAG

Precondition = Callable[[np.ndarray, np.ndarray], None]
"""(r, z): write z ≈ A⁻¹ r; both float64 of shape (*space), r unchanged."""


@dataclass
class Outcome:
    """x with ‖b − A x‖/‖b‖ as the recursion saw it (`history`, from the start on) and as it is (`residual`).

    `alphas`, `betas`: the coefficients of every step.
    """

    x: np.ndarray
    iterations: int
    history: list[float] = field(default_factory=list)
    status: Status = Status.OK
    residual: float = 0.0
    applications: int = 0
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)


Watch = Callable[[Outcome], bool]
"""Called with what is known after every step; True ends the iteration there, with MAX_ITER. It may change the
preconditioner: the next direction is A-orthogonal to the last one whatever that is."""


def conjugate_gradients(
    system: System,
    precondition: Precondition | None,
    b: np.ndarray,
    x0: np.ndarray | None = None,
    tol: float = 1e-8,
    maxiter: int = 500,
    watch: Watch | None = None,
) -> Outcome:
    """A x = b, A symmetric positive (semi-)definite, stopped at ‖b − A x‖ ≤ tol·‖b‖.

    p ← z + β p;  α = rᵀz/pᵀA p;  x ← x + α p;  r ← r − α A p;  z ≈ A⁻¹ r;  β = zᵀ(r − r_old)/(r_old)ᵀz_old.
    β is Polak–Ribière's: equal to the usual one for an exact symmetric preconditioner, and harmless for one in single
    precision. Since r − r_old = −α A p no old residual is kept. b, x and z are projected off the null space.
    Everything is divided by a power of two near max |b| first, which moves no rounding and keeps single-precision
    preconditioners in range. Memory: 5 vectors.
    Ends NONFINITE if b or a product is not finite, DIVERGED if pᵀA p ≤ 0 or rᵀz ≤ 0 (A or the preconditioner is not
    positive definite), MAX_ITER if the limit came first or the true residual is above 10 tol.
    Reference: Notay, SIAM J. Sci. Comput. 22 (2000) 1444; Golub, Ye, SIAM J. Sci. Comput. 21 (1999) 1305.
    """
    peak = float(np.abs(b).max(initial=0.0))
    unit = math.ldexp(1.0, math.frexp(peak)[1]) if math.isfinite(peak) and peak > 0 else 1.0
    b = np.divide(b, unit, dtype=np.float64, order="C")
    system.project(b)
    scale = float(np.linalg.norm(b))
    x = np.zeros_like(b)
    if x0 is None:
        r, size = b.copy(), scale
    else:
        x0 = np.divide(x0, unit, dtype=np.float64, order="C")
        system.project(x0)
        r = np.empty_like(b)
        size = math.sqrt(system.residual(x0, b, r))
    if not (math.isfinite(size) and math.isfinite(scale)):
        return Outcome(np.full_like(b, np.nan), 0, [math.nan], Status.NONFINITE, math.nan)
    relative = 1.0 / scale if scale > 0 else unit
    goal = tol * scale
    out = Outcome(x, 0, [size * relative])
    ceiling = max(size, scale) * GROWTH
    out.status = _iterate(system, precondition, x, r, size, goal, ceiling, relative, maxiter, watch, out)
    if x0 is not None:
        x += x0
    system.project(x)
    final = math.sqrt(system.residual(x, b, r))
    x *= unit
    out.residual = final * relative
    out.applications = out.iterations + 1 + (x0 is not None)
    if not math.isfinite(final):
        out.status = Status.NONFINITE
    elif out.status is Status.OK and final > LAG * goal:
        out.status = Status.MAX_ITER
    return out


def _iterate(
    system: System,
    precondition: Precondition | None,
    x: np.ndarray,
    r: np.ndarray,
    size: float,
    goal: float,
    ceiling: float,
    relative: float,
    maxiter: int,
    watch: Watch | None,
    out: Outcome,
) -> Status:
    """Advance x and r in place until ‖r‖ ≤ goal or > ceiling; `relative`·‖r‖ goes into the history."""
    if size <= goal:
        return Status.OK
    z = np.empty_like(r) if precondition is not None else r
    p, q = np.zeros_like(r), np.zeros_like(r)
    flat_r, flat_z, flat_p, flat_q, flat_x = (a.reshape(-1) for a in (r, z, p, q, x))
    rho, alpha = 1.0, 0.0
    while out.iterations < maxiter:
        if precondition is not None:
            precondition(r, z)
        if system.singular and (precondition is not None or out.iterations == 0):
            system.project(z)
        new_rho, against = kernels.two_dots(flat_z, flat_r, flat_q)
        beta = -alpha * against / rho if out.iterations else 0.0
        kernels.turn(flat_z, beta, flat_p)
        curvature = system.matvec_dot(p, q)
        if not (math.isfinite(new_rho) and math.isfinite(curvature)):
            return Status.NONFINITE
        if curvature <= 0 or new_rho <= 0:
            return Status.DIVERGED
        alpha, rho = new_rho / curvature, new_rho
        size = math.sqrt(kernels.step(alpha, flat_p, flat_q, flat_x, flat_r))
        out.iterations += 1
        out.history.append(size * relative)
        out.alphas.append(alpha)
        out.betas.append(beta)
        if not size <= ceiling:
            return Status.DIVERGED
        if size <= goal:
            return Status.OK
        if watch is not None and watch(out):
            break
    return Status.MAX_ITER
