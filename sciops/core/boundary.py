"""Boundary facts of a problem: which condition holds on which face of the box."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sciops.core.errors import UsageError
from sciops.core.grid import Grid

KINDS = ("dirichlet", "neumann", "periodic", "free")
AXES = "xyz"


def axis_name(axis: int) -> str:
    """x, y, z, then x4, x5, … (the fourth, fifth, … axis): the coordinate in formulas, files and face names."""
    return AXES[axis] if axis < len(AXES) else f"x{axis + 1}"


def axis_names(ndim: int) -> tuple[str, ...]:
    """Names of the first `ndim` axes."""
    return tuple(axis_name(axis) for axis in range(ndim))


def face_name(axis: int, side: int) -> str:
    """Axis name and side: "x0", "y1", "x40" (lower face of the fourth axis)."""
    return f"{axis_name(axis)}{side}"


def face_axis(name: str) -> tuple[int, int]:
    """(axis, side) of a face name; the last character is the side."""
    match = re.fullmatch(r"(?:([xyz])|x([4-9]|[1-9]\d+))([01])", name)
    if match is None:
        raise UsageError(
            f"A face is an axis (x, y, z, x4, x5, …) and a side (0 lower, 1 upper), as in x0; got '{name}'."
        )
    letter, number, side = match.groups()
    return AXES.index(letter) if letter else int(number) - 1, int(side)


BoundaryData = Mapping[str, Float[Tensor, "n ..."]]
"""Face name ("x0" = lower x face, "x1" = upper x face, …) → prescribed values (n, *face shape); absent = 0.

Dirichlet: u itself. Neumann: the outward conormal flux a ∂u/∂n (for the Laplacian, ∂u/∂n). Free: none.
"""


@dataclass(frozen=True)
class Condition:
    """One condition on one unknown on one face, at points: u_output = g ("dirichlet") or ∂u_output/∂n = g ("neumann").

    data     (cases, points (n, N, d)) ↦ g (n, N); None: zero
    weight   points (n, N, d) ↦ factor (n, N) of the squared residual in a loss, as published; None: one
    """

    face: str
    output: int = 0
    kind: str = "dirichlet"
    data: Callable[[Any, Tensor], Tensor] | None = None
    weight: Callable[[Tensor], Tensor] | None = None

    @property
    def axis(self) -> int:
        return face_axis(self.face)[0]

    @property
    def side(self) -> int:
        return face_axis(self.face)[1]

    def values(self, cases: Any, x: Float[Tensor, "n N d"]) -> Float[Tensor, "n N"]:
        """g at points of the face."""
        return torch.zeros_like(x[..., 0]) if self.data is None else self.data(cases, x)


@dataclass(frozen=True)
class Boundary:
    """One pair (kind at the lower end, kind at the upper end) per axis.

    "free" is a face without a condition: the final time of a problem in space and time, the ends of a parameter range.
    """

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

    @property
    def has_free(self) -> bool:
        """Is there a face without a condition?"""
        return any("free" in pair for pair in self.kinds)

    def faces(self) -> Iterator[tuple[str, int, int, str]]:
        """Yield (face name, axis, side 0|1, kind) for every face that is not periodic, free ones included."""
        for axis, pair in enumerate(self.kinds):
            for side, kind in enumerate(pair):
                if kind != "periodic":
                    yield face_name(axis, side), axis, side, kind

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
                    f"Axis {axis_name(axis)} has boundary '{lo}' but grid layout '{layout}'; use layout "
                    f"{'periodic' if lo == 'periodic' else 'node or cell'} for it."
                )
