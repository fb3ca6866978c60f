"""One level's matrix during set-up: a symmetric stencil with ghosts, from any operator of the package."""

from typing import TYPE_CHECKING

import numpy as np

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled import boxmg_tables as tables
from sciops.numerics.compiled.boxmg_setup import row_sums

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Space = tuple[int, int, int]


class BoxMatrix:
    """Symmetric matrix on a grid by its diagonal and the entries of its half stencil (`boxmg_tables`), float64.

    `off` (entries, Z, Y, X) and `diag` (Z, Y, X) carry one layer of zeros around the grid (none in z in 2-D); `faces`
    says that only couplings to the 2d nearest neighbours are stored.
    """

    def __init__(self, off: np.ndarray, diag: np.ndarray, gz: int, space: Space, faces: bool) -> None:
        self.off, self.diag, self.gz, self.space, self.faces = off, diag, gz, space, faces
        ndim = 3 if gz else 2
        short, full = (tables.FACES_2D, tables.FULL_2D) if ndim == 2 else (tables.FACES_3D, tables.FULL_3D)
        self.plan = tables.plan(short if faces else full, ndim)

    @classmethod
    def from_operator(cls, A: LinearOperator, i: int = 0) -> "BoxMatrix":
        """Case i of a FaceOperator or of a non-periodic symmetric StencilOperator of radius 1, on 1 to 3 axes."""
        if len(A.space) > 3:
            raise UsageError(f"Box multigrid takes 1 to 3 axes; this system has {len(A.space)}.")
        if isinstance(A, FaceOperator):
            return cls._from_faces(A, i)
        if isinstance(A, StencilOperator):
            return cls._from_stencil(A, i)
        raise UsageError(f"Box multigrid takes a FaceOperator or a StencilOperator; got {type(A).__name__}.")

    @classmethod
    def _from_faces(cls, A: FaceOperator, i: int) -> "BoxMatrix":
        blank = cls._blank(A.space, True)
        for axis, w in enumerate(reversed(A.faces)):
            blank.inside(blank.off[axis])[...] = -w[i].detach().cpu().numpy().reshape(blank.space)
        blank.inside(blank.diag)[...] = A.diagonal()[i].detach().cpu().numpy().reshape(blank.space)
        return blank

    @classmethod
    def _from_stencil(cls, A: StencilOperator, i: int) -> "BoxMatrix":
        if A.radius != 1 or any(A.periodic):
            raise UsageError("Box multigrid takes stencils of radius 1 on axes that are not periodic; use MultigridCG.")
        if "symmetric" not in A.tags:
            raise UsageError("Box multigrid takes symmetric matrices; use GMRES or a sparse direct solver.")
        ndim, active = len(A.space), A.active
        faces = all(np.count_nonzero(A.offsets[k]) <= 1 for k in active)
        blank = cls._blank(A.space, faces)
        entries = A.stencil[i].detach().cpu().numpy()
        for k in active:
            offset = (0,) * (3 - ndim) + A.offsets[k]
            number = tables.OFFSETS.index((offset[0], offset[1], offset[2])) - tables.CENTRE
            if number == 0:
                blank.inside(blank.diag)[...] = entries[k].reshape(blank.space)
            elif number > 0:
                values = blank.inside(blank.off[blank.plan.slots[number - 1]])
                values[...] = entries[k].reshape(blank.space)
                for axis, o in enumerate(offset):
                    if o:
                        np.moveaxis(values, axis, 0)[-1 if o > 0 else 0] = 0.0
        return blank

    @classmethod
    def _blank(cls, shape: tuple[int, ...], faces: bool) -> "BoxMatrix":
        gz = int(len(shape) == 3)
        space = (1,) * (3 - len(shape)) + tuple(shape)
        entries = (3 if gz else 2) if faces else (13 if gz else 4)
        padded = (space[0] + 2 * gz, space[1] + 2, space[2] + 2)
        return cls(np.zeros((entries, *padded)), np.zeros(padded), gz, (space[0], space[1], space[2]), faces)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.space if self.gz else self.space[1:]

    @property
    def unknowns(self) -> int:
        return int(np.prod(self.space))

    @property
    def coarse_space(self) -> Space:
        nz, ny, nx = self.space
        return (nz + 1) // 2, (ny + 1) // 2, (nx + 1) // 2

    def padded(self, space: Space) -> Space:
        return space[0] + 2 * self.gz, space[1] + 2, space[2] + 2

    def inside(self, array: np.ndarray) -> np.ndarray:
        """View of the grid itself, without ghosts (over the last three axes)."""
        return array[..., self.gz : self.gz + self.space[0], 1:-1, 1:-1]

    def scaled(self, factor: float) -> "BoxMatrix":
        return BoxMatrix(self.off * factor, self.diag * factor, self.gz, self.space, self.faces)

    def row_sums(self) -> np.ndarray:
        """Σ_j a_ij with ghosts."""
        out = np.zeros_like(self.diag)
        row_sums(self.off, self.diag, self.plan.slots, self.gz, self.space, out)
        return out

    def stencil(self) -> np.ndarray:
        """All 3^d entries (3^d, *shape), offsets in row-major order (those of `StencilOperator`)."""
        ndim = len(self.shape)
        out = np.zeros((27 if self.gz else 9, *self.space))
        centre = len(out) // 2
        out[centre] = self.inside(self.diag)
        for m, slot in enumerate(self.plan.slots):
            if slot < 0:
                continue
            dz, dy, dx = tables.HALF[m]
            number = 9 * dz + 3 * dy + dx
            out[centre + number] = self.inside(self.off[slot])
            shift = (
                np.roll(self.off[slot], (dz, dy, dx), (0, 1, 2))
                if self.gz
                else np.roll(self.off[slot], (dy, dx), (1, 2))
            )
            out[centre - number] = self.inside(shift)
        return out.reshape(3**ndim if ndim > 1 else 9, *self.shape)

    def to_scipy(self) -> "csr_matrix":
        """The matrix, unknowns in row-major order."""
        from scipy.sparse import coo_matrix

        index = np.full(self.padded(self.space), -1)
        self.inside(index)[...] = np.arange(self.unknowns).reshape(self.space)
        here = self.inside(index).ravel()
        rows, cols, values = [here], [here], [self.inside(self.diag).ravel()]
        for m, slot in enumerate(self.plan.slots):
            if slot < 0:
                continue
            value = self.inside(self.off[slot]).ravel()
            there = self.inside(np.roll(index, [-o for o in tables.HALF[m]], (0, 1, 2))).ravel()
            keep = (value != 0) & (there >= 0)
            rows += [here[keep], there[keep]]
            cols += [there[keep], here[keep]]
            values += [value[keep], value[keep]]
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
        return coo_matrix(entries, shape=(self.unknowns, self.unknowns)).tocsr()
