"""Boundary facts of a problem: which condition holds on which face of the box."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid

KINDS = ("dirichlet", "neumann", "periodic")
AXES = "xyz"

BoundaryData = Mapping[str, Float[Tensor, "n ..."]]
"""Face name ("x0" = lower x face, "x1" = upper x face, …) → prescribed values (n, *face shape); absent = 0.

Dirichlet: u itself. Neumann: the outward conormal flux a ∂u/∂n (for the Laplacian, ∂u/∂n).
"""


@dataclass(frozen=True)
class Boundary:
    """One pair (kind at the lower end, kind at the upper end) per axis."""

    kinds: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for lo, up in self.kinds:
            for kind in (lo, up):
                if kind not in KINDS:
                    raise UsageError(f"boundary must be one of {', '.join(KINDS)}; got '{kind}'.")
            if (lo == "periodic") != (up == "periodic"):
                raise UsageError("A periodic axis must be periodic at both ends.")

    @classmethod
    def of(cls, kind: str, ndim: int) -> "Boundary":
        """The same condition on every face."""
        return cls(((kind, kind),) * ndim)

    @property
    def uniform(self) -> str | None:
        """The single kind that holds on every face, or None if faces differ."""
        kinds = {kind for pair in self.kinds for kind in pair}
        return kinds.pop() if len(kinds) == 1 else None

    def faces(self) -> Iterator[tuple[str, int, int, str]]:
        """Yield (face name, axis, side 0|1, kind) for every face that is not periodic."""
        for axis, pair in enumerate(self.kinds):
            for side, kind in enumerate(pair):
                if kind != "periodic":
                    yield f"{AXES[axis]}{side}", axis, side, kind

    def check(self, grid: Grid) -> None:
        """Raise UsageError unless periodic axes of the grid and of the boundary are the same ones."""
        if grid.ndim != len(self.kinds):
            raise UsageError(
                f"The problem has {len(self.kinds)} space dimension(s) but the grid has {grid.ndim} "
                f"({grid.describe()})."
            )
        for axis, ((lo, _), layout) in enumerate(zip(self.kinds, grid.layout, strict=True)):
            if (lo == "periodic") != (layout == "periodic"):
                raise UsageError(
                    f"Axis {AXES[axis]} has boundary '{lo}' but grid layout '{layout}'; use layout "
                    f"{'periodic' if lo == 'periodic' else 'node or cell'} for it."
                )
