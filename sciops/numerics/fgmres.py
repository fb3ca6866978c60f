"""Flexible restarted GMRES: any matrix, any preconditioner, many systems at once."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver
from sciops.numerics import guards
from sciops.numerics.certified import Rounds
from sciops.numerics.guards import Map, Prepared, Start, Unknowns, norm, unit
from sciops.numerics.krylov import Preconditioner
from sciops.numerics.reductions import inner, wide

CANCELLED = 0.7
"""A vector that orthogonalisation leaves shorter than this is orthogonalised once more."""


@dataclass(frozen=True)
class FGMRES(LinearSolver):
    """x_k = argmin ‖b − A x‖₂ over x₀ + span{f(v₁), …, f(v_k)}, v_k the Arnoldi vectors, for n systems at once.

    Method: Arnoldi by modified Gram–Schmidt with a second pass where digits cancelled, Givens rotations, restart after
    `restart` steps from the true residual. f may be nonlinear and change from step to step; where it returns nothing
    usable (NaN, zero), the Arnoldi vector itself is taken (counted).
    `restart`: steps between restarts; memory 2·restart + 4 vectors.
    b is projected off a declared null space only where A is symmetric; otherwise it must be compatible.
    One matrix may have many right-hand sides. stats: network_calls, fallbacks (n,), advice (n,), projected (n,).
    Cost of step k of a round: one matvec, one f, k + 1 inner products. Fails (MAX_ITER) where the restart is too short
    for the matrix: raise it or take a better f.
    References: Saad, SIAM J. Sci. Comput. 14 (1993).
    """

    preconditioner: Preconditioner | None = None
    restart: int = 30

    def __post_init__(self) -> None:
        if self.restart < 1:
            raise UsageError(f"FGMRES needs restart >= 1; got {self.restart}.")

    def setup(self, A: LinearOperator) -> tuple[Unknowns, Prepared | None]:
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
        return _Arnoldi(unknowns, start, apply, tol, self.restart).to_the_end(maxiter, {})


class _Arnoldi(Rounds):
    """One round: up to `restart` Arnoldi steps."""

    def __init__(self, unknowns: Unknowns, start: Start, precondition: Map | None, tol: float, restart: int) -> None:
        super().__init__(unknowns, start, precondition, tol)
        self.restart, self.fallbacks = restart, torch.zeros_like(self.iterations)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {"fallbacks": self.fallbacks}

    def correction(self, r: Tensor, size: Tensor, active: Tensor, steps: int) -> tuple[Tensor, Tensor, int]:
        width = min(self.restart, steps)
        basis = [_over(r, torch.where(active, size, 0.0))]
        images: list[Tensor] = []
        upper = size.new_zeros((len(size), width, width))
        rotations: list[tuple[Tensor, Tensor]] = []
        rest = [torch.where(active, size, 0.0)]
        taken = 0
        while taken < width and bool(active.any()):
            z = self._image(basis[-1], active)
            w = torch.where(wide(active, z), self.times(z), 0.0)
            self.broken = self.broken | (active & ~torch.isfinite(norm(w)))
            active = active & ~self.broken
            w = torch.where(wide(active, w), w, 0.0)
            column, w, length = _orthogonal(w, basis)
            for j, (c, s) in enumerate(rotations):
                column[j], column[j + 1] = c * column[j] + s * column[j + 1], c * column[j + 1] - s * column[j]
            radius = torch.hypot(column[-1], length)
            usable = active & (radius > 0)
            safe = torch.where(usable, radius, 1.0)
            c, s = torch.where(usable, column[-1] / safe, 1.0), torch.where(usable, length / safe, 0.0)
            rotations.append((c, s))
            column[-1] = safe  # the row of the identity for systems that are done
            upper[:, : taken + 1, taken] = torch.stack([torch.where(usable, h, 0.0) for h in column[:-1]] + [safe], 1)
            rest, last = [*rest[:-1], c * rest[-1]], -s * rest[-1]
            rest[-1] = torch.where(usable, rest[-1], 0.0)
            rest.append(last)
            images.append(torch.where(wide(usable, z), z, 0.0))
            basis.append(_over(w, torch.where(usable, length, 0.0)))
            taken += 1
            self.iterations += usable
            size = torch.where(usable, last.abs(), size)
            self.note(size)
            active = usable & (size > self.goal) & (length > 0)
        if not images:
            return torch.zeros_like(r), size, taken
        target = torch.stack(rest[:taken], 1)
        y = torch.linalg.solve_triangular(upper[:, :taken, :taken], target[..., None], upper=True)[..., 0]
        y = torch.where(torch.isfinite(y).all(1, keepdim=True), y, 0.0)
        x = torch.zeros_like(r)
        for j, z in enumerate(images):
            x = torch.addcmul(x, z, wide(y[:, j], z))
        return x, size, taken

    def _image(self, v: Tensor, active: Tensor) -> Tensor:
        """f(v) of size one; v itself where f has nothing to offer."""
        if self.precondition is None:
            return self.unknowns.clean(v)
        self.calls += 1
        z, usable = unit(self.precondition(v))
        self.fallbacks += active & ~usable
        return self.unknowns.clean(torch.where(wide(usable, z), z, v))


def _orthogonal(w: Tensor, basis: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """(coefficients, w without its part along the basis, its length)."""
    before = norm(w)
    column = []
    for v in basis:
        share = inner(w, v)
        w = torch.addcmul(w, v, wide(share, w), value=-1.0)
        column.append(share)
    length = norm(w)
    again = length < CANCELLED * before
    if bool(again.any()):
        for j, v in enumerate(basis):
            share = torch.where(again, inner(w, v), 0.0)
            w = torch.addcmul(w, v, wide(share, w), value=-1.0)
            column[j] = column[j] + share
        length = norm(w)
    # What is left at the level of rounding is nothing: the space is exhausted.
    length = torch.where(length > torch.finfo(w.dtype).eps * before, length, 0.0)
    return column, w, length


def _over(v: Tensor, size: Tensor) -> Tensor:
    """v/size, 0 where size is 0."""
    return v * wide(torch.where(size > 0, 1.0 / torch.where(size > 0, size, 1.0), 0.0), v)
