"""Operator-dependent interpolation as sums over tables of indices, for three axes: unrolled, every weight is an
expression in the weights before it, and compilers take many minutes over that."""

from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from sciops.embed.coarse_program import ShiftedSums, Term, held
from sciops.numerics.differentiable_transfer import CANCELLED, NEGLIGIBLE
from sciops.numerics.galerkin import NO_LINK, corners
from sciops.numerics.parity_layout import Index, class_number, neighbour, parities


class Interpolation(nn.Module):
    """stencil (1, K, P, *blocks) with offsets `table`, and tilts (1, W, *blocks) where there is advice → weights (1, W,
    *blocks) of `weight_keys`, as `differentiable_transfer.interpolation`.

    Three products with constant matrices of −1, 0 and 1 (sums of entries over the even axes of each class, detours) and
    one `ShiftedSums` for each of edges, faces and bodies, whose weights come from those before.
    """

    collapse: Tensor
    detours: Tensor
    legs: Tensor
    moves: Tensor

    def __init__(self, ndim: int, table: list[Index]) -> None:
        super().__init__()
        self.ndim, self.points, centre = ndim, 2**ndim, (0,) * ndim
        row = {(k, o): i * self.points + k for i, o in enumerate(table) for k in range(self.points)}
        self.centre = table.index(centre)
        collapsed: dict[tuple[int, Index], list[int]] = defaultdict(list)  # (class, along) → entries that are summed
        odd = sorted(parities(ndim)[1:], key=sum)
        for parity in odd:
            k = class_number(parity)
            for offset in table:
                along = tuple(o if odd else 0 for o, odd in zip(offset, parity, strict=True))
                collapsed[k, along].append(row[k, offset])
        place = {key: n for n, key in enumerate(collapsed)}
        matrix = torch.zeros(len(collapsed), len(row))
        for key, entries in collapsed.items():
            matrix[place[key], entries] = 1.0
        self.register_buffer("collapse", matrix, persistent=False)

        paths = [path for parity in odd if sum(parity) == 1 for path in _detours(parity, row)]
        signs = torch.zeros(len(collapsed), len(paths))
        for n, (k, along, _) in enumerate(paths):
            signs[place[k, along], n], signs[place[k, centre], n] = -1.0, 1.0
        self.register_buffer("detours", signs, persistent=False)
        self.register_buffer("legs", torch.tensor([[r for r, _ in legs] for *_, legs in paths]), persistent=False)
        self.register_buffer("moves", torch.tensor([[s for _, s in legs] for *_, legs in paths]) + 1, persistent=False)

        self.stages: list[tuple[list[int], list[int], int]] = []  # classes, their totals, corners of each
        self.sums = nn.ModuleList()
        weight_row = {(0, centre): 0}
        for level in range(1, ndim + 1):
            stage = [p for p in odd if sum(p) == level]
            terms: list[list[Term]] = []
            for parity in stage:
                k = class_number(parity)
                found: dict[Index, list[Term]] = {corner: [] for corner in corners(parity)}
                for _, along in (key for key in collapsed if key[0] == k and any(key[1])):
                    source, step = neighbour(parity, along)
                    for corner in corners(source):
                        target = tuple(s + c for s, c in zip(step, corner, strict=True))
                        at = weight_row[class_number(source), corner]
                        found[target].append((place[k, along], centre, at, step))
                terms += found.values()
            for parity in stage:
                for corner in corners(parity):
                    weight_row[class_number(parity), corner] = len(weight_row)
            totals = [place[class_number(p), centre] for p in stage]
            self.stages.append(([class_number(p) for p in stage], totals, 2**level))
            self.sums.append(ShiftedSums(terms, ndim))
        self.owner = [k for k, _ in collapsed]

    def forward(self, stencil: Float[Tensor, "1 k p *b"], tilt: Tensor | None = None) -> Float[Tensor, "1 w *b"]:
        entries, blocks = stencil[0].flatten(0, 1), stencil.shape[3:]
        diagonal = stencil[0, self.centre]
        sums = self.collapse.to(stencil.dtype) @ entries.flatten(1)
        sums = (sums + self.detours.to(stencil.dtype) @ self._paths(entries).flatten(1)).unflatten(1, blocks)
        known = torch.ones_like(diagonal[:1])
        first = 0
        for (classes, totals, count), product in zip(self.stages, self.sums, strict=True):
            total = sums[totals]
            usable = total > 1e-10 * diagonal[classes]
            inverse = torch.where(usable, -1.0 / torch.where(usable, total, 1.0), 0.0)
            each = torch.cat([inverse, inverse.new_zeros(1, *blocks)])
            scaled = sums * each[[classes.index(k) if k in classes else len(classes) for k in self.owner]]
            found = product(held(scaled), held(known)).unflatten(0, (len(classes), count))
            if tilt is not None:
                size = len(classes) * count
                found = _tilted(found, tilt[0, first : first + size].unflatten(0, (len(classes), count)))
                first += size
            kept = (diagonal[classes] > 0)[:, None] & (found.abs() > NEGLIGIBLE)
            known = torch.cat([known, torch.where(kept, found, 0.0).flatten(0, 1)])
        return known[None, 1:]

    def _paths(self, entries: Tensor) -> Tensor:
        """Conductances of the detours (paths, *blocks): three resistances in series, each read at its own place."""
        resistance = (-entries).clamp(min=NO_LINK).reciprocal()
        # Beyond the grid there is no link.
        resistance = pad(resistance, [1] * (2 * self.ndim), value=1.0 / NO_LINK)
        ones = (1,) * self.ndim
        where = []
        for axis, n in enumerate(entries.shape[1:]):
            line = torch.arange(n, device=entries.device).reshape([-1 if a == axis else 1 for a in range(self.ndim)])
            where.append(self.moves[:, :, axis].reshape(*self.legs.shape, *ones) + line)
        return resistance[(self.legs.reshape(*self.legs.shape, *ones), *where)].sum(1).reciprocal()


def _detours(parity: Index, row: dict[tuple[int, Index], int]) -> list[tuple[int, Index, list[tuple[int, Index]]]]:
    """Of an edge class: (class, along, three legs), a leg being a row of the entries and where it is read."""
    ndim, axis, k = len(parity), parity.index(1), class_number(parity)
    centre, found = (0,) * ndim, []
    for along in (tuple(o if a == axis else 0 for a in range(ndim)) for o in (-1, 1)):
        _, forth = neighbour(parity, along)
        for side in (tuple(o if a == b else 0 for b in range(ndim)) for a in range(ndim) if a != axis for o in (-1, 1)):
            beside, step = neighbour(parity, side)
            legs = [((k, side), centre), ((class_number(beside), along), step), ((0, side), forth)]
            if (k, along) in row and all(leg in row for leg, _ in legs):
                found.append((k, along, [(row[leg], at) for leg, at in legs]))
    return found


def _tilted(weights: Float[Tensor, "k c *b"], tilt: Float[Tensor, "k c *b"]) -> Tensor:
    """As `differentiable_transfer._tilted`, sums over the corners of a class."""
    raised = weights * torch.exp(tilt)
    before, after = weights.sum(1, keepdim=True), raised.sum(1, keepdim=True)
    usable = after.abs() > CANCELLED * before.abs()
    back = torch.where(usable, before / torch.where(usable, after, 1.0), 0.0)
    return torch.where(back != 0, raised * back, weights)
