"""Unsmoothed-aggregation multigrid for face-weight matrices, compiled and matrix-free."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.numerics.compiled import aggregation_kernels as kernels
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.systems import FaceSystem, System

COARSEST = 4
"""Most cells per axis on the level that is solved densely."""


class AggregationCycle:
    """One V-cycle z ≈ A⁻¹ r for a `FaceSystem`: `cycle(r, z)`; symmetric positive (semi-)definite."""

    def __init__(self, system: FaceSystem, sweeps: int, overcorrection: float, dtype: type) -> None:
        space = system.space
        # The cycle wants long rows and many planes: a plane of a 2-D grid is one row.
        axes = {1: (None, None, 0), 2: (0, None, 1), 3: (0, 1, 2)}[len(space)]
        shape = tuple(1 if a is None else space[a] for a in axes)
        sink = system.sink.reshape(shape)
        empty = np.broadcast_to(np.zeros((), sink.dtype), shape)
        faces = [empty if a is None else system.faces[a].reshape(shape) for a in axes]
        largest = float(system.diagonal.max(initial=0.0))
        # A power of two: it moves no rounding and keeps single precision in range.
        scale = 1.0 / 2.0 ** np.round(np.log2(largest)) if largest > 0 else 1.0
        shapes = [shape]
        while max(shapes[-1]) > COARSEST:
            shapes.append(tuple((size + 1) // 2 for size in shapes[-1]))
        self.table = _table(shapes)
        self.pool = np.zeros(int(self.table[-1, 4] + kernels.ARRAYS * self.table[-1, 5]), dtype)
        level = [*faces, sink]
        for depth in range(len(shapes)):
            kernels.fill(self.pool, self.table[depth], *level, scale)
            if depth + 1 < len(shapes):
                level = list(kernels.coarsen(*level, 1 / overcorrection, 1 / overcorrection))
        self.inverse = _inverse([np.asarray(a, np.float64) * scale for a in level]).astype(dtype)
        self.sweeps = sweeps

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        kernels.cycle(self.pool, self.table, self.inverse, self.sweeps, r.reshape(-1), z.reshape(-1))


def _table(shapes: list[tuple[int, ...]]) -> np.ndarray:
    """Planes, rows, columns, half, offset, size of every level."""
    table = np.zeros((len(shapes), 6), np.int64)
    offset = 0
    for depth, (planes, rows, columns) in enumerate(shapes):
        half = (columns + 1) // 2 + 1
        size = (planes + 2) * rows * half + 16
        table[depth] = planes, rows, columns, half, offset, size
        offset += kernels.ARRAYS * size
    return table


def _inverse(level: list[np.ndarray]) -> np.ndarray:
    """A symmetric generalised inverse of the coarsest matrix: small modes of D^(−1/2) A D^(−1/2) are left out."""
    sink = level[-1]
    index = np.arange(sink.size).reshape(sink.shape)
    matrix = np.diag(sink.ravel())
    for axis, w in enumerate(level[:-1]):
        size = sink.shape[axis] - 1
        lower = index.take(range(size), axis).ravel()
        upper = index.take(range(1, size + 1), axis).ravel()
        weight = w.take(range(size), axis).ravel()
        matrix[lower, upper] = matrix[upper, lower] = -weight
        np.add.at(matrix, (lower, lower), weight)
        np.add.at(matrix, (upper, upper), weight)
    diagonal = matrix.diagonal()
    root = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    values, vectors = np.linalg.eigh(root[:, None] * matrix * root)
    kept = values > 1e-10
    vectors = root[:, None] * vectors[:, kept]
    return (vectors / values[kept]) @ vectors.T


@dataclass(frozen=True)
class AggregationMultigridCG(CompiledCG):
    sweeps: int = 2
    overcorrection: float = 2.0
    precision: Literal["single", "double"] = "single"

    def build(self, system: System, A: LinearOperator, i: int) -> AggregationCycle:
        if not isinstance(system, FaceSystem):
            raise UsageError("AggregationCG takes face weights.")
        return AggregationCycle(
            system, self.sweeps, self.overcorrection, np.float32 if self.precision == "single" else np.float64
        )
