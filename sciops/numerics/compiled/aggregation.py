"""Unsmoothed-aggregation multigrid for face-weight matrices, compiled and matrix-free."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled import aggregation_kernels as kernels
from sciops.numerics.compiled.base import CompiledCG
from sciops.numerics.compiled.systems import FaceSystem, System, faces_of, grid_shape

COARSEST = 4
"""Most cells per axis on the level that is solved densely."""


class AggregationCycle:
    """One V-cycle z ≈ A⁻¹ r for a `FaceSystem`: `cycle(r, z)`, symmetric positive (semi-)definite, linear in r.

    `sweeps`, `overcorrection`, `dtype`: see `AggregationMultigrid`. Memory: 12·2^d/(2^d − 1)/2 arrays of `dtype`.
    """

    def __init__(self, system: FaceSystem, sweeps: int, overcorrection: float, dtype: type) -> None:
        shape, axes = grid_shape(system.space)
        sink = system.sink.reshape(shape)
        empty = np.broadcast_to(np.zeros((), sink.dtype), shape)
        level = [*(empty if a is None else system.faces[a].reshape(shape) for a in axes), sink]
        largest = float(system.diagonal.max(initial=0.0))
        # A power of two: it moves no rounding and keeps single precision in range.
        scale = 2.0 ** -np.round(np.log2(largest)) if largest > 0 else 1.0
        shapes = [shape]
        while max(shapes[-1]) > COARSEST:
            shapes.append(tuple((size + 1) // 2 for size in shapes[-1]))
        self.table = _table(shapes)
        self.pool: np.ndarray = np.zeros(int(self.table[-1, 4] + kernels.ARRAYS * self.table[-1, 5]), dtype)
        for depth in range(len(shapes)):
            kernels.fill(self.pool, self.table[depth], *level, scale)
            if depth + 1 < len(shapes):
                level = list(kernels.coarsen(*level, 1.0 / overcorrection))
        self.inverse: np.ndarray = _inverse([np.asarray(a, np.float64) * scale for a in level]).astype(dtype)
        self.sweeps = sweeps

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        kernels.cycle(self.pool, self.table, self.inverse, self.sweeps, r.reshape(-1), z.reshape(-1))


@dataclass(frozen=True)
class AggregationMultigrid(CompiledCG):
    """Conjugate gradients in float64 with one V-cycle of unsmoothed aggregation per step, never assembled.

    Coarse cells are 2^d fine ones and inherit the sums of their face weights and sinks (Galerkin with
    piecewise-constant transfer), divided by `overcorrection`: jumps at aggregate edges cost twice the energy of the
    smooth function that they stand for, and 2 undoes that. `sweeps` red–black Gauss–Seidel before, the same in
    reversed order after; the level with ≤ 4 cells per axis is solved densely.
    `precision` of the cycle: single costs half the memory traffic and no iterations down to tolerances of 1e-12.
    Any size of grid; cells without a row are skipped; all-Neumann components are projected.
    Cost per iteration: 2·(2·sweeps) + 1 half sweeps of the grid and a fraction on the coarser ones. Memory: 7 to 8
    single-precision arrays.
    Fails (slow, MAX_ITER) on strong anisotropy and on coefficients that jump by orders of magnitude at no coarse cell's
    edge: take BoxmgCG there.
    Reference: Braess, Computing 55 (1995) 379; Notay, Electron. Trans. Numer. Anal. 37 (2010) 123.
    """

    sweeps: int = 2
    overcorrection: float = 2.0
    precision: Literal["single", "double"] = "single"

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise UsageError(f"sweeps must be at least 1; got {self.sweeps}.")
        if not self.overcorrection > 0:
            raise UsageError(f"overcorrection must be positive (1 is the Galerkin matrix); got {self.overcorrection}.")
        if self.precision not in ("single", "double"):
            raise UsageError(f"precision must be 'single' or 'double'; got '{self.precision}'.")

    @property
    def method(self) -> str:
        return "AggregationCG"

    def adapt(self, A: LinearOperator) -> LinearOperator:
        return faces_of(A) if isinstance(A, StencilOperator) else A

    def build(self, system: System, A: LinearOperator, i: int) -> AggregationCycle:
        assert isinstance(system, FaceSystem)
        dtype = np.float32 if self.precision == "single" else np.float64
        return AggregationCycle(system, self.sweeps, self.overcorrection, dtype)


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
