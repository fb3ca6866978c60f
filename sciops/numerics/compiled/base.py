"""Compiled preconditioned conjugate gradients as a LinearSolver: one case after the other."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver, require_tags
from sciops.numerics.compiled.conjugate_gradients import Outcome, Precondition, conjugate_gradients
from sciops.numerics.compiled.systems import System, is_shared, system_of
from sciops.numerics.guards import advised


@dataclass
class Compiled:
    """One system with its preconditioner per case (the same object for all if they share the matrix)."""

    space: tuple[int, ...]
    systems: list[System]
    preconditions: list[Precondition | None]

    def precondition(self, r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """One application of the preconditioners alone: a linear map, symmetric and positive."""
        rows = np.ascontiguousarray(r.detach().cpu().numpy(), dtype=np.float64)
        z = np.zeros_like(rows)
        for one, row, out in zip(self.preconditions, rows, z, strict=True):
            if one is None:
                out[...] = row
            else:
                one(row, out)
        return torch.from_numpy(z).to(dtype=r.dtype, device=r.device)


class CompiledCG(LinearSolver):
    """A x = b by conjugate gradients in float64 (see `conjugate_gradients`), preconditioned as `build` says.

    Takes `FaceOperator` and `StencilOperator`. Tensors on an accelerator are copied to the CPU and the answer back:
    compiled loops run on the CPU only, and a wrong device should cost time, not a program. Outer vectors are float64
    whatever the right-hand side's type; the answer has the type of b.
    """

    requires = frozenset({"symmetric", "positive"})

    @abstractmethod
    def build(self, system: System, A: LinearOperator, i: int) -> Precondition | None:
        """The preconditioner of system i; None for plain conjugate gradients."""

    def adapt(self, A: LinearOperator) -> LinearOperator:
        """The same matrices in the form that the method needs, or a UsageError."""
        return A

    def iterate(
        self,
        system: System,
        precondition: Precondition | None,
        b: np.ndarray,
        x0: np.ndarray | None,
        tol: float,
        maxiter: int,
    ) -> Outcome:
        """Solve one system."""
        return conjugate_gradients(system, precondition, b, x0, tol, maxiter)

    @property
    def method(self) -> str:
        """Name for messages."""
        return type(self).__name__

    def setup(self, A: LinearOperator) -> Compiled:
        require_tags(A, self.requires, self.method)
        count, shared = A.n, is_shared(A)
        if shared:
            A = A.select(torch.zeros(1, dtype=torch.int64, device=A.device))
        A = self.adapt(A)
        systems = [system_of(A, i) for i in range(A.n)]
        preconditions = [self.build(system, A, i) for i, system in enumerate(systems)]
        repeats = count if shared else 1
        return Compiled(tuple(A.space), systems * repeats, preconditions * repeats)

    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        systems, preconditions = state.systems, state.preconditions
        if len(systems) == 1:  # one matrix, any number of right-hand sides
            systems, preconditions = systems * len(b), preconditions * len(b)
        if b.shape[0] != len(systems) or tuple(b.shape[1:]) != state.space:
            raise UsageError(
                f"The right-hand side has shape {tuple(b.shape)} but the operator ({len(systems)}, "
                f"{', '.join(map(str, state.space))})."
            )
        rhs = b.detach().cpu().numpy()
        starts = None if x0 is None else x0.detach().cpu().numpy()
        outcomes = [
            self.iterate(system, precondition, rhs[i], None if starts is None else starts[i], tol, maxiter)
            for i, (system, precondition) in enumerate(zip(systems, preconditions, strict=True))
        ]
        x = torch.from_numpy(np.stack([outcome.x for outcome in outcomes]) if outcomes else np.zeros(rhs.shape))
        length = max((len(outcome.history) for outcome in outcomes), default=1)
        history = [outcome.history + outcome.history[-1:] * (length - len(outcome.history)) for outcome in outcomes]
        answer = LinearSolution(
            x.to(dtype=b.dtype, device=b.device),
            [outcome.status for outcome in outcomes],
            torch.tensor([outcome.iterations for outcome in outcomes], dtype=torch.int64, device=b.device),
            torch.tensor([outcome.residual for outcome in outcomes], dtype=b.dtype, device=b.device),
            torch.tensor(history, dtype=b.dtype, device=b.device).reshape(len(outcomes), length).T,
            max((outcome.applications for outcome in outcomes), default=0),
        )
        return advised(answer, b, tol)


class PlainCompiledCG(CompiledCG):
    """Conjugate gradients without preconditioner: what the others are measured against."""

    def build(self, system: System, A: LinearOperator, i: int) -> None:
        return None
