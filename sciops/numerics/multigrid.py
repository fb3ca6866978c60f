"""Geometric multigrid for many variable-coefficient stencil systems at once, on any grid size."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator, require_tags
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.galerkin import cut_at_box, fold_short_axes
from sciops.numerics.multigrid_level import DenseInverse, Level, Products, inverse_root, sum_products
from sciops.numerics.parity_layout import Index
from sciops.numerics.reductions import tree_sum
from sciops.numerics.slow_modes import SlowModes, slow_modes

COARSEST = 100
"""Unknowns per case at or below which a level is solved by a dense inverse."""

JUMP = 10.0
"""Cases whose diagonal varies by no more than this have no slow modes to look for."""


@dataclass(frozen=True)
class Multigrid:
    """z = B r, one V-cycle for A z = r: smooth, restrict the residual, recurse, prolong the correction, smooth.

    * Interpolation P from the stencil itself (`galerkin.interpolation`), restriction Pᵀ, coarse operators PᵀAP,
      so that jumps in the coefficients and every grid size are treated on all levels.
    * Smoother: multi-colour Gauss–Seidel over the 2^d parity classes, `nu_pre` forward sweeps before and
      `nu_post` backward sweeps after; with equal numbers B is symmetric positive definite (usable in PCG).
      Across the seam of a periodic axis the smoother is Jacobi.
    * Everything runs in the variables D^{1/2}x, D = diag A, where the diagonal is 1.

    * Where coefficients jump from pixel to pixel, a few error modes escape every coarse grid of this kind (clusters of
      points tied to each other and to no coarse point of their own). They are found once, by Lanczos steps on the
      cycle, and solved for exactly (`slow_modes.SlowModes`); at most `modes` per case (0: the bare cycle).

    `levels` counts all levels, the dense one included (None: coarsen to at most 100 unknowns);
    `precision` float32 halves the memory traffic of a preconditioner whose outer iteration is float64.
    Shapes: (n, *space), 1 to 3 axes; radius-1 stencils. Cost: about six operator applications per cycle (2, 2);
    memory about 2·3^d arrays. The search for slow modes happens in the first application, only for cases whose
    diagonal varies more than tenfold and for nu_pre = nu_post; it costs 24 cycles and, while it runs, 48 arrays.
    `ConjugateGradients` takes the bare cycle: it removes single modes by itself, at one step each.
    It slows down for strongly anisotropic grids or coefficients (the smoother is pointwise).
    Reference: Dendy, J. Comput. Phys. 48 (1982); Trottenberg, Oosterlee, Schüller, Multigrid (2001), §7.7.
    """

    nu_pre: int = 2
    nu_post: int = 2
    levels: int | None = None
    precision: torch.dtype | None = None
    modes: int = 8

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
        self.A, self.options, self.dtype = A, options, options.precision or A.dtype
        self.n, self.space, self.singular = A.n, A.space, A.nullspace == "constant"
        self.root = inverse_root(A.diagonal())
        table = [A.offsets[k] for k in A.active]
        stencil, periodic = A.stencil[:, A.active].transpose(0, 1), A.periodic
        cut_at_box(stencil, table, periodic)
        self.levels: list[Level] = []
        while _go_on(tuple(stencil.shape[2:]), len(self.levels) + 1, options.levels):
            sweeps = (options.nu_pre, options.nu_post)
            level = Level(stencil, table, periodic, sweeps, self.dtype)
            if self.levels:
                self.levels[-1].connect(level)
            self.levels.append(level)
            stencil, periodic = fold_short_axes(level.coarse, periodic)
            table = offsets(len(self.space))
            del level.coarse
        if not self.levels:
            full = stencil.new_zeros((len(A.offsets), *stencil.shape[1:]))
            full[A.active] = stencil
            stencil = full
        self.coarsest = DenseInverse(stencil, periodic, self.singular, self.dtype)

    def __call__(self, r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """B r; the first call looks for slow modes where the coefficients jump (`Multigrid.modes`)."""
        return self.v_cycle(r) if self.modes is None else self.modes.apply(self.v_cycle, r)

    @cached_property
    def modes(self) -> SlowModes | None:
        """What the V-cycle alone is slow on; None where nothing is or nothing was looked for."""
        options = self.options
        if options.modes < 1 or options.nu_pre != options.nu_post or not self.levels:
            return None
        diagonal = self.A.diagonal().flatten(1)
        jumping = diagonal.amax(1) > JUMP * diagonal.amin(1)
        return slow_modes(self.A, self.v_cycle, options.modes, jumping) if bool(jumping.any()) else None

    def v_cycle(self, r: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        """One V-cycle for A z = r from z = 0."""
        scaled = r * self.root
        if not self.levels:
            z = self.coarsest(scaled.flatten(1).to(self.dtype)).reshape(r.shape)
            return z.to(r.dtype) * self.root
        top = self.levels[0]
        top.layout.split(scaled, top.b)
        self.cycle()
        z = torch.empty_like(r)
        top.layout.merge(top.x, z)
        return z.mul_(self.root)

    def cycle(self, depth: int = 0) -> None:
        """One V-cycle from level `depth` down: reads its `b`, leaves the answer in its `x`."""
        level = self.levels[depth]
        level.smooth_before()
        level.restrict()
        if depth + 1 < len(self.levels):
            self.cycle(depth + 1)
        else:
            target = level.layout.interior(level.correction)
            residual = level.layout.interior(level.restricted).flatten(1)
            target.copy_(self.coarsest(residual).reshape(target.shape))
        level.prolong()
        level.smooth_after()

    def frame(self) -> "MultigridFrame | None":
        """The vectors of conjugate gradients in this memory layout (None if everything is dense)."""
        return MultigridFrame(self) if self.levels else None


class MultigridFrame:
    """Conjugate gradients on D^{-1/2} A D^{-1/2} without leaving the parity layout: see `krylov.Frame`.

    Residuals are D^{-1/2} r, solutions D^{1/2} x, both of shape (2^d, n, width).
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        top = hierarchy.levels[0]
        self.hierarchy, self.top, layout = hierarchy, top, top.layout
        dtype = next(iter(top.entries.values())).dtype
        self.shape = (len(layout.parities), layout.n, prod(layout.widths))
        storage = [layout.zeros(len(layout.parities), dtype=dtype, device=top.x.device) for _ in ("p", "q", "r", "d")]
        self.direction_storage, product_storage, residual_storage, root = storage
        self.direction, self.product, self.residual = (self._view(s) for s in storage[:3])
        layout.split(torch.where(hierarchy.root > 0, 1.0 / hierarchy.root, 0.0), root)
        self.weight = self._view(root)
        self.scratch = torch.empty(self.shape, dtype=dtype, device=top.x.device)
        self.products = Products(layout, top.entries, self.direction_storage, top.order).all
        self.p_rows = [layout.core(row) for row in self.direction_storage.unbind(0)]
        self.q_rows = [layout.core(row) for row in product_storage.unbind(0)]
        self.residual_storage = residual_storage
        self.mask = self._flat(top.real_points(dtype)) if top.wrapped else None
        if hierarchy.singular:
            self.null_size = self.dot(self.weight, self.weight)

    def load(self, r: Tensor) -> Tensor:
        self.top.layout.split(r * self.hierarchy.root, self.residual_storage)
        return self.residual

    def store(self, x: Tensor) -> Tensor:
        layout, values = self.top.layout, x.new_empty((self.hierarchy.n, *self.hierarchy.space))
        storage = layout.zeros(len(layout.parities), dtype=x.dtype, device=x.device)
        self._view(storage).copy_(x)
        layout.merge(storage, values)
        return values.mul_(self.hierarchy.root)

    def matvec(self) -> Tensor:
        self.top.layout.fill(self.direction_storage)
        # The entries hold −D^{-1/2}(A − D)D^{-1/2}.
        for q, p, terms in zip(self.q_rows, self.p_rows, self.products, strict=True):
            sum_products(q, p, terms, sign=-1.0)
        return self.product if self.mask is None else self.product.mul_(self.mask)

    def precondition(self, r: Tensor) -> Tensor:
        self._view(self.top.b).copy_(r)
        self.hierarchy.cycle()
        z = self._view(self.top.x)
        z = z if z.dtype == r.dtype else z.to(r.dtype)
        if self.hierarchy.singular:
            z = torch.addcmul(z, self.weight, self.wide(self.dot(self.weight, z) / self.null_size), value=-1)
        return z

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        # One partial sum per class: at least two numbers, see `row_sum`.
        parts = torch.sum(torch.mul(a, b, out=self.scratch), dim=2)
        return tree_sum(parts.T)

    def norm(self, r: Tensor) -> Tensor:
        parts = torch.linalg.vector_norm(torch.mul(r, self.weight, out=self.scratch), dim=2)
        return tree_sum((parts * parts).T).sqrt()

    def wide(self, per_system: Tensor) -> Tensor:
        return per_system[None, :, None]

    def _view(self, storage: Tensor) -> Tensor:
        return self._flat(self.top.layout.core(storage))

    def _flat(self, core: Tensor) -> Tensor:
        return core.view(self.shape)


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
