"""Diffusion with coefficients that simple multigrid does badly on: jumps, channels, rough fields, turned anisotropy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.boundary import Boundary
from sciops.core.cases import Cases
from sciops.core.errors import UsageError
from sciops.core.face_operator import FaceOperator
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.linear import LinearOperator
from sciops.core.problem import Channel
from sciops.core.random import case_seed, generator
from sciops.core.stencil_operator import StencilOperator
from sciops.numerics.random_fields import draw_modes, spectral_root, synthesise
from sciops.problems.cut_cells import axes_of
from sciops.problems.discrete_problem import DiscreteProblem
from sciops.problems.scenes import random_balls, window
from sciops.problems.tensor_stencil import tensor_stencil

SCALAR = ("lognormal", "white_lognormal", "inclusions", "channels")
FAMILIES = (*SCALAR, "anisotropy", "any")
ORIENTATIONS = ("constant", "blocks", "smooth")
OWN_SIGMA = {"white_lognormal": 2.0}
OWN_CONTRAST = {"inclusions": 1e3, "channels": 1e4, "anisotropy": 1e-2}


@dataclass(frozen=True)
class HighContrast(DiscreteProblem):
    """−∇·(K ∇u) = f in the box, u = 0 on its walls.

    Families of K, one constant value per cell:

    * `lognormal`: exp(σ g), g ~ N(0, 1) with correlation length `length` (Matérn of smoothness 1); σ = 3
    * `white_lognormal`: exp(σ ξ), ξ ~ N(0, 1) independent in every cell, drawn anew on each grid; σ = 2
    * `inclusions`: `contrast` (10³; also below 1) in balls of radius 0.04–0.12 that cover 20 %, else 1; with `mixed`
      contrast or 1/contrast by the toss of a coin for each ball
    * `channels`: `contrast` (10⁴) in `count` meandering channels along every axis, `width` wide and at least 1.5
      cells (2 in 3-D) so that they stay connected, else 1
    * `anisotropy`: R diag(1, c[, c]) Rᵀ with c = `contrast` (10⁻²); direction one per case (`constant`, or `angle` in
      degrees in the plane xy), one in each of `count`² … blocks, or varying smoothly
    * `any`: one of the first four with its own `sigma` and `contrast`, by the seed

    Finite volumes on cells. Scalar K: harmonic means on faces, 2K/h² on walls (`FaceOperator`). Tensor K: the Hessian
    of an energy of one-sided gradients, symmetric positive by construction (`tensor_stencil`; 9 or 19 points).
    Second order where K is smooth. `forcing`: white (unit normal per cell, drawn anew on each grid) or smooth (a random
    field of length 0.2). Inputs: log_k, or k_xx, k_xy, …; f. Output: u. Cell layout.
    References: Alcouffe, Brandt, Dendy, Painter, SIAM J. Sci. Stat. Comput. 2 (1981); Vassilevski, Multilevel Block
    Factorization Preconditioners (2008).
    """

    ndim: int = 2
    family: str = "lognormal"
    sigma: float | None = None
    contrast: float | None = None
    length: float = 0.1
    width: float = 0.01
    count: int = 4
    mixed: bool = False
    orientation: str = "constant"
    angle: float | None = None
    forcing: str = "white"

    outputs = (Channel("u", interpolation="linear"),)
    label_order = 1.0

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise UsageError(f"HighContrast ndim must be 2 or 3; got {self.ndim}.")
        for name, value, accepted in (
            ("family", self.family, FAMILIES),
            ("orientation", self.orientation, ORIENTATIONS),
            ("forcing", self.forcing, ("white", "smooth")),
        ):
            if value not in accepted:
                raise UsageError(f"HighContrast {name} must be one of {', '.join(accepted)}; got '{value}'.")
        sigma = OWN_SIGMA.get(self.family, 3.0) if self.sigma is None else float(self.sigma)
        contrast = OWN_CONTRAST.get(self.family, 1.0) if self.contrast is None else float(self.contrast)
        if not 0 < sigma <= 5:
            raise UsageError(f"HighContrast sigma must lie in (0, 5]; got {sigma}.")
        if not 1e-12 <= contrast <= 1e12 or (self.family == "anisotropy" and contrast > 1):
            raise UsageError(
                f"HighContrast contrast must lie in [1e-12, 1e12], for anisotropy in [1e-12, 1]; got {contrast}."
            )
        if not (self.length > 0 and 0 < self.width < 0.5 and self.count >= 1):
            raise UsageError(
                f"HighContrast needs length > 0, 0 < width < 0.5, count ≥ 1; got length={self.length}, "
                f"width={self.width}, count={self.count}."
            )
        names = tuple(f"k_{'xyz'[a]}{'xyz'[b]}" for a in range(self.ndim) for b in range(a, self.ndim))
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "contrast", contrast)
        object.__setattr__(self, "boundary", Boundary.of("dirichlet", self.ndim))
        channels = (*(names if self.family == "anisotropy" else ("log_k",)), "f")
        object.__setattr__(self, "inputs", tuple(Channel(name, interpolation="nearest") for name in channels))

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
            for channel, made in zip(row, [*self._coefficient(seed, grid), self._forcing(seed, grid)], strict=True):
                channel.copy_(made)
        names = [channel.name for channel in self.inputs]
        return Cases(self, grid, Field.steady(values, grid, names), seeds=torch.tensor(seeds, dtype=torch.int64))

    def _forcing(self, seed: int, grid: Grid) -> Tensor:
        if self.forcing == "smooth":
            return _smooth_field(case_seed(seed, 0, "forcing"), grid, 0.2)
        return _white(case_seed(seed, 0, "white noise"), grid)

    def _coefficient(self, seed: int, grid: Grid) -> list[Tensor]:
        """log K, or the upper triangle of K, in float64."""
        if self.family == "any":
            family = SCALAR[case_seed(seed, 0, "family") % len(SCALAR)]
            return replace(self, family=family, sigma=None, contrast=None)._coefficient(seed, grid)
        assert self.sigma is not None and self.contrast is not None
        if self.family == "lognormal":
            return [_smooth_field(seed, grid, self.length).mul_(self.sigma)]
        if self.family == "white_lognormal":
            return [_white(case_seed(seed, 0, "coefficient"), grid).mul_(self.sigma)]
        if self.family == "anisotropy":
            return self._tensor(seed, grid)
        draw = generator(seed)
        axes = axes_of(grid, (False,) * self.ndim)
        log_k = torch.zeros(grid.shape, dtype=torch.float64)
        jump = math.log(self.contrast)
        if self.family == "inclusions":
            for ball in random_balls(draw, self.ndim, 0.2, 0.04, 0.12):
                toss = float(torch.rand(1, generator=draw))
                index, local = window(axes, ball, 0.0)
                if index is not None:
                    value = -jump if self.mixed and toss < 0.5 else jump
                    log_k[index].masked_fill_(ball.distance(local) < 0, value)
            return [log_k]
        for axis in range(self.ndim):
            for _ in range(self.count):
                log_k[_channel(draw, axes, axis, self.width, grid)] = jump
        return [log_k]

    def _tensor(self, seed: int, grid: Grid) -> list[Tensor]:
        n = self._direction(seed, grid)
        c = self.contrast
        assert c is not None
        return [
            ((1 - c) * n[a] * n[b] + (c if a == b else 0.0)).expand(grid.shape)
            for a in range(self.ndim)
            for b in range(a, self.ndim)
        ]

    def _direction(self, seed: int, grid: Grid) -> list[Tensor]:
        """Components of the unit vector along which K is 1."""
        draw = generator(seed)
        one = (1,) * self.ndim
        if self.angle is not None or (self.orientation == "constant" and self.ndim == 2):
            turn = math.pi * float(torch.rand(1, generator=draw)) if self.angle is None else math.radians(self.angle)
            components = [math.cos(turn), math.sin(turn), 0.0][: self.ndim]
            return [torch.full(one, v, dtype=torch.float64) for v in components]
        if self.orientation == "smooth":
            phi = math.pi * _smooth_field(seed, grid, 0.3)
            if self.ndim == 2:
                return [torch.cos(phi), torch.sin(phi)]
            rise = torch.tanh(_smooth_field(case_seed(seed, 0, "rise"), grid, 0.3))  # sine of the latitude
            flat = torch.sqrt(1 - rise**2)
            return [flat * torch.cos(phi), flat * torch.sin(phi), rise]
        blocks = (self.count,) * self.ndim if self.orientation == "blocks" else one
        n = torch.randn((self.ndim, *blocks), generator=draw, dtype=torch.float64)
        n = n / n.norm(dim=0)
        for axis, x in enumerate(axes_of(grid, (False,) * self.ndim), start=1):
            n = n.index_select(axis, (x.reshape(-1) * blocks[axis - 1]).long())
        return list(n)

    # ---- the system

    def matrix(self, cases: Cases) -> LinearOperator:
        """FaceOperator for scalar K, else a StencilOperator of radius 1; nothing is singular."""
        grid = cases.domain
        if self.family == "anisotropy":
            ndim, channels = self.ndim, iter(self.inputs)
            k: list[list[Any]] = [[None] * ndim for _ in range(ndim)]
            for a in range(ndim):
                for b in range(a, ndim):
                    k[a][b] = k[b][a] = cases.input(next(channels).name)
            tags = frozenset({"symmetric", "positive"})
            return StencilOperator(tensor_stencil(k, grid), (False,) * ndim, tags)
        # Half the resistance of a cell, so that a face in between has the sum of two: no overflow at any contrast.
        half = torch.exp(-cases.input("log_k")).mul_(0.5)
        sink, faces = torch.zeros_like(half), []
        for axis, (n, h) in enumerate(zip(grid.shape, grid.spacing, strict=True), start=1):
            w = torch.zeros_like(half)
            torch.add(half.narrow(axis, 0, n - 1), half.narrow(axis, 1, n - 1), out=w.narrow(axis, 0, n - 1))
            w.narrow(axis, 0, n - 1).reciprocal_().div_(h**2)
            faces.append(w)
            for side in (0, 1):
                sink.select(axis, -side).add_(half.select(axis, -side).reciprocal().div_(h**2))
        return FaceOperator(tuple(faces), sink)


def _white(seed: int, grid: Grid) -> Float[Tensor, "*s"]:
    return torch.randn(grid.size, generator=generator(seed), dtype=torch.float64).reshape(grid.shape)


def _smooth_field(seed: int, grid: Grid, length: float) -> Float[Tensor, "*s"]:
    """Gaussian field of mean 0 and, averaged over the box, variance 1; cosine modes down to an eighth of `length`."""
    unit = Grid.box(grid.shape, layout="cell")
    modes = max(8, min(128 if grid.ndim == 2 else 64, round(8 / length)))
    root = spectral_root(unit, "cosine", modes, 1 / length, 1 + grid.ndim / 2)
    coefficients = draw_modes([seed], modes, grid.ndim) * (root / root.norm())
    return synthesise(coefficients, unit, "cosine")[0]


def _channel(draw: torch.Generator, axes: list[Tensor], axis: int, width: float, grid: Grid) -> Tensor:
    """Mask of cells within half a width of a curve that runs along `axis`; distance to the curve to first order."""
    ndim, along = len(axes), axes[axis]
    square: Any = 0.0
    for j in range(ndim):
        if j == axis:
            continue
        numbers = torch.rand(7, generator=draw, dtype=torch.float64).tolist()
        place, slope = torch.full_like(along, 0.1 + 0.8 * numbers[0]), torch.zeros_like(along)
        for k in range(3):
            size, phase = 0.06 * numbers[1 + 2 * k] / (k + 1), 2 * math.pi * numbers[2 + 2 * k]
            angle = 2 * math.pi * (k + 1) * along + phase
            place = place + size * torch.cos(angle)
            slope = slope - size * 2 * math.pi * (k + 1) * torch.sin(angle)
        square = square + (axes[j] - place) ** 2 / (1 + slope**2)
    least = (1.5 if ndim == 2 else 2.0) * max(1.0 / n for n in grid.shape)
    return (square <= (0.5 * max(width, least)) ** 2).expand(grid.shape)
