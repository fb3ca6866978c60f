"""Our linear solvers on SciPy's matrices, and our preconditioners inside SciPy's solvers.

from sciops.solvers.matrices import as_preconditioner, solve

x, info = solve(matrix, b)  # info.status, info.residual, info.stats["advice"]
x, info = solve(matrix, b, ConjugateGradients(Multigrid()), shape=(512, 512))
x, _ = scipy.sparse.linalg.cg(matrix, b, M=as_preconditioner(Multigrid(), matrix, shape=(512, 512)))
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator, LinearSolution, LinearSolver
from sciops.core.stencil_operator import StencilOperator, offsets
from sciops.numerics.fgmres import FGMRES
from sciops.numerics.flexible_cg import FlexibleCG
from sciops.numerics.krylov import Jacobi, Preconditioner
from sciops.numerics.minres import Minres

ROUNDING = 64 * float(np.finfo(np.float64).eps)


class MatrixOperator(LinearOperator):
    """One SciPy matrix, or anything with `matvec`, applied on the CPU to arrays (n, *space); rows in row-major order.

    Measured on a sparse matrix: *symmetric*; *positive* by weak diagonal dominance; where such a matrix has zero row
    sums on connected parts, the constants there are its null space (an empty row is such a part). `tags` overrules.
    """

    def __init__(self, matrix: Any, space: tuple[int, ...], tags: frozenset[str] | None = None) -> None:
        self.matrix, self.space, self.n = matrix, space, 1
        self.dtype, self.device = torch.float64, torch.device("cpu")
        self.labels: np.ndarray | None = None
        if scipy.sparse.issparse(matrix):
            found, self.labels = _measured(matrix)
            self.tags = found if tags is None else tags
        else:
            self.tags = tags or frozenset()
        if self.labels is not None and self.labels.any():
            self.nullspace = "constant" if (self.labels == 1).all() else "components"

    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        rows = [self.matrix @ row for row in x.detach().flatten(1).numpy()]
        return torch.from_numpy(np.stack(rows)).reshape(x.shape)

    def diagonal(self) -> Float[Tensor, "n *s"]:
        if not scipy.sparse.issparse(self.matrix):
            return super().diagonal()
        return torch.from_numpy(self.matrix.diagonal()).reshape(1, *self.space)

    def project(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        if self.labels is None or self.nullspace is None:
            return x
        labels = torch.from_numpy(self.labels).expand(len(x), -1)
        count = int(labels.max()) + 1
        flat = x.flatten(1)
        sums = flat.new_zeros((len(x), count)).scatter_add_(1, labels, flat)
        sizes = flat.new_zeros((len(x), count)).scatter_add_(1, labels, torch.ones_like(flat))
        means = sums / sizes.clamp(min=1.0)
        means[:, 0] = 0.0
        return x - means.gather(1, labels).reshape(x.shape)

    def to_scipy(self, i: int = 0) -> scipy.sparse.csr_matrix:
        return self.matrix if scipy.sparse.issparse(self.matrix) else super().to_scipy(i)


def as_operator(
    matrix: Any, shape: Sequence[int] | None = None, tags: frozenset[str] | set[str] | None = None
) -> LinearOperator:
    """A SciPy sparse matrix, NumPy array or SciPy LinearOperator as a LinearOperator with n = 1.

    `shape`: the grid whose row-major points are the unknowns. Matrices that couple neighbours of that grid only (also
    across a periodic seam) become a StencilOperator, or a FaceOperator where cells are empty or null spaces belong to
    parts, so that multigrid works. `tags` (symmetric, positive): declared by who knows better than the entries show.
    """
    declared = None if tags is None else frozenset(tags)
    size: tuple[int, ...] = tuple(getattr(matrix, "shape", ()))
    if len(size) != 2 or size[0] != size[1]:
        raise UsageError(f"A square matrix is needed; got shape {size}; for least squares use scipy's lsqr.")
    space = (int(size[0]),) if shape is None else tuple(int(m) for m in shape)
    if math.prod(space) != size[0]:
        raise UsageError(f"The grid {'×'.join(map(str, space))} does not have the matrix's {size[0]} unknowns.")
    if np.issubdtype(getattr(matrix, "dtype", None) or np.float64, np.complexfloating):
        raise UsageError("The matrix is complex; solve its real and imaginary parts as one real system.")
    if not (scipy.sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        return MatrixOperator(matrix, space, declared)
    entries = scipy.sparse.csr_matrix(matrix, dtype=np.float64)
    entries.sum_duplicates()
    entries.eliminate_zeros()
    if not np.isfinite(entries.data).all():
        raise UsageError("The matrix has NaN or infinite entries; mend them before solving.")
    plain = MatrixOperator(entries, space, declared)
    return plain if shape is None else _on_grid(plain) or plain


def solve(
    matrix: Any,
    b: np.ndarray,
    linear: LinearSolver | None = None,
    tol: float = 1e-8,
    maxiter: int = 1000,
    shape: Sequence[int] | None = None,
    x0: np.ndarray | None = None,
) -> tuple[np.ndarray, LinearSolution]:
    """(x, how it was reached) of A x = b, b of shape (N,) or, for many right-hand sides, (N, m).

    `linear` None: flexible conjugate gradients with Jacobi where the matrix is known to be positive, else Minres where
    it is symmetric, else FGMRES. Status, true residual and advice, one per right-hand side, are in the second value.
    """
    A = matrix if isinstance(matrix, LinearOperator) else as_operator(matrix, shape)
    if linear is None:
        if {"symmetric", "positive"} <= A.tags:
            linear = FlexibleCG(Jacobi() if _knows_diagonal(A) else None)
        else:
            linear = Minres() if "symmetric" in A.tags else FGMRES(restart=60)
    size = math.prod(A.space)
    for name, v in (("b", b), ("x0", x0)):
        if v is not None and (v.ndim not in (1, 2) or v.shape[0] != size or np.iscomplexobj(v)):
            raise UsageError(f"{name} must be real with shape ({size},) or ({size}, m); got {v.dtype} {v.shape}.")
    rhs, start = _columns(b, A), None if x0 is None else _columns(x0, A)
    answer = linear.solve(linear.setup(A), rhs, x0=start, tol=tol, maxiter=maxiter)
    x = answer.x.flatten(1).numpy()
    return (x[0] if b.ndim == 1 else np.ascontiguousarray(x.T)), answer


def as_preconditioner(
    preconditioner: Preconditioner | LinearSolver,
    matrix: Any,
    shape: Sequence[int] | None = None,
    tol: float = 1e-2,
    maxiter: int = 20,
) -> scipy.sparse.linalg.LinearOperator:
    """z = B r for `M=` of SciPy's cg, minres, gmres.

    Compiled solvers (BoxMultigrid, AggregationMultigrid, IncompleteCholesky) give one cycle. Any other LinearSolver is
    run to `tol` each time, which is not a linear map: SciPy's cg then needs a small tol.
    """
    A = matrix if isinstance(matrix, LinearOperator) else as_operator(matrix, shape)
    state = preconditioner.setup(A)
    precondition = getattr(state, "precondition", None)

    def apply(r: np.ndarray) -> np.ndarray:
        rhs = _columns(r.reshape(-1), A)
        if precondition is not None:
            z = precondition(rhs)
        elif isinstance(preconditioner, LinearSolver):
            z = preconditioner.solve(state, rhs, tol=tol, maxiter=maxiter).x
        else:
            z = state(rhs)
        return z.reshape(-1).to(torch.float64).numpy().reshape(r.shape)

    size = math.prod(A.space)
    return scipy.sparse.linalg.LinearOperator((size, size), matvec=apply, dtype=np.float64)


def _knows_diagonal(A: LinearOperator) -> bool:
    return not isinstance(A, MatrixOperator) or scipy.sparse.issparse(A.matrix)


def _columns(v: np.ndarray, A: LinearOperator) -> Tensor:
    rows = np.ascontiguousarray(np.atleast_2d(v.T), dtype=np.float64)
    return torch.from_numpy(rows.copy()).reshape(len(rows), *A.space).to(dtype=A.dtype, device=A.device)


def _measured(matrix: scipy.sparse.csr_matrix) -> tuple[frozenset[str], np.ndarray | None]:
    """(tags, label of the singular part of every row: 0 for none)."""
    size = abs(matrix).max() if matrix.nnz else 0.0
    gap = abs(matrix - matrix.T)
    if gap.nnz and gap.max() > ROUNDING * size:
        return frozenset(), None
    diagonal = matrix.diagonal()
    around = np.asarray(abs(matrix).sum(1)).ravel() - abs(diagonal)
    if (diagonal < 0).any() or (diagonal * (1 + ROUNDING) < around).any():
        return frozenset({"symmetric"}), None
    # Weakly dominant: singular exactly on connected parts whose rows all sum to zero (up to signs, which differ).
    count, parts = connected_components(matrix, directed=False)
    sums = np.asarray(matrix.sum(1)).ravel()
    open_rows = np.abs(sums) > ROUNDING * diagonal
    singular = np.ones(count, dtype=bool)
    singular[parts[open_rows]] = False
    labels = np.where(singular, np.cumsum(singular), 0)[parts]
    return frozenset({"symmetric", "positive"}), labels.astype(np.int64)


def _on_grid(plain: MatrixOperator) -> LinearOperator | None:
    """The matrix as stencil or faces of its grid; None where it couples more than neighbours."""
    space, entries = plain.space, plain.matrix.tocoo()
    rows, columns = np.unravel_index(entries.row, space), np.unravel_index(entries.col, space)
    steps, periodic = [], []
    for row, column, m in zip(rows, columns, space, strict=True):
        step = column.astype(np.int64) - row
        seam = np.abs(step) == m - 1
        wraps = m > 3 and bool(seam.any())
        steps.append(np.where(seam, -np.sign(step), step) if wraps else step)
        periodic.append(wraps)
    if any((np.abs(step) > 1).any() for step in steps):
        return None
    place = np.zeros(len(entries.data), dtype=np.int64)
    for step in steps:
        place = 3 * place + step + 1
    stencil = np.zeros((3 ** len(space), math.prod(space)))
    stencil[place, entries.row] = entries.data
    values = torch.from_numpy(stencil).reshape(1, -1, *space)
    empty = bool((plain.matrix.diagonal() == 0).any())
    if not empty and plain.nullspace != "components":
        return StencilOperator(values, tuple(periodic), plain.tags, plain.nullspace)
    return None if any(periodic) else _faces(plain, values)


def _faces(plain: MatrixOperator, stencil: Tensor) -> FaceOperator | None:
    """Faces of an M-matrix that couples cells along the axes; None for any other."""
    ndim = len(plain.space)
    table = offsets(ndim)
    along = {table.index(tuple(int(a == axis) for a in range(ndim))): axis for axis in range(ndim)}
    middle = len(table) // 2
    for k in range(len(table)):
        straight = k in along or len(table) - 1 - k in along or k == middle
        if (not straight and bool((stencil[:, k] != 0).any())) or (k != middle and bool((stencil[:, k] > 0).any())):
            return None
    if "positive" not in plain.tags or plain.labels is None:
        return None
    faces = tuple(-stencil[:, k] for k, _ in sorted(along.items(), key=lambda item: item[1]))
    sink = stencil.sum(1)
    sink = torch.where(sink > ROUNDING * stencil[:, middle], sink, 0.0)
    labels = torch.from_numpy(plain.labels).reshape(1, *plain.space)
    return FaceOperator(faces, sink, torch.where(stencil[:, middle] == 0, 0, labels))
