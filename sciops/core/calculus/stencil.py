"""Second-order conservative differences on a grid."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary, face_name
from sciops.core.calculus.base import Calculus
from sciops.core.errors import UsageError
from sciops.core.grid import Grid


class Stencil(Calculus):
    """u: values (n, *s) on the grid, boundary conditions built into the differences.

    Fluxes live on faces: (∇·a∇u)_i = Σ_j (F_{i+½} − F_{i−½})/h_j, F_{i+½} = a_{i+½}(u_{i+1} − u_i)/h_j, with
    a_{i+½} the arithmetic (default) or harmonic mean. Walls:

    =========  =============================================  ==========================================
    layout     Dirichlet u = g                                Neumann a ∂u/∂n = g
    =========  =============================================  ==========================================
    cell       wall flux 2a(u_0 − g)/h                        wall flux g
    node       boundary node holds g (`embed`); its row of    half control volume at the wall
               the result is zero and is not an equation
    =========  =============================================  ==========================================

    Free faces are extrapolated to second order: fluxes quadratically, first differences from three points; they need
    three points along their axis for first and four for second derivatives. ∂³ is offered on periodic axes.
    Order 2 for smooth a and u. Coefficients are arrays of the grid's shape, or per-case numbers (n, 1, …).
    """

    def __init__(
        self,
        grid: Grid,
        boundary: Boundary,
        data: Mapping[str, Tensor] | None = None,
        face: Literal["arithmetic", "harmonic"] = "arithmetic",
    ) -> None:
        boundary.check(grid)
        self.grid, self.boundary, self.data, self.face = grid, boundary, dict(data or {}), face

    @property
    def ndim(self) -> int:
        return self.grid.ndim

    @property
    def interior(self) -> tuple[slice, ...]:
        """Slices of the unknowns: everything but boundary nodes that hold Dirichlet values."""
        slices = []
        for (lo, up), layout in zip(self.boundary.kinds, self.grid.layout, strict=True):
            fixed = [layout == "node" and kind == "dirichlet" for kind in (lo, up)]
            slices.append(slice(1 if fixed[0] else None, -1 if fixed[1] else None))
        return tuple(slices)

    @property
    def unknown_shape(self) -> tuple[int, ...]:
        return tuple(len(range(*s.indices(n))) for s, n in zip(self.interior, self.grid.shape, strict=True))

    def restrict(self, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *m"]:
        """Values at the unknowns."""
        return u[(slice(None), *self.interior)]

    def embed(self, v: Float[Tensor, "n *m"], homogeneous: bool = False) -> Float[Tensor, "n *s"]:
        """Full-grid array from the unknowns; Dirichlet nodes receive their data (or zero)."""
        u = v.new_zeros((v.shape[0], *self.grid.shape))
        if not homogeneous:
            for name, axis, side, kind in self.boundary.faces():
                if kind == "dirichlet" and self.grid.layout[axis] == "node" and name in self.data:
                    u.select(axis + 1, -side).copy_(self.data[name])
        u[(slice(None), *self.interior)] = v
        return u

    def row_weights(self, like: Tensor) -> Float[Tensor, "*m"]:
        """Control volume / h^d of every unknown: ½ per Neumann wall that a node sits on (symmetrises A)."""
        weights = like.new_ones(self.grid.shape)
        for _, axis, side, kind in self.boundary.faces():
            if kind == "neumann" and self.grid.layout[axis] == "node":
                weights.select(axis, -side).mul_(0.5)
        return weights[self.interior]

    def _data(self, axis: int, side: int, like: Tensor) -> Tensor:
        value = self.data.get(face_name(axis, side))
        if value is None:
            return torch.zeros_like(like)
        return value.to(like.dtype).unsqueeze(axis + 1).expand_as(like)

    def div_flux(self, a: Float[Tensor, "#n *#s"] | float, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        a = a.expand_as(u) if isinstance(a, Tensor) else a
        total: Tensor | None = None
        for axis in range(self.ndim):
            term = self._flux_difference(a, u, axis)
            total = term if total is None else total.add_(term)
        assert total is not None
        return total

    def laplacian(self, u: Float[Tensor, "n *s"]) -> Float[Tensor, "n *s"]:
        return self.div_flux(1.0, u)

    def _flux_difference(self, a: Tensor | float, u: Tensor, axis: int) -> Tensor:
        """∂_axis (a ∂_axis u) from face fluxes F_0 … F_n."""
        dim, n, h = axis + 1, u.shape[axis + 1], self.grid.spacing[axis]
        wall_a = [a.narrow(dim, k, 1) if isinstance(a, Tensor) else a for k in (0, n - 1)]
        wall_u = [u.narrow(dim, k, 1) for k in (0, n - 1)]
        inner = (u.narrow(dim, 1, n - 1) - u.narrow(dim, 0, n - 1)) / h
        inner = inner * (self._mean(a.narrow(dim, 0, n - 1), a.narrow(dim, 1, n - 1)) if isinstance(a, Tensor) else a)
        layout, kinds = self.grid.layout[axis], self.boundary.kinds[axis]
        if layout == "periodic":
            seam_a = self._mean(wall_a[1], wall_a[0]) if isinstance(a, Tensor) else a
            seam = seam_a * (wall_u[0] - wall_u[1]) / h
            walls = [seam, seam]
        else:
            walls = []
            for side, sign in ((0, -1.0), (1, 1.0)):
                g = self._data(axis, side, wall_u[side])
                if kinds[side] == "neumann":
                    walls.append(sign * g)
                elif kinds[side] == "free":
                    walls.append(self._extrapolated(inner, dim, side))
                elif layout == "cell":
                    walls.append(sign * wall_a[side] * (g - wall_u[side]) * (2 / h))
                else:  # Dirichlet node: no equation in this row
                    walls.append(inner.narrow(dim, 0 if side == 0 else n - 2, 1))
        flux = torch.cat([walls[0], inner, walls[1]], dim)
        difference = (flux.narrow(dim, 1, n) - flux.narrow(dim, 0, n)) / h
        if layout == "node":
            for side in (0, 1):
                if kinds[side] == "neumann":
                    difference.select(dim, -side).mul_(2.0)  # half control volume
        return difference

    def _extrapolated(self, inner: Tensor, dim: int, side: int) -> Tensor:
        """Wall flux from the three nearest fluxes."""
        m = inner.shape[dim]
        if m < 3:
            raise UsageError(f"Stencil: an axis with a free face needs at least 4 points; got {m + 1}.")
        near = [inner.narrow(dim, k if side == 0 else m - 1 - k, 1) for k in range(3)]
        return 3 * near[0] - 3 * near[1] + near[2]

    def _mean(self, left: Any, right: Any) -> Any:
        if self.face == "harmonic":
            return 2 * left * right / (left + right)
        return 0.5 * (left + right)

    def partial(self, u: Float[Tensor, "n *s"], order: tuple[int, ...]) -> Float[Tensor, "n *s"]:
        axes = [axis for axis, times in enumerate(order) if times]
        if not axes:
            return u
        axis = axes[0]
        third = order[axis] == 3 and self.grid.layout[axis] == "periodic"
        if len(axes) > 1 or (max(order) > 2 and not third):
            raise UsageError(
                f"Stencil offers ∂ and ∂² along one axis, and ∂³ along a periodic one, not order {order} on a "
                f"{self.grid.describe()} grid; use the Spectral calculus."
            )
        if third:  # the central difference of order 2, (u_{i+2} − 2u_{i+1} + 2u_{i−1} − u_{i−2})/2h³
            far, near = (u.roll(-k, axis + 1) - u.roll(k, axis + 1) for k in (2, 1))
            return (far - 2 * near) / (2 * self.grid.spacing[axis] ** 3)
        return self._flux_difference(1.0, u, axis) if order[axis] == 2 else self._central(u, axis)

    def _central(self, u: Tensor, axis: int) -> Tensor:
        """Central first difference; ghost values carry the boundary data (unit coefficient for Neumann)."""
        dim, n, h = axis + 1, u.shape[axis + 1], self.grid.spacing[axis]
        layout, kinds = self.grid.layout[axis], self.boundary.kinds[axis]
        ghosts = []
        for side in (0, 1):
            edge = u.narrow(dim, side * (n - 1), 1)
            inside = u.narrow(dim, 1 if side == 0 else n - 2, 1)
            g = self._data(axis, side, edge)
            if layout == "periodic":
                ghosts.append(u.narrow(dim, (1 - side) * (n - 1), 1))
            elif kinds[side] == "neumann":
                ghosts.append(edge + h * g if layout == "cell" else inside + 2 * h * g)
            elif kinds[side] == "free":
                if n < 3:
                    raise UsageError(f"Stencil: an axis with a free face needs at least 3 points; got {n}.")
                ghosts.append(3 * edge - 3 * inside + u.narrow(dim, 2 if side == 0 else n - 3, 1))
            else:  # Dirichlet: reflect through the wall; on nodes this makes the (unused) boundary row one-sided
                ghosts.append(2 * (g if layout == "cell" else edge) - (edge if layout == "cell" else inside))
        padded = torch.cat([ghosts[0], u, ghosts[1]], dim)
        return (padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)) / (2 * h)
