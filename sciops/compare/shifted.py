"""Splits made on the spot: the test cases on other grids, and cases of a shifted law."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from sciops.compare.results import Row, Score
from sciops.core.cases import Cases
from sciops.core.dataset import Dataset, MemoryDataset
from sciops.core.errors import UsageError
from sciops.core.field import Field
from sciops.core.grid import Grid
from sciops.core.interpolate import resample
from sciops.core.random import case_seed
from sciops.data.windows import Windowed


def resized_grid(grid: Grid, factor: float) -> Grid:
    """Test grid of the resolution transfer: factor × the number of intervals on every axis, at least 4 points."""
    sizes = [
        round((n - 1) * factor) + 1 if layout == "node" else round(n * factor)
        for n, layout in zip(grid.shape, grid.layout, strict=True)
    ]
    return grid.resized([max(size, 4) for size in sizes])


def on_grid(dataset: Dataset, grid: Grid, count: int) -> Dataset | None:
    """The first cases of a split made anew on another grid with truth of their own; None without a generator."""
    if isinstance(dataset, Windowed):
        made = on_grid(dataset.base, grid, count)
        return None if made is None else dataset.over(made)
    cases = dataset.cases(slice(0, min(count, len(dataset))))
    rebuilt = cases if grid == cases.domain else cases.problem.rebuild(cases, grid)
    return None if rebuilt is None else _answered(rebuilt)


def solved_on(dataset: Dataset, grid: Grid, count: int) -> Dataset | None:
    """The first cases of a split made and solved on a grid, to be strided to coarser ones; None without a generator."""
    if isinstance(dataset, Windowed):
        made = solved_on(dataset.base, grid, count)
        return None if made is None else dataset.over(made)
    cases = dataset.cases(slice(0, min(count, len(dataset))))
    exact = cases.problem.rebuild(cases.to(torch.float64), grid)
    if exact is None:
        return None
    solved = cases.problem.reference(exact)
    return MemoryDataset(exact.to(cases.dtype), solved.field.to(cases.dtype), solved.stats.get("label_error"))


def shifted(dataset: Dataset, overrides: Mapping[str, Any], count: int) -> Dataset:
    """Cases of the same problem with some arguments changed: another contrast, frequency or boundary condition."""
    if isinstance(dataset, Windowed):
        return dataset.over(shifted(dataset.base, overrides, count))
    problem = dataset.problem
    fields = {f.name for f in dataclasses.fields(problem)}  # type: ignore[arg-type]
    for key in overrides:
        if key not in fields:
            raise UsageError(f"shifts: {type(problem).__name__} has no argument '{key}'; it has {', '.join(fields)}.")
    changed = dataclasses.replace(problem, **overrides)  # type: ignore[type-var]
    seeds = [case_seed(0, i, "shift") for i in range(count)]
    dtype = dataset.cases(slice(0, 1)).dtype
    return _answered(changed.sample(seeds, dataset.grid, torch.float64), dtype)


def _answered(cases: Cases, dtype: torch.dtype | None = None) -> MemoryDataset:
    """Truth by the problem's reference on a grid at least twice as fine, taken back by interpolation."""
    exact = cases.to(torch.float64)
    grid = exact.domain
    made = exact.problem.rebuild(exact, grid.refined(2)) or exact
    solved = exact.problem.reference(made)
    # Channel by channel, because a problem's boundary may speak of one unknown; all frames at once.
    values = torch.stack(
        [
            resample(frames.flatten(0, 1)[:, None], made.domain, grid, "cubic", exact.problem.boundary)[:, 0]
            for frames in solved.field.values.unbind(2)
        ],
        dim=1,
    ).unflatten(0, solved.field.values.shape[:2])
    keep = dtype or cases.dtype
    answer = Field(values.to(keep), grid, solved.field.channels, solved.field.times)
    return MemoryDataset(exact.to(keep), answer, solved.stats.get("label_error"))


def interpolated_truth(dataset: Dataset, target: Dataset) -> Score:
    """Relative L² error of merely interpolating the training-grid truth: what a solver must beat on a finer grid."""
    from sciops.metrics.catalogue import named

    truth = dataset.truth(slice(0, len(target)))
    flat = truth.values.flatten(0, 1).double()
    moved = resample(flat, dataset.grid, target.grid, "cubic", dataset.problem.boundary)
    field = Field(moved.unflatten(0, truth.values.shape[:2]), target.grid, truth.channels, truth.times)
    metric = named("rel_l2")
    return Score(metric.combine(metric.per_case(field, target.truth().to(torch.float64))))


def transfer_reference_row(dataset: Dataset, target: Dataset, split: str) -> Row:
    """The row that stands beside every solver in the resolution-transfer table."""
    return Row(
        solver="interpolated truth",
        setting="",
        seed=0,
        kind="reference",
        needs=[],
        split=split,
        grid=target.grid.describe(),
        n_cases=len(target),
        successes=len(target),
        scores={"rel_l2": interpolated_truth(dataset, target)},
    )
