"""One system of a batch as flat NumPy arrays: what compiled solvers are fed with."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.compiled import system_kernels as kernels


class System(ABC):
    """A x = b for one symmetric matrix; vectors are float64 arrays of shape `space`, C-contiguous.

    `singular`: directions need `project` while the solver runs (A has constants in its null space).
    `masked`: some cells have no row (their unknown is 0).
    """

    space: tuple[int, ...]
    singular = False
    masked = False
    labels: np.ndarray | None = None
    components = 0

    @abstractmethod
    def matvec_dot(self, p: np.ndarray, out: np.ndarray) -> float:
        """out = A p; returns pᵀA p."""

    def residual(self, x: np.ndarray, b: np.ndarray, out: np.ndarray) -> float:
        """out = b − A x; returns its squared norm."""
        self.matvec_dot(x, out)
        return kernels.remainder(b.reshape(-1), out.reshape(-1))

    def project(self, v: np.ndarray) -> None:
        """Take the part in the null space (means of singular components, cells without a row) out of v, in place."""
        if self.labels is not None:
            kernels.off_components(v.reshape(-1), self.labels, self.components)


class FaceSystem(System):
    """System i of a `FaceOperator` in 1, 2 or 3 dimensions: diagonal and one weight array per axis.

    `faces[axis]`, `sink`, `diagonal` have shape `space`; all are float32 where that loses no digit (weights of voxel
    solids), else float64: loops are compiled for the one or the other. Cost of a product: one pass, d + 3 arrays.
    `active` (*space) marks the cells with a row.
    """

    def __init__(self, A: FaceOperator, i: int = 0) -> None:
        self.space = A.space
        if len(self.space) > 3:
            raise UsageError(f"Compiled systems have 1 to 3 dimensions; got {len(self.space)}.")
        self.diagonal, self.sink, *faces = narrowed(A.diagonal()[i], A.sink[i], *(w[i] for w in A.faces))
        self.faces = tuple(faces)
        self.active = self.diagonal > 0
        self.singular = A.nullspace is not None
        self.masked = not bool(self.active.all())
        if self.singular or self.masked:
            zero = np.zeros(self.space, np.int32)
            labels = zero if A.labels is None else A.labels[i].cpu().numpy().astype(np.int32)
            self.components = int(labels.max())
            self.labels = np.where(self.active, labels, -1).astype(np.int32).reshape(-1)
            self.singular = self.components > 0
        self._flat = tuple(a.reshape(-1) for a in (self.diagonal, *self.faces))

    def matvec_dot(self, p: np.ndarray, out: np.ndarray) -> float:
        x, y = p.reshape(-1), out.reshape(-1)
        if len(self.space) == 3:
            return kernels.matvec_dot_3d(x, *self._flat, self.space[1] * self.space[2], self.space[2], y)
        if len(self.space) == 2:
            return kernels.matvec_dot_2d(x, *self._flat, self.space[1], y)
        diagonal, w = self._flat
        return kernels.matvec_dot_2d(x, diagonal, np.zeros_like(w), w, x.size, y)


class StencilSystem(System):
    """System i of a `StencilOperator` with any offsets and periodic axes; entries that point outside count as zero.

    `steps` and `coefficients` (k, cells) hold the non-zero stencil entries only. Cost of a product: a ghost-padded copy
    and one pass per row of cells.
    """

    def __init__(self, A: StencilOperator, i: int = 0) -> None:
        self.space, self.radius, self.periodic = A.space, A.radius, A.periodic
        stencil = A.stencil[i].detach().cpu()
        self.offsets = [A.offsets[k] for k in A.active]
        shape = tuple(size + 2 * self.radius for size in self.space)
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
        self.steps = np.array([sum(o * s for o, s in zip(offset, strides, strict=True)) for offset in self.offsets])
        self.coefficients = np.stack([stencil[k].numpy().astype(np.float64).reshape(-1) for k in A.active])
        self._padded = np.zeros(shape)
        rows = int(np.prod(self.space[:-1]))
        lines = np.indices(self.space[:-1]).reshape(len(self.space) - 1, rows) + self.radius
        self._starts = np.array(strides[:-1], dtype=np.int64) @ lines.astype(np.int64) + self.radius
        self.diagonal = stencil[len(A.offsets) // 2].numpy().astype(np.float64)
        if A.nullspace is not None:
            self.singular, self.components = True, 1
            self.labels = np.ones(self.diagonal.size, np.int32)

    def matvec_dot(self, p: np.ndarray, out: np.ndarray) -> float:
        r, padded = self.radius, self._padded
        padded[(slice(r, -r),) * p.ndim if r else ...] = p.reshape(self.space)
        for axis, wrap in enumerate(self.periodic):
            if wrap:
                moved = np.moveaxis(padded, axis, 0)
                moved[:r], moved[-r:] = moved[-2 * r : -r], moved[r : 2 * r]
        flat = padded.reshape(-1)
        return kernels.matvec_dot_rows(
            flat, self._starts, self.steps, self.coefficients, self.space[-1], out.reshape(-1)
        )


def system_of(A: LinearOperator, i: int = 0) -> System:
    """The compiled form of system i."""
    if isinstance(A, FaceOperator):
        return FaceSystem(A, i)
    if isinstance(A, StencilOperator):
        return StencilSystem(A, i)
    raise UsageError(
        f"Compiled solvers take a FaceOperator or a StencilOperator; {type(A).__name__} has no arrays they could read: "
        f"use ConjugateGradients."
    )


def grid_shape(space: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """(planes, rows, columns) for kernels that run over planes of long rows, and which axis of `space` each one is.

    A plane of a two-dimensional grid is one row; a one-dimensional grid is one row in all.
    """
    if not 1 <= len(space) <= 3:
        raise UsageError(f"Compiled solvers take grids of 1 to 3 dimensions; got {len(space)}.")
    axes: tuple[int | None, ...] = ((None, None, 0), (0, None, 1), (0, 1, 2))[len(space) - 1]
    return tuple(1 if a is None else space[a] for a in axes), axes


def faces_of(A: StencilOperator) -> FaceOperator:
    """The same matrix as face weights and a sink, if it is one: couplings ≤ 0 along the axes only, row sums ≥ 0."""
    centre, ndim = len(A.offsets) // 2, len(A.space)
    couplings = [k for k in A.active if k != centre]
    if any(A.periodic) or any(sum(map(abs, A.offsets[k])) > 1 for k in couplings):
        raise UsageError(
            "Aggregation takes face weights or stencils without diagonal neighbours and periodic axes; "
            "use MultigridCG instead."
        )
    sink = A.diagonal().clone()
    scale = sink.abs()
    faces = []
    for axis, size in enumerate(A.space):
        k = A.offsets.index(tuple(int(a == axis) for a in range(ndim)))
        w = -A.stencil[:, k]
        w.select(axis + 1, size - 1).zero_()
        sink -= w
        sink.narrow(axis + 1, 1, size - 1).sub_(w.narrow(axis + 1, 0, size - 1))
        faces.append(w)
    rounding = 64 * torch.finfo(A.dtype).eps * scale
    if any(bool((w < 0).any()) for w in faces) or bool((sink < -rounding).any()):
        raise UsageError(
            "Aggregation takes matrices with couplings ≤ 0 and row sums ≥ 0; use MultigridCG or BoxmgCG instead."
        )
    # What is left of a row of the pure Neumann problem is rounding; it must not become a reaction term.
    sink = torch.where(sink <= rounding, 0.0, sink)
    labels = None if A.nullspace is None else torch.ones(sink.shape, dtype=torch.int64, device=sink.device)
    return FaceOperator(tuple(faces), sink, labels)


def is_shared(A: LinearOperator) -> bool:
    """Do all systems of the batch have one matrix (an expanded array)?"""
    if isinstance(A, StencilOperator):
        return A.n > 1 and A.stencil.stride(0) == 0
    if isinstance(A, FaceOperator):
        return A.n > 1 and all(a.stride(0) == 0 for a in (*A.faces, A.sink))
    return False


def narrowed(*tensors: Tensor) -> list[np.ndarray]:
    """Contiguous float32 copies if all have the same values, else float64."""
    wide = [np.ascontiguousarray(a.detach().cpu().numpy()) for a in tensors]
    narrow = [np.empty(a.shape, np.float32) for a in wide]
    if all(kernels.narrow(a.reshape(-1), b.reshape(-1)) for a, b in zip(wide, narrow, strict=True)):
        return narrow
    return [a.astype(np.float64) for a in wide]
