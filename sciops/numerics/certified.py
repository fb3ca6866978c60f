"""Rounds of an iteration, each started from the true residual, until the answer is certified or nothing moves."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from sciops.core.linear import LinearSolution
from sciops.numerics import guards
from sciops.numerics.guards import Map, Start, Unknowns, norm

PATIENCE = 3
"""Rounds that claim success and do not halve the true residual before rounding is blamed."""

NEAR_FLOOR = 16.0
"""A residual this many times the rounding level may be stuck at it."""


class Rounds(ABC):
    """x ← x + correction(b − A x), repeated; what is recorded belongs to one solve of n systems."""

    def __init__(self, unknowns: Unknowns, start: Start, precondition: Map | None, tol: float) -> None:
        self.unknowns, self.start, self.precondition, self.tol = unknowns, start, precondition, tol
        self.goal = tol * start.scale
        self.iterations = torch.zeros_like(start.exponent, dtype=torch.int64)
        self.applications, self.calls = 0, 0
        self.broken, self.diverged, self.stalled = (torch.zeros_like(start.unsound) for _ in range(3))
        self.reasons = [""] * len(start.scale)
        self.history: list[Tensor] = []

    @abstractmethod
    def correction(self, r: Tensor, size: Tensor, active: Tensor, steps: int) -> tuple[Tensor, Tensor, int]:
        """(approximate A⁻¹ r of the active systems, 0 for the others; the residual norms claimed; steps taken)."""

    def to_the_end(self, maxiter: int, stats: dict[str, Any]) -> LinearSolution:
        """Rounds until every system is certified, has failed or rounding stops it, or the steps are spent."""
        x, r = self.start.x, self.start.b
        if self.start.warm:
            r = r - self.times(x)
        size = norm(r)
        active = (size > self.goal) & ~self.start.unsound
        self.note(size)
        stalls, left = torch.zeros_like(self.iterations), maxiter
        best, kept = size, x
        while left > 0 and bool(active.any()):
            step, claimed, taken = self.correction(r, size, active, left)
            left -= max(taken, 1)
            rows = guards.wide(active, x)
            x = torch.where(rows, self.unknowns.clean(x + step), x)
            r = self.start.b - self.times(x)
            size = norm(r)
            # A round that rounding or a poor map spoilt is not kept.
            better = size <= best
            kept = torch.where(guards.wide(better, x), x, kept)
            floor = self.unknowns.floor(x, self.start.scale)
            near = torch.isfinite(floor) & (size <= NEAR_FLOOR * floor)
            stuck = active & (size > self.goal) & ((claimed <= self.goal) | near) & ~(size <= 0.5 * best)
            stalls = torch.where(active, torch.where(stuck, stalls + 1, 0), stalls)
            best = torch.where(better, size, best)
            self.stalled = self.stalled | (stalls >= PATIENCE)
            self.broken = self.broken | (active & ~torch.isfinite(size))
            active = active & (size > self.goal) & ~self.stalled & ~self.broken & ~self.diverged
            self.history[-1] = guards.relative(torch.where(torch.isfinite(best), best, size), self.start.scale)
        return guards.solution(
            self.unknowns, self.start, kept, self.tol, self.iterations, self.history, self.applications, self.reasons,
            stats | self.stats(), self.diverged, self.broken, self.stalled,
        )  # fmt: skip

    def stats(self) -> dict[str, Any]:
        """Facts of the method."""
        return {"network_calls": self.calls}

    def times(self, v: Tensor) -> Tensor:
        """A v, counted."""
        self.applications += 1
        return self.unknowns.A.matvec(v)

    def note(self, size: Tensor) -> None:
        """One row of the history."""
        self.history.append(guards.relative(size, self.start.scale))

    def fail(self, rows: Tensor, reason: str) -> None:
        """End these systems as DIVERGED with this advice."""
        for i in torch.nonzero(rows & ~self.diverged)[:, 0].tolist():
            self.reasons[i] = reason
        self.diverged = self.diverged | rows
