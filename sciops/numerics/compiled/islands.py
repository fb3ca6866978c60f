"""Stiff islands: parts joined by large weights that float in a soft background, and their constants taken out."""

import math
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from numba import njit
from scipy.sparse import csc_matrix

from sciops.numerics.compiled import islands_kernels as kernels
from sciops.numerics.compiled.conjugate_gradients import Precondition
from sciops.numerics.compiled.systems import FaceSystem
from sciops.numerics.components import singular_components

OCTAVES = 6
"""Binary orders of magnitude between soft and stiff weights in which there are none, at least."""
MOST = 1000
"""Islands whose matrix is inverted densely; smaller ones beyond that number are left to the cycle."""
THINNED = 17
"""One weight in so many decides whether to look for a gap at all; odd, so that it meets all columns."""
SHARE = 0.01
REACH, SWEEPS, OMEGA = 0.4, 1, 1.2
"""Layers of soft cells over which the indicator of an island falls off, sweeps of over-relaxation that shape it."""
BELOW, RANGE = -1080, 2120
"""Binary exponents of double precision."""


class Weights(NamedTuple):
    """Face weights per axis and sinks, with the cells that have a row; all (*space)."""

    faces: tuple[np.ndarray, ...]
    sink: np.ndarray
    active: np.ndarray


class Parts(NamedTuple):
    """Levelled weights above `threshold` are stiff; `labels`: the island of each cell (see `afloat`) or None."""

    threshold: float
    labels: np.ndarray | None


class Columns:
    """A sparse matrix by columns, in single precision: column k has entries starts[k] … starts[k + 1] − 1."""

    def __init__(self, starts: np.ndarray, cells: np.ndarray, values: np.ndarray, rows: int) -> None:
        self.starts, self.cells, self.values, self.rows = starts, cells, values, rows

    def to_scipy(self) -> csc_matrix:
        shape = self.rows, self.starts.size - 1
        return csc_matrix((self.values.astype(np.float64), self.cells, self.starts), shape=shape)

    def dots(self, v: np.ndarray) -> np.ndarray:
        """Inner products of the columns with v."""
        out = np.empty(self.starts.size - 1)
        kernels.dots(self.starts, self.cells, self.values, v.reshape(-1), out)
        return out

    def add(self, y: np.ndarray, out: np.ndarray) -> None:
        """out += Σ_k y_k · column k."""
        kernels.combine(self.starts, self.cells, self.values, y, out.reshape(-1))


class Islands:
    """Z, one column per island, with AZ and the pseudo-inverse of E = ZᵀAZ.

    An island is a connected component of the weights above the widest gap in their logarithms that is held by no sink
    above the gap. A function that is constant on it, zero on other stiff parts and harmonic in between has an energy of
    the soft weights only: the slow modes of multigrid cycles, whose coarse cells tie an island to what is near. The
    indicator alone jumps at the rim and has many times that energy, and the cycle cannot mend that where it ties; so
    columns fall off over some layers of soft cells (REACH), by SWEEPS of over-relaxation. Cost, once and per use: some
    passes over the islands and those layers. Memory: 16 bytes for each of their cells.
    """

    def __init__(self, system: FaceSystem, labels: np.ndarray, count: int, threshold: float) -> None:
        """Islands are numbered in `labels`; stiff are those whose levelled weights are above the threshold."""
        inside = np.flatnonzero(labels >= 0)
        number = labels[inside].astype(np.int16 if count < 2**15 else np.int64)
        members = inside[np.argsort(number, kind="stable")].astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=count))])
        space, sink = system.space, system.sink.reshape(-1).astype(np.float64, copy=False)
        faces = [w.reshape(-1).astype(np.float64, copy=False) for w in system.faces]
        limits, strides = np.array([np.inf] * 3 + [threshold]), np.full(3, sink.size)
        limits[: len(space)] = threshold / _levels(system)
        strides[: len(space)] = [math.prod(space[axis + 1 :]) for axis in range(len(space))]
        matrix = *faces, *faces[:1] * (3 - len(faces)), strides, sink
        stiff = kernels.stiff_cells(*matrix, limits)
        margins = np.maximum(np.ceil(REACH * np.diff(starts) ** (1 / len(space))), 2).astype(np.int64)
        *columns, row_starts, rows, values = kernels.extend(starts, members, *matrix, stiff, margins, SWEEPS, OMEGA)
        self.columns = Columns(columns[0], columns[1], columns[2], sink.size)
        self.products = Columns(row_starts, rows, values, sink.size)
        self.count = count
        E = (self.products.to_scipy().T @ self.columns.to_scipy().tocsr()).toarray()
        self.inverse = _pseudo_inverse((E + E.T) / 2)

    @classmethod
    def find(cls, system: FaceSystem, parts: Parts) -> "Islands | None":
        """The islands of the stiff parts, or None where nothing floats."""
        labels = parts.labels
        if labels is None:
            return None
        sizes = np.bincount(labels + 1)[1:]
        if sizes.size > MOST:
            order = np.argsort(-sizes, kind="stable")
            number = np.full(sizes.size + 1, -1)
            number[order[:MOST]] = np.arange(MOST)
            labels = number[labels]
        return cls(system, labels, min(sizes.size, MOST), parts.threshold)


class BalancedCycle:
    """z = Q r + (I − QA) B (I − AQ) r, Q = Z E⁻¹ Zᵀ: a cycle B with the constants of islands solved for exactly.

    Symmetric positive (semi-)definite if B is. Reference: Tang, Nabben, Vuik, Erlangga, J. Sci. Comput. 39 (2009) 340,
    P_BNN; Vuik, Segal, Meijerink, J. Comput. Phys. 152 (1999) 385, for indicators of layers.
    """

    def __init__(self, islands: Islands, cycle: Precondition) -> None:
        self.islands, self.cycle = islands, cycle

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        islands = self.islands
        coarse = islands.inverse @ islands.columns.dots(r)
        rest = r.copy()
        islands.products.add(-coarse, rest)
        self.cycle(rest, z)
        islands.columns.add(coarse - islands.inverse @ islands.products.dots(z), z)


def float_in_numbers(system: FaceSystem) -> Parts | None:
    """The stiff parts, if those that no stiff sink holds make up SHARE of the cells and lie in a soft sea."""
    counts = _magnitudes(system, THINNED)
    between = _widest(counts)
    if between is None or 2 * counts[between:].sum() > counts.sum():
        return None
    parts = stiff_parts(system)
    if parts is None or parts.labels is None:
        return None
    return parts if np.count_nonzero(parts.labels >= 0) >= SHARE * np.count_nonzero(system.active) else None


def stiff_parts(system: FaceSystem) -> Parts | None:
    """The stiff parts of the levelled weights, if these have a gap."""
    weights = levelled(system)
    threshold = gap(weights)
    return None if threshold is None else Parts(threshold, afloat(weights, threshold))


def afloat(system: FaceSystem | Weights, threshold: float) -> np.ndarray | None:
    """Number of the island of each cell, −1 outside; None if there is none or nothing else."""
    strong = [torch.from_numpy(np.where(a > threshold, a, 0.0))[None] for a in (*system.faces, system.sink)]
    labels = singular_components(tuple(strong[:-1]), strong[-1])[0].numpy().ravel() - 1
    count = int(labels.max()) + 1
    return None if count == 0 or np.count_nonzero(labels >= 0) == np.count_nonzero(system.active) else labels


def levelled(system: FaceSystem) -> Weights:
    """Weights scaled to one maximum on all axes: unequal spacings would fill the gap between soft and stiff ones.

    Sinks stay as they are, for nothing says which axis they are of.
    """
    faces = tuple(w if s == 1 else w * s for w, s in zip(system.faces, _levels(system).tolist(), strict=True))
    return Weights(faces, system.sink, system.active)


def _levels(system: FaceSystem) -> np.ndarray:
    """What the weights of each axis are to be multiplied with for that."""
    peaks = np.array([float(w.max(initial=0.0)) for w in system.faces])
    return np.divide(peaks.max(), peaks, out=np.ones_like(peaks), where=peaks > 0)


def gap(system: FaceSystem | Weights) -> float | None:
    """The middle of the widest range of magnitudes that no weight lies in (nor a sink), if it is OCTAVES wide."""
    between = _widest(_magnitudes(system, 1))
    return None if between is None else math.ldexp(1.0, between + BELOW)


def _magnitudes(system: FaceSystem | Weights, every: int) -> np.ndarray:
    """How many weights and sinks have which binary exponent, counting one in so many."""
    counts = np.zeros(RANGE, dtype=np.int64)
    for a in system.faces if isinstance(system, Weights) else (*system.faces, system.sink):
        _count_exponents(a.reshape(-1)[::every], counts)
    return counts


def _widest(counts: np.ndarray) -> int | None:
    """The middle of the widest run of empty bins between filled ones."""
    used = np.flatnonzero(counts)
    if used.size < 2:
        return None
    k = int(np.diff(used).argmax())
    return int(used[k] + used[k + 1]) // 2 if used[k + 1] - used[k] > OCTAVES else None


@njit(cache=True, error_model="numpy")
@no_type_check
def _count_exponents(a, counts):
    for i in range(a.size):
        if a[i] > 0:
            counts[math.frexp(a[i])[1] - BELOW] += 1


def _pseudo_inverse(E: np.ndarray) -> np.ndarray:
    """E⁺ by the eigenvalues of D^(−1/2) E D^(−1/2)."""
    diagonal = E.diagonal()
    root = np.divide(1.0, np.sqrt(np.abs(diagonal)), out=np.zeros_like(diagonal), where=diagonal > 0)
    eigenvalues, vectors = np.linalg.eigh(root[:, None] * E * root)
    kept = eigenvalues > 1e-12
    vectors = root[:, None] * vectors[:, kept]
    return (vectors / eigenvalues[kept]) @ vectors.T
