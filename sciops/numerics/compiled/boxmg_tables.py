"""Which entry meets which weight: the index tables of operator-dependent multigrid, one per kind of stencil.

Everything is three-dimensional; a 2-D grid is a 3-D one of a single layer whose stencils have no vertical entries.
A symmetric 27-point stencil is kept as its 13 entries with lexicographically positive offset (`HALF`); the entry for
−o at i is the entry for o at i − o. `slots[m]` says where entry m is stored, −1 where the matrix has no such entry.
A fine point is 2I + p with its class p ∈ {0,1}³; it is interpolated from the coarse points I + c, c ≤ p.
"""

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

Index = tuple[int, int, int]

OFFSETS: list[Index] = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
HALF: list[Index] = OFFSETS[14:]
CENTRE = 13

FACES_2D, FACES_3D = (0, 2), (0, 2, 8)
"""Entries of HALF of a 5- and a 7-point stencil: +x, +y, +z."""
FULL_2D, FULL_3D = tuple(range(4)), tuple(range(13))
"""Entries of a 9- and a 27-point stencil."""


class Plan(NamedTuple):
    """Tables for one set of stencil entries. Steps are grouped by class; `*_start[p]` is where class p begins."""

    slots: np.ndarray
    """(13,) where each entry of HALF is stored."""
    present: np.ndarray
    """Numbers (in OFFSETS) of the offsets that occur, the centre included."""
    parities: np.ndarray
    """(classes, 3), class 0 first (the coarse points themselves)."""
    weights: int
    """Number of interpolation weights per coarse point, class 0 excluded (8 in 2-D, 26 in 3-D)."""
    corners: np.ndarray
    """(weights, 4): class, corner c."""
    collapse: np.ndarray
    """(classes, 27): offset number → number of the offset with the axes of even parity set to 0."""
    interpolate: np.ndarray
    """Steps of the interpolation: (offset along, source weight or −1 for one, shift (3), target weight)."""
    interpolate_start: np.ndarray
    product: np.ndarray
    """Steps of A P: (offset, weight of the neighbour or −1, shift (3), reach)."""
    product_start: np.ndarray
    restrict: np.ndarray
    """Steps of Pᵀ(A P): (weight or −1, corner (3), reach, entry of the coarse half stencil with 0 the centre)."""
    restrict_start: np.ndarray
    offsets: np.ndarray
    """(entries, 3): the offset of each stored entry."""
    pairs: np.ndarray
    """Stored entries m, n and the one that couples the points they lead to, −1 if none is stored."""


def _neighbour(parity: Index, offset: Index) -> tuple[Index, Index]:
    """Class and index shift of the point at `offset` from a point of this class."""
    moved = [p + o for p, o in zip(parity, offset, strict=True)]
    a, b, c = (m % 2 for m in moved)
    x, y, z = (m // 2 for m in moved)
    return (a, b, c), (x, y, z)


def _corners(parity: Index) -> list[Index]:
    x, y, z = (range(p + 1) for p in parity)
    return [(a, b, c) for a in x for b in y for c in z]


def _add(a: Index, b: Index) -> Index:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@lru_cache(maxsize=8)
def plan(entries: tuple[int, ...], ndim: int) -> Plan:
    """Tables for stencils with these entries of HALF on grids of this dimension."""
    slots = np.full(13, -1, dtype=np.int64)
    slots[list(entries)] = np.arange(len(entries))
    present = {HALF[m] for m in entries}
    present |= {(-o[0], -o[1], -o[2]) for o in present} | {(0, 0, 0)}
    parities: list[Index] = [(a, b, c) for a in range(ndim - 1) for b in (0, 1) for c in (0, 1)]
    parities.sort(key=sum)
    number = {p: k for k, p in enumerate(parities)}
    table = [(k, c) for k, p in enumerate(parities) if k for c in _corners(p)]
    weight = {key: w for w, key in enumerate(table)} | {(0, (0, 0, 0)): -1}
    collapse = np.zeros((len(parities), 27), dtype=np.int64)
    interpolate: list[list[tuple[int, ...]]] = []
    products: list[list[tuple[int, ...]]] = []
    restrict: list[list[tuple[int, ...]]] = []
    for k, parity in enumerate(parities):
        alongs: set[Index] = set()
        for o in OFFSETS:
            a, b, c = (d if p else 0 for d, p in zip(o, parity, strict=True))
            collapse[k, OFFSETS.index(o)] = OFFSETS.index((a, b, c))
            if o in present and (a, b, c) != (0, 0, 0):
                alongs.add((a, b, c))
        steps: list[tuple[int, ...]] = []
        rows: list[tuple[int, ...]] = []
        reaches: set[Index] = set()
        for along in sorted(alongs):
            source, shift = _neighbour(parity, along)
            for corner in _corners(source):
                target = weight[k, _add(shift, corner)]
                steps.append((OFFSETS.index(along), weight[number[source], corner], *shift, target))
        for o in sorted(present):
            source, shift = _neighbour(parity, o)
            for corner in _corners(source):
                reach = _add(shift, corner)
                reaches.add(reach)
                rows.append((OFFSETS.index(o), weight[number[source], corner], *shift, OFFSETS.index(reach)))
        back: list[tuple[int, ...]] = []
        for corner in _corners(parity):
            for reach in sorted(reaches):
                entry = OFFSETS.index(_add(reach, (-corner[0], -corner[1], -corner[2]))) - CENTRE
                if entry >= 0:
                    back.append((weight[k, corner], *corner, OFFSETS.index(reach), entry))
        interpolate.append(steps)
        products.append(rows)
        restrict.append(back)
    return Plan(
        slots,
        np.array(sorted(OFFSETS.index(o) for o in present), dtype=np.int64),
        np.array(parities, dtype=np.int64),
        len(table),
        np.array([(k, *c) for k, c in table], dtype=np.int64),
        collapse,
        *_grouped(interpolate),
        *_grouped(products),
        *_grouped(restrict),
        np.array([HALF[m] for m in entries], dtype=np.int64),
        _pairs(entries),
    )


def _pairs(entries: tuple[int, ...]) -> np.ndarray:
    table = []
    for m, n in combinations(range(len(entries)), 2):
        difference = tuple(b - a for a, b in zip(HALF[entries[m]], HALF[entries[n]], strict=True))
        stored = [s for s, entry in enumerate(entries) if HALF[entry] == difference]
        table.append((m, n, stored[0] if stored else -1))
    return np.array(table, dtype=np.int64).reshape(-1, 3)


def _grouped(steps: list[list[tuple[int, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([step for group in steps for step in group], dtype=np.int64).reshape(-1, 6)
    return flat, np.cumsum([0, *(len(group) for group in steps)])
