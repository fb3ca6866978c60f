"""The coarsest grid: a dense pseudo-inverse."""

import numpy as np

from sciops.numerics.compiled.boxmg_matrix import BoxMatrix


class Coarsest:
    """x = A⁺ b by the eigenvalues of D^(−1/2) A D^(−1/2); null vectors of floating parts are left out.

    Symmetric and positive semi-definite whatever rounding did to A. Cost O(m³) once, m the number of unknowns.
    """

    def __init__(self, matrix: BoxMatrix, dtype: type, threshold: float = 1e-12) -> None:
        self.gz, self.space = matrix.gz, matrix.space
        dense = matrix.to_scipy().toarray()
        diagonal = dense.diagonal()
        root = np.divide(1.0, np.sqrt(np.abs(diagonal)), out=np.zeros_like(diagonal), where=diagonal > 0)
        values, vectors = np.linalg.eigh(dense * root[:, None] * root[None, :])
        keep = values > threshold
        modes = root[:, None] * vectors[:, keep]
        self.inverse = matrix.diag
        self.dense = (modes / values[keep]) @ modes.T
        shape = matrix.diag.shape
        self.b: np.ndarray = np.zeros(shape, dtype=dtype)
        self.x: np.ndarray = np.zeros(shape, dtype=dtype)
        self._inside = matrix.inside

    def solve(self) -> None:
        self._inside(self.x)[...] = (self.dense @ self._inside(self.b).ravel()).reshape(self.space)
