"""Fields that were made on a fine grid, seen at every k-th of its points: no interpolation, one truth for all grids."""

from dataclasses import replace
from hashlib import sha256
from typing import Any

from sciops.core.boundary import face_axis
from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, Index
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid


class Strided(Dataset):
    """A dataset at those of its points that are points of `grid`; nothing is copied until it is read.

    Its cases bring no seeds: remade from a seed, a coarse grid would show a smoother function, without what it cannot
    carry. Label errors are those of the fine truth. UsageError where `grid` is not made of points of the dataset.
    """

    def __init__(self, dataset: Dataset, grid: Grid) -> None:
        self.base, self.problem, self.grid = dataset, dataset.problem, grid
        self.picked = strides(dataset.grid, grid)
        self.label_error, self.generation_seconds = dataset.label_error, dataset.generation_seconds

    def __len__(self) -> int:
        return len(self.base)

    def cases(self, index: Index = slice(None)) -> Cases:
        cases = self.base.cases(index)
        boundary = {}
        for name, data in cases.boundary.items():
            axis, _ = face_axis(name)
            every: list[slice] = [slice(None), *(s for j, s in enumerate(self.picked) if j != axis)]
            boundary[name] = data[tuple(every)]
        past = None if cases.history is None else self._at(cases.history)
        return replace(
            cases, domain=self.grid, inputs=self._at(cases.inputs), boundary=boundary, seeds=None, history=past
        )

    def truth(self, index: Index = slice(None)) -> Field:
        return self._at(self.base.truth(index))

    @property
    def fingerprint(self) -> str:
        return sha256(f"{self.base.fingerprint} {self.grid}".encode()).hexdigest()[:16]

    def _at(self, field: Field) -> Field:
        index: tuple[Any, ...] = (..., *self.picked)
        return replace(field, values=field.values[index].contiguous(), domain=self.grid)


def strides(fine: Grid, coarse: Grid) -> tuple[slice, ...]:
    """The points of a fine grid that make a coarse one, axis by axis; UsageError where they do not."""
    found = []
    for n, m, layout, other in zip(fine.shape, coarse.shape, fine.layout, coarse.layout, strict=True):
        k, rest = divmod(n - 1, m - 1) if layout == "node" else divmod(n, m)
        if rest or layout != other or (layout == "cell" and k % 2 == 0) or not fine.same_box(coarse):
            odd = " by an odd number, for cell centres to stay centres" if layout == "cell" else ""
            raise UsageError(
                f"The points of {coarse.describe()} are not points of {fine.describe()}; take a grid that divides it"
                f"{odd}."
            )
        found.append(slice((k - 1) // 2 if layout == "cell" else 0, None, k))
    return tuple(found)


def with_points(grid: Grid, points: int) -> Grid:
    """The same box with so many points along the first axis, in proportion along the others."""
    ends = [int(layout == "node") for layout in grid.layout]
    share = (points - ends[0]) / (grid.shape[0] - ends[0])
    return grid.resized([round((n - end) * share) + end for n, end in zip(grid.shape, ends, strict=True)])
