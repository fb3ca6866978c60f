"""Exported solvers as PETSc preconditioners: `-pc_type python -pc_python_type sciops.embed.petsc.PC`.

Options, each after the prefix of the solver: `-pc_sciops_model NAME.sciops`, `-pc_sciops_precision 32|64`,
`-pc_sciops_threads n`, `-pc_sciops_shape nx,ny[,nz]` (x fastest, as PETSc counts; not needed with a DMDA),
`-pc_sciops_overlap k`, `-pc_sciops_on_failure stop|native`.
"""

import atexit
import sys
import warnings
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from petsc4py import PETSc

from sciops.core.errors import DataError, UsageError
from sciops.embed.grid_matrix import grid_matrix
from sciops.embed.preconditioning import NONFINITE, is_linear, load

FLEXIBLE = frozenset(
    {"fcg", "pipefcg", "fgmres", "pipefgmres", "gcr", "pipegcr", "fbcgs", "fbcgsr", "richardson", "preonly", "python"}
)
"""Krylov methods that bear a preconditioner which is another map at every step."""

REMEDY = "give -pc_sciops_shape with x, the fastest axis, first; wider stencils and periodic grids are not taken"

# PETSc 3.18 destroys Python preconditioners after Python is gone unless it is finished first. Where Python is a guest
# of a compiled program (no command line of its own), that program finishes PETSc.
if sys.orig_argv and sys.orig_argv[0]:
    atexit.register(PETSc._finalize)


class PC:
    """z = Σ_p R_pᵀ B_p R_p r: a learned cycle B_p on the block of every rank, additive Schwarz between ranks.

    A block is the rank's box of the DMDA of the matrix or solver (2-D, 3-D, one unknown per point), else its whole
    planes of the grid of `shape`; `overlap` widens it by so many points on each side (0: block Jacobi). No coarse level
    joins the ranks, so iterations grow with their number.
    The matrix is symmetric with positive diagonal, entries −A[i, j] ≥ 0 between neighbours alone (`grid_matrix`); it
    may change between solves (set-up is repeated). Null spaces are those attached to the matrix.
    Linear artefacts go with cg, nonlinear ones are refused there: -ksp_type fcg, fgmres or gcr.
    `on_failure`: "stop" ends on all ranks with one sentence, "native" goes on with incomplete factors of the block
    (PETSc's default preconditioner) and one warning.
    Keyword arguments of the constructor are the options, for `pc.setPythonContext(PC(model=…))`.
    """

    def __init__(
        self,
        model: str = "",
        precision: int = 0,
        threads: int = 0,
        shape: Sequence[int] = (),
        overlap: int = 0,
        on_failure: str = "stop",
    ) -> None:
        self.model, self.precision, self.threads = model, precision, threads
        self.shape, self.overlap, self.on_failure = tuple(shape), overlap, on_failure
        self.artifact: Any = None
        self.loaded: tuple[str, int, int] | None = None
        self.linear, self.calls, self.fallbacks, self.warned = True, 0, 0, False
        self.block: _Block | None = None
        self.cycle: Callable[[np.ndarray], np.ndarray] | None = None
        self.native: Any = None

    def setFromOptions(self, pc: Any) -> None:
        options = PETSc.Options(pc.getOptionsPrefix() or "")
        self.model = options.getString("pc_sciops_model", self.model)
        self.precision = options.getInt("pc_sciops_precision", self.precision)
        self.threads = options.getInt("pc_sciops_threads", self.threads)
        self.overlap = options.getInt("pc_sciops_overlap", self.overlap)
        self.on_failure = options.getString("pc_sciops_on_failure", self.on_failure)
        text = options.getString("pc_sciops_shape", ",".join(map(str, self.shape)))
        try:
            self.shape = tuple(int(part) for part in text.split(",") if part)
        except ValueError:
            raise UsageError(f"-pc_sciops_shape is '{text}'; give nx,ny or nx,ny,nz.") from None
        if self.on_failure not in ("stop", "native"):
            raise UsageError(f"-pc_sciops_on_failure is '{self.on_failure}'; it must be stop or native.")

    def setUp(self, pc: Any) -> None:
        self.cycle = self.block = None
        faults = []
        # One rank's failure must reach all of them, whatever it was; and blocks are made together, so each rank makes
        # its own even where it has no model.
        for step in (self._load, lambda: self._find_block(pc), self._set_cycle):
            try:
                step()
            except Exception as error:
                faults.append(" ".join(str(error).split()) or type(error).__name__)
        why = faults[0] if faults else ""
        if _on_any_rank(pc, bool(why)):
            if self.on_failure == "stop":
                raise UsageError(why or "Another rank could not set its block up; see its message.")
            self._go_native(pc, why)

    def preSolve(self, pc: Any, ksp: Any, rhs: Any, x: Any) -> None:
        if self.linear or self.cycle is None or ksp.getType() in FLEXIBLE:
            return
        why = (
            f"'{self.artifact.manifest.name}' is a nonlinear network, in which -ksp_type {ksp.getType()} stalls; use "
            "-ksp_type fcg, fgmres or gcr."
        )
        if self.on_failure == "stop":
            raise UsageError(why)
        self._go_native(pc, why)

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        self.calls += 1
        if self.block is None:
            self.native.apply(x, y)
            return
        self.block.transfer(x, y, self._local)
        # With a preconditioner from the right (fgmres) PETSc leaves this to us.
        null_space = pc.getOperators()[0].getNullSpace()
        if null_space.handle:
            null_space.remove(y)

    def applyTranspose(self, pc: Any, x: Any, y: Any) -> None:
        if not self.linear:
            raise UsageError("A nonlinear preconditioner has no transpose; use -ksp_type fcg, fgmres or gcr.")
        self.apply(pc, x, y)

    def view(self, pc: Any, viewer: Any) -> None:
        state = "native incomplete factors" if self.cycle is None else f"{'linear' if self.linear else 'nonlinear'}"
        grid = "" if self.block is None else "×".join(map(str, self.block.space[::-1]))
        viewer.printfASCII(
            f"  sciops: model {self.model}, {state}, block {grid}, overlap {self.overlap}, {self.calls} calls, "
            f"{self.fallbacks} fallbacks\n"
        )

    def destroy(self, pc: Any) -> None:
        self.block = self.cycle = None
        if self.native is not None:
            self.native.destroy()

    def _load(self) -> None:
        if not self.model:
            raise UsageError("No model is given; name an artefact by -pc_sciops_model NAME.sciops.")
        wanted = self.model, self.precision, self.threads
        if self.loaded != wanted:
            self.artifact = self.loaded = None
            self.artifact = load(self.model, self.precision, self.threads)
            self.linear, self.loaded = is_linear(self.artifact), wanted

    def _find_block(self, pc: Any) -> None:
        self.block = _Block(pc, self.shape, self.overlap)

    def _set_cycle(self) -> None:
        if self.artifact is not None and self.block is not None:
            self.cycle = self.artifact.preconditioner(grid_matrix(self.block.csr(), self.block.space, remedy=REMEDY))

    def _local(self, r: np.ndarray) -> np.ndarray:
        """B_p on the unknowns of the block."""
        assert self.block is not None and self.cycle is not None
        why = NONFINITE
        try:
            z = np.asarray(self.cycle(r.reshape(self.block.space)), dtype=np.float64).reshape(-1)
            if np.isfinite(z).all():
                return z
        except DataError as error:
            why = str(error)
        if self.on_failure == "native":
            self._warn(why)
            self.fallbacks += 1
            return self.block.factors(r)
        if self.block.ranks == 1:
            raise DataError(why)
        # Norms carry this to every rank, so that the solver stops on all of them.
        print(why, file=sys.stderr)
        return np.full_like(r, np.nan)

    def _go_native(self, pc: Any, why: str) -> None:
        self._warn(why or "Another rank could not set its block up.")
        self.cycle = self.block = None
        self.native = _incomplete(pc.getOperators()[1])

    def _warn(self, why: str) -> None:
        if not self.warned:
            warnings.warn(f"{why} Going on with incomplete factors of each rank's block.", stacklevel=2)
        self.warned = True


class _Block:
    """The unknowns of this rank as a box of the grid, widened by `overlap`, with their matrix."""

    def __init__(self, pc: Any, shape: tuple[int, ...], overlap: int) -> None:
        _, whole = pc.getOperators()
        self.ranks = whole.getComm().size
        da = _dmda(pc, whole)
        why = ""
        try:
            sizes, low, high = _planes(whole, shape) if da is None else _corners(da, whole)
        except UsageError as error:
            why = str(error)
        if _on_any_rank(whole, bool(why)):  # what follows is done together
            raise UsageError(why or "Another rank has no box of the grid.")
        self.scatter: Any = None
        if overlap > 0 and self.ranks > 1:
            low = [max(0, a - overlap) for a in low]
            high = [min(m, b + overlap) for m, b in zip(sizes, high, strict=True)]
            lines = [np.arange(a, b) for a, b in zip(low, high, strict=True)]
            natural = np.ravel_multi_index(tuple(np.meshgrid(*lines[::-1], indexing="ij")), tuple(sizes[::-1]))
            rows = PETSc.IS().createGeneral(natural.reshape(-1).astype(PETSc.IntType), comm=PETSc.COMM_SELF)
            if da is not None:
                rows = da.getAO().app2petsc(rows)
            (self.matrix,) = whole.createSubMatrices(rows, rows)
            self.inside = self.matrix.createVecRight()
            self.scatter = PETSc.Scatter().create(whole.createVecRight(), rows, self.inside, None)
        else:
            self.matrix = whole.getDiagonalBlock() if self.ranks > 1 else whole
        self.space = tuple(b - a for a, b in zip(low, high, strict=True))[::-1]
        self.native: Any = None

    def csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        matrix = self.matrix
        if matrix.getType() != "seqaij":
            matrix = matrix.duplicate(copy=True).convert("seqaij")
        pointer, column, value = matrix.getValuesCSR()
        return pointer, column, value

    def transfer(self, x: Any, y: Any, local: Callable[[np.ndarray], np.ndarray]) -> None:
        """y = Rᵀ local(R x), summed over ranks."""
        if self.scatter is None:
            y.setArray(local(x.getArray(readonly=True).copy()))
            return
        self.scatter.scatter(x, self.inside)
        self.inside.setArray(local(self.inside.getArray().copy()))
        y.set(0.0)
        self.scatter.scatter(self.inside, y, addv=True, mode="reverse")

    def factors(self, r: np.ndarray) -> np.ndarray:
        """Incomplete factors of the block applied to r."""
        if self.native is None:
            self.native = _incomplete(self.matrix)
        out = PETSc.Vec().createSeq(len(r), comm=PETSc.COMM_SELF)
        self.native.apply(PETSc.Vec().createWithArray(r, comm=PETSc.COMM_SELF), out)
        return np.array(out.getArray())


def _dmda(pc: Any, matrix: Any) -> Any:
    """The grid of the solver, or that of the matrix; None without one."""
    for owner in (pc, matrix):
        dm = owner.getDM()
        if dm and dm.handle and dm.getType() == PETSc.DM.Type.DA:
            return dm
    return None


def _corners(da: Any, matrix: Any) -> tuple[list[int], list[int], list[int]]:
    """Sizes of the grid, lowest corner and end of this rank's box, x first."""
    if da.getDof() != 1 or matrix.getSize()[0] != prod(da.getSizes()):
        raise UsageError(
            f"The DMDA has {da.getDof()} unknowns per point and {prod(da.getSizes())} points, the matrix "
            f"{matrix.getSize()[0]} rows; one unknown per point is needed: take it for one field alone."
        )
    low, size = da.getCorners()
    return list(da.getSizes()), list(low), [a + m for a, m in zip(low, size, strict=True)]


def _planes(matrix: Any, shape: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    """The same for a matrix without a DMDA: whole planes of the slowest axis."""
    rows = matrix.getSize()[0]
    if not shape or prod(shape) != rows:
        given = f"-pc_sciops_shape is {','.join(map(str, shape))}" if shape else "no -pc_sciops_shape is given"
        raise UsageError(f"The matrix has {rows} rows, no DMDA, and {given}; give nx,ny or nx,ny,nz with that product.")
    start, end = matrix.getOwnershipRange()
    plane = prod(shape[:-1])
    if start % plane or end % plane:
        raise UsageError(
            f"Rows {start} to {end} of this rank are not whole planes of {plane} unknowns; use a DMDA, or distribute "
            "the matrix by planes of its slowest axis."
        )
    low = [0] * (len(shape) - 1)
    return list(shape), [*low, start // plane], [*shape[:-1], end // plane]


def _incomplete(matrix: Any) -> Any:
    """PETSc's default preconditioner: incomplete factors of the block of every rank."""
    native = PETSc.PC().create(comm=matrix.getComm())
    native.setOperators(matrix)
    native.setType("bjacobi")
    native.setUp()
    return native


def _on_any_rank(matrix: Any, mine: bool) -> bool:
    flag = PETSc.Vec().createMPI((1, PETSc.DETERMINE), comm=matrix.getComm())
    flag.set(float(mine))
    return bool(flag.max()[1] > 0)
