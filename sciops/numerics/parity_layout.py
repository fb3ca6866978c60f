"""Memory layout of multigrid: a grid split into its 2^d even/odd sub-grids, each flat and ghost-padded.

Point i = 2I + p of a grid belongs to *parity class* p ∈ {0,1}^d at index I. A class keeps its values for all
n cases in one flat, contiguous array, so that the neighbour at any offset is the same array read from a
shifted start: every stencil product is one fused multiply-add over contiguous memory without gaps.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor

Index = tuple[int, ...]


def parities(ndim: int) -> list[Index]:
    """The 2^d classes in row-major order; class number k and parity p are used interchangeably."""
    return list(product((0, 1), repeat=ndim))


def class_number(parity: Index) -> int:
    """Position of a parity in `parities`."""
    number = 0
    for p in parity:
        number = 2 * number + p
    return number


def neighbour(parity: Index, offset: Index) -> tuple[Index, Index]:
    """Class q and index shift s of the point at `offset` from a point of class p: p + o = q + 2s."""
    total = [p + o for p, o in zip(parity, offset, strict=True)]
    return tuple(t % 2 for t in total), tuple(t // 2 for t in total)


@dataclass(frozen=True)
class ParityLayout:
    """Where the classes of an (n, *space) grid function live.

    Class arrays have ceil(m/2) entries per axis (the last odd one is a *dummy*, held at zero, if m is odd), and
    ghosts: one behind each row on bounded axes (always zero, and shared as front ghost of the next row), one on
    either side on periodic axes. `slack` zeros at both ends of the memory keep every shifted view inside it.

    On a periodic axis of odd length the points 0 and m−1 are neighbours and both even. There the dummy and the
    front ghost of the odd class hold copies of them (`fill`), which closes the ring.
    """

    n: int
    space: Index
    periodic: tuple[bool, ...]

    @cached_property
    def parities(self) -> list[Index]:
        return parities(len(self.space))

    @cached_property
    def sizes(self) -> Index:
        return tuple((m + 1) // 2 for m in self.space)

    @cached_property
    def widths(self) -> Index:
        return tuple(size + (2 if wrap else 1) for size, wrap in zip(self.sizes, self.periodic, strict=True))

    @cached_property
    def strides(self) -> Index:
        return tuple(prod(self.widths[axis + 1 :]) for axis in range(len(self.widths)))

    @cached_property
    def total(self) -> int:
        return self.n * prod(self.widths)

    @cached_property
    def slack(self) -> int:
        return sum(self.strides)

    @cached_property
    def starts(self) -> dict[Index, int]:
        """Where the view shifted by s ∈ {−1,0,1}^d begins."""
        shifts = product((-1, 0, 1), repeat=len(self.space))
        return {s: self.slack + sum(o * w for o, w in zip(s, self.strides, strict=True)) for s in shifts}

    def zeros(self, *lead: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Storage for `lead` class arrays."""
        return torch.zeros((*lead, self.total + 2 * self.slack), dtype=dtype, device=device)

    def hollow(self, *lead: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Storage whose slack is zero and whose values are yet to be written."""
        storage = torch.empty((*lead, self.total + 2 * self.slack), dtype=dtype, device=device)
        storage[..., : self.slack] = 0.0
        storage[..., self.slack + self.total :] = 0.0
        return storage

    def shifted(self, row: Tensor, shift: Index) -> Tensor:
        """Flat view of one class array whose entry I is row[I + shift]."""
        start = self.starts[shift]
        return row[start : start + self.total]

    def core(self, storage: Tensor) -> Tensor:
        """The storage without slack, ghosts included, as (…, total)."""
        return storage[..., self.slack : self.slack + self.total]

    def padded(self, storage: Tensor) -> Tensor:
        """View of shape (…, n, *widths), ghosts included."""
        return self.core(storage).view(*storage.shape[:-1], self.n, *self.widths)

    def interior(self, storage: Tensor, counts: Index | None = None) -> Tensor:
        """View of shape (…, n, *sizes) without ghosts; `counts` trims each axis further."""
        view = self.padded(storage)
        first = view.dim() - len(self.space)
        for axis, (size, wrap) in enumerate(zip(counts or self.sizes, self.periodic, strict=True)):
            view = view.narrow(first + axis, int(wrap), size)
        return view

    def class_views(self, storage: Tensor) -> list[Tensor]:
        """For storage of shape (2^d, …): per class the view of its real points, dummies excluded."""
        counts = [tuple((m + 1 - p) // 2 for m, p in zip(self.space, parity, strict=True)) for parity in self.parities]
        return [self.interior(storage[k], count) for k, count in enumerate(counts)]

    def pick(self, values: Tensor) -> list[Tensor]:
        """Views of an ordinary (…, *space) array, one per class."""
        lead = (slice(None),) * (values.dim() - len(self.space))
        return [values[lead + tuple(slice(p, None, 2) for p in parity)] for parity in self.parities]

    def split(self, values: Tensor, storage: Tensor) -> None:
        """Copy a (…, n, *space) array into class storage (2^d, …)."""
        for target, source in zip(self.class_views(storage), self.pick(values), strict=True):
            target.copy_(source)

    def merge(self, storage: Tensor, values: Tensor) -> None:
        """Copy class storage (2^d, …) into a (…, n, *space) array."""
        for source, target in zip(self.class_views(storage), self.pick(values), strict=True):
            target.copy_(source)

    def fill(self, storage: Tensor) -> None:
        """Set the ghosts of class storage (2^d, …) on periodic axes; bounded axes keep their zeros."""
        if not any(self.periodic):
            return
        axes = len(self.space)
        view = self.padded(storage).unflatten(0, (2,) * axes)
        for axis, (m, wrap) in enumerate(zip(self.space, self.periodic, strict=True)):
            if not wrap:
                continue
            even, odd = view.select(axis, 0), view.select(axis, 1)
            # `select` removed one of the class axes in front: axes − 1 classes, then n, then space.
            where = axes + axis
            last = self.sizes[axis]
            if m % 2 == 0:
                even.select(where, last + 1).copy_(even.select(where, 1))
                odd.select(where, 0).copy_(odd.select(where, last))
            else:
                odd.select(where, last).copy_(even.select(where, 1))
                odd.select(where, 0).copy_(even.select(where, last))

    def wrap_front(self, storage: Tensor) -> None:
        """Set the front ghosts on periodic axes to the last entry of the same class."""
        self._wrap(storage, front=True)

    def wrap_back(self, storage: Tensor) -> None:
        """Set the rear ghosts on periodic axes to the first entry of the same class."""
        self._wrap(storage, front=False)

    def _wrap(self, storage: Tensor, front: bool) -> None:
        if not any(self.periodic):
            return
        view = self.padded(storage)
        first = view.dim() - len(self.space)
        for axis, (size, wrap) in enumerate(zip(self.sizes, self.periodic, strict=True)):
            if wrap:
                target, source = (0, size) if front else (size + 1, 1)
                view.select(first + axis, target).copy_(view.select(first + axis, source))
