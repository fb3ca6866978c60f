"""Preconditioned conjugate gradients on a batch of systems, each with its own step lengths, stop and status."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, Status, require_tags
from sciops.numerics.guards import advised
from sciops.numerics.multigrid import Hierarchy
from sciops.numerics.reductions import inner, off_nullspace, wide

GROWTH = 1e8
"""A residual this many times its start means divergence."""

LAG = 10.0
"""A true residual this many times the goal is not converged, whatever the recursion says."""


@runtime_checkable
class Preconditioner(Protocol):
    """`setup(A)` returns the map r ↦ z ≈ A⁻¹r, symmetric positive, on arrays (n, *space)."""

    def setup(self, A: LinearOperator) -> Callable[[Tensor], Tensor]: ...


@dataclass(frozen=True)
class Jacobi:
    """z = D⁻¹ r with D = diag A."""

    broadcasts: ClassVar[bool] = True

    def setup(self, A: LinearOperator) -> Callable[[Tensor], Tensor]:
        diagonal = A.diagonal()
        inverse = torch.where(diagonal == 0, 0.0, 1.0 / torch.where(diagonal == 0, 1.0, diagonal))
        return lambda r: r * inverse


@dataclass(frozen=True)
class ConjugateGradients(LinearSolver):
    """x_k = argmin ‖x − A⁻¹b‖_A over the preconditioned Krylov space, for n symmetric positive systems at once.

    Method: Hestenes–Stiefel with preconditioner B, started from x0 or 0. A system that has converged or broken
    down is frozen: nothing that happens to the others changes a bit of it, and no sum mixes systems.
    `preconditioner`: None, `Jacobi()`, `Multigrid()`, … (must be symmetric positive).
    `block`: systems are solved in groups of about this many unknowns so that a group stays in the cache of a
    CPU core (None: all at once on accelerators, 600 000 unknowns on CPU).
    One matrix may have many right-hand sides, which are solved one after the other.
    Singular systems: b and the answer are projected off the null space (zero mean, of each component where there are
    several).
    The reported residual is the true ‖b − A x‖/‖b‖, recomputed at the end.
    Cost per step: one operator application, one preconditioner, 2 inner products, 3 updates.
    Fails (MAX_ITER, DIVERGED, NONFINITE per system) on indefinite systems; refuses untagged ones.
    Reference: Saad, Iterative Methods for Sparse Linear Systems (2003), algorithm 9.1.
    """

    preconditioner: Preconditioner | None = None
    block: int | None = None

    requires = frozenset({"symmetric", "positive"})

    def setup(self, A: LinearOperator) -> "list[Group]":
        require_tags(A, self.requires, "Conjugate gradients")
        per_system = max(1, torch.Size(A.space).numel())
        block = self.block or (600_000 if A.device.type == "cpu" else A.n * per_system)
        count = max(1, block // per_system)
        if count >= A.n:
            return [Group(A, self.preconditioner, 0)]
        return [
            Group(A.select(torch.arange(i, min(i + count, A.n), device=A.device)), self.preconditioner, i)
            for i in range(0, A.n, count)
        ]

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        groups: list[Group] = state
        total = sum(group.A.n for group in groups)
        if total == 1 and b.shape[0] > 1:  # one matrix, many right-hand sides
            starts = [None] * len(b) if x0 is None else list(x0.split(1))
            pairs = zip(b.split(1), starts, strict=True)
            return advised(_joined([self.solve(state, row, start, tol, maxiter) for row, start in pairs]), b, tol)
        if b.shape[0] != total:
            raise UsageError(f"The right-hand side has {b.shape[0]} cases but the operator has {total}.")
        if b.dtype != groups[0].A.dtype:
            raise UsageError(f"The right-hand side is {b.dtype} but the operator {groups[0].A.dtype}; use one of them.")
        parts = []
        for group in groups:
            rows = slice(group.start, group.start + group.A.n)
            start = None if x0 is None else x0[rows]
            parts.append(pcg(group.A, b[rows], group.frame, start, tol, maxiter))
        return advised(_joined(parts), b, tol)


class Group:
    """Some systems of a batch with their preconditioner."""

    def __init__(self, A: LinearOperator, preconditioner: Preconditioner | None, start: int) -> None:
        self.A, self.start = A, start
        precondition = preconditioner.setup(A) if preconditioner is not None else None
        native = precondition.frame() if isinstance(precondition, Hierarchy) else None
        self.frame: Frame = native or PlainFrame(A, precondition)


@runtime_checkable
class Frame(Protocol):
    """Vectors of one batch in whatever memory layout suits the preconditioner; `direction` is updated in place."""

    direction: Tensor

    def load(self, r: Tensor) -> Tensor:
        """A residual (n, *space) in this layout; it may be overwritten."""

    def store(self, x: Tensor) -> Tensor:
        """A solution of this layout as (n, *space)."""

    def matvec(self) -> Tensor:
        """A · direction."""

    def precondition(self, r: Tensor) -> Tensor:
        """B r, projected off the null space."""

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products (n,)."""

    def norm(self, r: Tensor) -> Tensor:
        """Euclidean norms (n,) of the residuals as the caller knows them."""

    def wide(self, per_system: Tensor) -> Tensor:
        """(n,) broadcast against vectors."""


class PlainFrame:
    """Vectors as they are, (n, *space)."""

    def __init__(self, A: LinearOperator, precondition: Callable[[Tensor], Tensor] | None) -> None:
        self.A, self.apply = A, precondition
        self.direction = torch.zeros((A.n, *A.space), dtype=A.dtype, device=A.device)

    def load(self, r: Tensor) -> Tensor:
        return r.clone()

    def store(self, x: Tensor) -> Tensor:
        return x

    def matvec(self) -> Tensor:
        return self.A.matvec(self.direction)

    def precondition(self, r: Tensor) -> Tensor:
        z = r if self.apply is None else self.apply(r)
        return off_nullspace(self.A, z)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        return inner(a, b)

    def norm(self, r: Tensor) -> Tensor:
        return self.dot(r, r).sqrt()

    def wide(self, per_system: Tensor) -> Tensor:
        return wide(per_system, self.direction)


def pcg(
    A: LinearOperator,
    b: Float[Tensor, "n *s"],
    frame: Frame,
    x0: Float[Tensor, "n *s"] | None = None,
    tol: float = 1e-8,
    maxiter: int = 500,
) -> LinearSolution:
    """Preconditioned conjugate gradients for all systems of A together; see `ConjugateGradients`."""
    b = off_nullspace(A, b)
    active = getattr(A, "active", None)
    if isinstance(active, Tensor):
        b = torch.where(active, b, 0.0)  # cells without a row hold x = 0
    scale = _norm(b)
    goal = tol * scale
    start = b if x0 is None else b - A.matvec(x0)
    size = _norm(start)
    first = torch.maximum(size, scale)
    history = [_relative(size, scale)]
    broken = ~torch.isfinite(size)
    diverged = torch.zeros_like(broken)
    active = (size > goal) & ~broken
    r = frame.load(torch.where(wide(broken, start), 0.0, start))
    p = frame.direction.zero_()
    x = torch.zeros_like(p)
    rho = torch.ones_like(size)
    iterations = torch.zeros(A.n, dtype=torch.int64, device=b.device)
    for _ in range(maxiter):
        if not bool(active.any()):
            break
        z = frame.precondition(r)
        new_rho = frame.dot(r, z)
        torch.addcmul(z, p, frame.wide(torch.where(active, new_rho / rho, 0.0)), out=p)
        q = frame.matvec()
        curvature = frame.dot(p, q)
        wrong = active & ~(torch.isfinite(new_rho) & torch.isfinite(curvature))
        indefinite = active & ~wrong & ((curvature <= 0) | (new_rho <= 0))
        active = active & ~wrong & ~indefinite
        if bool(wrong.any()):
            # Zero is the one value that keeps NaN from coming back through 0·NaN.
            for vector in (r, p, q):
                vector.masked_fill_(frame.wide(wrong), 0.0)
        broken, diverged = broken | wrong, diverged | indefinite
        # Frozen systems take steps of length zero, which change no bit.
        alpha = frame.wide(torch.where(active, new_rho / curvature, 0.0))
        x.addcmul_(p, alpha)
        r.addcmul_(q, alpha, value=-1.0)
        rho = torch.where(active, new_rho, 1.0)
        iterations += active
        size = torch.where(active, frame.norm(r), size)
        history.append(_relative(size, scale))
        grown = active & ~(size <= GROWTH * first)
        diverged = diverged | grown
        active = active & (size > goal) & ~grown
    answer = frame.store(x)
    if x0 is not None:
        answer = x0 + answer
    answer = off_nullspace(A, answer)
    final = _norm(b - A.matvec(answer))
    # The recursive residual may run ahead of what the precision can reach.
    missed = final > LAG * goal
    status = _status(active | missed, broken | ~torch.isfinite(final), diverged)
    applications = len(history) + (x0 is not None)
    return LinearSolution(answer, status, iterations, _relative(final, scale), torch.stack(history), applications)


def _status(unfinished: Tensor, broken: Tensor, diverged: Tensor) -> list[Status]:
    status = []
    for late, bad, grown in zip(unfinished.tolist(), broken.tolist(), diverged.tolist(), strict=True):
        if bad:
            status.append(Status.NONFINITE)
        elif grown:
            status.append(Status.DIVERGED)
        else:
            status.append(Status.MAX_ITER if late else Status.OK)
    return status


def _joined(parts: list[LinearSolution]) -> LinearSolution:
    """One solution of all groups; shorter histories are continued with their last row."""
    if len(parts) == 1:
        return parts[0]
    length = max(len(part.history) for part in parts)
    histories = [torch.cat([part.history, part.history[-1:].expand(length - len(part.history), -1)]) for part in parts]
    return LinearSolution(
        torch.cat([part.x for part in parts]),
        [status for part in parts for status in part.status],
        torch.cat([part.iterations for part in parts]),
        torch.cat([part.residual for part in parts]),
        torch.cat(histories, dim=1),
        max(part.applications for part in parts),
    )


def _norm(a: Tensor) -> Tensor:
    return inner(a, a).sqrt()


def _relative(size: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, size / torch.where(scale > 0, scale, 1.0), size)
