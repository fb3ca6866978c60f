"""Operator-dependent multigrid (black-box multigrid) for 5/9-point matrices in 2-D and 7/27-point ones in 3-D."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sciops.core.errors import UsageError
from sciops.numerics.compiled import boxmg_setup as build
from sciops.numerics.compiled import boxmg_tables as tables
from sciops.numerics.compiled.boxmg_coarsest import Coarsest
from sciops.numerics.compiled.boxmg_incomplete import (
    factorise,
    factorise_faces,
    solve_backward,
    solve_forward,
    to_residual,
)
from sciops.numerics.compiled.boxmg_matrix import BoxMatrix
from sciops.numerics.compiled.boxmg_smoothing import smooth_faces, smooth_stencil
from sciops.numerics.compiled.boxmg_transfer import largest, load, prolong, restrict_residual, unload


@dataclass
class LevelAdvice:
    """What a caller may change on one level; every field has a neutral default.

    `prolongation_scale` (weights, *coarse shape) ≥ 0: factors of the interpolation weights, whose sum at each point is
    restored afterwards; weight w belongs to class `plan.corners[w, 0]`, corner `plan.corners[w, 1:]` (`boxmg_tables`).
    `relaxation` (*shape) in (0, 2): over- or under-relaxation ω of each point.
    `smoother`: "point", "incomplete" or None for the choice of the options.
    `coarse_scale` > 0: factor of the coarse correction.
    Whatever it says, the cycle stays symmetric positive definite.
    """

    prolongation_scale: np.ndarray | None = None
    relaxation: np.ndarray | None = None
    smoother: Literal["point", "incomplete"] | None = None
    coarse_scale: float = 1.0


Advice = Callable[[BoxMatrix, int], LevelAdvice | None]
"""(matrix of the level, its depth with 0 the finest) → advice. Called once per level during set-up."""


@dataclass(frozen=True)
class BoxOptions:
    """Sweeps before and after, the dtype of the cycle, sizes."""

    sweeps: int = 1
    smoother: Literal["auto", "point", "incomplete"] = "auto"
    precision: Literal["single", "double"] = "single"
    detours: bool = True
    damping: float = 1.0
    """Factor ω in (0, 2) of the incomplete smoother."""
    coarsest: int = 150
    """Largest number of unknowns solved densely."""
    cycle: Literal["V", "W"] = "V"
    once: int = 0
    """Coarse grids, from the finest on, that a W-cycle visits only once each time."""


@dataclass
class Level:
    """One grid of the cycle: couplings, row sums and ω/a_ii in the dtype of the cycle, work space, weights to it."""

    gz: int
    space: tuple[int, int, int]
    faces: bool
    plan: tables.Plan
    off: np.ndarray
    sums: np.ndarray
    inverse: np.ndarray
    x: np.ndarray
    b: np.ndarray
    starts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weights: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0, 0)))
    scale: float = 1.0
    lower: np.ndarray | None = None
    """Incomplete factor, where that is the smoother."""
    keep: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.float32))
    """1 − ω where the relaxation is advised."""
    kept: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), dtype=np.float32))
    """The right-hand side of a W-cycle, which smoothing overwrites."""


class BoxHierarchy:
    """z = B r, one V(ν, ν)- or W(ν, ν)-cycle: B ≈ A⁻¹, symmetric, positive (semi-)definite.

    Coarse points are every other point of each axis (any size); interpolation follows the stencil, so that the flux is
    continuous across jumps (`interpolate_class`); coarse matrices are PᵀAP. Set-up in float64; the cycle in float32
    unless `precision="double"`. Coarsest grid: dense pseudo-inverse.
    `advice(matrix, depth)` may adapt each level (see `LevelAdvice`); `BoxMatrix.stencil()` gives its 3^d entries.
    Cost O(N): memory ≈ 9 N words in 2-D and 11 N in 3-D (float32) beside the float64 set-up of one level.
    Fails to be fast on 3-D matrices with stiff parts a few coarse cells wide: see `islands`.
    Reference: Dendy, J. Comput. Phys. 48 (1982); Dendy, Moulton, Numer. Linear Algebra Appl. 17 (2010).
    """

    def __init__(self, matrix: BoxMatrix, options: BoxOptions | None = None, advice: Advice | None = None) -> None:
        self.options = options or BoxOptions()
        self.dtype = np.float32 if self.options.precision == "single" else np.float64
        self.shape = matrix.shape
        self.norm = float(matrix.diag.max(initial=0.0))
        self.levels: list[Level] = []
        self.coarsest: Coarsest | None = None
        if self.norm == 0:
            return
        if not np.isfinite(self.norm) or matrix.diag.min() < 0:
            raise UsageError(
                "Box multigrid needs a finite, non-negative diagonal; this matrix is not positive definite."
            )
        matrix = matrix.scaled(1.0 / self.norm)
        depth = 0
        while matrix.unknowns > self.options.coarsest:
            matrix = self._descend(matrix, advice(matrix, depth) if advice else None)
            depth += 1
        self.coarsest = Coarsest(matrix, self.dtype)

    def __call__(self, r: np.ndarray, z: np.ndarray) -> None:
        """z ← B r (both of shape (*space), any float dtype)."""
        if self.coarsest is None:
            z[...] = 0.0
            return
        flat = r.reshape(-1)
        size = math.sqrt(float(np.dot(flat, flat)))
        if not 1e-100 < size < 1e100:  # squares may have left the range of float64
            size = largest(flat)
        if not (size > 0) or not np.isfinite(size):
            z[...] = r
            return
        top = self.levels[0] if self.levels else self.coarsest
        shape = top.space
        load(r.reshape(shape), 1.0 / size, top.gz, top.inverse, top.b)
        self._cycle(0)
        unload(top.x, size / self.norm, top.gz, top.inverse, z.reshape(shape))

    def _cycle(self, depth: int) -> None:
        if depth == len(self.levels):
            assert self.coarsest is not None
            self.coarsest.solve()
            return
        level = self.levels[depth]
        if level.kept.size:
            level.kept[...] = level.b
        below = self.levels[depth + 1] if depth + 1 < len(self.levels) else self.coarsest
        assert below is not None
        self._before(level)
        grid = level.gz, level.space
        classes = level.plan.parities, level.plan.corners, level.starts, level.weights
        restrict_residual(level.x, level.b, level.off, level.sums, *grid, level.faces, *classes, below.b)
        self._correct(depth + 1)
        prolong(below.x, level.x, self.dtype(level.scale), *grid, *classes)
        self._after(level)

    def _correct(self, depth: int) -> None:
        """The coarse equation: one cycle, or two of a W-cycle."""
        self._cycle(depth)
        if depth == len(self.levels) or self.levels[depth].kept.size == 0:
            return
        level = self.levels[depth]
        first, grid = level.x.copy(), (level.gz, level.space, level.faces)
        level.b[...] = level.kept
        to_residual(level.x, level.b, level.off, level.sums, *grid)
        self._cycle(depth)
        level.x += first

    def _before(self, level: Level) -> None:
        """Smooth from zero."""
        grid = level.gz, level.space
        sweeps = self.options.sweeps
        if level.lower is not None:
            solve_forward(level.b, level.x, level.lower, *grid, level.faces)
            solve_backward(level.x, level.lower, level.inverse, *grid, level.faces, level.x, False)
            return
        arrays = level.x, level.b, level.off, level.inverse, level.keep, *grid, True
        if level.faces:
            for n in range(sweeps):
                smooth_faces(*arrays, n == 0)
        else:
            level.x[...] = 0
            for _ in range(sweeps):
                smooth_stencil(*arrays)

    def _after(self, level: Level) -> None:
        """The adjoint of the smoothing before; may overwrite the right-hand side."""
        grid = level.gz, level.space
        if level.lower is not None:
            to_residual(level.x, level.b, level.off, level.sums, *grid, level.faces)
            solve_forward(level.b, level.b, level.lower, *grid, level.faces)
            solve_backward(level.b, level.lower, level.inverse, *grid, level.faces, level.x, True)
            return
        arrays = level.x, level.b, level.off, level.inverse, level.keep, *grid, False
        for _ in range(self.options.sweeps):
            if level.faces:
                smooth_faces(*arrays, False)
            else:
                smooth_stencil(*arrays)

    def _descend(self, matrix: BoxMatrix, advice: LevelAdvice | None) -> BoxMatrix:
        """Append a level for this matrix; return the next coarser matrix."""
        advice = advice or LevelAdvice()
        plan, dtype = matrix.plan, self.dtype
        starts = np.searchsorted(plan.corners[:, 0], np.arange(len(plan.parities) + 1))
        weights = self._interpolation(matrix, advice, starts)
        coarse = matrix.coarse_space
        out = np.zeros((5 if matrix.gz == 0 else 14, *matrix.padded(coarse)))
        grid = matrix.gz, matrix.space, coarse
        rows = plan.parities, plan.product, plan.product_start, plan.restrict, plan.restrict_start
        build.galerkin(matrix.off, matrix.diag, plan.slots, *grid, *rows, weights, out)
        lower, inverse = self._smoother(matrix, advice)
        level = Level(
            matrix.gz,
            matrix.space,
            matrix.faces,
            plan,
            matrix.off.astype(dtype),
            matrix.row_sums().astype(dtype),
            inverse,
            np.zeros(matrix.diag.shape, dtype=dtype),
            np.zeros(matrix.diag.shape, dtype=dtype),
            starts,
            weights.astype(dtype),
            advice.coarse_scale,
            lower,
        )
        level.keep = np.zeros((0, 0, 0), dtype=dtype)
        if lower is None and advice.relaxation is not None:
            level.keep = (1 - level.inverse * matrix.diag).astype(dtype)
        if self.options.cycle == "W" and len(self.levels) > self.options.once:
            level.kept = np.empty_like(level.b)
        self.levels.append(level)
        return BoxMatrix(out[1:], out[0], matrix.gz, coarse, faces=False)

    def _smoother(self, matrix: BoxMatrix, advice: LevelAdvice) -> tuple[np.ndarray | None, np.ndarray]:
        """Incomplete factor or None, and ω over the pivots or the diagonal."""
        lower, pivots, relaxation = None, matrix.diag, np.ones_like(matrix.diag)
        if (advice.smoother or self.options.smoother) == "point":
            if advice.relaxation is not None:
                matrix.inside(relaxation)[...] = np.clip(advice.relaxation, 1e-3, 2 - 1e-3).reshape(matrix.space)
        else:
            relaxation *= self.options.damping
            strides = np.array([s // matrix.diag.itemsize for s in matrix.diag.strides])
            diag, reach, pivots = matrix.diag.reshape(-1), matrix.plan.offsets @ strides, matrix.diag.copy()
            if matrix.faces:
                lower = np.zeros(matrix.off.shape, dtype=self.dtype)
                off, flat = matrix.off.reshape(len(lower), -1), lower.reshape(len(lower), -1)
                factorise_faces(diag, off, reach, diag.size, flat, pivots.reshape(-1))
            else:
                lower = matrix.off.copy()
                flat = lower.reshape(len(lower), -1)
                factorise(diag, reach, matrix.plan.pairs, diag.size, flat, pivots.reshape(-1))
                lower = lower.astype(self.dtype)
        inverse = np.divide(relaxation, pivots, out=np.zeros_like(pivots), where=matrix.diag > 0)
        return lower, inverse.astype(self.dtype)

    def _interpolation(self, matrix: BoxMatrix, advice: LevelAdvice, starts: np.ndarray) -> np.ndarray:
        plan, coarse = matrix.plan, matrix.coarse_space
        weights = np.zeros((plan.weights, *matrix.padded(coarse)))
        scale = np.zeros((0, 0, 0, 0))
        if advice.prolongation_scale is not None:
            scale = np.zeros_like(weights)
            inner = scale[:, matrix.gz : matrix.gz + coarse[0], 1:-1, 1:-1]
            inner[...] = np.abs(advice.prolongation_scale).reshape(inner.shape)
        for p in range(1, len(plan.parities)):
            steps = plan.interpolate[plan.interpolate_start[p] : plan.interpolate_start[p + 1]]
            edge = self.options.detours and plan.parities[p].sum() == 1
            matrices = matrix.off, matrix.diag, plan.slots, plan.present, matrix.gz, matrix.space, coarse
            tail = weights, starts[p], starts[p + 1], scale, edge
            build.interpolate_class(*matrices, plan.parities[p], plan.collapse[p], steps, *tail)
        return weights
