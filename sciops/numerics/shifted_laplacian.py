"""One multigrid cycle for a damped wave equation: the preconditioner of undamped ones."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COARSE_PHASE = 1.2
"""Largest k h of a level that is smoothed: with fewer than five points a wavelength a coarse grid corrects nothing."""

FEWEST = 9
"""Points per axis below which there is no coarser level."""


def interpolation(n: int) -> "csr_matrix":
    """Linear interpolation from ⌈n/2⌉ to n equally spaced nodes of the same interval."""
    from scipy.sparse import csr_matrix

    coarse = (n + 1) // 2
    place = np.arange(n) * (coarse - 1) / (n - 1)
    left = np.minimum(place.astype(np.int64), coarse - 2)
    share = place - left
    columns = np.stack([left, left + 1], 1).ravel()
    values = np.stack([1 - share, share], 1).ravel()
    return csr_matrix((values, columns, np.arange(n + 1) * 2), shape=(n, coarse))


@dataclass
class Level:
    """One grid: its matrix, the smoother's inverse diagonal, and the way to the next one."""

    A: "csr_matrix"
    inverse: np.ndarray
    down: Any = None
    up: Any = None


@dataclass
class ShiftedCycle:
    """z ≈ (A − iβM)⁻¹ r by one V-cycle, A = L − M − iB, M = ∫ k² u v: the damping β k² lets multigrid converge.

    Method: `sweeps` damped Jacobi sweeps before and after, bilinear interpolation, Galerkin coarse matrices, factors on
    the first level where k h exceeds 1.2. The coarsest grid therefore grows with k, as (k)² unknowns.
    Reference: Erlangga, Oosterlee, Vuik, SIAM J. Sci. Comput. 27 (2006).
    """

    A: "csr_matrix"
    reaction: "csr_matrix"
    shape: tuple[int, int]
    phase: float
    shift: float = 0.5
    sweeps: int = 1
    damping: float = 0.7
    levels: list[Level] = field(init=False)

    def __post_init__(self) -> None:
        from scipy.sparse import kron
        from scipy.sparse.linalg import splu

        matrix = (self.A - 1j * self.shift * self.reaction).tocsr()
        shape, phase, self.levels = self.shape, self.phase, []
        while phase <= COARSE_PHASE and min(shape) >= FEWEST:
            up = kron(*(interpolation(n) for n in shape), format="csr")
            self.levels.append(Level(matrix, self.damping / matrix.diagonal(), up.T.tocsr(), up))
            matrix = (up.T @ matrix @ up).tocsr()
            shape, phase = ((shape[0] + 1) // 2, (shape[1] + 1) // 2), 2 * phase
        coarse = matrix.tocsc()
        self.coarse = splu(coarse, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options={"SymmetricMode": True})

    def __call__(self, r: np.ndarray) -> np.ndarray:
        return self._cycle(0, r.astype(np.complex128))

    def _cycle(self, depth: int, r: np.ndarray) -> np.ndarray:
        if depth == len(self.levels):
            return self.coarse.solve(r)
        level = self.levels[depth]
        z = level.inverse * r
        for _ in range(self.sweeps - 1):
            z = z + level.inverse * (r - level.A @ z)
        z = z + level.up @ self._cycle(depth + 1, level.down @ (r - level.A @ z))
        for _ in range(self.sweeps):
            z = z + level.inverse * (r - level.A @ z)
        return z
