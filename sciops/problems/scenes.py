"""Scenes of incompressible flow: solids, free surfaces and walls as functions of position, drawn from one seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.random import generator

Axes = Sequence[Tensor]
"""Coordinates as arrays that broadcast to the grid: (nx, 1, 1), (1, ny, 1), (1, 1, nz)."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "box": {"walls": "air"},
    "plume": {"obstacles": 3, "top": "air"},
    "free_surface": {"depth": 0.6, "waves": 0.08, "obstacles": 2},
    "random_solids": {"share": 0.2, "smallest": 0.04, "largest": 0.12, "top": "air", "pockets": "removed"},
    "moving_solids": {"solids": 6, "smallest": 0.05, "largest": 0.12, "reach": 0.15, "top": "air", "frames": 32},
    "voxels": {"file": "", "top": "air", "pockets": "removed"},
}
"""Scenes with their parameters and default values; lengths are shares of the box."""

CHOICES = {"walls": ("air", "solid"), "top": ("air", "solid"), "pockets": ("kept", "removed")}


@dataclass(frozen=True)
class Ball:
    """A disc or sphere, or a block if `widths` are given: half widths along axes turned by `angle` in the plane xy."""

    centre: tuple[float, ...]
    radius: float
    velocity: tuple[float, ...]
    widths: tuple[float, ...] = ()
    angle: float = 0.0

    def distance(self, axes: Axes) -> Tensor:
        """Signed distance, negative inside."""
        away = [x - c for x, c in zip(axes, self.centre, strict=True)]
        if not self.widths:
            square = away[0] ** 2
            for a in away[1:]:
                square = square + a**2
            return torch.sqrt(square) - self.radius
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        away[:2] = [cos * away[0] + sin * away[1], cos * away[1] - sin * away[0]]
        beyond = [a.abs() - w for a, w in zip(away, self.widths, strict=True)]
        inside, outside = beyond[0], beyond[0].clamp(min=0) ** 2
        for b in beyond[1:]:
            inside = torch.maximum(inside, b)
            outside = outside + b.clamp(min=0) ** 2
        return torch.sqrt(outside) + inside.clamp(max=0)


@dataclass(frozen=True)
class Scene:
    """What is where: positions in units of the box, [0, 1] on every axis.

    `air[axis][side]`: the wall is open to air at p = 0. `surface(axes)`: level set of the liquid, positive inside.
    `drift`, `plume`: coefficients of the velocity law, centre of the buoyant blob. `heavy`: those of the level set of a
    denser fluid. `removed`: liquid without air is
    solid.
    """

    ndim: int
    solids: tuple[Ball, ...]
    air: tuple[tuple[bool, bool], ...]
    drift: Float[Tensor, "d *k"]
    heavy: Float[Tensor, "*k"]
    plume: tuple[float, ...] = ()
    surface: Callable[[Axes], Tensor] | None = None
    occupancy: Callable[[Axes], Tensor] | None = None
    removed: bool = False

    def solid(self, axes: Axes, band: float) -> Float[Tensor, "*s"]:
        """Signed distance to the solids, negative inside, exact where it is below `band` and `band` elsewhere."""
        shape = torch.broadcast_shapes(*(x.shape for x in axes))
        if self.occupancy is not None:
            return self.occupancy(axes).expand(shape)
        nearest = axes[0].new_full(shape, band)
        for ball in self.solids:
            index, local = window(axes, ball, band)
            if index is not None:
                view = nearest[index]
                torch.minimum(view, ball.distance(local), out=view)
        return nearest

    def velocity(self, axes: Axes, axis: int) -> Float[Tensor, "*s"]:
        """Component of the fluid's velocity before projection; its normal part vanishes on the walls."""
        total = self.drift[axis].to(axes[0])
        for j, x in enumerate(axes):
            k = torch.arange(total.shape[0], dtype=x.dtype, device=x.device) + int(j == axis)
            wave = (torch.sin if j == axis else torch.cos)(math.pi * x.reshape(-1, 1) * k)
            total = torch.tensordot(total, wave, dims=([0], [1]))
        if self.plume and axis == self.ndim - 1:
            square: Any = 0.0
            for x, c in zip(axes, self.plume, strict=True):
                square = square + (x - c) ** 2
            total = total + 2.0 * torch.exp(-square / (2 * 0.12**2))
        return total

    def dense(self, axes: Axes) -> Float[Tensor, "*s"]:
        """Level set of the denser fluid, positive inside: a sum of cosines without constant."""
        total = self.heavy.to(axes[0])
        for x in axes:
            k = torch.arange(total.shape[0], dtype=x.dtype, device=x.device)
            total = torch.tensordot(total, torch.cos(math.pi * x.reshape(-1, 1) * k), dims=([0], [1]))
        return total

    def solid_velocity(self, axes: Axes, axis: int, band: float) -> Float[Tensor, "*s"]:
        """Component of the velocity of the solids inside them and within `band` of them, 0 elsewhere."""
        shape = torch.broadcast_shapes(*(x.shape for x in axes))
        total = axes[0].new_zeros(shape)
        nearest = axes[0].new_full(shape, band)
        for ball in self.solids:
            if not any(ball.velocity):
                continue
            index, local = window(axes, ball, band)
            if index is not None:
                distance, closest = ball.distance(local), nearest[index]
                near = distance < closest
                total[index] = torch.where(near, ball.velocity[axis], total[index])
                nearest[index] = torch.minimum(closest, distance)
        return total


def parameters_of(scene: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The scene's parameters with the given ones in place; UsageError for names and values it does not take."""
    if scene not in PARAMETERS:
        raise UsageError(f"Pressure scene must be one of {', '.join(PARAMETERS)}; got '{scene}'.")
    table = dict(PARAMETERS[scene])
    for name, value in given.items():
        if name not in table:
            raise UsageError(f"Scene {scene} has no parameter '{name}'; it takes {', '.join(table)}.")
        if name in CHOICES:
            if value not in CHOICES[name]:
                raise UsageError(f"Scene parameter {name} must be {' or '.join(CHOICES[name])}; got {value!r}.")
        elif isinstance(table[name], str) != isinstance(value, str) or isinstance(value, bool):
            kind = "a file name" if isinstance(table[name], str) else "a number"
            raise UsageError(f"Scene parameter {name} must be {kind}; got {value!r}.")
        elif not isinstance(value, str) and not (math.isfinite(value) and value >= 0):
            raise UsageError(f"Scene parameter {name} must be a finite number of at least 0; got {value!r}.")
        table[name] = value
    if "smallest" in table and not 0 < table["smallest"] <= table["largest"] < 0.5:
        raise UsageError(
            f"Scene radii need 0 < smallest ≤ largest < 0.5; got smallest={table['smallest']}, "
            f"largest={table['largest']}."
        )
    if not 0 <= table.get("share", 0.0) <= 0.6:
        raise UsageError(f"Scene parameter share must lie between 0 and 0.6; got {table['share']}.")
    if "frames" in table and table["frames"] < 1:
        raise UsageError(f"Scene parameter frames must be at least 1; got {table['frames']}.")
    return table


def draw_scene(
    scene: str,
    parameters: Mapping[str, Any],
    seed: int,
    ndim: int,
    occupancy: Callable[[Axes], Tensor] | None = None,
) -> Scene:
    """The scene of one seed. `moving_solids`: sequence seed // frames at frame seed % frames of a periodic motion."""
    p = parameters
    frames = int(p.get("frames", 1))
    draw = generator(seed // frames)
    top = ((False, p.get("top", "air") == "air"),)
    air = ((False, False),) * (ndim - 1) + top
    draws = torch.randn((ndim + 1, *(4,) * ndim), generator=draw, dtype=torch.float64)
    drift, heavy = draws[:-1], draws[-1]
    heavy[(0,) * ndim] = 0.0
    if scene == "box":
        return Scene(ndim, (), ((p["walls"] == "air",) * 2,) * ndim, drift, heavy)
    if scene == "voxels":
        return Scene(ndim, (), air, drift, heavy, occupancy=occupancy, removed=p["pockets"] == "removed")
    if scene == "random_solids":
        balls = random_balls(draw, ndim, p["share"], p["smallest"], p["largest"])
        return Scene(ndim, balls, air, drift, heavy, removed=p["pockets"] == "removed")
    if scene == "moving_solids":
        time = (seed % frames) / frames
        balls = tuple(_moving(draw, ndim, time, p) for _ in range(int(p["solids"])))
        return Scene(ndim, balls, air, drift, heavy, removed=True)
    obstacles = tuple(_obstacle(draw, ndim, i) for i in range(int(p["obstacles"])))
    if scene == "plume":
        across = _uniform(draw, ndim - 1, 0.35, 0.65)
        return Scene(ndim, obstacles, air, 0.2 * drift, heavy, plume=(*across, 0.2), removed=True)
    return Scene(ndim, obstacles, air, drift, heavy, surface=_waves(draw, ndim, p["depth"], p["waves"]), removed=True)


def random_balls(draw: torch.Generator, ndim: int, share: float, smallest: float, largest: float) -> tuple[Ball, ...]:
    """Balls at uniform places, radii uniform, as many as it takes to cover the share of the unit box."""
    lattice = (torch.arange(96 if ndim == 2 else 32, dtype=torch.float64) + 0.5) / (96 if ndim == 2 else 32)
    axes = [lattice.reshape([-1 if j == axis else 1 for j in range(ndim)]) for axis in range(ndim)]
    covered = torch.zeros(torch.broadcast_shapes(*(x.shape for x in axes)), dtype=torch.bool)
    balls: list[Ball] = []
    while int(covered.sum()) < share * covered.numel():
        numbers = torch.rand(ndim + 1, generator=draw, dtype=torch.float64).tolist()
        ball = Ball(tuple(numbers[:ndim]), smallest + (largest - smallest) * numbers[ndim], (0.0,) * ndim)
        covered |= ball.distance(axes) < 0
        balls.append(ball)
    return tuple(balls)


def _uniform(draw: torch.Generator, count: int, low: float, high: float) -> list[float]:
    return (low + (high - low) * torch.rand(count, generator=draw, dtype=torch.float64)).tolist()


def _moving(draw: torch.Generator, ndim: int, time: float, p: Mapping[str, Any]) -> Ball:
    """A ball on a closed path: every coordinate swings once or twice in a period."""
    radius = _uniform(draw, 1, p["smallest"], p["largest"])[0]
    middle = _uniform(draw, ndim, 0.2, 0.8)
    swing = _uniform(draw, ndim, -p["reach"], p["reach"])
    phase = _uniform(draw, ndim, 0.0, 2 * math.pi)
    turns = torch.randint(1, 3, (ndim,), generator=draw).tolist()
    angle = [2 * math.pi * k * time + f for k, f in zip(turns, phase, strict=True)]
    centre = tuple(m + s * math.sin(a) for m, s, a in zip(middle, swing, angle, strict=True))
    speed = tuple(2 * math.pi * k * s * math.cos(a) for k, s, a in zip(turns, swing, angle, strict=True))
    return Ball(centre, radius, speed)


def _obstacle(draw: torch.Generator, ndim: int, i: int) -> Ball:
    """Balls and turned blocks by turns."""
    centre = (*_uniform(draw, ndim - 1, 0.15, 0.85), *_uniform(draw, 1, 0.3, 0.7))
    radius = _uniform(draw, 1, 0.06, 0.14)[0]
    widths, angle = _uniform(draw, ndim, 0.04, 0.12), _uniform(draw, 1, 0.0, math.pi)[0]
    still = (0.0,) * ndim
    return Ball(centre, radius, still) if i % 2 == 0 else Ball(centre, max(widths), still, tuple(widths), angle)


def _waves(draw: torch.Generator, ndim: int, depth: float, size: float) -> Callable[[Axes], Tensor]:
    """Level set of the liquid below z = depth + size·(a sum of cosines across)."""
    weights = torch.randn((3, ndim - 1), generator=draw, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand((3, ndim - 1), generator=draw, dtype=torch.float64)

    def surface(axes: Axes) -> Tensor:
        height: Any = depth
        for k in range(3):
            for j in range(ndim - 1):
                wave = torch.cos(2 * math.pi * (k + 1) * axes[j] + float(phases[k, j]))
                height = height + size * float(weights[k, j]) / (k + 1) * wave
        return height - axes[-1]

    return surface


def window(axes: Axes, ball: Ball, band: float) -> tuple[tuple[slice, ...] | None, list[Tensor]]:
    """Index range of the points that may lie closer than `band` to the ball, with their coordinates."""
    reach = (math.hypot(*ball.widths) if ball.widths else ball.radius) + band
    index, local = [], []
    for j, (x, c) in enumerate(zip(axes, ball.centre, strict=True)):
        inside = torch.nonzero((x.reshape(-1) - c).abs() <= reach).reshape(-1)
        if not len(inside):
            return None, []
        span = slice(int(inside[0]), int(inside[-1]) + 1)
        index.append(span)
        local.append(x[tuple(span if a == j else slice(None) for a in range(len(axes)))])
    return tuple(index), local
