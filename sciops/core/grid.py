"""Tensor-product grids and scattered points: where the values of a field live."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError

LAYOUTS = ("node", "cell", "periodic")


@dataclass(frozen=True)
class Grid:
    """A uniform tensor-product grid on the box ∏[lower_j, upper_j].

    Layout of each axis with n points and length L:

    ==========  ==================================  ============
    node        lower + i·L/(n−1), both ends kept   h = L/(n−1)
    cell        lower + (i+½)·L/n, cell centres     h = L/n
    periodic    lower + i·L/n, upper end dropped    h = L/n
    ==========  ==================================  ============

    Axis order is (x, y, z) = (first, second, third array axis): `values[..., i, j]` sits at (x_i, y_j).
    """

    shape: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    layout: tuple[str, ...]

    def __post_init__(self) -> None:
        d = len(self.shape)
        if d == 0 or not len(self.lower) == len(self.upper) == len(self.layout) == d:
            raise UsageError(
                f"Grid needs one shape, lower, upper and layout entry per axis, but got shape={self.shape}, "
                f"lower={self.lower}, upper={self.upper}, layout={self.layout}."
            )
        for n, lo, up, kind in zip(self.shape, self.lower, self.upper, self.layout, strict=True):
            if kind not in LAYOUTS:
                raise UsageError(f"Grid layout must be one of {', '.join(LAYOUTS)}; got '{kind}'.")
            if n < 2:
                raise UsageError(f"Grid shape needs at least 2 points per axis; got {n} in {self.shape}.")
            if not (math.isfinite(lo) and math.isfinite(up) and up > lo):
                raise UsageError(f"Grid needs finite lower < upper on every axis; got [{lo}, {up}].")

    @classmethod
    def box(
        cls,
        shape: Sequence[int] | int,
        lower: float | Sequence[float] = 0.0,
        upper: float | Sequence[float] = 1.0,
        layout: str | Sequence[str] = "node",
        ndim: int | None = None,
    ) -> "Grid":
        """Build a grid from scalars: `Grid.box(64, ndim=2)` is the unit square with 64² nodes."""
        sizes = (int(shape),) * (ndim or 1) if isinstance(shape, int) else tuple(int(n) for n in shape)
        d = len(sizes)
        if ndim is not None and ndim != d:
            raise UsageError(f"Grid.box got ndim={ndim} but a shape of {d} axes, {sizes}; leave ndim out.")

        def spread(value: float | Sequence[float]) -> tuple[float, ...]:
            return (float(value),) * d if isinstance(value, int | float) else tuple(float(v) for v in value)

        kinds = (layout,) * d if isinstance(layout, str) else tuple(layout)
        return cls(sizes, spread(lower), spread(upper), kinds)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def lengths(self) -> tuple[float, ...]:
        return tuple(u - lo for lo, u in zip(self.lower, self.upper, strict=True))

    @property
    def spacing(self) -> tuple[float, ...]:
        """Mesh width h of every axis."""
        return tuple(
            length / (n - 1 if kind == "node" else n)
            for n, length, kind in zip(self.shape, self.lengths, self.layout, strict=True)
        )

    @property
    def measure(self) -> float:
        """|D|, the volume of the box."""
        return math.prod(self.lengths)

    def axis(
        self, j: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> Float[Tensor, " s"]:
        """Coordinates of the points along axis j."""
        shift = 0.5 if self.layout[j] == "cell" else 0.0
        i = torch.arange(self.shape[j], dtype=dtype, device=device)
        return self.lower[j] + (i + shift) * self.spacing[j]

    def points(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Float[Tensor, "N d"]:
        """All points, flattened in row-major order."""
        return torch.stack(self.mesh(dtype, device), dim=-1).reshape(-1, self.ndim)

    def mesh(
        self, dtype: torch.dtype = torch.float64, device: torch.device | None = None
    ) -> tuple[Float[Tensor, "*s"], ...]:
        """Coordinate arrays x, y, z, each of the grid's shape."""
        return torch.meshgrid(*(self.axis(j, dtype, device) for j in range(self.ndim)), indexing="ij")

    def weights(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Float[Tensor, "*s"]:
        """Quadrature weights that sum to |D|: trapezoid on node axes, equal weights elsewhere."""
        total = torch.ones((), dtype=dtype, device=device)
        for j, (n, h) in enumerate(zip(self.shape, self.spacing, strict=True)):
            w = torch.full((n,), h, dtype=dtype, device=device)
            if self.layout[j] == "node":
                w[0] = w[-1] = h / 2
            total = total[..., None] * w
        return total

    def resized(self, shape: int | Sequence[int]) -> "Grid":
        """The same box and layouts with another number of points."""
        sizes = (shape,) * self.ndim if isinstance(shape, int) else tuple(int(n) for n in shape)
        return Grid(sizes, self.lower, self.upper, self.layout)

    def refined(self, factor: int) -> "Grid":
        """Split every interval into `factor`; on node and periodic axes the old points stay points."""
        return self.resized(
            [
                (n - 1) * factor + 1 if kind == "node" else n * factor
                for n, kind in zip(self.shape, self.layout, strict=True)
            ]
        )

    def same_box(self, other: "Grid") -> bool:
        """True if both grids cover the same box with the same kinds of axis ends (periodic or not)."""
        ends = [[kind == "periodic" for kind in g.layout] for g in (self, other)]
        return self.lower == other.lower and self.upper == other.upper and ends[0] == ends[1]

    def describe(self) -> str:
        sizes = "×".join(map(str, self.shape))
        kinds = self.layout[0] if len(set(self.layout)) == 1 else "/".join(self.layout)
        return f"{sizes} {kinds}"


@dataclass(frozen=True)
class PointSet:
    """Scattered points with quadrature weights: the same surface as a Grid, but no FFT and no stencil."""

    coordinates: Float[Tensor, "N d"]
    quadrature: Float[Tensor, " N"]

    @classmethod
    def equal_weights(cls, points: Float[Tensor, "N d"], measure: float = 1.0) -> "PointSet":
        """Monte Carlo weights |D|/N."""
        return cls(points, points.new_full((len(points),), measure / len(points)))

    def __post_init__(self) -> None:
        if len(self.coordinates) != len(self.quadrature):
            raise UsageError(
                f"PointSet needs one weight per point; got {len(self.coordinates)} points and "
                f"{len(self.quadrature)} weights."
            )

    @property
    def ndim(self) -> int:
        return self.coordinates.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.coordinates),)

    @property
    def size(self) -> int:
        return len(self.coordinates)

    @property
    def measure(self) -> float:
        return float(self.quadrature.sum())

    def points(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Float[Tensor, "N d"]:
        return self.coordinates.to(dtype=dtype, device=device)

    def weights(self, dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Float[Tensor, " N"]:
        return self.quadrature.to(dtype=dtype, device=device)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PointSet)
            and torch.equal(self.coordinates, other.coordinates)
            and torch.equal(self.quadrature, other.quadrature)
        )

    def __hash__(self) -> int:
        return hash((self.coordinates.shape, float(self.quadrature.sum())))

    def describe(self) -> str:
        return f"{self.size} scattered points"


Domain = Grid | PointSet
