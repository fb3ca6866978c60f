"""Minimal residuals for symmetric systems that need not be definite, many at once."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, require_tags
from sciops.numerics import guards
from sciops.numerics.certified import Rounds
from sciops.numerics.guards import Prepared, Unknowns, norm
from sciops.numerics.krylov import Preconditioner
from sciops.numerics.reductions import inner, wide

BAD_PRECONDITIONER = (
    "The preconditioner is not symmetric positive definite (rᵀMr < 0): give Minres one that is, or use FGMRES."
)


@dataclass(frozen=True)
class Minres(LinearSolver):
    """x_k = argmin ‖b − A x‖_M over the Krylov space of M A, A symmetric, M symmetric positive definite.

    Method: Lanczos with the inner product of M and Givens rotations, for n systems at once; the Euclidean residual is
    carried along, and a round whose true residual misses tol·‖b‖ is followed by another one from there.
    `preconditioner`: None, or linear SPD (`Jacobi()` only where the diagonal is positive); FGMRES takes nonlinear maps.
    Singular systems: b is projected on the range where the null space is declared. One matrix may have many
    right-hand sides. stats: network_calls, advice (n,), projected (n,).
    Cost per step: one matvec, one M, 3 inner products, 7 vectors. Fails (MAX_ITER) where the spectrum of M A spreads
    on both sides of zero; ends as DIVERGED where M is not positive definite.
    Reference: Paige, Saunders, SIAM J. Numer. Anal. 12 (1975); Choi, Paige, Saunders, SIAM J. Sci. Comput. 33 (2011).
    """

    preconditioner: Preconditioner | None = None

    requires = frozenset({"symmetric"})

    def setup(self, A: LinearOperator) -> tuple[Unknowns, Prepared | None]:
        require_tags(A, self.requires, "Minres")
        return Unknowns(A), guards.prepared(self.preconditioner, A)

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        unknowns, prepared = state
        start = unknowns.begin(b, x0)
        apply = None if prepared is None else prepared(len(b))
        return _Lanczos(unknowns, start, apply, tol).to_the_end(maxiter, {})


class _Lanczos(Rounds):
    """One round: the three-term recurrence from a residual until every active system claims its goal."""

    def correction(self, r: Tensor, size: Tensor, active: Tensor, steps: int) -> tuple[Tensor, Tensor, int]:
        r = torch.where(wide(active, r), r, 0.0)
        z, beta, active = self._normalised(r, active)
        z, v = _over(z, beta), _over(r, beta)
        old_v, w1, w2, x = (torch.zeros_like(r) for _ in range(4))
        zero = torch.zeros_like(size)
        bound, dbar, epsilon, cosine, sine = beta, zero, zero, zero - 1.0, zero
        beta = zero  # the first Lanczos vector has no predecessor
        taken = 0
        while taken < steps and bool(active.any()):
            taken += 1
            new = self.times(z)
            alpha = inner(z, new)
            new = new - wide(alpha, v) * v - wide(beta, v) * old_v
            new = self.unknowns.clean(new)
            new_z, new_beta, active = self._normalised(new, active)
            # The new column of the tridiagonal matrix, through the last rotation and its own.
            last, epsilon_now = epsilon, sine * new_beta
            delta, gbar = cosine * dbar + sine * alpha, sine * dbar - cosine * alpha
            epsilon, dbar = epsilon_now, -cosine * new_beta
            gamma = torch.hypot(gbar, new_beta)
            usable = active & (gamma > 0)
            safe = torch.where(usable, gamma, 1.0)
            cosine, sine = gbar / safe, new_beta / safe
            share, bound = cosine * bound, sine * bound
            w = (z - wide(last, z) * w1 - wide(delta, z) * w2) / wide(safe, z)
            x = torch.addcmul(x, w, wide(torch.where(usable, share, 0.0), w))
            old_v, v, z = v, _over(new, new_beta), _over(new_z, new_beta)
            r = torch.where(wide(usable, r), wide(sine * sine, r) * r - wide(bound * cosine, v) * v, r)
            w1, w2, beta = w2, w, new_beta
            self.iterations += usable
            size = torch.where(usable, norm(r), size)
            self.note(size)
            # After an exact breakdown (β = 0) the Krylov space is exhausted.
            active = usable & (size > self.goal) & (new_beta > 0)
        return x, size, taken

    def _normalised(self, v: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M v, √(vᵀMv), which systems go on)."""
        z = v
        if self.precondition is not None:
            self.calls += 1
            z = self.unknowns.clean(self.precondition(v))
        square = inner(v, z)
        broken = active & ~torch.isfinite(square)
        tiny = torch.finfo(v.dtype).eps * norm(v) * norm(torch.nan_to_num(z))
        self.fail(active & (square < -tiny), BAD_PRECONDITIONER)
        self.broken = self.broken | broken
        active = active & ~broken & ~self.diverged
        z = torch.where(wide(active, z), z, 0.0)
        return z, torch.where(active, square.clamp(min=0.0).sqrt(), 0.0), active


def _over(v: Tensor, size: Tensor) -> Tensor:
    """v/size, 0 where size is 0."""
    return v * wide(torch.where(size > 0, 1.0 / torch.where(size > 0, size, 1.0), 0.0), v)
