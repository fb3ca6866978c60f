"""Open shares of the faces of a MAC grid, from a level set at nodes (cut cells) or at centres (voxels)."""

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.grid import Grid
from sciops.problems.scenes import Scene

SMALLEST = 1e-4
"""Open shares below this count as closed."""


def axes_of(grid: Grid, nodes: tuple[bool, ...]) -> list[Tensor]:
    """Positions in units of the box as arrays that broadcast: cell centres, or the n + 1 cell ends where `nodes`."""
    table = []
    for axis, (n, ends) in enumerate(zip(grid.shape, nodes, strict=True)):
        i = torch.arange(n + 1 if ends else n, dtype=torch.float64)
        x = (i if ends else i + 0.5) / n
        table.append(x.reshape([-1 if j == axis else 1 for j in range(grid.ndim)]))
    return table


def face_axes(grid: Grid, axis: int) -> list[Tensor]:
    """Centres of the faces with normal along `axis`, the two walls included."""
    return axes_of(grid, tuple(j == axis for j in range(grid.ndim)))


def openness(scene: Scene, grid: Grid, fractional: bool) -> list[Tensor]:
    """Share of every face that no solid covers, n + 1 faces along its axis; walls without air are closed.

    Voxels: a face is open if both its cells have their centres outside the solids. Cut cells: share of the face where
    the level set, linear between nodes (on four triangles around the centre of a square face), is positive; second
    order. References: Batty, Bertails, Bridson, ACM Trans. Graph. 26 (2007); Ng, Min, Gibou, J. Comput. Phys. 228
    (2009).
    """
    band = 3.0 * max(1.0 / n for n in grid.shape)
    faces = []
    if fractional:
        level = scene.solid(axes_of(grid, (True,) * grid.ndim), band)
        for axis in range(grid.ndim):
            others = [j for j in range(grid.ndim) if j != axis]
            share = _share(level, others)
            faces.append(torch.where(share < SMALLEST, 0.0, share))
    else:
        free = (scene.solid(axes_of(grid, (False,) * grid.ndim), band) > 0).double()
        for axis, n in enumerate(grid.shape):
            face = free.new_empty([m + int(j == axis) for j, m in enumerate(grid.shape)])
            torch.mul(free.narrow(axis, 0, n - 1), free.narrow(axis, 1, n - 1), out=face.narrow(axis, 1, n - 1))
            face.select(axis, 0).copy_(free.select(axis, 0))
            face.select(axis, n).copy_(free.select(axis, n - 1))
            faces.append(face)
    for axis, sides in enumerate(scene.air):
        for side, open_to_air in enumerate(sides):
            if not open_to_air:
                faces[axis].select(axis, -side).zero_()
    return faces


def _share(level: Tensor, others: list[int]) -> Tensor:
    """Positive share of each face spanned by the axes `others`."""
    if not others:
        return (level > 0).double()
    first, n = others[0], level.shape[others[0]] - 1
    low, high = level.narrow(first, 0, n), level.narrow(first, 1, n)
    if len(others) == 1:
        return segment_share(low, high)
    second, m = others[1], level.shape[others[1]] - 1
    ring = [low.narrow(second, 0, m), high.narrow(second, 0, m), high.narrow(second, 1, m), low.narrow(second, 1, m)]
    share = (ring[0] > 0).double()
    # Most faces are wholly open or wholly closed: only the others need the formula.
    mixed = torch.stack([(corner > 0) != (ring[0] > 0) for corner in ring[1:]]).any(0)
    corners = [corner[mixed] for corner in ring]
    middle = 0.25 * (corners[0] + corners[1] + corners[2] + corners[3])
    parts = [triangle_share(middle, corners[k], corners[(k + 1) % 4]) for k in range(4)]
    share[mixed] = 0.25 * (parts[0] + parts[1] + parts[2] + parts[3])
    return share


def segment_share(p: Float[Tensor, "*s"], q: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Share of a segment where the linear function with end values p and q is positive."""
    high, low = torch.maximum(p, q), torch.minimum(p, q)
    part = high.clamp(min=0) / torch.where(high > low, high - low, 1.0)
    return torch.where(low > 0, 1.0, torch.where(high <= 0, 0.0, part))


def triangle_share(p: Float[Tensor, "*s"], q: Float[Tensor, "*s"], r: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Share of a triangle where the linear function with corner values p, q, r is positive."""
    (c, b, a) = torch.stack([p, q, r]).sort(0).values

    def corner(tip: Tensor, one: Tensor, other: Tensor) -> Tensor:
        area = (tip - one) * (tip - other)
        return tip**2 / torch.where(area != 0, area, 1.0)

    share = torch.where(b > 0, 1.0 - corner(c, a, b), corner(a, b, c))
    return torch.where(c > 0, 1.0, torch.where(a <= 0, 0.0, share))


def liquid(scene: Scene, grid: Grid, open_faces: list[Tensor]) -> Float[Tensor, "*s"]:
    """Level set of the liquid at centres, positive in liquid; cells without an open face are not liquid (−1)."""
    level = torch.ones(grid.shape, dtype=torch.float64)
    if scene.surface is not None:
        level = scene.surface(axes_of(grid, (False,) * grid.ndim)).expand(grid.shape).clone()
    reached = torch.zeros(grid.shape, dtype=torch.bool)
    for axis, (face, n) in enumerate(zip(open_faces, grid.shape, strict=True)):
        reached |= (face.narrow(axis, 0, n) > 0) | (face.narrow(axis, 1, n) > 0)
    level[~reached & (level > 0)] = -1.0
    return level


def divergence(scene: Scene, grid: Grid, open_faces: list[Tensor]) -> Float[Tensor, "*s"]:
    """∇·(w u + (1 − w) u_solid) per volume of a whole cell, u the scene's velocity at face centres."""
    band = 3.0 * max(1.0 / n for n in grid.shape)
    total = torch.zeros(grid.shape, dtype=torch.float64)
    moving = any(any(ball.velocity) for ball in scene.solids)
    for axis, (face, n, h) in enumerate(zip(open_faces, grid.shape, grid.spacing, strict=True)):
        places = face_axes(grid, axis)
        flux = face * scene.velocity(places, axis)
        if moving:
            wall = scene.solid_velocity(places, axis, band).mul_(grid.lengths[axis])
            for side, open_to_air in enumerate(scene.air[axis]):
                if not open_to_air:
                    wall.select(axis, -side).zero_()  # the box itself stands still
            flux.addcmul_(1.0 - face, wall)
        total += (flux.narrow(axis, 1, n) - flux.narrow(axis, 0, n)).div_(h)
    return total
