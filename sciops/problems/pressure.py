"""Pressure of incompressible flow on a MAC grid: fluid, solid and air cells, voxels or cut cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.problem import Channel
from sciops.core.random import case_seed, generator
from sciops.problems.cut_cells import axes_of, divergence, liquid, openness
from sciops.problems.discrete_problem import DiscreteProblem
from sciops.problems.scenes import Scene, draw_scene, parameters_of

FORCINGS = ("white", "velocity", "ones")
OWN_FORCING = {"box": "white", "random_solids": "white", "voxels": "white"}
NEAREST = 0.01
"""Smallest distance θ of a free surface from a cell centre, in cells."""


@dataclass(frozen=True)
class Pressure(DiscreteProblem):
    """−∇·((1/ρ) ∇p) = f in the liquid, ∂p/∂n = 0 on solids and walls, p = 0 in air.

    Finite volumes on cells: Σ_faces w (p_c − p_n)/h² = f_c per volume of a whole cell, w = share × 1/ρ, with

    * share 0 or 1 by cell centres (voxels), or the open part of the face (`fractional`: cut cells, second order);
    * air at its cell's centre (p = 0 one h away, first order), or at the surface (`ghost_fluid`: w/θ, θ ≥ 0.01,
      second order); a wall open to air counts as an air cell beyond it, or as a surface (θ = ½);
    * 1/ρ the harmonic mean of both cells; ρ = `contrast` in random parts of the liquid, else 1.

    Cells without a row (solid, air, isolated) have p = 0; a part that touches no air is singular, its p has zero mean.
    `scene`: box, plume, free_surface, random_solids, moving_solids, voxels; `parameters`: of the scene
    (`scenes.PARAMETERS`). Of `moving_solids` the seeds k·frames … k·frames + frames − 1 are one sequence in time.
    `forcing`: white (unit normal per cell, drawn anew on each grid), velocity (f = −∇·u of a random velocity, walls
    and moving solids included), ones; None: white for box, random_solids and voxels, else velocity.
    Inputs: fluid (1 where there is an unknown), wx, wy, wz (w of the face above the cell along the axis), sink
    (Σ w/θ of faces to air, in units of 1/min h²), f. Output: p. Cell layout; lengths are shares of the box.
    References: Harlow, Welch, Phys. Fluids 8 (1965); Gibou, Fedkiw, Cheng, Kang, J. Comput. Phys. 176 (2002);
    Batty, Bertails, Bridson, ACM Trans. Graph. 26 (2007).
    """

    ndim: int = 2
    scene: str = "random_solids"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    fractional: bool = False
    ghost_fluid: bool = False
    contrast: float = 1.0
    forcing: str | None = None

    outputs = (Channel("p", interpolation="linear"),)
    label_order = 1.0

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise UsageError(f"Pressure ndim must be 2 or 3; got {self.ndim}.")
        if self.forcing is not None and self.forcing not in FORCINGS:
            raise UsageError(f"Pressure forcing must be one of {', '.join(FORCINGS)}; got '{self.forcing}'.")
        if not 1e-12 < self.contrast < 1e12:
            raise UsageError(f"Pressure contrast must be a positive density ratio; got {self.contrast}.")
        table = parameters_of(self.scene, self.parameters)
        if self.scene == "voxels" and not table["file"]:
            raise UsageError("Scene voxels needs parameters={'file': …}: a .npy, .npz or .stl file of the solids.")
        walls = [("neumann", "neumann")] * self.ndim
        if table.get("top", "solid") == "air" or self.scene == "free_surface":
            walls[-1] = ("neumann", "dirichlet")
        if table.get("walls") == "air":
            walls = [("dirichlet", "dirichlet")] * self.ndim
        faces = [f"w{'xyz'[axis]}" for axis in range(self.ndim)]
        names = ("fluid", *faces, "sink", "f")
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "boundary", Boundary(tuple(walls)))
        object.__setattr__(self, "inputs", tuple(Channel(name, interpolation="nearest") for name in names))

    # ---- laws of the cases

    def sample(
        self,
        seeds: Sequence[int],
        grid: Grid,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Cases:
        self.require_cells(grid)
        values = torch.empty((len(seeds), len(self.inputs), *grid.shape), dtype=dtype, device=device)
        for row, seed in zip(values, seeds, strict=True):
            for channel, made in zip(row, self._case(seed, grid), strict=True):
                channel.copy_(made)
        names = [channel.name for channel in self.inputs]
        return Cases(self, grid, Field.steady(values, grid, names), seeds=torch.tensor(seeds, dtype=torch.int64))

    def draw(self, seed: int, grid: Grid) -> Scene:
        """The scene of one seed."""
        table = parameters_of(self.scene, self.parameters)
        occupancy = None
        if self.scene == "voxels":
            from sciops.problems.voxels import occupancy_of

            occupancy = occupancy_of(table["file"], grid)
        return draw_scene(self.scene, table, seed, self.ndim, occupancy)

    def from_solids(
        self,
        solid: Bool[Tensor, "n *s"],
        grid: Grid,
        air: Bool[Tensor, "n *s"] | None = None,
        f: Float[Tensor, "n *s"] | None = None,
    ) -> Cases:
        """Cases from masks of solid and air cells; walls as `boundary` says, f white noise unless given.

        Nothing is removed: parts that touch no air are singular. The cases have no seeds, so that on another grid they
        are the nearest cells of these.
        """
        self.require_cells(grid)
        if tuple(solid.shape[1:]) != grid.shape:
            raise UsageError(f"The mask of solids has shape {tuple(solid.shape[1:])}, the grid {grid.shape}.")
        sides = tuple((lo == "dirichlet", up == "dirichlet") for lo, up in self.boundary.kinds)
        nothing = torch.zeros((self.ndim, *(1,) * self.ndim), dtype=torch.float64)
        rows = []
        for i, mask in enumerate(solid):
            level = torch.where(mask, -0.5, 0.5).double()
            surface = None if air is None else torch.where(air[i], -0.5, 0.5).double()
            scene = Scene(
                self.ndim,
                (),
                sides,
                nothing,
                nothing[0],
                occupancy=lambda axes, level=level: level,  # type: ignore[misc]
                surface=None if surface is None else lambda axes, s=surface: s,  # type: ignore[misc]
            )
            made = self._channels(scene, grid, openness(scene, grid, False), i)
            if f is not None:
                made[-1] = f[i].double().to("cpu") * made[0]
            rows.append(torch.stack(made))
        names = [channel.name for channel in self.inputs]
        values = torch.stack(rows)
        return Cases(self, grid, Field.steady(values, grid, names), provenance="stored")

    def _case(self, seed: int, grid: Grid) -> list[Tensor]:
        scene = self.draw(seed, grid)
        return self._channels(scene, grid, openness(scene, grid, self.fractional), seed)

    def _channels(self, scene: Scene, grid: Grid, shares: list[Tensor], seed: int) -> list[Tensor]:
        """Input channels of one case in float64."""
        level = liquid(scene, grid, shares)
        forcing = self.forcing or OWN_FORCING.get(self.scene, "velocity")
        f = None
        if forcing == "velocity":
            f = -divergence(scene, grid, shares)
        faces, sink = self._weights(scene, grid, shares, level)
        fluid = (level > 0).double()
        if scene.removed:
            from sciops.numerics.components import singular_components

            pocket = singular_components(tuple(w[None] for w in faces), sink[None])[0] > 0
            for w in faces:
                w.masked_fill_(pocket, 0.0)
            fluid.masked_fill_(pocket, 0.0)
        # A cell whose every face leads to solids has no row.
        fluid.mul_(_sums(faces, sink) > 0)
        if forcing == "white":
            draw = generator(case_seed(seed, 0, "white noise"))
            f = torch.randn(grid.size, generator=draw, dtype=torch.float64).reshape(grid.shape)
        elif f is None:
            f = torch.ones(grid.shape, dtype=torch.float64)
        return [fluid, *faces, sink, f * fluid]

    def _weights(self, scene: Scene, grid: Grid, shares: list[Tensor], level: Tensor) -> tuple[list[Tensor], Tensor]:
        """w of the faces between liquid cells, and Σ w/θ of those to air, in units of 1/min h²."""
        density = None
        if self.contrast != 1.0:
            dense = scene.dense(axes_of(grid, (False,) * grid.ndim)) > 0
            density = torch.where(dense, float(self.contrast), 1.0).double()
        faces, sink = [], torch.zeros_like(level)
        unit = min(grid.spacing) ** 2
        for axis, (share, n, h) in enumerate(zip(shares, grid.shape, grid.spacing, strict=True)):
            weight = torch.zeros_like(level)
            inner = weight.narrow(axis, 0, n - 1).copy_(share.narrow(axis, 1, n - 1))
            if density is not None:
                # The harmonic mean of 1/ρ: the density of the column between the two centres.
                inner.mul_(2.0).div_(density.narrow(axis, 0, n - 1) + density.narrow(axis, 1, n - 1))
            lower, upper = level.narrow(axis, 0, n - 1), level.narrow(axis, 1, n - 1)
            scale = unit / h**2
            if scene.surface is not None:
                for own, beyond, start in ((lower, upper, 0), (upper, lower, 1)):
                    at_air = (own > 0) & (beyond <= 0) & (inner > 0)
                    theta = own / torch.where(at_air, own - beyond, 1.0)
                    theta = theta.clamp(min=NEAREST) if self.ghost_fluid else torch.ones_like(theta)
                    sink.narrow(axis, start, n - 1).add_(torch.where(at_air, scale * inner / theta, 0.0))
                inner.mul_((lower > 0) & (upper > 0))
            for side in (0, 1):
                wall = share.select(axis, -side) * (level.select(axis, -side) > 0)
                if density is not None:
                    wall = wall / density.select(axis, -side)
                sink.select(axis, -side).add_(wall, alpha=scale * (2.0 if self.ghost_fluid else 1.0))
            faces.append(weight)
        return faces, sink

    # ---- the system

    def matrix(self, cases: Cases) -> FaceOperator:
        """Face weights per volume, singular components labelled. Cost: a few passes over the inputs."""
        from sciops.numerics.components import singular_components

        grid = cases.domain
        faces = []
        for axis, h in enumerate(grid.spacing):
            w = cases.input(f"w{'xyz'[axis]}") / h**2
            w.select(axis + 1, -1).zero_()  # nearest values of another grid may have a face here
            faces.append(w)
        sink = cases.input("sink") / min(grid.spacing) ** 2
        return FaceOperator(tuple(faces), sink, singular_components(tuple(faces), sink))

    def right_hand_side(self, cases: Cases) -> Float[Tensor, "n *m"]:
        faces = [cases.input(f"w{'xyz'[axis]}") for axis in range(self.ndim)]
        sink = cases.input("sink")
        active = torch.stack([_sums(list(rows), s) > 0 for *rows, s in zip(*faces, sink, strict=True)])
        return cases.input("f") * active


def _sums(faces: list[Tensor], sink: Tensor) -> Tensor:
    """Sum of the weights around each cell of one case."""
    total = sink.clone()
    for axis, w in enumerate(faces):
        n = w.shape[axis] - 1
        inner = w.narrow(axis, 0, n)
        total.narrow(axis, 0, n).add_(inner)
        total.narrow(axis, 1, n).add_(inner)
    return total
