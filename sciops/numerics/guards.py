"""What the outer iterations share: admissible input, vectors off the null space, true residuals, honest endings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import ADVICE, LinearOperator, LinearSolution, Status
from sciops.numerics.reductions import inner, off_nullspace, wide

if TYPE_CHECKING:
    from sciops.numerics.krylov import Preconditioner

Map = Callable[[Tensor], Tensor]
Prepared = Callable[[int], Map]

NOT_POSITIVE = "The matrix is not positive definite (pᵀAp < 0): use Minres, or FGMRES if it is not symmetric either."
NOT_SYMMETRIC = "The matrix is not symmetric (pᵀAq ≠ qᵀAp): use FGMRES."
SINGULAR = (
    "The matrix is singular and its null space undeclared (pᵀAp = 0): set nullspace on the operator, so that b is "
    "projected, or use Minres."
)
NAN_INPUT = "The right-hand side of this case has NaN or infinite values, so it was not solved: mend the input."
NAN_MATRIX = "The operator itself returned NaN or infinite values: check its coefficients, then try float64."
ROUNDING = (
    "The tolerance is below what rounding lets this system reach: loosen tol to the reported residual, or use float64."
)


@dataclass
class Start:
    """b and x0 of an iteration, finite, off the null space and scaled by powers of two to entries of size one."""

    b: Float[Tensor, "n *s"]
    x: Float[Tensor, "n *s"]
    warm: bool
    exponent: Int[Tensor, " n"]
    unsound: Bool[Tensor, " n"]
    cold: Bool[Tensor, " n"]
    projected: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]


class Unknowns:
    """The vectors of one batch of systems, or of one matrix with many right-hand sides.

    `mask`: where A has rows. Cells without one (isolated, solid) hold x = 0; what b says there is taken out and noted.
    `diagonal` is None where the operator does not know it.
    """

    def __init__(self, A: LinearOperator) -> None:
        self.A = A
        try:
            self.diagonal: Tensor | None = A.diagonal()
        except UsageError:
            self.diagonal = None
        active = getattr(A, "active", None)
        self.mask: Tensor | None = active if isinstance(active, Tensor) else None
        if self.mask is None and self.diagonal is not None and "positive" in A.tags:
            self.mask = self.diagonal != 0  # a semi-definite matrix with a zero on its diagonal has a zero row there
        if self.mask is not None and bool(self.mask.all()):
            self.mask = None

    def clean(self, v: Tensor) -> Tensor:
        """v off the null space and zero where A has no row."""
        v = off_nullspace(self.A, v)
        return v if self.mask is None else torch.where(self.mask, v, 0.0)

    def begin(self, b: Tensor, x0: Tensor | None) -> Start:
        """Check and clean b and x0; what cannot be used is noted per case and does not touch the others."""
        self.check(b, "right-hand side")
        if x0 is not None:
            self.check(x0, "start x0")
            if x0.shape != b.shape:
                raise UsageError(f"The start x0 has shape {tuple(x0.shape)}, the right-hand side {tuple(b.shape)}.")
        unsound = ~torch.isfinite(b).flatten(1).all(1)
        b = torch.where(wide(unsound, b), 0.0, b)
        biggest = b.flatten(1).abs().amax(1)
        exponent = torch.where(biggest > 0, _exponent(biggest), 0)
        scaled = torch.ldexp(b, -wide(exponent, b))
        # Without symmetry the null space says nothing about the range.
        kept = self.clean(scaled) if "symmetric" in self.A.tags else scaled
        size = norm(scaled)
        projected = torch.where(size > 0, norm(scaled - kept) / size.clamp(min=1e-300), 0.0)
        # Rounding of a compatible b is not a projection.
        projected = torch.where(projected > 64 * torch.finfo(b.dtype).eps, projected, 0.0)
        kept = torch.where(wide(projected >= 1 - 1e-12, kept), 0.0, kept)
        scale = norm(kept)
        x, cold = torch.zeros_like(kept), torch.zeros_like(unsound)
        if x0 is not None:
            x = torch.ldexp(x0, -wide(exponent, x0))
            cold = ~torch.isfinite(x).flatten(1).all(1)
            x = self.clean(torch.where(wide(cold | unsound | (scale == 0), x), 0.0, x))
        return Start(kept, x, x0 is not None, exponent, unsound, cold, projected, scale)

    def check(self, v: Tensor, what: str) -> None:
        A = self.A
        if v.shape[1:] != A.space or (v.shape[0] != A.n and A.n != 1):
            sizes = f"({'any number' if A.n == 1 else A.n}, {', '.join(map(str, A.space))})"
            raise UsageError(f"The {what} has shape {tuple(v.shape)}, but this operator needs {sizes}; reshape it.")
        if v.dtype != A.dtype:
            raise UsageError(f"The {what} is {v.dtype} but the operator {A.dtype}; use one of them.")

    def floor(self, x: Tensor, scale: Tensor) -> Tensor:
        """What rounding leaves of b − A x at best, about ε(‖|A||x|‖ + ‖b‖); infinite where diag A is not known."""
        if self.diagonal is None:
            return torch.full_like(scale, torch.inf)
        return torch.finfo(x.dtype).eps * (2 * norm(self.diagonal * x) + scale)


def norm(v: Float[Tensor, "n *s"]) -> Float[Tensor, " n"]:
    """Euclidean norm of each case."""
    return inner(v, v).sqrt()


def unit(v: Float[Tensor, "n *s"]) -> tuple[Float[Tensor, "n *s"], Bool[Tensor, " n"]]:
    """(v times a power of two so that its entries are of size one, 0 where that cannot be; which are usable)."""
    biggest = v.flatten(1).abs().amax(1)
    usable = torch.isfinite(biggest) & (biggest > 0)
    exponent = torch.where(usable, _exponent(torch.where(usable, biggest, 1.0)), 0)
    scaled = torch.ldexp(torch.where(wide(usable, v), v, 0.0), -wide(exponent, v))
    usable &= torch.isfinite(scaled).flatten(1).all(1)
    return torch.where(wide(usable, v), scaled, 0.0), usable


def _exponent(size: Tensor) -> Tensor:
    """e with 2ᵉ about size, so that neither 2ᵉ nor 2⁻ᵉ overflows."""
    limit = 1000 if size.dtype == torch.float64 else 120
    return torch.frexp(size).exponent.clamp(-limit, limit)


def guarded(apply: Map, broadcasts: bool) -> Map:
    """`apply` on (n, *space) that keeps shape and dtype, one right-hand side at a time unless it `broadcasts`.

    What it cannot take (a network for 2-D given 3-D, a grid smaller than its coarsening) is one sentence.
    """

    def safe(r: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                z = apply(r) if broadcasts else torch.cat([apply(row) for row in r.split(1)])
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, UsageError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"The preconditioner cannot take residuals on a grid of {'×'.join(map(str, r.shape[1:]))} points "
                f"({reason}); use one made for {r.dim() - 1}-D grids of this size."
            ) from error
        if z.shape != r.shape:
            raise UsageError(
                f"The preconditioner returned shape {tuple(z.shape)} for residuals of shape {tuple(r.shape)}; it must "
                "keep the shape."
            )
        return z.detach().to(dtype=r.dtype, device=r.device)

    return safe


def prepared(preconditioner: "Preconditioner | None", A: LinearOperator) -> Prepared | None:
    """The preconditioner set up for A, as count ↦ its guarded map on so many residuals; None without one."""
    if preconditioner is None:
        return None
    apply, broadcasts = preconditioner.setup(A), bool(getattr(preconditioner, "broadcasts", False))
    return lambda count: guarded(apply, broadcasts or count == A.n)


def ending(start: Start, final: Tensor, goal: Tensor, diverged: Tensor, broken: Tensor) -> list[Status]:
    """Status of every case; OK only where the true residual `final` meets the goal."""
    status = []
    for i in range(len(final)):
        if bool(start.unsound[i]):
            status.append(Status.NONFINITE)
        elif bool(final[i] <= goal[i]):
            status.append(Status.OK)
        elif bool(broken[i]) or not bool(torch.isfinite(final[i])):
            status.append(Status.NONFINITE)
        else:
            status.append(Status.DIVERGED if bool(diverged[i]) else Status.MAX_ITER)
    return status


def solution(
    unknowns: Unknowns,
    start: Start,
    x: Tensor,
    tol: float,
    iterations: Tensor,
    history: list[Tensor],
    applications: int,
    reasons: list[str],
    stats: dict[str, Any],
    diverged: Tensor,
    broken: Tensor,
    stalled: Tensor,
) -> LinearSolution:
    """The answer in the caller's units, with its true residual and one sentence of advice per case that failed.

    `stats` gains advice (n sentences), projected (n: share of ‖b‖ outside the range of A, taken out) and, after a
    warm start, cold (n: x0 was not finite and not used).
    """
    final = norm(start.b - unknowns.A.matvec(x))
    status = ending(start, final, tol * start.scale, diverged, broken)
    advice = []
    for i, found in enumerate(status):
        sentence = reasons[i] or ADVICE[found]
        if found is Status.OK:
            sentence = ""
        elif bool(start.unsound[i]):
            sentence = NAN_INPUT
        elif bool(stalled[i]):
            sentence = ROUNDING
        advice.append(sentence)
    x = torch.where(wide(start.unsound, x), torch.nan, torch.ldexp(x, wide(start.exponent, x)))
    residual = torch.where(start.unsound, torch.nan, relative(final, start.scale))
    stats = stats | {"advice": advice, "projected": start.projected}
    if start.warm:
        stats["cold"] = start.cold
    return LinearSolution(x, status, iterations, residual, torch.stack(history), applications + 1, stats)


def advised(answer: LinearSolution, b: Float[Tensor, "n *s"], tol: float) -> LinearSolution:
    """The same with `stats["advice"]`: one sentence per case that failed, "" for the others."""
    level = 1e3 * torch.finfo(b.dtype).eps
    advice = []
    for i, found in enumerate(answer.status):
        sentence = ADVICE[found]
        if found is Status.NONFINITE and not bool(torch.isfinite(b[i]).all()):
            sentence = NAN_INPUT
        elif found is Status.MAX_ITER and (float(answer.history[-1, i]) <= tol or float(answer.residual[i]) <= level):
            sentence = ROUNDING
        advice.append(sentence)
    answer.stats["advice"] = advice
    return answer


def relative(size: Float[Tensor, " n"], scale: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """size/scale, size itself where scale is 0."""
    return torch.where(scale > 0, size / torch.where(scale > 0, scale, 1.0), size)
