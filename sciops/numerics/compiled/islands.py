"""Stiff islands: parts joined by large weights that hang in a soft background, and their constants taken out."""

import math
from typing import NamedTuple, no_type_check

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix

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
BELOW, RANGE = -1080, 2120
"""Binary exponents of double precision."""


class Weights(NamedTuple):
    """Face weights per axis and sinks, with the cells that have a row; all (*space)."""

    faces: tuple[np.ndarray, ...]
    sink: np.ndarray
    active: np.ndarray


class Islands:
    """Z, one indicator per island, with E = ZᵀAZ and AZ.

    An island is a connected component of the weights above the widest gap in their logarithms that is held by no sink
    above the gap. The constant on it has an energy of the soft weights only: the slow modes of multigrid cycles whose
    coarse cells straddle islands. AZ has entries on the rims alone. Cost: a few passes once; a sum over island cells
    and a product with AZ per use.
    """

    def __init__(self, system: FaceSystem, labels: np.ndarray, count: int) -> None:
        self.cells = np.flatnonzero(labels >= 0)
        self.island = labels[self.cells]
        self.count = count
        self.rims = _rims(system, labels, count)
        self.rims_transposed = self.rims.T.tocsr()
        E = np.zeros((count, count))
        rows, cols = self.rims.nonzero()
        inside = labels[rows] >= 0
        values = np.asarray(self.rims[rows, cols]).ravel()
        np.add.at(E, (labels[rows[inside]], cols[inside]), values[inside])
        self.inverse = _pseudo_inverse(E)

    @classmethod
    def find(cls, system: FaceSystem, threshold: float) -> "Islands | None":
        """The islands of the levelled weights above the threshold, or None where nothing floats."""
        labels = afloat(levelled(system), threshold)
        if labels is None:
            return None
        sizes = np.bincount(labels + 1)[1:]
        if sizes.size > MOST:
            order = np.argsort(-sizes, kind="stable")
            number = np.full(sizes.size + 1, -1)
            number[order[:MOST]] = np.arange(MOST)
            labels = number[labels]
        return cls(system, labels, min(sizes.size, MOST))

    def sums(self, r: np.ndarray) -> np.ndarray:
        """Zᵀ r."""
        return np.bincount(self.island, weights=r.reshape(-1)[self.cells], minlength=self.count)

    def add(self, y: np.ndarray, z: np.ndarray) -> None:
        """z += Z y."""
        z.reshape(-1)[self.cells] += y[self.island]


class BalancedCycle:
    """z = Q r + (I − QA) B (I − AQ) r, Q = Z E⁻¹ Zᵀ: a cycle B with the constants of islands solved for exactly.

    Symmetric positive (semi-)definite if B is. Reference: Tang, Nabben, Vuik, Erlangga, J. Sci. Comput. 39 (2009) 340,
    P_BNN; Vuik, Segal, Meijerink, J. Comput. Phys. 152 (1999) 385, for indicators of layers.
    """

    def __init__(self, islands: Islands, cycle: Precondition) -> None:
        self.islands, self.cycle = islands, cycle

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        islands = self.islands
        coarse = islands.inverse @ islands.sums(r)
        rest = r - (islands.rims @ coarse).reshape(r.shape)
        self.cycle(rest, z)
        islands.add(coarse - islands.inverse @ (islands.rims_transposed @ z.reshape(-1)), z)


def float_in_numbers(system: FaceSystem) -> bool:
    """Do stiff parts that no stiff sink holds make up SHARE of the cells, and do they lie in a soft sea?"""
    counts = _magnitudes(system, THINNED)
    between = _widest(counts)
    if between is None or 2 * counts[between:].sum() > counts.sum():
        return False
    threshold = gap(system)
    labels = None if threshold is None else afloat(system, threshold)
    return labels is not None and bool(np.count_nonzero(labels >= 0) >= SHARE * np.count_nonzero(system.active))


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
    peaks = [float(w.max(initial=0.0)) for w in system.faces]
    most = max(peaks)
    faces = tuple(w if p in (0.0, most) else w * (most / p) for w, p in zip(system.faces, peaks, strict=True))
    return Weights(faces, system.sink, system.active)


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


def _rims(system: FaceSystem, labels: np.ndarray, count: int) -> csr_matrix:
    """AZ: (A 1_k)_i = s_i on island k and the weights across its rim, + inside, − outside."""
    rows, cols, values = [], [], []

    def put(at: np.ndarray, island: np.ndarray, value: np.ndarray) -> None:
        keep = island >= 0
        rows.append(at[keep])
        cols.append(island[keep])
        values.append(value[keep])

    for axis, w in enumerate(system.faces):
        stride = math.prod(system.space[axis + 1 :])
        flat, size = w.reshape(-1), labels.size - stride
        below = np.flatnonzero((labels[:size] != labels[stride:]) & (flat[:size] > 0))
        weight, above = flat[below].astype(np.float64), below + stride
        put(below, labels[below], weight)
        put(above, labels[above], weight)
        put(below, labels[above], -weight)
        put(above, labels[below], -weight)
    held = np.flatnonzero(system.sink.reshape(-1) > 0)
    put(held, labels[held], system.sink.reshape(-1)[held].astype(np.float64))
    parts = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    return csr_matrix(parts, shape=(labels.size, count))


def _pseudo_inverse(E: np.ndarray) -> np.ndarray:
    """E⁺ by the eigenvalues of D^(−1/2) E D^(−1/2)."""
    diagonal = E.diagonal()
    root = np.divide(1.0, np.sqrt(np.abs(diagonal)), out=np.zeros_like(diagonal), where=diagonal > 0)
    eigenvalues, vectors = np.linalg.eigh(root[:, None] * E * root)
    kept = eigenvalues > 1e-12
    vectors = root[:, None] * vectors[:, kept]
    return (vectors / eigenvalues[kept]) @ vectors.T
