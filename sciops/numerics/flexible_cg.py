"""Flexible conjugate gradients: any map, even a network that is wrong, as preconditioner of a certified solve."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, require_tags
from sciops.numerics import guards
from sciops.numerics.guards import Map, Prepared, Start, Unknowns, norm, unit
from sciops.numerics.krylov import Jacobi, Preconditioner
from sciops.numerics.reductions import inner, wide

REORTHOGONALISE = 4096.0
"""A-cosine in units of ε above which a direction is made conjugate to its window once more."""

PATIENCE = 3
"""True residuals in a row that rounding keeps from improving before a system is given up."""

NEAR_FLOOR = 16.0
"""A residual this many times the rounding level may be stuck at it."""


@dataclass(frozen=True)
class Apply:
    """A given map r ↦ z on (n, *space) as a preconditioner; `broadcasts`: it takes any number n of residuals."""

    function: Map
    broadcasts: bool = True

    def setup(self, A: LinearOperator) -> Map:
        return self.function


@dataclass(frozen=True)
class FlexibleCG(LinearSolver):
    """x ← x + (qᵀr/qᵀAq) q with q = f(r) made A-conjugate to the last `window` directions, for n SPD systems at once.

    Method: Notay's truncated FCG(k) with an exact line search, so the energy error ½xᵀAx − bᵀx never grows, whatever f
    returns; for linear SPD f and k ≥ 1 it is preconditioned conjugate gradients. Vectors in A's dtype; f computes in
    its own.
    Guards, per system: where f(r) is not finite, has no curvature or |qᵀr| < guard·√(qᵀAq · rᵀD⁻¹r), the `fallback`
    takes its place (counted); if that has no curvature either, A is not SPD and the system ends as DIVERGED.
    `preconditioner`: None is f(r) = r. `Apply(f)` takes a bare function.
    `window`: directions kept (2 vectors each); None keeps all, 0 is steepest descent along f(r).
    `refresh`: the true residual replaces the recursive one after so many steps, and where a system claims to be done:
    the status OK always means ‖b − A x‖ ≤ tol·‖b‖.
    `normalise`: f sees r divided by its root mean square over the unknowns.
    Singular systems: b is projected on the range (its share outside in stats["projected"]), x off the null space.
    One matrix (A.n = 1) may have many right-hand sides. stats: network_calls, fallbacks (n,), advice (n,), projected.
    Cost per step: one matvec, one f, 3 + 2k inner products. Fails (MAX_ITER) where f is poor and the matrix
    ill-conditioned: f that is A-orthogonal to the error is no worse than the fallback, and no better.
    References: Notay, SIAM J. Sci. Comput. 22 (2000); Kaneda et al., ICML 2023 (networks as f).
    """

    preconditioner: Preconditioner | None = None
    window: int | None = 2
    fallback: Preconditioner = field(default_factory=Jacobi)
    guard: float = 1e-3
    refresh: int = 20
    normalise: bool = False

    requires = frozenset({"symmetric", "positive"})

    def __post_init__(self) -> None:
        if (self.window is not None and self.window < 0) or self.refresh < 1 or not 0 <= self.guard < 1:
            raise UsageError(
                f"FlexibleCG needs window >= 0 or None, refresh >= 1 and 0 <= guard < 1; got {self.window}, "
                f"{self.refresh}, {self.guard}."
            )

    def setup(self, A: LinearOperator) -> "Ready":
        require_tags(A, self.requires, "Flexible conjugate gradients")
        unknowns = Unknowns(A)
        fallback = None if unknowns.diagonal is None and isinstance(self.fallback, Jacobi) else self.fallback
        return Ready(unknowns, guards.prepared(self.preconditioner, A), guards.prepared(fallback, A))

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        ready: Ready = state
        return _Run(self, ready, ready.unknowns.begin(b, x0), tol).to_the_end(maxiter)


@dataclass
class Ready:
    """What `setup` prepared; no fallback is r ↦ r."""

    unknowns: Unknowns
    learned: Prepared | None
    fallback: Prepared | None


class _Run:
    """One solve. Frozen systems take zero steps, and no sum mixes systems."""

    def __init__(self, options: FlexibleCG, ready: Ready, start: Start, tol: float) -> None:
        self.options, self.unknowns, self.start, self.tol = options, ready.unknowns, start, tol
        count = len(start.scale)
        self.matvec, self.applications = ready.unknowns.A.matvec, 0
        self.learned = None if ready.learned is None else ready.learned(count)
        self.fallback: Map = (lambda r: r) if ready.fallback is None else ready.fallback(count)
        self.x, self.goal = start.x, tol * start.scale
        self.r = start.b - self._times(start.x) if start.warm else start.b.clone()
        self.eps = torch.finfo(start.b.dtype).eps
        self.window: deque[tuple[Tensor, Tensor, Tensor, Tensor]] = deque(maxlen=options.window)
        self.calls = 0
        self.fallbacks = torch.zeros(count, dtype=torch.int64, device=start.b.device)
        self.broken, self.diverged, self.stalled = (torch.zeros_like(start.unsound) for _ in range(3))
        self.reasons = [""] * count
        self.stalls, self.last = torch.zeros_like(self.fallbacks), torch.full_like(start.scale, torch.inf)
        diagonal = self.unknowns.diagonal
        self.weight = None if diagonal is None else diagonal.abs()
        self.inverse = None
        if self.weight is not None:
            self.inverse = torch.where(self.weight > 0, 1.0 / torch.where(self.weight > 0, self.weight, 1.0), 0.0)
        self.largest = torch.zeros_like(start.scale)  # Rayleigh quotient, the size of A where its diagonal is unknown

    def to_the_end(self, maxiter: int) -> LinearSolution:
        size = norm(self.r)
        active = (size > self.goal) & ~self.start.unsound
        history = [guards.relative(size, self.start.scale)]
        iterations = torch.zeros_like(self.fallbacks)
        for step in range(1, maxiter + 1):
            if not bool(active.any()):
                break
            q, w, a, slope, active = self._direction(active)
            alpha = wide(torch.where(active, slope / torch.where(active, a, 1.0), 0.0), q)
            self.x = torch.addcmul(self.x, q, alpha)
            self.r = torch.addcmul(self.r, w, alpha, value=-1.0)
            iterations += active
            size = torch.where(active, norm(self.r), size)
            claims = active & (size <= self.goal)
            due = active if step % self.options.refresh == 0 else claims
            if bool(due.any()):
                size = torch.where(due, self._true_residual(due, claims), size)
                active = active & (size > self.goal) & ~self.stalled
            lost = active & ~torch.isfinite(size)
            self.broken, active = self.broken | lost, active & ~lost
            history.append(guards.relative(size, self.start.scale))
        stats = {"network_calls": self.calls, "fallbacks": self.fallbacks}
        return guards.solution(
            self.unknowns, self.start, self.x, self.tol, iterations, history, self.applications, self.reasons, stats,
            self.diverged, self.broken, self.stalled,
        )  # fmt: skip

    def _direction(self, active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(q, A q, qᵀAq, qᵀr, which systems take the step); q = 0 for the others."""
        q, usable = self._proposal()
        q, w, a, energy = self._conjugate(q)
        slope = inner(q, self.r)
        good = usable & self._curved(a, energy) & self._useful(a, slope)
        again = active & ~good
        if bool(again.any()):
            second, usable = unit(self.unknowns.clean(self.fallback(self.r)))
            rows = wide(again, q)
            second, w2, a2, energy2 = self._conjugate(torch.where(rows, second, 0.0))
            q, w = torch.where(rows, second, q), torch.where(rows, w2, w)
            a, energy = torch.where(again, a2, a), torch.where(again, energy2, energy)
            slope = torch.where(again, inner(q, self.r), slope)
            self.fallbacks += again
            self._give_up(again & ~(usable & self._curved(a, energy)), a, energy)
        active = active & ~self.diverged & ~self.broken
        rows = wide(active, q)
        q, w = torch.where(rows, q, 0.0), torch.where(rows, w, 0.0)
        if self.options.window != 0:
            self.window.append((q, w, torch.where(active, a, 0.0), torch.where(active, energy, 0.0)))
        return q, w, a, slope, active

    def _proposal(self) -> tuple[Tensor, Tensor]:
        """f(r), cleaned and of size one, and whether it can be used."""
        if self.learned is None:
            return unit(self.r)
        r = self.r
        if self.options.normalise:
            mask = self.unknowns.mask
            points = r[0].numel() if mask is None else mask.flatten(1).sum(1)
            rms = norm(r) / torch.as_tensor(points, device=r.device).to(r.dtype).sqrt()
            r = r / wide(torch.where(rms > 0, rms, 1.0), r)
        self.calls += 1
        z, usable = unit(self.learned(r))
        return self.unknowns.clean(z), usable

    def _conjugate(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q made A-conjugate to the window by modified Gram–Schmidt, with A q, qᵀAq and its energy scale qᵀ|D|q."""
        q = self._without_window(q)
        w = self._times(q)
        a, energy = self._energies(q, w)
        if not self.window:
            return q, w, a, energy
        rows = self._cosine(w, a) > REORTHOGONALISE * self.eps
        if bool(rows.any()):
            second = self._without_window(q)
            w2 = self._times(second)
            q, w = torch.where(wide(rows, q), second, q), torch.where(wide(rows, q), w2, w)
            a, energy = self._energies(q, w)
            self._check_symmetry(rows, q, w, energy)
        return q, w, a, energy

    def _without_window(self, q: Tensor) -> Tensor:
        for p, ap, a, _ in self.window:
            share = torch.where(a > 0, inner(q, ap) / torch.where(a > 0, a, 1.0), 0.0)
            q = torch.addcmul(q, p, wide(share, q), value=-1.0)
        return q

    def _cosine(self, w: Tensor, a: Tensor) -> Tensor:
        """Largest A-cosine with a direction of the window."""
        found = torch.zeros_like(a)
        for p, _, own, _ in self.window:
            size = (a * own).clamp(min=0.0).sqrt()
            cosine = torch.where(size > 0, inner(w, p).abs() / torch.where(size > 0, size, 1.0), 0.0)
            found = torch.fmax(found, cosine)
        return found

    def _check_symmetry(self, rows: Tensor, q: Tensor, w: Tensor, energy: Tensor) -> None:
        """qᵀAp = 0 by construction; pᵀAq is 0 as well only if A is symmetric."""
        wrong = torch.zeros_like(rows)
        for p, ap, _, own in self.window:
            wrong |= rows & ((inner(w, p) - inner(q, ap)).abs() > self.eps**0.5 * (energy * own).sqrt())
        self._mark(wrong & ~self.diverged, guards.NOT_SYMMETRIC)
        self.diverged = self.diverged | wrong

    def _energies(self, q: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        a = inner(q, w)
        if self.weight is not None:
            return a, inner(q, self.weight * q)
        square = inner(q, q)
        ratio = torch.where(square > 0, a / torch.where(square > 0, square, 1.0), 0.0)
        self.largest = torch.fmax(self.largest, torch.where(torch.isfinite(ratio), ratio, 0.0))
        return a, self.largest * square

    def _curved(self, a: Tensor, energy: Tensor) -> Tensor:
        """Curvature above rounding."""
        return torch.isfinite(a) & (a > self.eps * energy)

    def _useful(self, a: Tensor, slope: Tensor) -> Tensor:
        """Does the step along q gain a fair share of what the scaled residual would?"""
        if self.inverse is not None:
            scale = inner(self.r, self.inverse * self.r)
        else:
            scale = inner(self.r, self.r) / torch.where(self.largest > 0, self.largest, 1.0)
        bound = self.options.guard * (a.clamp(min=0.0) * scale).sqrt()
        return torch.isfinite(slope) & (slope.abs() >= bound) & (slope != 0)

    def _give_up(self, rows: Tensor, a: Tensor, energy: Tensor) -> None:
        if not bool(rows.any()):
            return
        broken = rows & ~torch.isfinite(a)
        self.broken = self.broken | broken
        self._mark(broken, guards.NAN_MATRIX)
        wrong = rows & ~broken & ~self.diverged
        negative = a < -self.eps * energy
        self._mark(wrong & negative, guards.NOT_POSITIVE)
        self._mark(wrong & ~negative, guards.SINGULAR)
        self.diverged = self.diverged | wrong

    def _mark(self, rows: Tensor, reason: str) -> None:
        for i in torch.nonzero(rows)[:, 0].tolist():
            self.reasons[i] = reason

    def _true_residual(self, due: Tensor, claims: Tensor) -> Tensor:
        """‖b − A x‖ of the systems that are due; it replaces their recursive residual."""
        rows = wide(due, self.x)
        self.x = torch.where(rows, self.unknowns.clean(self.x), self.x)
        true = self.start.b - self._times(self.x)
        size = norm(true)
        self.r = torch.where(rows, self.unknowns.clean(true), self.r)
        late = due & (size > self.goal)
        floor = self.unknowns.floor(self.x, self.start.scale)
        stuck = late & (size > 0.5 * self.last) & (claims | (torch.isfinite(floor) & (size <= NEAR_FLOOR * floor)))
        self.stalls = torch.where(late, torch.where(stuck, self.stalls + 1, 0), self.stalls)
        self.last = torch.where(late, torch.minimum(self.last, size), self.last)
        self.stalled = self.stalled | (self.stalls >= PATIENCE)
        return size

    def _times(self, v: Tensor) -> Tensor:
        self.applications += 1
        return self.matvec(v)
