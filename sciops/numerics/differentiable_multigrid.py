"""A multigrid cycle that gradients flow through, and the advice that a network may give to it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.differentiable_transfer import Ghosted, Rows, coarse_stencil, interpolation, shift
from sciops.numerics.galerkin import cut_at_box
from sciops.numerics.incomplete_smoothing import IncompleteSmoother
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities

COARSEST = 100
"""Unknowns per case at or below which a level is solved by a dense factorisation."""

SHIFT = 10.0
"""Added to the dense matrix, in units of rounding beside its diagonal: a null space stays large but positive."""

Smoother = Literal["point", "incomplete"]
"""Coloured over-relaxation, or incomplete Cholesky (`incomplete_smoothing`; relaxation is then not used)."""


class Advice(NamedTuple):
    """What a network may say about one level; every value it can take leaves the cycle symmetric and positive.

    Arrays are over the blocks of 2^d points (the even point 2I and its neighbours above), `blocks` = ⌈m/2⌉ per axis.
    `relaxation` (n, 2^d, *blocks): over-relaxation ω ∈ (0, 2) of each point, classes in row-major order of parity.
    `tilt` (n, 3^d − 1, *blocks): logarithms t of multipliers e^t on the interpolation weights, in the order of
    `differentiable_transfer.weight_keys`; the sum of the weights of a point does not change.
    `scale` (n,): factor > 0 of the coarse correction.
    """

    relaxation: Float[Tensor, "n p *k"]
    tilt: Float[Tensor, "n w *k"]
    scale: Float[Tensor, " n"]


Adviser = Callable[[Float[Tensor, "n k *s"]], Advice | None]
"""Stencil of one level (n, 3^d, *space) → advice, or None for the plain method."""


def neutral_advice(n: int, blocks: Index, like: Tensor) -> Advice:
    """The advice that changes nothing."""
    ndim = len(blocks)
    return Advice(like.new_ones((n, 2**ndim, *blocks)), like.new_zeros((n, 3**ndim - 1, *blocks)), like.new_ones(n))


def to_blocks(x: Float[Tensor, "*lead_space"], ndim: int) -> Tensor:
    """(…, *space) → (…, 2^d, *blocks): block I holds the points 2I + p; points beyond an odd end are zero."""
    space = x.shape[x.dim() - ndim :]
    lead = x.shape[: x.dim() - ndim]
    if any(m % 2 for m in space):
        x = pad(x, [amount for m in reversed(space) for amount in (0, m % 2)])
    sizes = [(m + 1) // 2 for m in space]
    x = x.reshape(*lead, *(number for size in sizes for number in (size, 2)))
    first = len(lead)
    order = [first + 2 * a + 1 for a in range(ndim)] + [first + 2 * a for a in range(ndim)]
    return x.permute(*range(first), *order).reshape(*lead, 2**ndim, *sizes)


def from_blocks(x: Tensor, space: Index) -> Tensor:
    """Inverse of `to_blocks` for (n, 2^d, *blocks)."""
    ndim, sizes = len(space), x.shape[2:]
    x = x.reshape(x.shape[0], *(2,) * ndim, *sizes)
    order = [number for a in range(ndim) for number in (1 + ndim + a, 1 + a)]
    x = x.permute(0, *order).reshape(x.shape[0], *(2 * size for size in sizes))
    return x[(slice(None), *(slice(m) for m in space))]


class DifferentiableLevel:
    """Smoother and transfers of one level as functions that leave their arguments alone."""

    def __init__(self, stencil: Tensor, advice: Advice | None, smoother: Smoother = "point") -> None:
        self.space, self.ndim = tuple(stencil.shape[2:]), stencil.dim() - 2
        table, centre = offsets(self.ndim), (0,) * self.ndim
        blocks = to_blocks(stencil, self.ndim)
        keep = [i for i, o in enumerate(table) if not any(o) or bool((stencil.detach()[:, i] != 0).any())]
        self.rows: Rows = {(k, table[i]): blocks[:, i, k] for k in range(2**self.ndim) for i in keep}
        self.weights = interpolation(self.rows, self.ndim, None if advice is None else advice.tilt)
        self.coarse = coarse_stencil(self.rows, self.weights, self.ndim)
        self.scale = None if advice is None else advice.scale
        self.order = sorted(range(2**self.ndim), key=lambda k: (sum(parities(self.ndim)[k]) % 2, k))
        self.incomplete = IncompleteSmoother(stencil) if smoother == "incomplete" else None
        self.step: list[Tensor] = []
        self.keep: list[Tensor | None] = []
        for k in range(2**self.ndim):
            diagonal = self.rows[k, centre]
            positive = diagonal > 0
            inverse = torch.where(positive, 1.0 / torch.where(positive, diagonal, 1.0), 0.0)
            omega = None if advice is None else advice.relaxation[:, k]
            self.step.append(inverse if omega is None else omega * inverse)
            self.keep.append(None if omega is None else 1.0 - omega)
        self.links: list[list[tuple[Tensor, int, Index]]] = [[] for _ in range(2**self.ndim)]
        for (k, offset), entry in self.rows.items():
            if any(offset):
                source, step = neighbour(parities(self.ndim)[k], offset)
                self.links[k].append((entry, class_number(source), step))

    def smooth(self, x: list[Tensor] | None, b: list[Tensor], forward: bool) -> list[Tensor]:
        """x after one more smoothing step; x None means zero."""
        if self.incomplete is None:
            return self.sweep(x, b, forward)
        r = b if x is None else self.residual(x, b)
        step = to_blocks(self.incomplete(from_blocks(torch.stack(r, dim=1), self.space)), self.ndim).unbind(1)
        return list(step) if x is None else [old + new for old, new in zip(x, step, strict=True)]

    def sweep(self, x: list[Tensor] | None, b: list[Tensor], forward: bool) -> list[Tensor]:
        """One sweep of coloured over-relaxation, colours in reverse order if not `forward`; x None means zero."""
        ghosts = Ghosted(self.ndim)
        new: dict[int, Tensor] = {} if x is None else dict(enumerate(x))
        for k, values in new.items():
            ghosts.put(k, values)
        for k in self.order if forward else self.order[::-1]:
            total = b[k]
            for entry, source, step in self.links[k]:
                if source in ghosts.rows:
                    total = torch.addcmul(total, entry, ghosts.at(source, step), value=-1.0)
            value, kept = total * self.step[k], self.keep[k]
            if kept is not None and k in new:
                value = torch.addcmul(value, kept, new[k])
            new[k] = value
            ghosts.put(k, value)
        return [new[k] for k in range(len(b))]

    def product(self, x: list[Tensor]) -> list[Tensor]:
        """A x."""
        ghosts, centre = Ghosted(self.ndim), (0,) * self.ndim
        for k, values in enumerate(x):
            ghosts.put(k, values)
        out = []
        for k, values in enumerate(x):
            total = self.rows[k, centre] * values
            for entry, source, step in self.links[k]:
                total = torch.addcmul(total, entry, ghosts.at(source, step))
            out.append(total)
        return out

    def residual(self, x: list[Tensor], b: list[Tensor]) -> list[Tensor]:
        """b − A x."""
        return [right - left for right, left in zip(b, self.product(x), strict=True)]

    def restrict(self, r: list[Tensor]) -> Tensor:
        """Pᵀ r on the even points."""
        total = r[0]
        for (k, corner), weight in self.weights.items():
            if k:
                total = total + shift(weight * r[k], tuple(-c for c in corner))
        return total

    def prolong(self, x: list[Tensor], e: Tensor) -> list[Tensor]:
        """x + s P e."""
        if self.scale is not None:
            e = e * self.scale.reshape(-1, *(1,) * self.ndim)
        ghosts, new = Ghosted(self.ndim), list(x)
        ghosts.put(0, e)
        new[0] = new[0] + e
        for (k, corner), weight in self.weights.items():
            if k:
                new[k] = torch.addcmul(new[k], weight, ghosts.at(0, corner))
        return new


class DifferentiableHierarchy:
    """z = B r for n systems, a function of the stencil and of the advice at every level."""

    def __init__(
        self,
        stencil: Float[Tensor, "n k *s"],
        adviser: Adviser | None,
        sweeps: int = 1,
        coarsest: int = COARSEST,
        smoother: Smoother = "point",
    ) -> None:
        self.space, self.sweeps, ndim = tuple(stencil.shape[2:]), sweeps, stencil.dim() - 2
        stencil = stencil.clone()
        cut_at_box(stencil.transpose(0, 1), offsets(ndim), (False,) * ndim)
        self.levels: list[DifferentiableLevel] = []
        while prod(stencil.shape[2:]) > coarsest and max(stencil.shape[2:]) > 2:
            advice = None if adviser is None else adviser(stencil.detach())
            level = DifferentiableLevel(stencil, advice, smoother)
            self.levels.append(level)
            stencil = level.coarse
        self.coarse_space = tuple(stencil.shape[2:])
        self.factor = dense_factor(stencil)

    def __call__(self, r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        return self._cycle(0, r)

    def _cycle(self, depth: int, r: Tensor) -> Tensor:
        if depth == len(self.levels):
            root, factor = self.factor
            scaled = (r.flatten(1) * root)[:, :, None]
            return (torch.cholesky_solve(scaled, factor)[:, :, 0] * root).reshape(r.shape)
        level = self.levels[depth]
        b = list(to_blocks(r, level.ndim).unbind(1))
        x: list[Tensor] | None = None
        for _ in range(self.sweeps):
            x = level.smooth(x, b, True)
        assert x is not None
        x = level.prolong(x, self._cycle(depth + 1, level.restrict(level.residual(x, b))))
        for _ in range(self.sweeps):
            x = level.smooth(x, b, False)
        return from_blocks(torch.stack(x, dim=1), level.space)


@dataclass(frozen=True)
class DifferentiableMultigrid:
    """z = B r, B = V + (I − WᵀA) P s A_c⁻¹ Pᵀ (I − AW), V = W + Wᵀ − WᵀAW, with gradients to all that is advised.

    W is `sweeps` forward sweeps of coloured over-relaxation (classes of even parity first), Wᵀ the backward ones, P the
    operator-dependent interpolation of `galerkin` with tilted weights, A_c = PᵀAP, recursively the same cycle.
    D/ω + L is the splitting, and D/ω + L + D/ω + Lᵀ − A = (2/ω − 1) D > 0 for every ω ∈ (0, 2): hence ‖I − WA‖_A < 1
    and B is symmetric positive definite whatever the advice says.
    Shapes: (n, *space), 1 to 3 axes, radius-1 stencils, bounded boxes of any size; any device; the dtype of A, or
    `precision`. Unadvised and with the same sweeps it is one cycle of `Multigrid`.
    Cost: (2·sweeps + 1) operator applications, out of place: several times the memory of `Multigrid`, which is the one
    to use where no gradient is wanted and the device is a CPU.
    Reference: Dendy, J. Comput. Phys. 48 (1982); Greenfeld et al., ICML 2019, for learning what a cycle consists of.
    """

    adviser: Adviser | None = None
    sweeps: int = 1
    precision: torch.dtype | None = None

    requires = frozenset({"symmetric", "positive"})

    def setup(self, A: LinearOperator) -> Callable[[Tensor], Tensor]:
        require_tags(A, self.requires, "DifferentiableMultigrid")
        operator = stencil_of(A)
        dtype = self.precision or A.dtype
        with torch.no_grad():
            hierarchy = DifferentiableHierarchy(operator.stencil.to(dtype), self.adviser, self.sweeps)

        def cycle(r: Tensor) -> Tensor:
            with torch.no_grad():
                return hierarchy(r.to(dtype)).to(r.dtype)

        return cycle


def stencil_of(A: LinearOperator) -> StencilOperator:
    """A as a bounded radius-1 stencil, or one sentence why it is none."""
    if isinstance(A, FaceOperator):
        A = A.stencil_operator()
    if not isinstance(A, StencilOperator) or A.radius != 1 or any(A.periodic):
        raise UsageError(
            f"This multigrid needs a FaceOperator or a bounded StencilOperator of radius 1; got {type(A).__name__}; "
            "use Multigrid for periodic boxes and conjugate gradients with Jacobi for the rest."
        )
    return A


def dense_factor(stencil: Tensor) -> tuple[Tensor, Tensor]:
    """D^{-1/2} and the Cholesky factor, made in float64, of D^{-1/2} A D^{-1/2} + shift of a small stencil system."""
    ndim, space, dtype = stencil.dim() - 2, tuple(stencil.shape[2:]), stencil.dtype
    stencil, size = stencil.double(), prod(space)
    columns = torch.eye(size, dtype=stencil.dtype, device=stencil.device).reshape(1, size, *space)
    # Row j of `total` is column j of A.
    total = torch.zeros_like(columns)
    for entry, offset in zip(stencil.unbind(1), offsets(ndim), strict=True):
        total = total + entry[:, None] * shift(columns, offset)
    matrix = total.flatten(2)
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    positive = diagonal > 0
    root = torch.where(positive, torch.where(positive, diagonal, 1.0).rsqrt(), 0.0)
    unit = torch.diag_embed(torch.where(positive, 0.0, 1.0) + SHIFT * torch.finfo(dtype).eps)
    matrix = 0.5 * (matrix + matrix.mT) * root[:, :, None] * root[:, None, :] + unit
    factor, failed = torch.linalg.cholesky_ex(matrix)
    # Not definite in rounding: keep the unit diagonal, the outer iteration still converges.
    identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return root.to(dtype), torch.where((failed > 0)[:, None, None], identity, factor).to(dtype)
