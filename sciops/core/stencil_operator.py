"""Compact-stencil matrices on tensor-product grids: what multigrid, pyamg and SciPy are fed with."""

from collections.abc import Callable
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.linear import LinearOperator

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def offsets(ndim: int, radius: int = 1) -> list[tuple[int, ...]]:
    """All neighbour offsets of a (2r+1)^d stencil in row-major order; the centre is the middle one."""
    return list(product(range(-radius, radius + 1), repeat=ndim))


def pad_ghosts(x: Float[Tensor, "n *s"], periodic: tuple[bool, ...], radius: int = 1) -> Float[Tensor, "n *p"]:
    """Surround with `radius` ghost layers: wrapped on periodic axes, zero elsewhere."""
    for axis, wrap in enumerate(periodic, start=1):
        if wrap:
            size = x.shape[axis]
            x = torch.cat([x.narrow(axis, size - radius, radius), x, x.narrow(axis, 0, radius)], dim=axis)
        else:
            shape = list(x.shape)
            shape[axis] = radius
            ghost = x.new_zeros(shape)
            x = torch.cat([ghost, x, ghost], dim=axis)
    return x


def shifted(padded: Tensor, space: tuple[int, ...], offset: tuple[int, ...], radius: int = 1) -> Tensor:
    """View of a ghost-padded array whose entry i is x[i + offset]."""
    for axis, (size, o) in enumerate(zip(space, offset, strict=True), start=1):
        padded = padded.narrow(axis, radius + o, size)
    return padded


class StencilOperator(LinearOperator):
    """(A x)_i = Σ_o stencil[o]_i · x_{i+o},  o ∈ {−r…r}^d, x = 0 outside (wrapped on periodic axes).

    `stencil` has shape (n, (2r+1)^d, *space), offsets in row-major order (`offsets(ndim, r)`).
    Symmetry is measured, not assumed; *positive* is granted when A is symmetric and weakly diagonally
    dominant with positive diagonal (Gershgorin), and may be declared by the caller who knows better.
    """

    def __init__(
        self,
        stencil: Float[Tensor, "n k *s"],
        periodic: tuple[bool, ...],
        tags: frozenset[str] | None = None,
        nullspace: str | None = None,
    ) -> None:
        self.stencil = stencil
        self.periodic = periodic
        self.n = stencil.shape[0]
        self.space = tuple(stencil.shape[2:])
        self.dtype, self.device = stencil.dtype, stencil.device
        ndim = len(self.space)
        self.radius = (round(stencil.shape[1] ** (1 / ndim)) - 1) // 2
        self.offsets = offsets(ndim, self.radius)
        self.tags = self._measured_tags() if tags is None else tags
        self.nullspace = nullspace

    @cached_property
    def active(self) -> list[int]:
        """Indices of the stencil entries that are non-zero anywhere (5 of 9 for the plain Laplacian)."""
        return [k for k in range(len(self.offsets)) if bool((self.stencil[:, k] != 0).any())]

    def matvec(self, x: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        padded = pad_ghosts(x, self.periodic, self.radius)
        centre = len(self.offsets) // 2
        y = self.stencil[:, centre] * x
        for k in self.active:
            if k != centre:
                y.addcmul_(self.stencil[:, k], shifted(padded, self.space, self.offsets[k], self.radius))
        return y

    def diagonal(self) -> Float[Tensor, "n *s"]:
        return self.stencil[:, len(self.offsets) // 2]

    def select(self, index: Int[Tensor, " k"]) -> "StencilOperator":
        return StencilOperator(self.stencil[index], self.periodic, self.tags, self.nullspace)

    def to(self, dtype: torch.dtype) -> "StencilOperator":
        return StencilOperator(self.stencil.to(dtype), self.periodic, self.tags, self.nullspace)

    def to_scipy(self, i: int = 0) -> "csr_matrix":
        import numpy as np
        from scipy.sparse import coo_matrix

        stencil = self.stencil[i].detach().cpu().numpy()
        index = np.arange(stencil[0].size).reshape(self.space)
        rows, cols, values = [], [], []
        for k in self.active:
            target, inside = index, np.ones(self.space, dtype=bool)
            for axis, (o, size) in enumerate(zip(self.offsets[k], self.space, strict=True)):
                target = np.roll(target, -o, axis)
                if not self.periodic[axis]:
                    position = np.arange(size) + o
                    shape = [-1 if a == axis else 1 for a in range(len(self.space))]
                    inside = inside & ((position >= 0) & (position < size)).reshape(shape)
            keep = inside & (stencil[k] != 0)
            rows.append(index[keep])
            cols.append(target[keep])
            values.append(stencil[k][keep])
        size = index.size
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(cols)))
        return coo_matrix(entries, shape=(size, size)).tocsr()

    def _measured_tags(self) -> frozenset[str]:
        scale = self.stencil.abs().amax(dim=tuple(range(1, self.stencil.dim())), keepdim=True)[:, 0]
        centre = len(self.offsets) // 2
        tolerance = 64 * torch.finfo(self.dtype).eps * scale
        neighbours = torch.zeros_like(self.stencil[:, 0])
        for k in self.active:
            if k == centre:
                continue
            # A[i, i+o] must equal A[i+o, i], which is stored at i+o under the opposite offset.
            opposite = pad_ghosts(self.stencil[:, -1 - k], self.periodic, self.radius)
            transpose = shifted(opposite, self.space, self.offsets[k], self.radius)
            if bool(((self.stencil[:, k] - transpose).abs() > tolerance).any()):
                return frozenset()
            neighbours += self.stencil[:, k].abs()
        diagonal = self.stencil[:, centre]
        dominant = bool((diagonal + 64 * torch.finfo(self.dtype).eps * scale >= neighbours).all())
        positive = dominant and bool((diagonal > 0).all())
        return frozenset({"symmetric", "positive"} if positive else {"symmetric"})


def probe_stencil(
    apply: Callable[[Tensor], Tensor],
    n: int,
    space: tuple[int, ...],
    periodic: tuple[bool, ...],
    radius: int = 1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "n k *s"]:
    """Stencil of a linear map by (2r+1)^d coloured probes: unit impulses 2r+1 apart never share a row.

    Cost: (2r+1)^d applications of the map. On a periodic axis that is not a multiple of 2r+1 colours would
    collide across the seam, so such an axis gets one extra colour block at its end. A periodic axis shorter
    than 2r+1 has no stencil, because one point is then two neighbours at once.
    """
    width = 2 * radius + 1
    for axis, (size, wrap) in enumerate(zip(space, periodic, strict=True)):
        if wrap and size < width:
            raise UsageError(f"Periodic axis {axis} needs at least {width} points for a stencil; got {size}.")
    table = offsets(len(space), radius)
    stencil = torch.zeros((n, len(table), *space), dtype=dtype, device=device)
    labels = [_colours(size, wrap, width) for size, wrap in zip(space, periodic, strict=True)]
    for colour in product(*(range(int(label.max()) + 1) for label in labels)):
        impulse = torch.ones((), dtype=dtype, device=device)
        for axis, (label, c) in enumerate(zip(labels, colour, strict=True)):
            shape = [-1 if a == axis else 1 for a in range(len(space))]
            impulse = impulse * (label == c).to(dtype=dtype, device=device).reshape(shape)
        impulse = impulse.expand(n, *space)
        response = apply(impulse)
        source = pad_ghosts(impulse[:1], periodic, radius)
        for k, offset in enumerate(table):
            stencil[:, k].addcmul_(response, shifted(source, space, offset, radius))
    return stencil


def _colours(size: int, wrap: bool, width: int) -> Int[Tensor, " s"]:
    """Colour of every index along one axis so that equal colours are at least `width` apart."""
    colours = torch.arange(size) % width
    remainder = size % width
    if wrap and remainder:
        colours[size - remainder :] += width
    return colours
