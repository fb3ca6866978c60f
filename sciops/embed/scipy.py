"""Exported solvers as preconditioners of SciPy and PyAMG, for any sparse matrix on a structured grid."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator

from sciops.core import linear
from sciops.core.errors import DataError, UsageError
from sciops.embed.grid_matrix import grid_matrix, places
from sciops.embed.preconditioning import NONFINITE, is_linear, load
from sciops.numerics.flexible_cg import Apply, FlexibleCG

if TYPE_CHECKING:
    from sciops.embed.artifact import Artifact

SAFEGUARD = 0.3
"""qᵀr/√(qᵀAq) of a proposed direction, as a part of √(rᵀD⁻¹r), below which r/diag takes its place: that one always
reaches 0.7, since dᵀAd ≤ 2 rᵀD⁻¹r with d = D⁻¹r for couplings of one sign."""


class Preconditioner(LinearOperator):
    """z = B r on the unknowns of a sparse matrix. `linear`: cg may use it. `calls`, `fallbacks` count."""

    def __init__(
        self, apply: Callable[[np.ndarray], np.ndarray], diagonal: np.ndarray, linear: bool, native: bool, why: str = ""
    ) -> None:
        super().__init__(np.dtype(np.float64), (len(diagonal), len(diagonal)))
        self.linear, self.calls, self.fallbacks = linear, 0, 0
        self._apply, self._diagonal, self._native = apply, np.where(diagonal == 0, 1.0, diagonal), native
        self._warned = False
        if why:
            self._warn(why)

    def _matvec(self, r: np.ndarray) -> np.ndarray:
        self.calls += 1
        r, why = np.asarray(r, dtype=np.float64).reshape(-1), NONFINITE
        try:
            z = self._apply(r)
            if np.isfinite(z).all():
                return z
        except DataError as error:
            why = str(error)
        if not self._native:
            raise DataError(why)
        self._warn(why)
        self.fallbacks += 1
        return r / self._diagonal

    def _rmatvec(self, r: np.ndarray) -> np.ndarray:
        if not self.linear:
            raise UsageError("A nonlinear preconditioner has no transpose; use sciops.embed.scipy.fcg.")
        return self._matvec(r)

    def _warn(self, why: str) -> None:
        if not self._warned:
            warnings.warn(f"{why} Going on with the diagonal of the matrix as preconditioner.", stacklevel=4)
        self._warned = True


def preconditioner(
    artifact: "Artifact | str | Path",
    A: Any,
    shape: Sequence[int],
    *,
    cells: np.ndarray | None = None,
    compact: bool = False,
    flexible: bool = False,
    precision: int = 0,
    threads: int = 0,
    on_failure: str = "stop",
) -> Preconditioner:
    """A preconditioner for `A x = b` from an exported solver; the `M=` of SciPy's and PyAMG's methods.

    `A`: sparse, symmetric, positive diagonal, entries between neighbours of a grid of this `shape` in C order (fastest
    index last) with −A[i, j] ≥ 0. `cells`: the grid point of each unknown where the numbering is another or points are
    left out (`grid_of` finds it from coordinates). `compact`: bilinear elements (9 or 27 points) are preconditioned by
    the 5- or 7-point matrix of the same energy on smooth vectors.
    `flexible`: nonlinear networks stall in `cg`; they are given only to who says that the solver is a flexible one
    (`fcg` below, `pyamg.krylov.fgmres`, `scipy.sparse.linalg.gcrotmk`).
    `precision`, `threads`: for an artefact given by its path (see `Artifact.load`).
    `on_failure`: "stop" raises one sentence; "native" goes on with r/diag and one warning.
    """
    if on_failure not in ("stop", "native"):
        raise UsageError(f"on_failure is '{on_failure}'; it must be 'stop' or 'native'.")
    csr = csr_matrix(A)
    diagonal = csr.diagonal()
    try:
        if isinstance(artifact, str | Path):
            artifact = load(artifact, precision, threads)
        smooth = is_linear(artifact)
        if not smooth and not flexible:
            raise UsageError(
                f"'{artifact.manifest.name}' is a nonlinear network, in which cg stalls; pass flexible=True and solve "
                "with sciops.embed.scipy.fcg(A, b, M) or pyamg.krylov.fgmres."
            )
        matrix = grid_matrix((csr.indptr, csr.indices, csr.data), shape, cells, compact)
        place = places(cells, matrix.shape[1:], len(diagonal))
        cycle = artifact.preconditioner(matrix)
    except (UsageError, DataError) as error:
        if on_failure == "stop":
            raise
        return Preconditioner(lambda r: r / np.where(diagonal == 0, 1.0, diagonal), diagonal, True, True, str(error))

    def apply(r: np.ndarray) -> np.ndarray:
        field = np.zeros(matrix.shape[1:])
        field.flat[place] = r
        return np.asarray(cycle(field), dtype=np.float64).reshape(-1)[place]

    return Preconditioner(apply, diagonal, smooth, on_failure == "native")


def grid_of(points: np.ndarray, decimals: int = 9) -> tuple[tuple[int, ...], np.ndarray]:
    """(shape, cells) of unknowns at `points` (n, ndim) on the lines of a rectilinear grid, stretched or with holes.

    Coordinates that agree to `decimals` of the largest extent are one line. Axis 0 is the first coordinate.
    """
    points = np.asarray(points, dtype=np.float64)
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    lines = np.rint((points - points.min(0)) / extent * 10.0**decimals)
    found = [np.unique(column, return_inverse=True) for column in lines.T]
    shape = tuple(len(unique) for unique, _ in found)
    cells = np.ravel_multi_index(tuple(index for _, index in found), shape)
    if len(np.unique(cells)) != len(points):
        raise UsageError(
            f"{len(points)} points fall on fewer grid points of {'×'.join(map(str, shape))}; raise decimals."
        )
    return shape, cells


class Solved(NamedTuple):
    """`info` as in SciPy: 0 converged, > 0 the iterations after which it stopped, −1 not positive or not finite."""

    x: np.ndarray
    info: int
    iterations: int
    fallbacks: int
    residual: float
    advice: str


def fcg(
    A: Any,
    b: np.ndarray,
    M: Any = None,
    x0: np.ndarray | None = None,
    *,
    rtol: float = 1e-8,
    maxiter: int = 500,
    window: int | None = None,
    safeguard: bool | None = None,
) -> Solved:
    """A x = b, A symmetric positive (semi-)definite, by conjugate gradients that bear a nonlinear preconditioner.

    x ← x + (qᵀr/qᵀAq) q, q = M(r) made A-orthogonal to the last `window` directions (8; 1 for linear M). `safeguard`
    (on for nonlinear M): where r/diag lowers the energy more than q can, it takes its place; without that a network can
    repeat itself for ever (counted in `fallbacks`). Stops at |b − A x| ≤ rtol |b|, computed from x.
    Constant null vectors of connected parts are found, and their means taken out of b and x.
    Reference: Notay, SIAM J. Sci. Comput. 22 (2000) 1444.
    """
    bears = bool(getattr(M, "linear", False))
    window = (1 if bears else 8) if window is None else window
    safeguard = (not bears) if safeguard is None else safeguard
    operator = _SparseOperator(csr_matrix(A))

    def apply(r: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.array(M.matvec(r[0].numpy()), dtype=np.float64))[None]

    solver = FlexibleCG(None if M is None else Apply(apply), window, guard=SAFEGUARD if safeguard else 1e-3)
    right = torch.from_numpy(np.array(b, dtype=np.float64).reshape(1, -1))
    start = None if x0 is None else torch.from_numpy(np.array(x0, dtype=np.float64).reshape(1, -1))
    found = solver.solve(solver.setup(operator), right, start, rtol, maxiter)
    status, steps = found.status[0], int(found.iterations[0])
    info = {linear.Status.OK: 0, linear.Status.MAX_ITER: max(steps, 1)}.get(status, -1)
    fallbacks = int(found.stats["fallbacks"][0])
    return Solved(found.x[0].numpy(), info, steps, fallbacks, float(found.residual[0]), found.stats["advice"][0])


class _SparseOperator(linear.LinearOperator):
    """A sparse matrix as one system on a line of unknowns."""

    def __init__(self, A: csr_matrix) -> None:
        self.A = A.astype(np.float64)
        self.n, self.space = 1, (A.shape[0],)
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.tags = frozenset({"symmetric", "positive"})
        sums, sizes = abs(self.A @ np.ones(A.shape[0])), abs(self.A) @ np.ones(A.shape[0])
        count, self.label = connected_components(A, directed=False)
        leaks = np.bincount(self.label, weights=sums > 1e-12 * sizes, minlength=count)
        self.floating = (leaks == 0)[self.label] & (sizes > 0)
        self.nullspace = "components" if self.floating.any() else None

    def matvec(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.A @ x[0].numpy())[None]

    def diagonal(self) -> torch.Tensor:
        return torch.from_numpy(self.A.diagonal())[None]

    def project(self, x: torch.Tensor) -> torch.Tensor:
        values = x[0].numpy()
        means = np.bincount(self.label, weights=values) / np.bincount(self.label)
        return torch.from_numpy(np.where(self.floating, values - means[self.label], values))[None]
