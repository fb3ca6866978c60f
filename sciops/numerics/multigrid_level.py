"""One multigrid level (smoother, transfers, work arrays) and the dense solve at the bottom."""

from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor

from sciops.core.stencil_operator import offsets
from sciops.numerics.galerkin import Entries, coarse_stencil, interpolation, split_stencil
from sciops.numerics.parity_layout import Index, ParityLayout, class_number, neighbour
from sciops.numerics.reductions import tree_sum

Term = tuple[Tensor, Tensor]


class Products:
    """Σ_o a_o x_{i+o} for every class, prepared as pairs of flat views (entry, neighbours' values in `x`)."""

    def __init__(self, layout: ParityLayout, entries: Entries, x: Tensor, order: list[int]) -> None:
        rank = {k: position for position, k in enumerate(order)}
        rows = x.unbind(0)
        self.all: list[list[Term]] = [[] for _ in rows]
        self.earlier: list[list[Term]] = [[] for _ in rows]
        self.later: list[list[Term]] = [[] for _ in rows]
        for (k, offset), entry in entries.items():
            source, shift = neighbour(layout.parities[k], offset)
            q = class_number(source)
            term = (layout.core(entry), layout.shifted(rows[q], shift))
            self.all[k].append(term)
            (self.earlier if rank[q] < rank[k] else self.later)[k].append(term)


class Level:
    """Smoother, transfers and work arrays of one level in the variables D^{1/2}x.

    The stencil is (3^d active offsets, n, *space); `coarse` holds the Galerkin stencil for the next level.
    """

    def __init__(
        self,
        stencil: Tensor,
        table: list[Index],
        periodic: tuple[bool, ...],
        sweeps: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        layout = self.layout = ParityLayout(stencil.shape[1], tuple(stencil.shape[2:]), periodic)
        self.sweeps, self.wrapped = sweeps, any(periodic)
        block, entries = split_stencil(layout, stencil, table)
        weight_block, weights = interpolation(layout, entries)
        self.coarse = coarse_stencil(layout, entries, weight_block, weights)
        centre = (0,) * len(layout.space)
        diagonal = block[:, table.index(centre)].clone()
        self.entries, self.entry_block = _scale_entries(layout, block, entries, diagonal), block
        coarse_diagonal = self.coarse[len(self.coarse) // 2]
        _scale_weights(layout, weights, diagonal, coarse_diagonal)
        layout.wrap_front(weight_block)

        def storage(*lead: int) -> Tensor:
            return layout.zeros(*lead, dtype=dtype, device=stencil.device)

        classes = len(layout.parities)
        # Red-black order: classes with an even number of odd coordinates first.
        self.order = sorted(range(classes), key=lambda k: (sum(layout.parities[k]) % 2, k))
        self.x, self.b, self.r = storage(classes), storage(classes), storage(classes)
        self.restricted, self.correction = storage(), storage()
        entries, weights = self.entries, weights
        if dtype != block.dtype:
            entries = {key: row.to(dtype) for key, row in entries.items()}
            weights = {key: row.to(dtype) for key, row in weights.items()}
        self.products = Products(layout, entries, self.x, self.order)
        self.x_rows, self.b_rows, self.r_rows = (
            [layout.core(row) for row in part.unbind(0)] for part in (self.x, self.b, self.r)
        )
        self.step = storage(classes)
        self.step_products = Products(layout, entries, self.step, self.order)
        self.step_rows = [layout.core(row) for row in self.step.unbind(0)]
        if self.wrapped:
            self.mask = self.real_points(dtype)
        self._prepare_transfers(weights)
        self.hand_down: list[Term] = []
        self.hand_up: list[Term] = []

    def real_points(self, dtype: torch.dtype) -> Tensor:
        """1 at real points, 0 at ghosts and dummies: (2^d, total)."""
        mask = self.layout.zeros(len(self.layout.parities), dtype=dtype, device=self.x.device)
        for view in self.layout.class_views(mask):
            view.fill_(1.0)
        return self.layout.core(mask)

    def connect(self, coarse: "Level") -> None:
        """Prepare the copies between this level's even points and the classes of the next level."""
        down = coarse.layout.pick(self.layout.interior(self.restricted))
        up = coarse.layout.pick(self.layout.interior(self.correction))
        self.hand_down = list(zip(coarse.layout.class_views(coarse.b), down, strict=True))
        self.hand_up = list(zip(up, coarse.layout.class_views(coarse.x), strict=True))

    def smooth_before(self) -> None:
        """Forward sweeps from x = 0, then the residual."""
        if self.wrapped:
            self._sweep_from_zero(self.order, self.step_rows, self.b_rows, self.step_products.earlier)
            self.layout.core(self.x).copy_(self.layout.core(self.step))
            for _ in range(self.sweeps[0] - 1):
                self._residual()
                self._correct(self.order, self.step_products.earlier)
            self._residual()
            return
        self._sweep_from_zero(self.order, self.x_rows, self.b_rows, self.products.earlier)
        self._remainder(self.products)
        for _ in range(self.sweeps[0] - 1):
            self._correct(self.order, self.step_products.earlier)
            self._remainder(self.step_products)

    def smooth_after(self) -> None:
        """Backward sweeps: the adjoint of the forward ones."""
        for _ in range(self.sweeps[1]):
            if self.wrapped:
                self._residual()
                self._correct(self.order[::-1], self.step_products.later)
            else:
                for k in self.order[::-1]:
                    sum_products(self.x_rows[k], self.b_rows[k], self.products.all[k])

    def restrict(self) -> None:
        self.layout.wrap_front(self.r)
        sum_products(self.restricted_row, None, self.down)
        for target, source in self.hand_down:
            target.copy_(source)

    def prolong(self) -> None:
        for target, source in self.hand_up:
            target.copy_(source)
        self.layout.wrap_back(self.correction)
        for target, weight, values in self.up:
            target.addcmul_(weight, values)

    def _prepare_transfers(self, weights: Entries) -> None:
        layout, rows = self.layout, self.r.unbind(0)
        silent = None if self.wrapped else self.order[-1]
        self.down: list[Term] = []
        self.up: list[tuple[Tensor, Tensor, Tensor]] = []
        for (k, corner), weight in weights.items():
            back = tuple(-c for c in corner)
            if k != silent:
                self.down.append((layout.shifted(weight, back), layout.shifted(rows[k], back)))
            self.up.append((self.x_rows[k], layout.core(weight), layout.shifted(self.correction, corner)))
        self.restricted_row = layout.core(self.restricted)

    def _sweep_from_zero(self, order: list[int], x: list[Tensor], b: list[Tensor], known: list[list[Term]]) -> None:
        for k in order:
            sum_products(x[k], b[k], known[k])

    def _remainder(self, swept: Products) -> None:
        """The residual after a forward sweep (D + L) y = r from zero: −U y, which vanishes at the last class."""
        for k in self.order[:-1]:
            sum_products(self.r_rows[k], None, swept.later[k])

    def _residual(self) -> None:
        """r = b − A x, with x continued around the ring."""
        self.layout.fill(self.x)
        for r, b, terms in zip(self.r_rows, self.b_rows, self.products.all, strict=True):
            sum_products(r, b, terms)
        self.layout.core(self.r).addcmul_(self.mask, self.layout.core(self.x), value=-1)

    def _correct(self, order: list[int], known: list[list[Term]]) -> None:
        """x += M⁻¹ r with the triangular part M; couplings through ghosts are left out (Jacobi at the seam)."""
        self._sweep_from_zero(order, self.step_rows, self.r_rows, known)
        self.layout.core(self.x).add_(self.layout.core(self.step))


class DenseInverse:
    """Exact solve of the coarsest level in the variables D^{1/2}x; a constant null space is projected out."""

    def __init__(self, stencil: Tensor, periodic: tuple[bool, ...], singular: bool, dtype: torch.dtype) -> None:
        root = inverse_root(stencil[len(stencil) // 2]).flatten(1)
        matrix = _dense(stencil, periodic) * root[:, :, None] * root[:, None, :]
        null = torch.where(root > 0, 1.0 / torch.where(root > 0, root, 1.0), 0.0)
        null = null / null.norm(dim=1, keepdim=True)
        outer = null[:, :, None] * null[:, None, :]
        if singular:
            matrix = matrix + outer
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # Not definite in rounding: keep the (unit) diagonal, the outer iteration still converges.
        identity = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        factor = torch.where((failed > 0)[:, None, None], identity, factor)
        inverse = torch.cholesky_inverse(factor)
        self.inverse = (inverse - outer if singular else inverse).to(dtype)

    def __call__(self, r: Tensor) -> Tensor:
        return tree_sum(self.inverse * r[:, None, :])


def sum_products(out: Tensor, start: Tensor | None, terms: list[Term], sign: float = 1.0) -> None:
    """out = start ± Σ a·b in place (plus only, if there is no start)."""
    if not terms:
        out.zero_() if start is None else out.copy_(start)
        return
    if start is None:
        torch.mul(*terms[0], out=out)
    else:
        torch.addcmul(start, *terms[0], value=sign, out=out)
    for a, b in terms[1:]:
        out.addcmul_(a, b, value=sign)


def inverse_root(diagonal: Tensor) -> Tensor:
    """D^{-1/2}, and 0 where the diagonal is 0 (points that do not exist)."""
    positive = diagonal > 0
    return torch.where(positive, torch.where(positive, diagonal, 1.0).rsqrt(), 0.0)


def _scale_entries(layout: ParityLayout, block: Tensor, entries: Entries, diagonal: Tensor) -> Entries:
    """−D^{-1/2} (A − D) D^{-1/2}, in place of A."""
    root = inverse_root(diagonal)
    block.mul_(root[:, None].neg())
    layout.fill(root)
    rows = root.unbind(0)
    scaled: Entries = {}
    for (k, offset), entry in entries.items():
        if any(offset):
            source, shift = neighbour(layout.parities[k], offset)
            layout.core(entry).mul_(layout.shifted(rows[class_number(source)], shift))
            scaled[k, offset] = entry
    return scaled


def _scale_weights(layout: ParityLayout, weights: Entries, diagonal: Tensor, coarse_diagonal: Tensor) -> None:
    """D^{1/2} P D_coarse^{-1/2}, in place of P."""
    root = layout.core(diagonal.clamp(min=0.0).sqrt())
    coarse_root = layout.zeros(dtype=diagonal.dtype, device=diagonal.device)
    layout.interior(coarse_root).copy_(inverse_root(coarse_diagonal))
    layout.wrap_back(coarse_root)
    for (k, corner), weight in weights.items():
        layout.core(weight).mul_(root[k]).mul_(layout.shifted(coarse_root, corner))


def _dense(stencil: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """(n, N, N) matrices of small (3^d, n, *space) stencil systems."""
    n, space = stencil.shape[1], tuple(stencil.shape[2:])
    size = prod(space)
    matrix = torch.zeros((n, size * size), dtype=stencil.dtype, device=stencil.device)
    for k, (rows, places) in enumerate(_places(space, periodic)):
        flat = stencil[k].flatten(1)
        matrix[:, places.to(stencil.device)] += flat[:, rows.to(stencil.device)]
    return matrix.unflatten(1, (size, size))


@lru_cache(maxsize=64)
def _places(space: Index, periodic: tuple[bool, ...]) -> list[tuple[Tensor, Tensor]]:
    """Per stencil offset: the rows that have this neighbour, and where it stands in the flattened matrix."""
    size, positions = prod(space), list(product(*(range(m) for m in space)))
    strides = [prod(space[axis + 1 :]) for axis in range(len(space))]
    places = []
    for offset in offsets(len(space)):
        rows, flat = [], []
        for row, position in enumerate(positions):
            target = [i + o for i, o in zip(position, offset, strict=True)]
            if all(wrap or 0 <= t < m for t, m, wrap in zip(target, space, periodic, strict=True)):
                column = sum(t % m * w for t, m, w in zip(target, space, strides, strict=True))
                rows.append(row)
                flat.append(row * size + column)
        places.append((torch.tensor(rows, dtype=torch.int64), torch.tensor(flat, dtype=torch.int64)))
    return places
