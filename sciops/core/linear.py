"""Linear systems A x = b, many at once: what discretised problems offer and what linear solvers accept."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import NotSPD, UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TAGS = ("symmetric", "positive")


class Status(Enum):
    """How one case ended. Only OK is success; everything else travels with advice."""

    OK = "ok"
    MAX_ITER = "max_iter"
    BUDGET = "budget"
    DIVERGED = "diverged"
    NONFINITE = "nonfinite"
    UNRESOLVED = "unresolved"
    FAILED = "failed"


ADVICE = {
    Status.OK: "",
    Status.MAX_ITER: "The iteration limit came before the tolerance: raise maxiter, loosen tol, or take a "
    "stronger preconditioner.",
    Status.BUDGET: "The time budget ended first: raise it or take a cheaper setting of the ladder.",
    Status.DIVERGED: "The residual grew: check that the system has the tags that this solver requires.",
    Status.NONFINITE: "The answer has NaN or infinite values: check the inputs' range, then try float64.",
    Status.UNRESOLVED: "The equation's residual stays high: the method cannot represent this solution with the points "
    "and features that it has; give it more, or take another method.",
    Status.FAILED: "The solver raised an error; the message is in the row.",
}


class LinearOperator(ABC):
    """n independent square linear maps x ↦ A x on arrays of shape (n, *space).

    `tags` ⊆ {symmetric, positive}: *positive* means xᵀAx ≥ 0 with equality only on the null space.
    `nullspace` is None, "constant" (pure Neumann or periodic problems: A·1 = 0) or "components" (A·1 = 0 on parts of
    the domain, as `project` knows). Only `matvec` must be written; `diagonal` and `to_scipy` are offered where they
    are known.
    """

    n: int
    space: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    tags: frozenset[str] = frozenset()
    nullspace: str | None = None

    @abstractmethod
    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """A x for all n systems."""

    def diagonal(self) -> Float[Tensor, "n *s"]:
        """diag(A)."""
        raise UsageError(f"{type(self).__name__} is matrix-free and does not know its diagonal.")

    def project(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """x without its part in the null space."""
        if self.nullspace is None:
            return x
        return x - x.flatten(1).mean(1).reshape(-1, *(1,) * (x.dim() - 1))

    def to_scipy(self, i: int = 0) -> "csr_matrix":
        """System i as a SciPy CSR matrix, unknowns in row-major order."""
        raise UsageError(f"{type(self).__name__} is matrix-free; assemble it with Problem.system().")

    def select(self, index: Int[Tensor, " k"]) -> "LinearOperator":
        """The sub-batch of systems with these indices."""
        raise UsageError(f"{type(self).__name__} cannot be split into sub-batches.")


class FunctionOperator(LinearOperator):
    """A matrix-free operator from a callable, for example a spectral residual."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        n: int,
        space: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        tags: frozenset[str] = frozenset(),
        nullspace: str | None = None,
    ) -> None:
        self.function = function
        self.n, self.space, self.dtype, self.device = n, space, dtype, torch.device(device)
        self.tags, self.nullspace = tags, nullspace

    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        return self.function(x)


@dataclass
class LinearSolution:
    """x with how it was reached: per system status, iterations, final ‖b − A x‖/‖b‖ and the whole history."""

    x: Float[Tensor, "n *s"]
    status: list[Status]
    iterations: Int[Tensor, " n"]
    residual: Float[Tensor, " n"]
    history: Float[Tensor, "k n"]
    applications: int = 0
    stats: dict[str, Any] = field(default_factory=dict)


class LinearSolver(ABC):
    """Solves A x = b. `setup` does everything that depends on A alone; `solve` may be called many times."""

    requires: frozenset[str] = frozenset()

    @abstractmethod
    def setup(self, A: LinearOperator) -> Any:
        """Factorise, build the hierarchy, …; the returned state is opaque to the caller."""

    @abstractmethod
    def solve(
        self,
        state: Any,
        b: Float[Tensor, "n *s"],
        x0: Float[Tensor, "n *s"] | None = None,
        tol: float = 1e-8,
        maxiter: int = 500,
    ) -> LinearSolution:
        """Stop each system when ‖b − A x‖₂ ≤ tol·‖b‖₂; never raises for lack of convergence."""


def require_tags(A: LinearOperator, tags: frozenset[str], who: str) -> None:
    """Raise NotSPD with the remedy unless A carries the tags."""
    missing = [tag for tag in TAGS if tag in tags and tag not in A.tags]
    if missing:
        raise NotSPD(
            f"{who} needs a {' '.join(tag for tag in TAGS if tag in tags)} definite system, but this one is not "
            f"known to be {' and '.join(missing)}; use Minres (symmetric), FGMRES (any matrix) or a "
            "sparse direct solver."
        )
