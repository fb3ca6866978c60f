"""Finite-volume matrices given by one weight per face: symmetric positive by construction, never assembled."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator
from sciops.core.stencil_operator import StencilOperator, offsets

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class FaceOperator(LinearOperator):
    """(A p)_c = s_c p_c + Σ_faces w_f (p_c − p_neighbour),  w ≥ 0, s ≥ 0.

    `faces[axis]` has shape (n, *space): entry i is the weight between cell i and cell i+1 along the axis; the last
    layer must be zero (no face leaves the box; a wall that holds p = 0 is part of the sink).
    `sink` s (n, *space): weights of faces to cells or walls that hold p = 0, and reaction terms.
    Cells with neither face nor sink (solid, air, isolated) have zero rows and are not `active`: their unknown is 0.
    `labels` (n, *space): 0, or k ≥ 1 for the k-th connected component that touches no sink. There A is singular with
    the constants of that component as null space (`nullspace = "components"`); `project` takes the means out.
    Memory: d + 1 arrays. Weights are per volume like those of StencilOperator (entries ~ 1/h²) or in any other scaling.
    Reference: Harlow, Welch, Phys. Fluids 8 (1965), the MAC grid.
    """

    def __init__(
        self,
        faces: tuple[Float[Tensor, "n *s"], ...],
        sink: Float[Tensor, "n *s"],
        labels: Int[Tensor, "n *s"] | None = None,
    ) -> None:
        for axis, w in enumerate(faces):
            if w.shape != sink.shape:
                raise UsageError(f"faces[{axis}] has shape {tuple(w.shape)}, the sink {tuple(sink.shape)}.")
            if bool((w.select(axis + 1, -1) != 0).any()):
                raise UsageError(f"faces[{axis}] has non-zero weights in its last layer, where no face is.")
        if any(bool((w < 0).any()) for w in (*faces, sink)):
            raise UsageError("Face weights and sink must not be negative: the system would be indefinite.")
        if len(faces) != sink.dim() - 1:
            raise UsageError(f"{sink.dim() - 1} axes need as many face arrays; got {len(faces)}.")
        self.faces, self.sink, self.labels = faces, sink, labels
        self.n, self.space = sink.shape[0], tuple(sink.shape[1:])
        self.dtype, self.device = sink.dtype, sink.device
        self.tags = frozenset({"symmetric", "positive"})
        self.nullspace = None if labels is None or not bool((labels > 0).any()) else "components"
        self._diagonal = self._sum_of_weights()

    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        y = self._diagonal * x
        for axis, w in enumerate(self.faces, start=1):
            size = x.shape[axis] - 1
            lower, upper, inner = x.narrow(axis, 0, size), x.narrow(axis, 1, size), w.narrow(axis, 0, size)
            y.narrow(axis, 0, size).addcmul_(inner, upper, value=-1.0)
            y.narrow(axis, 1, size).addcmul_(inner, lower, value=-1.0)
        return y

    def diagonal(self) -> Float[Tensor, "n *s"]:
        return self._diagonal

    @property
    def active(self) -> Bool[Tensor, "n *s"]:
        """Cells with a row."""
        return self._diagonal > 0

    def project(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        if self.labels is None or self.nullspace is None:
            return x
        flat = x.flatten(1)
        labels = self.labels.flatten(1).expand(len(flat), -1)  # one matrix may have many right-hand sides
        count = int(labels.max()) + 1
        sums = flat.new_zeros((len(flat), count)).scatter_add_(1, labels, flat)
        sizes = flat.new_zeros((len(flat), count)).scatter_add_(1, labels, torch.ones_like(flat))
        means = sums / sizes.clamp(min=1.0)
        means[:, 0] = 0.0
        return x - means.gather(1, labels).reshape(x.shape)

    def select(self, index: Int[Tensor, " k"]) -> "FaceOperator":
        labels = None if self.labels is None else self.labels[index]
        return FaceOperator(tuple(w[index] for w in self.faces), self.sink[index], labels)

    def to(self, dtype: torch.dtype) -> "FaceOperator":
        return FaceOperator(tuple(w.to(dtype) for w in self.faces), self.sink.to(dtype), self.labels)

    def stencil_operator(self) -> StencilOperator:
        """The same matrix as a radius-1 stencil; cells that are not active get the row of the identity."""
        ndim = len(self.space)
        places = offsets(ndim)
        stencil = self.sink.new_zeros((self.n, len(places), *self.space))
        stencil[:, len(places) // 2] = torch.where(self.active, self._diagonal, 1.0)
        for axis, w in enumerate(self.faces):
            size = self.space[axis] - 1
            for step in (-1, 1):
                row = stencil[:, places.index(tuple(step * int(a == axis) for a in range(ndim)))]
                row.narrow(axis + 1, int(step < 0), size).copy_(w.narrow(axis + 1, 0, size)).neg_()
        whole = self.nullspace is not None and self.labels is not None and bool(torch.eq(self.labels, 1).all())
        return StencilOperator(stencil, (False,) * ndim, self.tags, "constant" if whole else None)

    def to_scipy(self, i: int = 0) -> "csr_matrix":
        """System i on all cells of the grid; rows of cells that are not active are zero."""
        import numpy as np
        from scipy.sparse import coo_matrix

        index = np.arange(self.sink[0].numel()).reshape(self.space)
        diagonal = self._diagonal[i].detach().cpu().numpy()
        rows, cols, values = [index.ravel()], [index.ravel()], [diagonal.ravel()]
        for axis, w in enumerate(self.faces):
            size = self.space[axis] - 1
            lower = np.take(index, range(size), axis)
            upper = np.take(index, range(1, size + 1), axis)
            weight = w[i].detach().cpu().numpy().take(range(size), axis)
            keep = weight != 0
            rows += [lower[keep], upper[keep]]
            cols += [upper[keep], lower[keep]]
            values += [-weight[keep], -weight[keep]]
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
        matrix = coo_matrix(entries, shape=(index.size, index.size)).tocsr()
        matrix.eliminate_zeros()
        return matrix

    def _sum_of_weights(self) -> Tensor:
        total = self.sink.clone()
        for axis, w in enumerate(self.faces, start=1):
            total += w
            size = w.shape[axis] - 1
            total.narrow(axis, 1, size).add_(w.narrow(axis, 0, size))
        return total
