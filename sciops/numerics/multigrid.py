"""Geometric multigrid for many variable-coefficient stencil systems at once, on any grid size."""

from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.galerkin import (
    Entries,
    coarse_stencil,
    fold_short_axes,
    interpolation,
    split_stencil,
)
from sciops.numerics.parity_layout import Index, ParityLayout, neighbour

COARSEST = 100
"""Unknowns per case at or below which a level is solved by a dense inverse."""

Term = tuple[Tensor, Tensor]


class Preconditioned(Protocol):
    """What a preconditioner's set-up returns: r ↦ z ≈ A⁻¹ r on arrays (n, *space)."""

    def __call__(self, r: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Multigrid:
    """z = B r, one V-cycle for A z = r: smooth, restrict the residual, recurse, prolong the correction, smooth.

    * Interpolation P from the stencil itself (`galerkin.interpolation`), restriction Pᵀ, coarse operators PᵀAP,
      so that jumps in the coefficients (measured to 1e6) and every grid size are treated on all levels.
    * Smoother: multi-colour Gauss–Seidel over the 2^d parity classes, `nu_pre` forward sweeps before and
      `nu_post` backward sweeps after; with equal numbers B is symmetric positive definite (usable in PCG).
      Across the seam of a periodic axis the smoother is Jacobi.
    * Everything runs in the variables D^{1/2}x, D = diag A, where the diagonal is 1.

    `levels` counts all levels, the dense one included (None: coarsen to at most 100 unknowns);
    `precision` float32 halves the memory traffic of a preconditioner whose outer iteration is float64.
    Shapes: (n, *space), 1 to 3 axes; radius-1 stencils. Cost: about three operator applications per cycle, ten per
    set-up; memory about 2·3^d arrays. It slows down for strongly anisotropic grids or coefficients (point smoother).
    Reference: Dendy, J. Comput. Phys. 48 (1982); Trottenberg, Oosterlee, Schüller, Multigrid (2001), §7.7.
    """

    nu_pre: int = 1
    nu_post: int = 1
    levels: int | None = None
    precision: torch.dtype | None = None

    requires = frozenset({"symmetric", "positive"})

    def setup(self, A: LinearOperator) -> "Hierarchy":
        """Build the hierarchy of all n systems."""
        if not isinstance(A, StencilOperator) or A.radius != 1:
            raise UsageError(
                f"Multigrid needs a StencilOperator of radius 1; got {type(A).__name__}; assemble the system "
                "with Problem.system() or use conjugate gradients with a Jacobi preconditioner."
            )
        if self.nu_pre < 1 or self.nu_post < 0:
            raise UsageError(f"Multigrid needs nu_pre >= 1 and nu_post >= 0; got {self.nu_pre}, {self.nu_post}.")
        require_tags(A, self.requires, "Multigrid")
        return Hierarchy(A, self)


class Hierarchy:
    """The levels of one batch of systems; call it to apply one V-cycle from a zero start."""

    def __init__(self, A: StencilOperator, options: Multigrid) -> None:
        dtype = options.precision or A.dtype
        stencil, periodic = A.stencil, A.periodic
        self.root = _inverse_root(A.diagonal())
        self.levels: list[Level] = []
        while _go_on(tuple(stencil.shape[2:]), len(self.levels) + 1, options.levels):
            level = Level(stencil, periodic, options, dtype)
            self.levels.append(level)
            stencil, periodic = fold_short_axes(level.coarse, periodic)
            del level.coarse
        self.coarsest = DenseInverse(stencil, periodic, A.nullspace == "constant", dtype)
        self.space = A.space
        for fine, coarse in zip(self.levels, [*self.levels[1:], None], strict=True):
            fine.connect(coarse)

    def __call__(self, r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        scaled = r * self.root
        if not self.levels:
            z = self.coarsest(scaled.to(self.coarsest.inverse.dtype).flatten(1)).reshape(scaled.shape)
            return z.to(r.dtype) * self.root
        top = self.levels[0]
        top.layout.split(scaled, top.b)
        self._cycle(0)
        z = torch.empty_like(r)
        for target, source in zip(top.layout.pick(z), top.layout.class_views(top.x), strict=True):
            target.copy_(source)
        return z.mul_(self.root)

    def _cycle(self, depth: int) -> None:
        level = self.levels[depth]
        level.smooth_before()
        level.restrict()
        if depth + 1 < len(self.levels):
            self._cycle(depth + 1)
        else:
            shape = level.layout.interior(level.correction).shape
            residual = level.layout.interior(level.restricted).flatten(1)
            level.layout.interior(level.correction).copy_(self.coarsest(residual).reshape(shape))
        level.prolong()
        level.smooth_after()


class Level:
    """One level with smoother, transfers and work arrays; every product is prepared as a list of flat views."""

    def __init__(
        self, stencil: Tensor, periodic: tuple[bool, ...], options: Multigrid, dtype: torch.dtype
    ) -> None:
        n, space = stencil.shape[0], tuple(stencil.shape[2:])
        layout = self.layout = ParityLayout(n, space, periodic)
        self.options, self.wrapped = options, any(periodic)
        entries = split_stencil(layout, stencil)
        weights = interpolation(layout, entries)
        self.coarse = coarse_stencil(layout, entries, weights)

        def storage(*lead: int) -> Tensor:
            return layout.zeros(*lead, dtype=dtype, device=stencil.device)

        classes = len(layout.parities)
        self.x, self.b, self.r = storage(classes), storage(classes), storage(classes)
        self.restricted, self.correction = storage(), storage()
        self.step = storage(classes) if self.wrapped else self.x
        self.mask = storage(classes)
        for view in layout.class_views(self.mask):
            view.fill_(1.0)
        # Red-black order: classes with an even number of odd coordinates first.
        rank = sorted(range(classes), key=lambda k: (sum(layout.parities[k]) % 2, k))
        self.order = rank
        self._prepare_products(_scaled_entries(layout, entries, stencil, dtype))
        self._prepare_transfers(_scaled_weights(layout, weights, stencil, self.coarse, dtype))

    def _prepare_products(self, scaled: Entries) -> None:
        layout, rank = self.layout, {k: position for position, k in enumerate(self.order)}
        number = {parity: k for k, parity in enumerate(layout.parities)}
        self.terms: list[list[Term]] = [[] for _ in layout.parities]
        self.earlier: list[list[Term]] = [[] for _ in layout.parities]
        self.later: list[list[Term]] = [[] for _ in layout.parities]
        for (parity, offset), entry in scaled.items():
            source, shift = neighbour(parity, offset)
            k, q = number[parity], number[source]
            factor = layout.shifted(entry)
            self.terms[k].append((factor, layout.shifted(self.x[q], shift)))
            side = self.earlier if rank[q] < rank[k] else self.later
            side[k].append((factor, layout.shifted(self.step[q], shift)))
        self.x_flat = [layout.shifted(v) for v in self.x]
        self.b_flat = [layout.shifted(v) for v in self.b]
        self.r_flat = [layout.shifted(v) for v in self.r]
        self.step_flat = [layout.shifted(v) for v in self.step]
        self.mask_flat = [layout.shifted(v) for v in self.mask]

    def _prepare_transfers(self, weights: Entries) -> None:
        layout = self.layout
        number = {parity: k for k, parity in enumerate(layout.parities)}
        # After one forward sweep from zero the residual of the last class vanishes.
        silent = self.order[-1] if not self.wrapped and self.options.nu_pre == 1 else None
        self.down: list[Term] = []
        self.up: list[tuple[Tensor, Term]] = []
        for (parity, corner), weight in weights.items():
            k = number[parity]
            back = tuple(-c for c in corner)
            if k != silent:
                self.down.append((layout.shifted(weight, back), layout.shifted(self.r[k], back)))
            term = (layout.shifted(weight), layout.shifted(self.correction, corner))
            self.up.append((self.x_flat[k], term))
        self.restricted_flat = layout.shifted(self.restricted)

    def connect(self, coarse: "Level | None") -> None:
        """Prepare the copies between this level's even points and the classes of the next level."""
        self.hand_down: list[Term] = []
        self.hand_up: list[Term] = []
        if coarse is not None:
            down = coarse.layout.pick(self.layout.interior(self.restricted))
            up = coarse.layout.pick(self.layout.interior(self.correction))
            self.hand_down = list(zip(coarse.layout.class_views(coarse.b), down, strict=True))
            self.hand_up = list(zip(up, coarse.layout.class_views(coarse.x), strict=True))

    def smooth_before(self) -> None:
        if self.wrapped:
            self._sweep_from_zero(self.order, self.earlier, self.b_flat)
            for x, step in zip(self.x_flat, self.step_flat, strict=True):
                x.copy_(step)
            for _ in range(self.options.nu_pre - 1):
                self._correct(self.order, self.earlier)
            self._residual()
            return
        self._sweep_from_zero(self.order, self.earlier, self.b_flat)
        if self.options.nu_pre == 1:
            # r = −U x, because (D + L) x = b.
            for k in self.order[:-1]:
                _sum_products(self.r_flat[k], None, self.later[k])
            return
        for _ in range(self.options.nu_pre - 1):
            self._sweep(self.order)
        self._residual()

    def smooth_after(self) -> None:
        for _ in range(self.options.nu_post):
            if self.wrapped:
                self._residual()
                self._correct(self.order[::-1], self.later)
            else:
                self._sweep(self.order[::-1])

    def restrict(self) -> None:
        self.layout.wrap_front(self.r)
        _sum_products(self.restricted_flat, None, self.down)
        for target, source in self.hand_down:
            target.copy_(source)

    def prolong(self) -> None:
        for target, source in self.hand_up:
            target.copy_(source)
        self.layout.wrap_back(self.correction)
        for target, (weight, values) in self.up:
            target.addcmul_(weight, values)

    def _sweep_from_zero(self, order: list[int], known: list[list[Term]], rhs: list[Tensor]) -> None:
        for k in order:
            _sum_products(self.step_flat[k], rhs[k], known[k])

    def _sweep(self, order: list[int]) -> None:
        for k in order:
            _sum_products(self.x_flat[k], self.b_flat[k], self.terms[k])

    def _residual(self) -> None:
        self.layout.fill(self.x)
        for r, b, x, mask, terms in zip(
            self.r_flat, self.b_flat, self.x_flat, self.mask_flat, self.terms, strict=True
        ):
            _sum_products(r, b, terms)
            r.addcmul_(mask, x, value=-1)

    def _correct(self, order: list[int], known: list[list[Term]]) -> None:
        self._sweep_from_zero(order, known, self.r_flat)
        for x, step in zip(self.x_flat, self.step_flat, strict=True):
            x.add_(step)


class DenseInverse:
    """Exact solve of the coarsest level; the constant null space, if any, is projected out."""

    def __init__(
        self, stencil: Tensor, periodic: tuple[bool, ...], singular: bool, dtype: torch.dtype
    ) -> None:
        n, space = stencil.shape[0], tuple(stencil.shape[2:])
        root = _inverse_root(stencil[:, stencil.shape[1] // 2]).flatten(1)
        matrix = _dense(stencil, periodic) * root[:, :, None] * root[:, None, :]
        null = torch.where(root > 0, 1.0 / torch.where(root > 0, root, 1.0), 0.0)
        null = null / null.norm(dim=1, keepdim=True)
        outer = null[:, :, None] * null[:, None, :]
        if singular:
            matrix = matrix + outer
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # Not definite in rounding: keep the (unit) diagonal, the outer iteration still converges.
        identity = torch.eye(prod(space), dtype=matrix.dtype, device=matrix.device)
        factor = torch.where((failed > 0)[:, None, None], identity, factor)
        inverse = torch.cholesky_inverse(factor)
        self.inverse = (inverse - outer if singular else inverse).to(dtype)

    def __call__(self, r: Tensor) -> Tensor:
        return tree_sum(self.inverse * r[:, None, :])


def tree_sum(values: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Sum over the last axis by halving: a fixed order of additions, so no result depends on the batch around it."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        folded = values[..., :half] + values[..., half : 2 * half]
        if values.shape[-1] % 2:
            folded[..., 0] += values[..., -1]
        values = folded
    return values[..., 0]


def _sum_products(out: Tensor, start: Tensor | None, terms: list[Term]) -> None:
    """out = start + Σ a·b in place."""
    if not terms:
        out.zero_() if start is None else out.copy_(start)
        return
    if start is None:
        torch.mul(*terms[0], out=out)
    else:
        torch.addcmul(start, *terms[0], out=out)
    for a, b in terms[1:]:
        out.addcmul_(a, b)


def _go_on(space: Index, count: int, levels: int | None) -> bool:
    if levels is None:
        return prod(space) > COARSEST
    if count >= levels:
        if prod(space) > 4096:
            raise UsageError(
                f"Multigrid with levels={levels} leaves {prod(space)} unknowns on the coarsest grid; "
                "raise levels or leave it unset."
            )
        return False
    if max(space) < 3:
        raise UsageError(
            f"The grid is too small for levels={levels}: level {count} has only {'×'.join(map(str, space))} "
            "unknowns; lower levels or leave it unset."
        )
    return True


def _inverse_root(diagonal: Tensor) -> Tensor:
    positive = diagonal > 0
    return torch.where(positive, torch.where(positive, diagonal, 1.0).rsqrt(), 0.0)


def _scaled_entries(layout: ParityLayout, entries: Entries, stencil: Tensor, dtype: torch.dtype) -> Entries:
    """−D^{-1/2} (A − D) D^{-1/2}, class by class."""
    root = layout.zeros(len(layout.parities), dtype=stencil.dtype, device=stencil.device)
    layout.split(_inverse_root(stencil[:, stencil.shape[1] // 2]), root)
    own = {parity: layout.shifted(root[k]).clone() for k, parity in enumerate(layout.parities)}
    layout.fill(root)
    number = {parity: k for k, parity in enumerate(layout.parities)}
    scaled: Entries = {}
    for (parity, offset), entry in entries.items():
        if any(offset):
            source, shift = neighbour(parity, offset)
            values = torch.zeros_like(entry)
            factor = own[parity] * layout.shifted(root[number[source]], shift)
            torch.mul(layout.shifted(entry).neg(), factor, out=layout.shifted(values))
            scaled[parity, offset] = values.to(dtype)
    return scaled


def _scaled_weights(
    layout: ParityLayout, weights: Entries, stencil: Tensor, coarse: Tensor, dtype: torch.dtype
) -> Entries:
    """D^{1/2} P D_coarse^{-1/2}, with ghosts as the restriction reads them."""
    centre = stencil.shape[1] // 2
    root = layout.zeros(len(layout.parities), dtype=stencil.dtype, device=stencil.device)
    layout.split(stencil[:, centre].clamp(min=0.0).sqrt(), root)
    coarse_root = layout.zeros(dtype=stencil.dtype, device=stencil.device)
    layout.interior(coarse_root).copy_(_inverse_root(coarse[:, centre]))
    layout.wrap_back(coarse_root)
    scaled: Entries = {}
    for (parity, corner), weight in weights.items():
        values = torch.zeros_like(weight)
        factor = layout.shifted(root[layout.parities.index(parity)]) * layout.shifted(coarse_root, corner)
        torch.mul(layout.shifted(weight), factor, out=layout.shifted(values))
        layout.wrap_front(values)
        scaled[parity, corner] = values.to(dtype)
    return scaled


def _dense(stencil: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """(n, N, N) matrices of small stencil systems."""
    space = tuple(stencil.shape[2:])
    size = prod(space)
    index = torch.arange(size, device=stencil.device).reshape(space)
    matrix = torch.zeros((stencil.shape[0], size, size), dtype=stencil.dtype, device=stencil.device)
    for k, offset in enumerate(offsets(len(space))):
        columns, inside = index, torch.ones(space, dtype=torch.bool, device=stencil.device)
        for axis, (o, m, wrap) in enumerate(zip(offset, space, periodic, strict=True)):
            columns = columns.roll(-o, axis)
            if not wrap:
                position = (torch.arange(m, device=stencil.device) + o).reshape(
                    [-1 if a == axis else 1 for a in range(len(space))]
                )
                inside = inside & (position >= 0) & (position < m)
        matrix[:, index[inside], columns[inside]] += stencil[:, k][:, inside]
    return matrix
